"""Pre-trains ARM (paper section 3.2) on a mixture of tasks.

    torchrun --nproc_per_node 2 trainers/pretrain.py --config arm_tiny/pretrain

`transformers-arm train pretrain` as a file, for torchrun and accelerate. --help prints a recipe's fields.
"""

from transformers_arm.cli.train import launch

if __name__ == "__main__":
    launch("pretrain")
