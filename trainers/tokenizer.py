"""Trains ARM's visual tokenizer (paper section 3.1) from a SigLIP and a Qwen2 checkpoint.

    python trainers/tokenizer.py --config trainers/arm_tiny/tokenizer.yaml

Writes `output_dir`: the trained `ArmVQForPreTraining` in `pretraining/`, and `ArmVQModel` with its image processor in
`vq_model/`. Interrupted, the same command goes on from the newest complete checkpoint.
"""

from pathlib import Path

import torch
from transformers import AutoTokenizer, set_seed

from transformers_arm.configuration_arm import ArmVQConfig
from transformers_arm.data.shapes import ImageTextCollator, ShapesDataset
from transformers_arm.image_processing_arm import ArmImageProcessor
from transformers_arm.modeling_arm_vq_pretraining import ArmVQForPreTraining
from transformers_arm.training.callbacks import ReconstructionCallback
from transformers_arm.training.trainer import ArmTrainer, adamw, read_recipe, train, training_arguments


def main() -> None:
    recipe = read_recipe(__doc__)
    output = Path(recipe["output_dir"])
    backbones = recipe["backbones"]
    arguments = training_arguments(recipe["training"], output_dir=str(output))
    set_seed(arguments.seed)
    if "start_from" in recipe:  # a further phase: another model section on the weights of the one before
        model = ArmVQForPreTraining.from_pretrained(recipe["start_from"], dtype=torch.float32, **recipe["model"])
    else:
        model = ArmVQForPreTraining.from_backbones(**backbones, **recipe["model"])
    data = ShapesDataset.for_training(arguments, recipe["canvases"])
    collator = ImageTextCollator(
        AutoTokenizer.from_pretrained(backbones["vision"]),
        model.config.text_config.max_position_embeddings,
        AutoTokenizer.from_pretrained(backbones["captioner"]),
    )
    trainer = ArmTrainer(
        model,
        arguments,
        train_dataset=data,
        data_collator=collator,
        optimizers=(adamw(model, arguments, fast=[model.logit_scale, model.logit_bias]), None),
        callbacks=[ReconstructionCallback(**recipe["evaluation"])],
    )
    train(trainer)
    model.save_pretrained(output / "pretraining")
    config = ArmVQConfig(**{**model.config.to_dict(), "text_config": None, "captioner_config": None})
    model.vq_model.config = config
    model.vq_model.save_pretrained(output / "vq_model")
    ArmImageProcessor.from_pretrained(backbones["vision"]).save_pretrained(output / "vq_model")


if __name__ == "__main__":
    main()
