"""ARMs from tiny backbones, ids of text and pictures for them, and comparisons of what comes out."""

import torch

from transformers_arm.modeling_arm import ArmForCausalLM


def assemble(backbones, **kwargs):
    torch.manual_seed(0)
    return ArmForCausalLM.from_backbones(**backbones, **kwargs).eval()


def opening(config, height, width):
    return [
        config.vision_start_token_id,
        config.shape_token_offset + height - 1,
        config.width_token_offset + width - 1,
    ]


def text(count, seed=0):
    return torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def picture(config, height=2, width=3, seed=0):
    codes = torch.randint(0, 1024, (height * width,), generator=torch.Generator().manual_seed(seed))
    return [
        *opening(config, height, width),
        *(codes + config.visual_token_offset).tolist(),
        config.vision_end_token_id,
    ]


def mixed(config, seed=0):
    """Text, a picture, text, another picture and text: [1, 32]."""
    parts = text(5, seed) + picture(config, 2, 3, seed) + text(4, seed + 1) + picture(config, 3, 1, seed + 1)
    return torch.tensor([parts + text(6, seed + 2)])


def can_follow(config, token):
    """The rows that can follow a token, as the paper says it."""
    shape = config.width_token_offset <= token < config.width_token_offset + 128
    if shape or token >= config.visual_token_offset:
        return range(config.visual_token_offset, config.vocab_size)
    return range(config.visual_token_offset)


def pixels(count, height=32, width=48, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def logits_of(model, input_ids, **kwargs):
    with torch.no_grad():
        return model(input_ids, **kwargs).logits


def assert_close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def with_placeholders(config, grids):
    """A row of text and pictures whose tokens are still to be filled in."""
    ids = text(3)
    for number, (height, width) in enumerate(grids):
        ids += opening(config, height, width) + [config.image_token_id] * (height * width)
        ids += [config.vision_end_token_id] + text(2, seed=number)
    return ids


def assert_same_weights(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name].cpu(), theirs[name].cpu()) for name in ours)


def runs_of(module):
    """A list that every forward pass of a module adds to."""
    runs = []
    module.register_forward_hook(lambda _, args, output: runs.append(len(args[0])))
    return runs
