"""Pre-trains ARM (paper section 3.2) from a Qwen2 checkpoint and a visual tokenizer, on a mixture of tasks.

    torchrun --nproc_per_node 2 trainers/pretrain.py --config trainers/arm_tiny/pretrain.yaml

A recipe with `start_from` goes on from a model's folder: continual training. Writes the model to `output_dir`/model.
Interrupted, the same command goes on from the newest complete checkpoint.
"""

import torch
from transformers import set_seed

from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.processing_arm import ArmProcessor
from transformers_arm.training.multimodal import train_on_conversations
from transformers_arm.training.trainer import read_recipe


def main() -> None:
    recipe = read_recipe(__doc__)
    set_seed(recipe["training"]["seed"])
    if "start_from" in recipe:
        model = ArmForCausalLM.from_pretrained(recipe["start_from"], dtype=torch.float32)
        processor = ArmProcessor.from_pretrained(recipe["start_from"])
    else:
        model = ArmForCausalLM.from_backbones(**recipe["backbones"])
        processor = ArmProcessor.from_backbones(**recipe["backbones"])
    train_on_conversations(model, processor, recipe)


if __name__ == "__main__":
    main()
