"""Reinforcement learning of ARM (paper section 5): GRPO on image tokens, with any reward.

    torchrun --nproc_per_node 2 trainers/grpo.py --config arm_tiny/grpo_text_to_image

`transformers-arm train grpo` as a file, for torchrun and accelerate. --help prints a recipe's fields.
"""

from transformers_arm.cli.train import launch

if __name__ == "__main__":
    launch("grpo")
