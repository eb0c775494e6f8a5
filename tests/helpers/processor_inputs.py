"""What people hand to a processor, and the special tokens among what it makes of that."""

import numpy as np

from transformers_arm.data.conversations import message

PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"


def drawing(seed=0, height=48, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def user(*parts):
    return [message("user", *parts)]


def special_tokens(processor, ids=None):
    """The special tokens among ids, in order; without ids, all that the tokenizer has."""
    special = {
        index: token.content for index, token in processor.tokenizer.added_tokens_decoder.items() if token.special
    }
    return [special[token] for token in (special if ids is None else ids) if token in special]
