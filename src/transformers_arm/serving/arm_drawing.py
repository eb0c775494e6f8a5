"""Pictures of an ARM, drawn in batches whatever requests they are of: those of one grid, of the same branches of
guidance and settings. What a picture is like does not depend on its batch.

Knows nothing about lines and events.
"""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from PIL.Image import Image

from ..loading_arm import hooked
from ..pipeline_arm import ArmImagePipeline
from ..previews_arm import Previews
from ..prompts_arm import stack_left_padded
from ..sampling_arm import with_likeliest
from .engine import Picture, Preview, Sampling, Usage
from .waiting import Job

QUALITIES = {"low": 4, "medium": 2, "high": 1}  # parts of the detokenizer's steps
MASKS = {"input_ids": "attention_mask"} | {
    f"{branch}_prompt_ids": f"{branch}_prompt_attention_mask" for branch in ("negative", "image")
}


class NobodyWaits(Exception):
    """All those whom a batch was drawn for have left."""


class DrawingJob(Job):
    """A picture that is to be drawn.

    Attributes:
        grid: (H, W), in tokens.
        settings: of `ArmImagePipeline.drawn`.
        previews: how many are wanted.
        number: of the picture in its answer.
        seed: of the answer's picture.
    """

    grid: tuple[int, int]
    settings: dict
    previews = number = shown = 0
    seed: int

    def inputs(self, pipe: ArmImagePipeline) -> dict[str, torch.Tensor]:
        """What `generate` takes, of one prompt, without placeholders."""
        raise NotImplementedError

    def generator(self) -> torch.Generator:
        """What this picture is drawn by, as it is before the first code."""
        raise NotImplementedError

    def drawn(self, tokens: list[int], picture: Image, codes: torch.LongTensor) -> None:
        """Takes what was drawn: ids of the image from its opening to its closing, the picture, and codes [H, W]."""
        raise NotImplementedError

    def is_due(self, rows: int) -> bool:
        """Whether a preview is wanted after so many rows of tokens: they lie evenly, each in a row of its own."""
        height = self.grid[0]
        count = min(self.previews, height)
        due = {-(-height * number // (count + 1)) for number in range(1, count + 1)}
        return rows in due and rows > self.shown and self.wanted

    def show(self, rows: int, picture: Image) -> None:
        self.shown = rows
        self.answer.put(Preview(self.number, rows, self.grid[0], picture))

    def give(self, picture: Image, codes: torch.LongTensor, read: Sequence[int]) -> None:
        """Hands on the picture; `read` are the tokens of text and of images before it."""
        usage = Usage(*read, 0, codes.numel())
        self.answer.put(Picture(self.number, picture, self.seed, codes.tolist(), usage))


class Watch(Previews):
    """Shows a batch that is being drawn to those who want to see it, and ends it when nobody does any more."""

    def __init__(self, pipe: ArmImagePipeline, jobs: Sequence[DrawingJob]):
        self.jobs = jobs
        places = range(len(jobs))
        super().__init__(pipe.model, pipe.detokenizer, jobs[0].grid, places, preview=self._show_one)

    def put(self, value: torch.LongTensor) -> None:
        if not any(job.wanted for job in self.jobs):
            raise NobodyWaits
        super().put(value)

    def due(self, rows: int) -> list[int]:
        return [place for place, job in enumerate(self.jobs) if job.is_due(rows)]

    def _show_one(self, place: int, rows: int, picture: Image) -> None:
        self.jobs[place].show(rows, picture)


def drawing_settings(sampling: Sampling, default_steps: int) -> dict:
    """What `ArmImagePipeline.drawn` takes of how pictures are drawn: what is stated alone."""
    stated = {name: value for name, value in asdict(sampling).items() if value is not None}
    quality = stated.pop("quality")
    stated = with_likeliest(stated)
    if quality != "high":
        stated["num_inference_steps"] = max(1, default_steps // QUALITIES[quality])
    return stated


def with_pictures(pipe: ArmImagePipeline, inputs: dict) -> dict:
    """Inputs of `generate` with the pictures' tokens in place of placeholders, and without `pixel_values`.

    Of each request by itself: the codes of a picture must not depend on those beside it.
    """
    inputs = dict(inputs)
    pixel_values = inputs.pop("pixel_values", None)
    if pixel_values is not None:
        with torch.no_grad(), hooked(pipe.model):  # whose forward is not called
            grids = pipe.model.model.get_image_tokens(pixel_values)
        tokens = torch.cat([grid.flatten() for grid in grids]).cpu()
        for name in ("input_ids", "image_prompt_ids"):
            if name in inputs:
                inputs[name] = pipe.model.model.place_image_tokens(inputs[name], tokens, "The pictures")
    return inputs


def stacked(rows: Sequence[dict]) -> dict:
    """Inputs of prompts that have the same branches -> inputs of all of them, padded on the left."""
    together = {}
    for ids, mask in MASKS.items():
        if ids in rows[0]:
            together[ids], together[mask] = stack_left_padded([(row[ids], row[mask]) for row in rows])
    if any("edit_mask" in row for row in rows):
        like = next(row["edit_mask"] for row in rows if "edit_mask" in row)
        together["edit_mask"] = torch.cat([row.get("edit_mask", torch.ones_like(like)) for row in rows])
        together["edit_source"] = 0  # as the pipeline's: the first picture is the one that is edited
    return together


def draw_together(pipe: ArmImagePipeline, jobs: Sequence[DrawingJob]) -> None:
    """Draws the pictures of jobs of one key, and gives each its own.

    Raises:
        NobodyWaits: none of them is wanted any more.
    """
    (height, width), settings = jobs[0].grid, jobs[0].settings
    inputs, watch = stacked([job.inputs(pipe) for job in jobs]), Watch(pipe, jobs)
    generators = [job.generator() for job in jobs]
    sequences, pictures = pipe.drawn(
        inputs, (height, width), range(len(jobs)), streamer=watch, generator=generators, **settings
    )
    codes = torch.stack(watch.rows, 1)
    for job, tokens, picture, own in zip(
        jobs, sequences[:, -height * width - 4 :].tolist(), pictures, codes, strict=True
    ):
        if job.wanted:
            job.drawn(tokens, picture, own)
