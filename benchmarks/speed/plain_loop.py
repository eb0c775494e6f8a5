"""How an ARM draws, as plainly as it can be written: what faster ways have to give the same codes as.

All branches of guidance stand in one batch, transformers' static cache holds them, and each step calls the model,
warps the scores of the visual rows and draws. Uses nothing of this library but the model.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import linear, pad
from transformers import LogitsProcessorList, StaticCache
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper


@torch.no_grad()
def plain_loop(
    model: torch.nn.Module,
    branches: Sequence[tuple[torch.LongTensor, torch.Tensor]],
    grid: tuple[int, int],
    *,
    guidance_scale: float = 1.0,
    image_guidance_scale: float = 1.0,
    do_sample: bool = True,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> torch.LongTensor:
    """One image a prompt.

    Args:
        model: an `ArmForCausalLM`, in evaluation mode.
        branches: ids and mask [B, T] of each branch, left-padded and without the opening of the image: (condition),
            (condition, nothing) or (condition, image without text, nothing).
        grid: (H, W), in tokens.
        generator: of the sampling: one, or one for each image.

    Returns:
        Codes [B, H*W].
    """
    config, device, count = model.config, branches[0][0].device, grid[0] * grid[1]
    longest = max(ids.shape[1] for ids, _ in branches)
    ids, mask = (
        torch.cat([pad(part, (longest - part.shape[1], 0)) for part in parts]) for parts in zip(*branches, strict=True)
    )
    step_ids = torch.cat([ids, ids.new_tensor(config.image_opening(*grid)).expand(len(ids), 3)], 1)
    mask, length = pad(mask, (0, 3 + count), value=1), step_ids.shape[1]
    positions = torch.arange(length + count, device=device)[None]
    cache = StaticCache(config=config, max_cache_len=length + count)
    warpers = LogitsProcessorList()
    if do_sample and temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(temperature)))
    if do_sample and top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if do_sample and top_p != 1:
        warpers.append(TopPLogitsWarper(float(top_p)))
    drawn = []
    for end in range(length, length + count):
        place = {"position_ids": positions[:, end - step_ids.shape[1] : end], "attention_mask": mask[:, :end]}
        hidden = model.model(step_ids, **place, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        logits = linear(hidden, model.lm_head.weight[config.visual_token_offset :]).float()
        condition, *others = logits.view(len(branches), -1, logits.shape[-1])
        if len(others) == 2:
            image, nothing = others
            scores = nothing + image_guidance_scale * (image - nothing) + guidance_scale * (condition - image)
        else:
            scores = others[0] + guidance_scale * (condition - others[0]) if others else condition
        scores = warpers(None, scores)
        drawn.append(sampled(scores, generator) if do_sample else scores.argmax(-1))
        step_ids = (drawn[-1] + config.visual_token_offset).repeat(len(branches))[:, None]
    return torch.stack(drawn, 1)


def sampled(scores: torch.Tensor, generator=None) -> torch.LongTensor:
    """Scores [B, V] -> a code each [B]; a generator draws on its own device."""
    probabilities = scores.softmax(-1)
    rows = zip(probabilities.split(1), generator, strict=True) if isinstance(generator, Sequence) else None
    drawn = [
        torch.multinomial(row.to(each.device) if each else row, 1, generator=each).to(scores.device)
        for row, each in rows or [(probabilities, generator)]
    ]
    return torch.cat(drawn)[:, 0]
