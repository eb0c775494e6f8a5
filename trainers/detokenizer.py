"""Trains the pixel detokenizer on a fixed tokenizer (paper section 3.2).

    python trainers/detokenizer.py --config arm_tiny/detokenizer

`transformers-arm train detokenizer` as a file, for torchrun and accelerate. --help prints a recipe's fields.
Renderers in the latents of a text-to-image model, whose recipes are `detokenizer_flux2`, `_flux` and `_sana`, are
trained by renderer.py.
"""

from transformers_arm.cli.train import launch

if __name__ == "__main__":
    launch("detokenizer")
