"""Codes become pictures, by any detokenizer or by the one in a model's own folder.

Knows nothing about prompts, and about how codes are drawn.
"""

from typing import TYPE_CHECKING

import torch

from .configuration_arm import ArmConfig
from .loading_arm import hooked, is_placed
from .renderers_arm import load_detokenizer, torch_parts

if TYPE_CHECKING:
    from .detokenizer_arm import ArmDetokenizer


def rendered(model, detokenizer: "ArmDetokenizer", codes: torch.LongTensor, **options):
    """Pictures of codes [B, h, w], as the detokenizer's `output_type` says.

    Args:
        model: an `ArmForCausalLM`, whose tokenizer the codes are of.
        options: of the detokenizer's call.
    """
    with hooked(model):  # whose forward is not called
        z_q = model.vq_model.decode_codes(codes)
    return detokenizer(z_q, **options).images


def moved(detokenizer: "ArmDetokenizer", device: torch.device) -> "ArmDetokenizer":
    """The detokenizer on a device, or where offloading places it."""
    if not any(is_placed(part) for part in torch_parts(detokenizer)):
        detokenizer.to(device)
    return detokenizer


def same_noise(pictures: int) -> list[torch.Generator]:
    """Generators that have a renderer give the same codes the same picture, whatever is rendered beside it."""
    return [torch.Generator().manual_seed(0) for _ in range(pictures)]


def last_codes(config: ArmConfig, sequences: torch.LongTensor) -> torch.LongTensor:
    """Codes [B, h, w] of the last image of each sequence [B, T], all of one grid and in one place.

    Raises:
        ValueError: a sequence without a whole image, or images of several grids or places.
    """
    positions = torch.arange(sequences.shape[1], device=sequences.device)
    places = torch.where(config.states_width(sequences), positions, 0).amax(-1)
    place = int(places[0])
    offsets = sequences.new_tensor([config.shape_token_offset, config.width_token_offset])
    height, width = (sequences[:, [place - 1, place]] - offsets).T + 1
    tokens = sequences[:, place + 1 : place + 1 + int(height[0] * width[0])]
    one_grid = bool(((places == place) & (height == height[0]) & (width == width[0])).all())
    whole = place > 0 and tokens.shape[1] == int(height[0] * width[0]) and config.image_token_follows(tokens).all()
    if not (one_grid and whole):
        raise ValueError(
            f"Not all of the {len(sequences)} sequences end in a whole image of one grid; take them from one call of "
            "generate(generation_mode='image'), or take ArmProcessor.decode_interleaved for any sequence."
        )
    return tokens.view(-1, int(height[0]), int(width[0])) - config.visual_token_offset


class RenderingMixin:
    """For a model that was loaded from a folder with a detokenizer: what transformers' any-to-any pipeline asks for.

    `detokenizer` is that one once it was needed here, or what is set there before; our pipelines take it too.
    """

    detokenizer = None

    def decode_image_tokens(self, sequences: torch.LongTensor) -> torch.FloatTensor:
        """Sequences [B, T] that `generate(generation_mode="image")` wrote -> pictures [B, 3, H, W] in -1..1.

        The same tokens give the same picture.

        Raises:
            ValueError: sequences that do not end in an image of one grid.
            FileNotFoundError: the model was not loaded from a folder with a detokenizer, and none is set.
        """
        codes = last_codes(self.config, sequences)
        if self.detokenizer is None:
            self.detokenizer = load_detokenizer(self.name_or_path, self.dtype, **self.hub_options)
        moved(self.detokenizer, self.device)
        pictures = rendered(self, self.detokenizer, codes, generator=same_noise(len(codes)), output_type="pt")
        return pictures * 2 - 1
