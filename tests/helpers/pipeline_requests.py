"""Requests to pipelines, and what hears and compares what becomes of them."""

import numpy as np
import torch
from PIL import Image

from transformers_arm.image_processing_arm import ArmImageProcessor, flatten_images

PROMPT, INSTRUCTION = "a red circle above a blue square", "make the red circle green"
FAST = {"num_inference_steps": 1, "decoder_guidance_scale": 1.0}


def picture(width=48, height=48, mode="RGB", seed=0):
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def assert_same(ours, theirs):
    """Pictures of one length, equal but for a level that batching may round differently."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.size == other.size
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def differ(one, other):
    return not np.array_equal(np.asarray(one), np.asarray(other))


def asked(question, image=None):
    content = [] if image is None else [{"type": "image", "image": image}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


class Listening:
    """Stands before `generate` of a pipeline's model and notes the inputs of each call."""

    def __init__(self, monkeypatch, model):
        self.calls, self.results, plain = [], [], model.generate

        def generate(**kwargs):
            self.calls.append(kwargs)
            self.results.append(plain(**kwargs))
            return self.results[-1]

        monkeypatch.setattr(model, "generate", generate)


def pictures_prepared(monkeypatch):
    """A list that gets the number of pictures of each call of an image processor's `preprocess`."""
    calls, plain = [], ArmImageProcessor.preprocess

    def preprocess(self, images, *args, **kwargs):
        calls.append(len(flatten_images(images)))
        return plain(self, images, *args, **kwargs)

    monkeypatch.setattr(ArmImageProcessor, "preprocess", preprocess)
    return calls
