"""Trains the pixel detokenizer on a fixed tokenizer, by rectified flow (paper section 3.2: apart from the tokenizer).

    python trainers/detokenizer.py --config trainers/arm_tiny/detokenizer.yaml

It starts from the diffusion transformer that was the tokenizer's training signal and saves an `ArmPixelDetokenizer`.
"""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import set_seed

from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.detokenizer_arm_pixel import ArmPixelDetokenizer
from transformers_arm.modeling_arm_vq_pretraining import ArmVQForPreTraining
from transformers_arm.pixel_transformer_arm import flow_matching_loss
from transformers_arm.training.callbacks import ReconstructionCallback
from transformers_arm.training.trainer import ArmTrainer, adamw, read_recipe, train, training_arguments
from transformers_arm.training.world_data import world_of, world_pictures


class DetokenizerTraining(nn.Module):
    """Pictures -> flow-matching loss of the diffusion transformer given the fixed tokenizer's `z_q`."""

    def __init__(self, pretraining: ArmVQForPreTraining, regression_share: float, condition_dropout: float):
        super().__init__()
        self.vq_model = pretraining.vq_model.requires_grad_(False)
        self.pixel_transformer = pretraining.pixel_transformer.requires_grad_(True)
        self.regression_share, self.condition_dropout = regression_share, condition_dropout

    @property
    def device(self) -> torch.device:
        return self.vq_model.device

    def train(self, mode: bool = True):
        super().train(mode)
        self.vq_model.eval()
        return self

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        z_q = self.vq_model.encode(pixel_values).z_q
        return {
            "loss": flow_matching_loss(
                self.pixel_transformer,
                pixel_values,
                z_q,
                regression_share=self.regression_share,
                condition_dropout=self.condition_dropout,
            )
        }


def main() -> None:
    recipe = read_recipe(__doc__)
    output = Path(recipe["output_dir"])
    arguments = training_arguments(recipe["training"], output_dir=str(output))
    set_seed(arguments.seed)
    pretraining = ArmVQForPreTraining.from_pretrained(recipe["pretraining"], dtype=torch.float32)
    model = DetokenizerTraining(pretraining, recipe["regression_share"], recipe["condition_dropout"])
    world, _ = world_of(recipe["data"])
    trainer = ArmTrainer(
        model,
        arguments,
        train_dataset=world_pictures(recipe["data"], arguments),
        data_collator=ImageTextCollator(),
        optimizers=(adamw(model, arguments), None),
    )
    trainer.add_callback(ReconstructionCallback(trainer, world, **recipe["evaluation"]))
    train(trainer)
    detokenizer = ArmPixelDetokenizer(
        model.pixel_transformer, FlowMatchEulerDiscreteScheduler(), **recipe["pipeline_defaults"]
    )
    detokenizer.save_pretrained(output / "detokenizer")


if __name__ == "__main__":
    main()
