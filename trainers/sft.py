"""Fine-tunes a pre-trained ARM (paper section 3.2) on a mixture of tasks.

    torchrun --nproc_per_node 2 trainers/sft.py --config trainers/arm_tiny/sft.yaml

Writes the model to `output_dir`/model. Interrupted, the same command goes on from the newest complete checkpoint.
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
    model = ArmForCausalLM.from_pretrained(recipe["start_from"], dtype=torch.float32)
    train_on_conversations(model, ArmProcessor.from_pretrained(recipe["start_from"]), recipe)


if __name__ == "__main__":
    main()
