"""transformers' own any-to-any pipeline, which asks for torchvision; ARM needs none."""

import pytest
import torch
import transformers.pipelines.any_to_any as any_to_any
from transformers import pipeline


def any_to_any_pipeline(folder):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(any_to_any, "requires_backends", lambda *_: None)
        made = pipeline("any-to-any", model=str(folder))
    assert type(made).__module__ == "transformers.pipelines.any_to_any"
    return made


def chat(text, *pictures):
    """A user's message of a text and of pictures."""
    content = [{"type": "text", "text": text}, *({"type": "image", "image": each} for each in pictures)]
    return [{"role": "user", "content": content}]


def draw(pipe, chats, seed=0, **options):
    """What the pipeline draws for chats, with options of `generate`."""
    options = {"generator": torch.Generator().manual_seed(seed), **options}
    return pipe(text=chats, generation_mode="image", generate_kwargs=options)
