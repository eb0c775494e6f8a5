"""Trains ARM's visual tokenizer (paper section 3.1) from a SigLIP and a Qwen2 checkpoint.

    python trainers/tokenizer.py --config trainers/arm_tiny/tokenizer.yaml

The recipe's `data` names sources of captioned pictures, streamed or not (fields of `ImageTextMixture.from_recipe`),
or a `world`, with `arguments` of its `pictures`; only with that there is an `evaluation`. Writes `output_dir`: the
trained `ArmVQForPreTraining` in `pretraining/`, and `ArmVQModel` with its image processor in `vq_model/`.
Interrupted, the same command goes on from the newest complete checkpoint, streamed data included; what is frozen is
read from the backbones again.
"""

from pathlib import Path

import torch
from transformers import AutoTokenizer, set_seed

from transformers_arm.configuration_arm import ArmVQConfig
from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.data.image_text import ImageTextMixture
from transformers_arm.image_processing_arm import ArmImageProcessor
from transformers_arm.modeling_arm_vq_pretraining import ArmVQForPreTraining
from transformers_arm.training.callbacks import ReconstructionCallback
from transformers_arm.training.resumable_data import MixtureTrainer
from transformers_arm.training.trainer import ArmTrainer, adamw, read_recipe, train, training_arguments
from transformers_arm.training.world_data import world_of, world_pictures


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
    image_processor = ArmImageProcessor.from_pretrained(backbones["vision"], **recipe.get("image_processor", {}))
    tokenizers = {}
    if model.config.sigmoid_loss_weight:
        tokenizers["siglip_tokenizer"] = AutoTokenizer.from_pretrained(backbones.get("text", backbones["vision"]))
        tokenizers["max_length"] = model.config.text_config.max_position_embeddings
    if model.config.caption_loss_weight:
        tokenizers["caption_tokenizer"] = AutoTokenizer.from_pretrained(backbones["captioner"])
    collator = ImageTextCollator(**tokenizers)
    fast = [model.logit_scale, model.logit_bias] if model.config.sigmoid_loss_weight else []
    optimizers = (adamw(model, arguments, fast=fast), None)
    if "sources" in recipe["data"]:
        data = ImageTextMixture.from_recipe(image_processor, collator, seed=arguments.seed, **recipe["data"])
        trainer = MixtureTrainer(model, arguments, train_dataset=data, optimizers=optimizers)
    else:
        data = world_pictures(recipe["data"], arguments)
        trainer = ArmTrainer(model, arguments, train_dataset=data, data_collator=collator, optimizers=optimizers)
    if "evaluation" in recipe and model.config.pixel_loss_weight:  # what renders the pictures is learnt by that loss
        world, _ = world_of(recipe["data"])
        trainer.add_callback(ReconstructionCallback(trainer, world, **recipe["evaluation"]))
    if arguments.process_index:
        set_seed(arguments.seed + arguments.process_index)  # or all would draw the same noise for their pictures
    train(trainer)
    model.save_pretrained(output / "pretraining")
    config = ArmVQConfig(**{**model.config.to_dict(), "text_config": None, "captioner_config": None})
    model.vq_model.config = config
    model.vq_model.save_pretrained(output / "vq_model")
    image_processor.save_pretrained(output / "vq_model")


if __name__ == "__main__":
    main()
