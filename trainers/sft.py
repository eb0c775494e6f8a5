"""Fine-tunes a pre-trained ARM (paper section 3.2) on a mixture of tasks.

    torchrun --nproc_per_node 2 trainers/sft.py --config arm_tiny/sft

`transformers-arm train sft` as a file, for torchrun and accelerate. --help prints a recipe's fields.
"""

from transformers_arm.cli.train import launch

if __name__ == "__main__":
    launch("sft")
