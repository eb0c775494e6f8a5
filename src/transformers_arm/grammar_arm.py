"""Which tokens can come next beside the head's routing: images open, state a shape and close, or do not open at all.

Called for each token, so nothing in here makes the host wait for the device: no masks as indices, no values read.
Knows nothing about sampling and guidance.
"""

from math import inf

import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.logits_process import LogitsProcessor

from .configuration_arm import MAX_GRID_SIDE, ArmConfig


def image_spans(config: ArmConfig) -> list[tuple[int, int]]:
    """The rows start..stop-1 that make images: what opens, closes and holds one, shapes, and image tokens.

    As spans, for filling some slices of scores takes a quarter of the time of a mask over the vocabulary.
    """
    tokens = (config.vision_start_token_id, config.vision_end_token_id, config.image_token_id)
    shapes = (config.shape_token_offset, config.width_token_offset + MAX_GRID_SIDE)
    return [*((token, token + 1) for token in tokens), shapes, (config.visual_token_offset, config.vocab_size)]


def ends_in_an_image(config: ArmConfig, input_ids: torch.LongTensor) -> bool:
    """Whether any row [B, T] ends where an image goes on: after its start, its height, its width or one of its tokens.

    The host waits for the answer: to be asked once, of prompts.
    """
    last = input_ids[..., -1:]
    shape = (last >= config.shape_token_offset) & (last < config.width_token_offset)
    opened = shape | (last == config.vision_start_token_id)
    return bool((opened | config.image_token_follows(last)).any())


class TextGrammarLogitsProcessor(LogitsProcessor):
    """Keeps text from opening an image, whatever the sequence so far: for what is text from its first token on, and
    for who shows only the last ids of requests, as transformers' continuous batching does.

    Args:
        config: the model's.
        text_rows_alone: whether the scores [B, vocab_size] become those of text, [B, visual_token_offset], which are
            sooner drawn from. What comes after this must not know how many tokens there are.
    """

    supports_continuous_batching = True

    def __init__(self, config: ArmConfig, text_rows_alone: bool = False):
        self.config, self.text_rows_alone = config, text_rows_alone
        *self.spans, image_tokens = image_spans(config)
        self.spans += [] if text_rows_alone else [image_tokens]

    def within(self, generation_config: GenerationConfig) -> "TextGrammarLogitsProcessor":
        """The same grammar for this configuration, whose way to write may ask for all rows."""
        ways = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
        of_all = generation_config.output_scores or generation_config.watermarking_config is not None
        alone = self.text_rows_alone and not of_all and generation_config.get_generation_mode() in ways
        return TextGrammarLogitsProcessor(self.config, alone)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        # Those that came may be returned as logits.
        scores = (scores[:, : self.config.visual_token_offset] if self.text_rows_alone else scores).clone()
        for start, stop in self.spans:
            scores[:, start:stop].fill_(-inf)
        return scores


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

    def within(self, generation_config: GenerationConfig) -> "ImageGrammarLogitsProcessor":
        """The same grammar for sequences of at most so many tokens; another model's call may hold this one."""
        return ImageGrammarLogitsProcessor(self.config, generation_config.max_length, self.images)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        config = self.config
        heights, widths, visual = config.shape_token_offset, config.width_token_offset, config.visual_token_offset
        room = (inf if self.max_length is None else self.max_length) - input_ids.shape[1]  # still to be written
        input_ids = torch.nn.functional.pad(input_ids, (1, 0), value=-1)  # nothing yet, as with embeddings, is text
        last = input_ids[:, -1:]
        after_start = last == config.vision_start_token_id
        after_height = (last >= heights) & (last < widths)
        in_image = config.image_token_follows(last)
        text = ~(after_start | after_height | in_image)
        full = in_image & self._is_full(input_ids)
        sides = torch.arange(1, MAX_GRID_SIDE + 1, device=last.device)

        allowed = text.repeat(1, scores.shape[1])
        for start, stop in image_spans(config):
            allowed[:, start:stop].fill_(False)
        if self.images and room >= 5:  # start, height, width, token, end
            allowed[:, config.vision_start_token_id] = text[:, 0]
        # Side 1 is always allowed: an image that the prompt opens may not fit at all.
        allowed[:, heights:widths] = after_start & (sides <= max(room - 3, 1))
        area = sides * (last - heights + 1)
        allowed[:, widths : widths + MAX_GRID_SIDE] = after_height & ((area <= room - 2) | (sides == 1))
        allowed[:, visual:] = in_image & ~full
        scores = scores.masked_fill(~allowed, -inf)
        # The head holds this row to be impossible after an image token.
        scores[:, config.vision_end_token_id] = torch.zeros_like(scores[:, 0]).masked_fill(~full[:, 0], -inf)
        return scores

    def _is_full(self, input_ids: torch.LongTensor) -> torch.BoolTensor:
        """Whether the last image of each row [B, 1 + T] has all its tokens, [B, 1]; one that states no shape has."""
        widths = self.config.width_token_offset
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        opened = torch.where(self.config.states_width(input_ids), positions, 0).amax(-1, keepdim=True)
        width = input_ids.gather(1, opened) - widths + 1
        height = input_ids.gather(1, (opened - 1).clamp(min=0)) - self.config.shape_token_offset + 1
        return (positions[-1] - opened >= height * width) | (opened == 0)
