"""One rollout: the requests whose pictures are drawn together, and what is known of each.

TRL's hooks hand lists to each other, one entry a request, in order. Knows nothing about rewards and updates.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import PIL.Image
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..data.columns import SOURCES
from ..data.pictures import rgb_picture
from ..data.row_errors import RowError, Skipping
from ..fetching_arm import Fetcher
from ..image_processing_arm import ArmImageProcessor
from ..pipeline_arm import batched
from .requests import read_grid, read_request


@dataclass(eq=False)
class Request:
    """A picture that is asked for, and what becomes of it.

    Args:
        prompt: a caption or an instruction.
        task: "text_to_image" or "editing".
        sources: pictures to edit; those that are equal within a rollout are one object.
        grid: rows and columns of the picture's tokens.
        generator: all its randomness.
        columns: of its row, all but the pictures; rewards get them.
        prompt_ids: up to where the picture opens, without the opening.
        image_ids: the picture's tokens.
        picture: what was drawn; an edit at its source's size.
    """

    prompt: str
    task: str
    sources: list[PIL.Image.Image]
    grid: tuple[int, int]
    generator: torch.Generator
    columns: dict
    prompt_ids: list[int] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    picture: PIL.Image.Image | None = None

    def draw(self, image: PIL.Image.Image) -> None:
        self.picture = image.resize(self.sources[0].size) if self.sources else image

    @property
    def row(self) -> dict:
        """What TRL and rewards get of it."""
        return {**self.columns, "task": self.task, "source_images": self.sources}


class Rollout(Sequence[Request]):
    """The requests of one process, but those whose rows cannot be read: `failed` has their errors, by place.

    Args:
        rows: of a dataset, one a request.
        image_processor: says how large pictures are.
        fetcher: opens what rows name as pictures.
        generator: of a request's place and prompt.
    """

    def __init__(
        self,
        rows: Sequence[Mapping],
        image_processor: ArmImageProcessor,
        fetcher: Fetcher,
        generator: Callable[[int, str], torch.Generator],
    ):
        shared: dict[tuple, PIL.Image.Image] = {}  # the samples of a group have one source, and rewards can tell
        self.requests: list[Request] = []
        self.failed: dict[int, RowError] = {}
        for place, row in enumerate(rows):
            where = f"with prompt {row.get('prompt')!r}"
            try:
                task, sources = read_request(row, where, rgb_picture, fetcher)
                grid = read_grid(row, where, image_processor)
            except RowError as error:
                self.failed[place] = error
                continue
            self.requests.append(
                Request(
                    prompt=row["prompt"],
                    task=task,
                    sources=[shared.setdefault((each.size, each.tobytes()), each) for each in sources],
                    grid=grid,
                    generator=generator(place, row["prompt"]),
                    columns={name: value for name, value in row.items() if name not in SOURCES},
                )
            )

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, place):
        return self.requests[place]

    def by_kind(self) -> list["Batch"]:
        """Requests of one grid and task each: what is encoded together."""
        return grouped(self.requests, lambda request: (request.grid, request.task))

    def to_draw(self, batch_size: int | None) -> Iterator["Batch"]:
        """At most `batch_size` requests of one grid and task at a time, None all of them: what is sampled together."""
        for batch in self.by_kind():
            yield from batch.parts(batch_size)

    def groups(self, size: int) -> list[list[Request]]:
        """The samples of a prompt each, as far as they are in this process."""
        return list(batched(self.requests, min(size, len(self))))

    def to_render(self, batch_size: int) -> Iterator["Batch"]:
        """At most `batch_size` requests of one grid at a time."""
        for batch in grouped(self.requests, lambda request: request.grid):
            yield from batch.parts(batch_size)


class Batch(list):
    """Requests of one grid."""

    @property
    def grid(self) -> tuple[int, int]:
        return self[0].grid

    @property
    def task(self) -> str:
        return self[0].task

    @property
    def generators(self) -> list[torch.Generator]:
        return [request.generator for request in self]

    def parts(self, size: int | None) -> Iterator["Batch"]:
        """At most `size` of them at a time, in order; None gives all at once."""
        return map(Batch, batched(self, size or len(self)))

    def columns(self) -> dict[str, list]:
        """What a reward sees of them once they are drawn, a list a keyword."""
        return {
            "prompts": [request.prompt for request in self],
            "images": [request.picture for request in self],
            "source_images": [request.sources for request in self],
            "task": [request.task for request in self],
        }

    def alike(self) -> list["Batch"]:
        """Equal requests, such as the samples of a group: one of each is to be encoded."""
        return grouped(self, lambda request: (request.prompt, *map(id, request.sources)))


def grouped(requests: Sequence[Request], key: Callable[[Request], tuple]) -> list[Batch]:
    """Requests by key, in the order of their first ones."""
    found: dict[tuple, Batch] = {}
    for request in requests:
        found.setdefault(key(request), Batch()).append(request)
    return list(found.values())


def readable(read: Callable[[Sequence], Rollout], rows: Sequence[Mapping], first: int, size: int, skipping: Skipping):
    """The rollout of a process's share of a batch, in which groups whose rows cannot be read have given way to others.

    An address may die between the start of a run and its row. All processes call this and agree on what is drawn.

    Args:
        read: the rollout of rows.
        rows: this process's; the whole batch is those of all processes, one after the other.
        first: place in the batch of this process's first row.
        size: rows of a group, which are equal.
        skipping: names and counts the groups that cannot be read.

    Raises:
        RowError: (on all processes) no group of the batch can be read.
        ValueError: (on all processes) too many cannot, over all batches.
    """
    rollout, batch, bad = read(rows), None, set()
    drawn = list(range(-(-len(rows) * PartialState().num_processes // size)))
    skipping.check(len(drawn))
    while True:
        failed = [{(first + place) // size: error for place, error in rollout.failed.items()}]
        failed = {group: error for each in gather_object(failed) for group, error in each.items()}
        if not failed:
            return rollout
        batch = gather_object(list(rows)) if batch is None else batch
        for error in {drawn[group]: failed[group] for group in sorted(failed)}.values():
            skipping.skip(error)
        skipping.check(0)
        bad |= {drawn[group] for group in failed}
        good = [group for group in range(len(drawn)) if group not in bad]
        if not good:
            raise next(iter(failed.values()))
        drawn = [good[place % len(good)] if group in bad else group for place, group in enumerate(drawn)]
        places = range(first, first + len(rows))
        rollout = read([batch[drawn[place // size] * size + place % size] for place in places])
