"""How many tiles of a page are marked as right, and how many as wrong."""

import numpy as np
from PIL import Image

from transformers_arm.evaluation.sheets import marked


def colored(picture: Image.Image, color: tuple) -> int:
    return int((np.asarray(picture) == color).all(-1).sum())


def marks(page: Image.Image, side: int) -> tuple[int, int]:
    """(ticked, crossed) tiles of a page whose pictures are so many px high and wide on the screen."""
    counts = []
    for right in (True, False):
        tile = marked(Image.new("RGB", (side, side)), right)
        color = tile.getpixel((tile.width - 1, tile.height - 1))
        found, rest = divmod(colored(page, color), colored(tile, color))
        assert rest == 0
        counts.append(found)
    return tuple(counts)


def ticked_in_rows(page: Image.Image, side: int, rows: int) -> list[int]:
    """How many tiles of each row of a labelled `picture_sheet` are ticked, where few colors are left of it."""
    tile = marked(Image.new("RGB", (side, side)), True)
    height = page.height // rows
    pixels = np.asarray(page.convert("RGB"), int)
    strips = pixels[height - tile.height + 2 :: height, tile.width // 2 :: tile.width]
    return (strips[..., 1] > strips[..., 0]).sum(1).tolist()
