"""Trains the pixel detokenizer on a fixed tokenizer, by rectified flow (paper section 3.2: apart from the tokenizer).

It starts from the diffusion transformer that was the tokenizer's training signal and saves an `ArmPixelDetokenizer`
to `output_dir`/detokenizer.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from pydantic import Field
from torch import nn
from transformers import set_seed

from ..data.collators import ImageTextCollator
from ..detokenizer_arm_pixel import ArmPixelDetokenizer
from ..modeling_arm_vq_pretraining import ArmVQForPreTraining
from ..pixel_transformer_arm import by_noise, flow_matching_errors
from .callbacks import ReconstructionCallback
from .picture_data import RenderingRecipe, new_trainer
from .pushing import raise_failed_pushes
from .recipe import section
from .saving import save_folder
from .tokenizer import TokenizerBackbones
from .trainer import train, training_arguments
from .validation import when
from .work import FORWARD, Work, encoder_flops, grid_of, pixel_transformer_flops, register_work

PARTS = ("transformer", "scheduler", "vq_model")  # of the pipeline


class DetokenizerRecipe(RenderingRecipe):
    """The pixel detokenizer."""

    output_dir: str = Field(description="Folder to write.")
    pretraining: str = Field(description="`pretraining/` of the tokenizer that it renders, or one of its checkpoints.")
    backbones: TokenizerBackbones | None = Field(
        None, description="Of a checkpoint whose backbones are no longer where its training had them."
    )
    regression_share: float = Field(description="Share of the samples at pure noise; see `flow_matching_loss`.")
    condition_dropout: float = Field(description="Share of the samples without tokens, which guidance compares with.")
    pipeline_defaults: section("PipelineDefaults", ArmPixelDetokenizer, without=PARTS)


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

    def forward(
        self, pixel_values: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None, **kwargs
    ) -> dict:
        """The loss of pictures [B, 3, H, W] in -1..1.

        Args:
            num_items_in_batch: pictures of the whole step, as of `ArmVQForPreTraining`.
        """
        z_q = self.vq_model.encode(pixel_values).z_q
        share, dropout = self.regression_share, self.condition_dropout
        errors, at_noise = flow_matching_errors(
            self.pixel_transformer, pixel_values, z_q, regression_share=share, condition_dropout=dropout
        )
        losses, counts = by_noise(errors, at_noise) if share else ({}, {})
        loss = errors.mean() if num_items_in_batch is None else errors.sum() / num_items_in_batch
        return {"loss": loss, "losses": losses, "loss_counts": {"all": len(errors), **counts}}


@register_work
def _(model: DetokenizerTraining, inputs: Mapping) -> Work:
    pictures, patches = grid_of(inputs["pixel_values"], model.vq_model.config.patch_size)
    encoding = encoder_flops(model.vq_model, pictures, patches, FORWARD)
    return Work(pictures * patches, encoding + pixel_transformer_flops(model.pixel_transformer, pictures, patches))


def train_detokenizer(recipe: DetokenizerRecipe) -> None:
    """Trains as a recipe says, from the newest checkpoint in `output_dir` if there is one."""
    output = Path(recipe.output_dir)
    arguments = training_arguments(recipe.training.plain(), output_dir=str(output), **when(recipe.validation))
    set_seed(arguments.seed)
    elsewhere = {} if recipe.backbones is None else {"backbones": recipe.backbones.plain()}
    pretraining = ArmVQForPreTraining.from_pretrained(recipe.pretraining, dtype=torch.float32, **elsewhere)
    model = DetokenizerTraining(pretraining, recipe.regression_share, recipe.condition_dropout)
    sizing = recipe.sizing(recipe.pretraining)
    trainer, looked_at = new_trainer(recipe, model, arguments, sizing, ImageTextCollator())
    if recipe.evaluation is not None:
        trainer.add_callback(ReconstructionCallback(trainer, looked_at, **recipe.evaluation.plain()))
    if arguments.process_index:
        set_seed(arguments.seed + arguments.process_index)  # or all would draw the same noise for their pictures
    train(trainer)
    defaults = recipe.pipeline_defaults.plain()
    detokenizer = ArmPixelDetokenizer(model.pixel_transformer, FlowMatchEulerDiscreteScheduler(), **defaults)
    save_folder(trainer, output / "detokenizer", {"": (detokenizer,)})
    raise_failed_pushes(trainer)
