"""Rows of a user's dataset -> what reinforcement learning asks for: task, source pictures, grid.

Knows nothing about rollouts and rewards.
"""

from collections.abc import Callable, Mapping
from numbers import Real

from datasets import Dataset, IterableDataset

from ..configuration_arm import MAX_GRID_SIDE
from ..data.columns import SOURCES, read_text, row_task, source_pictures, undecoded
from ..data.conversations import is_codes
from ..data.input_files import with_rows_undecoded
from ..data.pictures import RowFetcher, fetcher_for, rgb_picture
from ..data.renaming import check_whole
from ..data.row_errors import Skipping, as_row_error, row_error
from ..fetching_arm import FROM_CALLER, Fetcher
from ..image_processing_arm import ArmImageProcessor

TEXT_TO_IMAGE, EDITING = "text_to_image", "editing"


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
        RowError: a line that is no JSON, no prompt, an unknown task, a task without the image it needs, an image that
            cannot be read, or a column whose meaning is open; names the row.
    """
    with as_row_error(index):
        check_whole(row, index)
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


def usable_requests(
    dataset: Dataset | IterableDataset,
    name: str,
    image_processor: ArmImageProcessor,
    *,
    local_files: bool = False,
    max_skipped: float = 0.0,
) -> Dataset | IterableDataset:
    """A dataset without the rows whose request cannot be drawn; one with a transform is read as it is drawn.

    Of a dataset that lies here the pictures that do so too are decoded; addresses and remote stores are asked when a
    row is drawn. Those of a stream are all read when their row comes.

    Args:
        dataset, name: the rows, and what messages call them.
        image_processor: the model's.
        local_files: whether rows of files may name local pictures, see `fetcher_for`.
        max_skipped: share of the rows that may be left out.

    Raises:
        ValueError: more rows than that cannot be used (of a stream, when it is read); names the first.
    """
    streamed = isinstance(dataset, IterableDataset)
    if not streamed and dataset.format["type"] == "custom":
        return dataset
    fetcher = fetcher_for(dataset, local_files)
    fetcher = fetcher if streamed else RowFetcher(**vars(fetcher) | {"asks": False})
    skipping = Skipping(name, max_skipped, None if streamed else len(dataset))

    def is_usable(row: Mapping, index: int) -> bool:
        with skipping.row(index):
            read_request(row, index, lambda picture: picture and rgb_picture(picture), fetcher)
            read_grid(row, index, image_processor)
            return True
        return False

    def is_usable_in_stream(row: Mapping, index: int) -> bool:
        found = is_usable(row, index)
        skipping.check(1)
        return found

    if streamed:
        return undecoded(with_rows_undecoded(dataset), SOURCES).filter(is_usable_in_stream, with_indices=True)
    known = ("prompt", "task", *SOURCES, "image", "images", "height", "width")
    rows = undecoded(dataset.select_columns([column for column in dataset.column_names if column in known]))
    usable = [index for index, row in enumerate(rows) if is_usable(row, index)]
    skipping.check(len(rows))
    skipping.conclude(len(usable))
    dataset = undecoded(dataset, SOURCES)  # what they name is opened with the row, or `datasets` would ask on its own
    return dataset if len(usable) == len(rows) else dataset.select(usable)
