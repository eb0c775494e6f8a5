"""Draws scenes: anti-aliased objects by signed distance on a flat background."""

import functools

import numpy as np
from PIL import Image

from .scene import BACKGROUNDS, CELLS, COLORS, SIZES, Scene

MIN_SIDE, MAX_SIDE = 32, 192
DEFAULT_SIDE = 48
PICTURE_SIZES = {"small": (48, 48), "wide": (48, 96), "tall": (96, 48), "large": (96, 96)}
"""Height and width in px of the pictures that there are words for, `a wide picture of ...`, by those words."""
HARD_SIDE, HARD_JITTER = 64, 2  # the hard variant: cells and 16 px patches do not align


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance in pixels to the outline of a shape centred at the origin (y down), negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
    if shape == "triangle":
        return np.maximum(y - 0.8 * radius, 0.894 * np.abs(x) - 0.447 * (y + radius))
    if shape == "cross":
        bar = np.maximum(np.abs(x) - 0.36 * radius, np.abs(y) - radius)
        beam = np.maximum(np.abs(x) - radius, np.abs(y) - 0.36 * radius)
        return np.minimum(bar, beam)
    raise ValueError(f"Unknown shape {shape!r}.")


def size_word(height: int, width: int) -> str | None:
    """The word for a size of `PICTURE_SIZES`; None for others."""
    return next((word for word, size in PICTURE_SIZES.items() if size == (height, width)), None)


def check_canvas(height: int, width: int) -> None:
    for name, side in (("height", height), ("width", width)):
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise ValueError(f"Canvas {name} {side} is outside {MIN_SIDE}..{MAX_SIDE} px.")


@functools.lru_cache(maxsize=16384)
def coverage(
    shape: str, size: str, cell: str, jitter: tuple[int, int], height: int, width: int
) -> tuple[slice, slice, np.ndarray]:
    """The part of the canvas an object touches: rows, columns, and the covered share of each pixel in 0..1."""
    row, column = divmod(CELLS.index(cell), 3)
    radius = SIZES[size] * min(height, width) / 3
    center_x = (column + 0.5) * width / 3 + jitter[0]
    center_y = (row + 0.5) * height / 3 + jitter[1]
    reach = radius + 1
    rows = slice(max(0, int(center_y - reach)), min(height, int(center_y + reach) + 1))
    columns = slice(max(0, int(center_x - reach)), min(width, int(center_x + reach) + 1))
    x = np.arange(columns.start, columns.stop, dtype=np.float64)[None, :] + 0.5 - center_x
    y = np.arange(rows.start, rows.stop, dtype=np.float64)[:, None] + 0.5 - center_y
    covered = np.clip(0.5 - signed_distance(shape, x, y, radius), 0, 1).astype(np.float32)
    covered.setflags(write=False)  # the cache hands out this very array
    return rows, columns, covered


def render_scene(scene: Scene, height: int = DEFAULT_SIDE, width: int = DEFAULT_SIDE) -> np.ndarray:
    """Draws a scene as uint8 RGB [height, width, 3]; later objects (in cell order) lie over earlier ones.

    Raises:
        ValueError: a side outside 32..192 px.
    """
    check_canvas(height, width)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for item in scene.objects:
        rows, columns, covered = coverage(item.shape, item.size, item.cell, item.jitter, height, width)
        window = canvas[rows, columns]
        window += covered[..., None] * (np.asarray(COLORS[item.color], np.float32) - window)
    return (canvas + 0.5).astype(np.uint8)


def draw_scene(scene: Scene, height: int = DEFAULT_SIDE, width: int = DEFAULT_SIDE) -> Image.Image:
    """Draws a scene as an RGB picture; see `render_scene`."""
    return Image.fromarray(render_scene(scene, height, width))
