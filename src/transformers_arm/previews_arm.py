"""Previews: what a picture looks like while its tokens come.

Rows that are not drawn yet are the mean of `z_q` over those that are, and few steps render the whole. Noise of its own
makes them, so that what is drawn is the same with previews and without. Knows nothing about prompts and sampling.
"""

from collections.abc import Callable, Sequence
from numbers import Integral

import torch
from PIL.Image import Image
from transformers.generation.streamers import BaseStreamer

from .rendering_arm import same_noise

PREVIEW_STEPS = 4  # of the detokenizer, unless a call says how many
SETTINGS = ("preview_every", "preview_steps")


def check_previews(model: torch.nn.Module, given: dict, defaults: dict | None = None) -> None:
    """Refuses `preview`, `preview_every` and `preview_steps` of a call where they are no such thing.

    Args:
        given: what the call states.
        defaults: what holds where it states nothing.

    Raises:
        TypeError: what should get previews cannot be called.
        ValueError: numbers below 1, or for no previews; or a model that leaves its device while a picture is rendered.
    """
    settings = {**(defaults or {}), **given}
    stated = {name: settings[name] for name in SETTINGS if settings.get(name) is not None}
    if settings.get("preview") is None:
        if unseen := [name for name in stated if name in given]:
            raise ValueError(f"{', '.join(unseen)} is for previews, but nothing gets them: pass preview= as well.")
        return
    if not callable(settings["preview"]):
        raise TypeError(
            f"preview is a {type(settings['preview']).__name__}; pass a function of number, rows and picture."
        )
    for name, value in stated.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} {value!r} must be a whole number, 1 or more.")
    if type(getattr(model, "_hf_hook", None)).__name__ == "CpuOffload":
        raise ValueError(
            "Previews render while the model draws, and enable_model_cpu_offload has only one of them on its device: "
            "leave preview out, or take enable_sequential_cpu_offload."
        )


def check_rows(every: int, grid: tuple[int, int]) -> None:
    """Raises a ValueError if a picture of H, W tokens has fewer rows than lie between previews."""
    if every > grid[0]:
        raise ValueError(
            f"preview_every {every} is more than the {grid[0]} rows of a picture of {grid[0]}x{grid[1]} tokens; take "
            f"1..{grid[0]}."
        )


class Previews(BaseStreamer):
    """A streamer of `generate(generation_mode="image")` that renders what there is after every so many rows.

    Args:
        model, detokenizer: an `ArmForCausalLM` and what renders.
        grid: (H, W) of the pictures, in tokens.
        numbers: of each picture of the batch, for `preview`.
        streamer: another one, which gets what this one gets.
        preview: is called with number (of the picture, from 0), rows (that are drawn) and the picture.
        preview_every: rows between previews; default 1. More than H give none.
        preview_steps: of the detokenizer; default `PREVIEW_STEPS`.
        rendering: what else the detokenizer's call takes.
    """

    def __init__(
        self,
        model,
        detokenizer,
        grid: tuple[int, int],
        numbers: Sequence[int],
        streamer: BaseStreamer | None = None,
        *,
        preview: Callable[[int, int, Image], object],
        preview_every: int | None = None,
        preview_steps: int | None = None,
        **rendering,
    ):
        self.model, self.detokenizer, self.grid, self.numbers = model, detokenizer, grid, numbers
        self.streamer, self.preview, self.every = streamer, preview, preview_every or 1
        steps = PREVIEW_STEPS if preview_steps is None else preview_steps
        self.rendering = {**rendering, "num_inference_steps": steps}
        self.puts, self.rows = 0, []

    def put(self, value: torch.LongTensor) -> None:
        """The opening [B, 3], each row of image tokens [B, W], the closing [B, 1]."""
        if self.streamer is not None:
            self.streamer.put(value)
        if 0 < self.puts <= self.grid[0]:
            self.rows.append(value - self.model.config.visual_token_offset)
            if places := self.due(len(self.rows)):
                self._show(places)
        self.puts += 1

    def due(self, rows: int) -> Sequence[int]:
        """Places in the batch of the pictures that are shown once so many rows are drawn."""
        return range(len(self.numbers)) if rows % self.every == 0 else ()

    def end(self) -> None:
        if self.streamer is not None:
            self.streamer.end()

    @torch.no_grad()
    def _show(self, places: Sequence[int]) -> None:
        codes = torch.stack(self.rows, 1)[list(places)].to(self.model.device)
        z_q = self.model.vq_model.decode_codes(codes)  # of a model that runs: its hooks have been
        to_come = self.grid[0] - len(self.rows)
        mean = z_q.mean((1, 2), keepdim=True).expand(-1, to_come, self.grid[1], -1)
        pictures = self.detokenizer(
            torch.cat([z_q, mean], 1), generator=same_noise(len(codes)), **self.rendering
        ).images
        for place, picture in zip(places, pictures, strict=True):
            self.preview(self.numbers[place], len(self.rows), picture)
