"""Rows of a user's dataset -> what reinforcement learning asks for: task, source pictures, grid.

Knows nothing about rollouts and rewards.
"""

import os
from collections.abc import Callable, Mapping
from io import BytesIO
from numbers import Real

import PIL.Image
from datasets import Dataset

from ..configuration_arm import MAX_GRID_SIDE
from ..data.columns import SOURCES, read_text, row_task, source_pictures, undecoded
from ..data.conversations import is_codes
from ..data.pictures import fetcher_for
from ..data.row_errors import RowError, as_row_error, row_error
from ..fetching_arm import ADDRESS, FROM_CALLER, Fetcher
from ..image_processing_arm import ArmImageProcessor

TEXT_TO_IMAGE, EDITING = "text_to_image", "editing"


class HeadFetcher(Fetcher):
    """Reads of files and bytes the heads alone, and asks no address: that is done when the row is drawn."""

    def open(self, source: str | os.PathLike | bytes) -> PIL.Image.Image | None:
        if isinstance(source, str):
            return None if ADDRESS.match(source) else super().open(source)
        PIL.Image.init()
        formats = [each for each in self.formats if each in PIL.Image.OPEN]
        with PIL.Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            if image.height * image.width > self.max_pixels:
                raise ValueError(f"{image.height}x{image.width} pixels are more than max_pixels {self.max_pixels:,}.")
            return image


def read_grid(row: Mapping, index: int | str, image_processor: ArmImageProcessor) -> tuple[int, int]:
    """Tokens of the picture a row asks for, by its `height` and `width` in px or else by the processor's size.

    Raises:
        RowError: a side that no grid of tokens has; names the row.
    """
    grid, patch = [], image_processor.patch_size
    for name in ("height", "width"):
        side = image_processor.size[name] if row.get(name) is None else row[name]
        if not isinstance(side, Real) or side % patch or not patch <= side <= patch * MAX_GRID_SIDE:
            bounds = f"{patch}..{patch * MAX_GRID_SIDE} px, a multiple of the {patch} px patch"
            raise row_error(index, name, f"{side!r:.80} must be {bounds}. Change it, or leave it out.")
        grid.append(int(side) // patch)
    return grid[0], grid[1]


def read_request(
    row: Mapping, index: int | str, prepare: Callable, fetcher: Fetcher = FROM_CALLER
) -> tuple[str, list]:
    """A row's task, and its source images as `prepare` makes them, opened by `fetcher` (`data/pictures.py`).

    Raises:
        RowError: no prompt, an unknown task, a task without the image it needs, an image that cannot be read, or a
            column whose meaning is open; names the row.
    """
    with as_row_error(index):
        for name in ("image", "images"):
            if name in row:
                problem = (
                    "is it what is to be edited, or what is wanted? Call it 'source_image', or otherwise such as "
                    "'target_image'; rewards get as `images` what was drawn."
                )
                raise row_error(index, name, problem, "two meanings")
        task = row_task(row, index, (TEXT_TO_IMAGE, EDITING), default=TEXT_TO_IMAGE)
        read_text(row, index)
        sources = source_pictures(row, index, prepare, fetcher)
        if any(is_codes(source) for source in sources):
            problem = "rewards look at pictures, and codes are none. Give the picture."
            raise row_error(index, "source_image", problem, "codes")
        if (task == EDITING) != bool(sources):
            problem = "an edit needs a picture to start from" if task == EDITING else "text-to-image starts from none"
            fix = "fill it in or leave it out, or state another task."
            raise row_error(index, "source_image", f"{problem}; {fix}", "other task")
        return task, sources


def check_requests(
    dataset: Dataset, name: str, image_processor: ArmImageProcessor, *, local_files: bool = False
) -> None:
    """Reads every row's request, of its pictures only the heads; a dataset with a transform is read as it is drawn.

    Args:
        dataset, name: the rows, and what errors call them.
        image_processor: the model's.
        local_files: whether rows of files may name local pictures, see `fetcher_for`.

    Raises:
        RowError: as `read_request` and `read_grid`; names dataset and row.
    """
    if dataset.format["type"] == "custom":
        return
    fetcher = HeadFetcher(**vars(fetcher_for(dataset, local_files)))
    known = ("prompt", "task", *SOURCES, "image", "images", "height", "width")
    dataset = undecoded(dataset.select_columns([column for column in dataset.column_names if column in known]))
    for index, row in enumerate(dataset):
        try:
            read_request(row, index, lambda picture: picture, fetcher)
            read_grid(row, index, image_processor)
        except RowError as error:
            error.args = (f"{name}: {error}",)
            raise
