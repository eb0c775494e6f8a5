"""Rows of a user's dataset -> what reinforcement learning asks for: task, source pictures, grid.

Knows nothing about rollouts and rewards.
"""

from collections.abc import Callable, Mapping

import PIL.Image
from datasets import Dataset

from ..configuration_arm import MAX_GRID_SIDE
from ..data.columns import SOURCES, read_text, row_task, source_pictures, undecoded
from ..data.conversations import is_codes
from ..data.row_errors import row_error
from ..image_processing_arm import ArmImageProcessor

TEXT_TO_IMAGE, EDITING = "text_to_image", "editing"


def read_grid(row: Mapping, index: int | str, image_processor: ArmImageProcessor) -> tuple[int, int]:
    """Tokens of the picture a row asks for, by its `height` and `width` in px or else by the processor's size.

    Raises:
        ValueError: a side that no grid of tokens has; names the row.
    """
    grid, patch = [], image_processor.patch_size
    for name in ("height", "width"):
        side = image_processor.size[name] if row.get(name) is None else row[name]
        if side != int(side) or side % patch or not patch <= side <= patch * MAX_GRID_SIDE:
            bounds = f"{patch}..{patch * MAX_GRID_SIDE} px, a multiple of the {patch} px patch"
            raise row_error(index, name, f"{side} must be {bounds}. Change it, or leave it out.")
        grid.append(int(side) // patch)
    return grid[0], grid[1]


def read_request(row: Mapping, index: int | str, prepare: Callable) -> tuple[str, list]:
    """A row's task, and its source images as `prepare` makes them.

    Raises:
        ValueError: no prompt, an unknown task, a task without the image it needs, an image that cannot be read, or a
            column whose meaning is open; names the row.
    """
    for name in ("image", "images"):
        if name in row:
            raise row_error(
                index,
                name,
                "is it what is to be edited, or what is wanted? Call it 'source_image', or otherwise such as "
                "'target_image'; rewards get as `images` what was drawn.",
            )
    task = row_task(row, index, (TEXT_TO_IMAGE, EDITING), default=TEXT_TO_IMAGE)
    read_text(row, index)
    sources = source_pictures(row, index, prepare)
    if any(is_codes(source) for source in sources):
        raise row_error(index, "source_image", "rewards look at pictures, and codes are none. Give the picture.")
    if (task == EDITING) != bool(sources):
        problem = "an edit needs a picture to start from" if task == EDITING else "text-to-image starts from none"
        raise row_error(index, "source_image", f"{problem}; fill it in or leave it out, or state another task.")
    return task, sources


def check_requests(dataset: Dataset, name: str, image_processor: ArmImageProcessor) -> None:
    """Reads every row's request, of its pictures only the heads; a dataset with a transform is read as it is drawn.

    Raises:
        ValueError: as `read_request` and `read_grid`; names dataset and row.
    """
    if dataset.format["type"] == "custom":
        return

    def open_head(picture):
        if isinstance(picture, str) and "://" not in picture:
            PIL.Image.open(picture).close()
        return picture

    known = ("prompt", "task", *SOURCES, "image", "images", "height", "width")
    dataset = undecoded(dataset.select_columns([column for column in dataset.column_names if column in known]))
    for index, row in enumerate(dataset):
        try:
            read_request(row, index, open_head)
            read_grid(row, index, image_processor)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
