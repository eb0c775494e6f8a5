"""Trains a renderer of a pre-trained text-to-image model on a fixed tokenizer (paper section 3.2).

    python trainers/renderer.py --config arm_tiny/detokenizer_flux2

`transformers-arm train renderer` as a file, for torchrun and accelerate. --help prints a recipe's fields.
"""

from transformers_arm.cli.train import launch

if __name__ == "__main__":
    launch("renderer")
