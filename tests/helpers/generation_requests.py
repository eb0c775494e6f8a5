"""Prompts for generation, images asked for in one line, and readers that check what was written."""

import torch
from transformers import LogitsProcessor

from transformers_arm.prompts_arm import stack_left_padded

CODES = 16  # few, so that distributions can be counted
PLAIN = {"guidance_scale": 1, "image_guidance_scale": 1}
GREEDY = {"do_sample": False}
EOS, PAD = 7, 8  # ids of ordinary text rows


def prompts(batch=2, length=6, seed=0):
    """Text ids [batch, length]."""
    return torch.randint(10, 256, (batch, length), generator=torch.Generator().manual_seed(seed))


def left_padded(rows):
    """Lists of ids, or tensors -> ids and attention mask [B, T]."""
    ids, masks = stack_left_padded([(torch.tensor([row]), torch.ones(1, len(row), dtype=int)) for row in rows])
    return ids, masks


def opened(config, input_ids, height, width):
    first = config.shape_token_offset - 1
    opening = input_ids.new_tensor([config.vision_start_token_id, first + height, first + 128 + width])
    return torch.cat([input_ids, opening.expand(len(input_ids), 3)], 1)


def seed(number):
    return torch.Generator().manual_seed(number)


def draw(model, input_ids=None, grid=(2, 3), **kwargs):
    """Image mode without guidance unless it is asked for."""
    return model.generate(input_ids=input_ids, generation_mode="image", image_grid=grid, **{**PLAIN, **kwargs})


def image_part(model, sequences, grid):
    """The codes [B, H, W] of sequences that end in an image of this grid."""
    height, width = grid
    config, count = model.config, height * width
    first = config.shape_token_offset - 1
    ends = sequences[:, -count - 4 :]
    opening = torch.tensor([config.vision_start_token_id, first + height, first + 128 + width])
    assert (ends[:, :3] == opening).all() and (ends[:, -1] == config.vision_end_token_id).all()
    codes = ends[:, 3:-1] - config.visual_token_offset
    assert codes.shape[1] == count and codes.min() >= 0 and codes.max() < CODES
    return codes.view(-1, height, width)


def parse(model, written, eos=EOS, pad=PAD):
    """The grids of the images in written ids; fails at whatever is not text and whole images, then padding."""
    config, ids, grids = model.config, written.tolist(), []
    heights, widths = config.shape_token_offset, config.shape_token_offset + 128
    while ids:
        token = ids.pop(0)
        if token == eos:
            assert set(ids) <= {pad}, "a finished row holds padding only"
            break
        if token != config.vision_start_token_id:
            assert 0 <= token < config.visual_token_offset and not heights <= token < widths + 128, token
            assert token not in (config.vision_end_token_id, config.image_token_id), token
            continue
        assert len(ids) >= 2, "a shape is cut off"
        height, width = ids.pop(0) - heights + 1, ids.pop(0) - widths + 1
        assert 1 <= height <= 128 and 1 <= width <= 128
        codes = torch.tensor(ids[: height * width]) - config.visual_token_offset
        assert len(ids) > height * width, f"{height}x{width} is cut off after {len(codes)}"
        assert codes.min() >= 0 and codes.max() < CODES
        assert ids[height * width] == config.vision_end_token_id
        ids = ids[height * width + 1 :]
        grids.append((height, width))
    return grids


def opening_bias(model, strength=8.0):
    """Keywords of `generate` that make images open often."""
    return {"sequence_bias": {(model.config.vision_start_token_id,): strength}}


def assert_follows(counts, probabilities, at_least=1e-4):
    """A chi-square test of counts against probabilities; rows too rare to be tested are put together."""
    expected = probabilities * counts.sum()
    assert (counts[expected == 0] == 0).all(), "what has no probability was drawn"
    often = expected >= 8
    counts = torch.cat([counts[often], counts[~often].sum()[None]]).double()
    expected = torch.cat([expected[often], expected[~often].sum()[None]]).double()
    counts, expected = counts[expected > 0], expected[expected > 0]
    chi_square = ((counts - expected) ** 2 / expected).sum()
    p_value = torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2.0).double(), chi_square / 2)
    assert len(counts) > 3 and p_value > at_least, f"chi-square {chi_square:.1f} over {len(counts)} bins"


def with_pictures(config, *grids, text):
    """Text ids, then the placeholders of pictures of these grids: [1, T]."""
    ids = text
    for height, width in grids:
        pad = ids.new_full((1, height * width), config.image_token_id)
        ids = torch.cat([opened(config, ids, height, width), pad, pad[:, :1] * 0 + config.vision_end_token_id], 1)
    return ids


def pictures(*grids):
    return [torch.rand(3, 16 * height, 16 * width, generator=seed(height)) * 2 - 1 for height, width in grids]


class Prefers(LogitsProcessor):
    def __init__(self, tokens):
        self.tokens = list(tokens)

    def __call__(self, input_ids, scores):
        scores[:, self.tokens] += 1000.0
        return scores
