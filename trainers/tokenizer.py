"""Trains ARM's visual tokenizer (paper section 3.1) from a SigLIP and a Qwen2 checkpoint.

    torchrun --nproc_per_node 8 trainers/tokenizer.py --config arm_7b/tokenizer

`transformers-arm train tokenizer` as a file, for torchrun and accelerate. --help prints a recipe's fields.
"""

from transformers_arm.cli.train import launch

if __name__ == "__main__":
    launch("tokenizer")
