"""Reads a picture of the embedded world back: which objects it shows, where, and on what background.

Template matching, nothing learnt: in every cell, every shape, size, jitter and color is tried at once, and the one
that explains the pixels best is kept if it explains them well. Knows nothing about what should be in the picture.
"""

import functools
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .draw import HARD_JITTER, check_canvas, coverage, size_word
from .scene import BACKGROUNDS, CELLS, COLORS, SHAPES, SIZES, Scene, SceneObject

MAX_RESIDUAL = 0.6  # above it an object is not readable
BACKGROUND_TOLERANCE = 64.0  # RGB distance; no palette color is nearer than 104 to a background
MIN_BACKGROUND_SHARE = 0.5  # three large objects leave more than 80% of the canvas free
COLOR_TOLERANCE = 0.3  # sine of the angle between two hues seen from the background; gray on white is 0.345 off green

_COLOR_NAMES = tuple(COLORS)
_COLOR_VALUES = np.array(list(COLORS.values()), np.float32)
_BACKGROUND_NAMES = tuple(BACKGROUNDS)
_BACKGROUND_VALUES = np.array(list(BACKGROUNDS.values()), np.float32)
_JITTER_RANGE = range(-HARD_JITTER, HARD_JITTER + 1)
# No jitter comes first: of templates that fit equally well, argmax takes the first.
_JITTERS = sorted(((x, y) for x in _JITTER_RANGE for y in _JITTER_RANGE), key=lambda j: abs(j[0]) + abs(j[1]))
_KINDS = tuple((shape, size, jitter) for jitter in _JITTERS for shape in SHAPES for size in SIZES)


@dataclass(frozen=True)
class ObjectReading(SceneObject):
    """An object found in a picture.

    `residual` says how badly it is drawn: the sum of squared differences between the coverage seen in its cell and the
    best template's, over the sum of the template's squares; 0 is perfect, 0.6 the worst still readable. `jitter` is
    the best template's.
    """

    residual: float = 0.0


@dataclass(frozen=True)
class SceneReading:
    """What a picture shows: its objects in cell order (any number, at most one a cell) and its background.

    `background` is None where no background color fills at least half of the picture; no object is readable then.
    `size` is the word for the picture's size (`PICTURE_SIZES`), None where it has none.
    """

    objects: tuple[ObjectReading, ...]
    background: str | None
    size: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class _Templates:
    """All templates of a canvas: K kinds (jitter, shape, size) in each cell, on windows of P pixels."""

    pixels: np.ndarray  # [9, P], where each cell's window lies in the flat canvas
    covered: np.ndarray  # [9, K, P], share of each pixel covered
    energy: np.ndarray  # [9, K], sum of squares of each template


def _windows(side: int) -> tuple[list[int], int]:
    """The three starts along one axis, and the one length, of windows that hold a third of the canvas each."""
    starts = [index * side // 3 for index in range(3)]
    ends = [-(-(index + 1) * side // 3) for index in range(3)]
    length = max(end - start for start, end in zip(starts, ends, strict=True))
    return [min(start, side - length) for start in starts], length


@functools.lru_cache(maxsize=4)  # 30 MB at 192x192, 2 MB at 48x48
def _templates(height: int, width: int) -> _Templates:
    tops, window_height = _windows(height)
    lefts, window_width = _windows(width)
    index = np.arange(height * width).reshape(height, width)
    pixels = np.empty((len(CELLS), window_height * window_width), np.intp)
    covered = np.empty((len(CELLS), len(_KINDS), window_height * window_width), np.float32)
    canvas = np.zeros((height, width), np.float32)
    for cell_index, cell in enumerate(CELLS):
        top, left = tops[cell_index // 3], lefts[cell_index % 3]
        window = slice(top, top + window_height), slice(left, left + window_width)
        pixels[cell_index] = index[window].ravel()
        for kind_index, (shape, size, jitter) in enumerate(_KINDS):
            rows, columns, values = coverage(shape, size, cell, jitter, height, width)
            canvas[rows, columns] = values
            covered[cell_index, kind_index] = canvas[window].ravel()
            canvas[rows, columns] = 0
    return _Templates(pixels, covered, np.square(covered).sum(-1))


def as_pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    """RGB pixels, uint8 [height, width, 3]."""
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"A picture is uint8 of shape [height, width, 3], got {image.dtype} of shape {list(image.shape)}; "
            "convert it, or pass a PIL image."
        )
    check_canvas(*image.shape[:2])
    return image


def _read_background(pixels: np.ndarray) -> int | None:
    """Index of the background color that fills the picture; `pixels` is float32 [height * width, 3]."""
    distances = np.square(pixels[:, None] - _BACKGROUND_VALUES).sum(-1)
    shares = (distances <= BACKGROUND_TOLERANCE**2).mean(0)
    best = int(shares.argmax())
    return best if shares[best] >= MIN_BACKGROUND_SHARE else None


def _is_of_color(tint: np.ndarray, direction: np.ndarray) -> bool:
    """Whether an object's own color points from the background where the palette's color does; both float32 [3]."""
    along = tint @ direction / np.sqrt(direction @ direction)
    return along**2 >= (1 - COLOR_TOLERANCE**2) * (tint @ tint)


def read_scene(image: Image.Image | np.ndarray) -> SceneReading:
    """Finds the objects and the background of a picture.

    A cell's template and color are those that explain most of its pixels, however faint they are (normalized
    correlation). The cell counts as empty if that template's residual is above 0.6, or if the color it is drawn in has
    none of the palette's hues.

    Args:
        image: PIL image, or uint8 RGB [height, width, 3], with sides of 32 to 192 px.

    Raises:
        ValueError: a side outside 32..192 px, or an array of another type or shape.
    """
    image = as_pixels(image)
    pixels = image.reshape(-1, 3).astype(np.float32)
    background, word = _read_background(pixels), size_word(*image.shape[:2])
    if background is None:
        return SceneReading((), None, word)
    templates = _templates(*image.shape[:2])
    directions = _COLOR_VALUES - _BACKGROUND_VALUES[background]  # [6, 3]
    lengths = np.square(directions).sum(-1)
    differences = (pixels - _BACKGROUND_VALUES[background])[templates.pixels]  # [9, P, 3]
    seen = differences @ (directions / lengths[:, None]).T  # coverage of each color were it the object's, [9, P, 6]
    # Squared RGB error explained by a template in a color, at whatever strength fits best: faded red is still red.
    explained = np.square((templates.covered @ seen).clip(0)) / templates.energy[..., None] * lengths  # [9, K, 6]
    kinds, colors = np.divmod(explained.reshape(len(CELLS), -1).argmax(-1), len(_COLOR_NAMES))
    objects = []
    for index, (kind, color) in enumerate(zip(kinds, colors, strict=True)):
        template, energy = templates.covered[index, kind], templates.energy[index, kind]
        residual = float(np.square(seen[index, :, color].clip(0, 1) - template).sum() / energy)
        if residual <= MAX_RESIDUAL and _is_of_color(template @ differences[index], directions[color]):
            shape, size, jitter = _KINDS[kind]
            objects.append(ObjectReading(shape, _COLOR_NAMES[color], size, CELLS[index], jitter, residual))
    return SceneReading(tuple(objects), _BACKGROUND_NAMES[background], word)


def reading_equals(reading: SceneReading, scene: Scene | SceneReading) -> bool:
    """Whether everything is right: the background, and exactly the scene's objects with every attribute but jitter."""
    return reading.background == scene.background and (
        [item.attributes() for item in reading.objects] == [item.attributes() for item in scene.objects]
    )
