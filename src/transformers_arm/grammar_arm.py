"""Which tokens can come next beside the head's routing: images open, state a shape and close, or do not open at all.

Knows nothing about sampling and guidance.
"""

from math import inf

import torch
from transformers.generation.logits_process import LogitsProcessor

from .configuration_arm import MAX_GRID_SIDE, ArmConfig


class TextGrammarLogitsProcessor(LogitsProcessor):
    """Keeps text from opening an image, whatever the sequence so far: for who shows only the last ids of requests, as
    transformers' continuous batching does.
    """

    supports_continuous_batching = True

    def __init__(self, config: ArmConfig):
        self.config = config

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        config = self.config
        forbidden = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
        forbidden[config.shape_token_offset : config.width_token_offset + MAX_GRID_SIDE] = True
        forbidden[[config.vision_start_token_id, config.vision_end_token_id, config.image_token_id]] = True
        forbidden[config.visual_token_offset :] = True
        return scores.masked_fill(forbidden, -torch.inf)


class ImageGrammarLogitsProcessor(LogitsProcessor):
    """Opens and closes images: `<|vision_start|>`, a height, a width, H*W image tokens, `<|vision_end|>`.

    A pure function of the sequence so far, row by row. That only image tokens follow a width or an image token is the
    routed head's doing. An image opens only in a shape that still fits into `max_length`.

    Args:
        config: the model's.
        max_length: tokens of the whole sequence; None sets no bound.
        images: False keeps images from being opened.
    """

    def __init__(self, config: ArmConfig, max_length: int | None = None, images: bool = True):
        self.config, self.max_length, self.images = config, max_length, images

    def until(self, max_length: int | None) -> "ImageGrammarLogitsProcessor":
        """The same grammar for sequences of so many tokens; another model's call may hold this one."""
        return ImageGrammarLogitsProcessor(self.config, max_length, self.images)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        config = self.config
        heights, widths, visual = config.shape_token_offset, config.width_token_offset, config.visual_token_offset
        room = (inf if self.max_length is None else self.max_length) - input_ids.shape[1]  # still to be written
        input_ids = torch.nn.functional.pad(input_ids, (1, 0), value=-1)  # nothing yet, as with embeddings, is text
        last = input_ids[:, -1]
        after_start = last == config.vision_start_token_id
        after_height = (last >= heights) & (last < widths)
        in_image = config.image_token_follows(last)
        text = ~(after_start | after_height | in_image)
        sides = torch.arange(1, MAX_GRID_SIDE + 1, device=last.device)

        allowed = torch.zeros_like(scores, dtype=torch.bool)
        allowed[text, :visual] = True
        allowed[:, heights : widths + MAX_GRID_SIDE] = False
        allowed[:, [config.vision_end_token_id, config.image_token_id]] = False
        allowed[text, config.vision_start_token_id] = self.images and room >= 5  # start, height, width, token, end
        # Side 1 is always allowed: an image that the prompt opens may not fit at all.
        allowed[after_start, heights:widths] = sides <= max(room - 3, 1)
        area = sides * (last[after_height, None] - heights + 1)
        allowed[after_height, widths : widths + MAX_GRID_SIDE] = (area <= room - 2) | (sides == 1)
        allowed[in_image, visual:] = True
        full = in_image & self._is_full(input_ids)
        allowed[full] = False
        allowed[full, config.vision_end_token_id] = True
        scores = scores.masked_fill(allowed & full[:, None], 0.0)  # the head holds this row to be impossible
        return scores.masked_fill(~allowed, -torch.inf)

    def _is_full(self, input_ids: torch.LongTensor) -> torch.BoolTensor:
        """Whether the last image of each row [B, 1 + T] has all its tokens; one that states no shape has."""
        widths = self.config.width_token_offset
        is_width = (input_ids >= widths) & (input_ids < widths + MAX_GRID_SIDE)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        opened = torch.where(is_width, positions, 0).amax(-1, keepdim=True)
        width = input_ids.gather(1, opened) - widths + 1
        height = input_ids.gather(1, (opened - 1).clamp(min=0)) - self.config.shape_token_offset + 1
        return ((positions[-1] - opened >= height * width) | (opened == 0))[:, 0]
