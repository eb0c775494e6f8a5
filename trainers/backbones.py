"""Trains backbones, on a world or on data of your own: a SigLIP and a Qwen2.

    python trainers/backbones.py --config arm_tiny/backbones

`transformers-arm train backbones` as a file, for torchrun and accelerate. --help prints a recipe's fields.
"""

from transformers_arm.cli.train import launch

if __name__ == "__main__":
    launch("backbones")
