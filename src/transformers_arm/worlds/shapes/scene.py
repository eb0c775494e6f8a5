"""Scenes of the embedded world: what they are made of, how they are sampled, which split they belong to.

Knows nothing about pixels (see draw.py) nor about words (see language.py).
"""

import hashlib
import json
import random
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 225),
    "yellow": (240, 210, 40),
    "purple": (160, 60, 200),
    "cyan": (60, 205, 220),
}
SIZES = {"small": 0.25, "large": 0.3875}  # radius as a share of the cell
BACKGROUNDS = {"white": (245, 245, 245), "gray": (128, 128, 128), "black": (16, 16, 16)}
CELLS = (
    "top-left",
    "top",
    "top-right",
    "left",
    "center",
    "right",
    "bottom-left",
    "bottom",
    "bottom-right",
)
MAX_OBJECTS = 3
HELD_OUT_PAIRS = frozenset({("purple", "cross"), ("cyan", "triangle")})
_TEST_BYTE = 26  # a scene whose sha256 starts below this byte (about 10%) is a test scene


def _check(kind: str, value: str, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"Unknown {kind} {value!r}; use one of {', '.join(allowed)}.")


@dataclass(frozen=True)
class SceneObject:
    """One drawn object. `jitter` is its (x, y) offset from the cell's centre in whole pixels."""

    shape: str
    color: str
    size: str
    cell: str
    jitter: tuple[int, int] = (0, 0)

    def __post_init__(self):
        _check("shape", self.shape, SHAPES)
        _check("color", self.color, COLORS)
        _check("size", self.size, SIZES)
        _check("cell", self.cell, CELLS)

    @property
    def row(self) -> int:
        return CELLS.index(self.cell) // 3

    @property
    def column(self) -> int:
        return CELLS.index(self.cell) % 3

    def attributes(self) -> dict[str, str]:
        """The object without its jitter, as it stands in the canonical JSON."""
        return {"cell": self.cell, "color": self.color, "shape": self.shape, "size": self.size}


@dataclass(frozen=True)
class Scene:
    """One to three objects, each in its own cell, on a flat background. Objects are kept in cell order.

    Raises:
        ValueError: no or too many objects, two in one cell, or two of the same shape and color.
    """

    objects: tuple[SceneObject, ...]
    background: str = "white"

    def __post_init__(self):
        _check("background", self.background, BACKGROUNDS)
        object.__setattr__(self, "objects", tuple(sorted(self.objects, key=lambda o: CELLS.index(o.cell))))
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise ValueError(f"A scene has 1 to {MAX_OBJECTS} objects, got {len(self.objects)}.")
        if len({o.cell for o in self.objects}) < len(self.objects):
            raise ValueError("Two objects share a cell; give each its own.")
        if len({(o.shape, o.color) for o in self.objects}) < len(self.objects):
            raise ValueError("Two objects share shape and color; change one of them.")

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, no spaces, objects in cell order, jitter left out."""
        scene = {"background": self.background, "objects": [o.attributes() for o in self.objects]}
        return json.dumps(scene, sort_keys=True, separators=(",", ":"))

    @property
    def split(self) -> str:
        """`"test"` for about 10% of all scenes, by the hash of the canonical JSON, else `"train"`."""
        return "test" if hashlib.sha256(self.to_json().encode()).digest()[0] < _TEST_BYTE else "train"

    @property
    def has_held_out_pair(self) -> bool:
        """Whether a (color, shape) pair occurs that train never draws as a generation target."""
        return any((o.color, o.shape) in HELD_OUT_PAIRS for o in self.objects)

    def without_jitter(self) -> "Scene":
        return Scene(tuple(replace(o, jitter=(0, 0)) for o in self.objects), self.background)


def sample_scene(
    rng: random.Random,
    *,
    split: str | None = None,
    num_objects: int | None = None,
    max_jitter: int = 0,
    held_out_pairs: bool | None = None,
) -> Scene:
    """Draws one scene: number of objects, cells, attributes and background all uniform.

    Args:
        rng: source of randomness; the same state gives the same scene.
        split: `"train"` or `"test"`; None takes both.
        num_objects: 1 to 3; None draws it.
        max_jitter: objects move up to this many pixels on each axis.
        held_out_pairs: True takes only scenes with a held-out pair, False only those without, None both.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"Unknown split {split!r}; use 'train', 'test' or None.")
    shapes, colors, sizes, backgrounds = SHAPES, tuple(COLORS), tuple(SIZES), tuple(BACKGROUNDS)
    while True:
        count = num_objects or rng.randint(1, MAX_OBJECTS)
        pairs = {(rng.choice(shapes), rng.choice(colors)) for _ in range(count)}
        if len(pairs) < count:
            continue
        cells = rng.sample(CELLS, count)
        objects = tuple(
            SceneObject(
                shape,
                color,
                rng.choice(sizes),
                cell,
                (rng.randint(-max_jitter, max_jitter), rng.randint(-max_jitter, max_jitter)) if max_jitter else (0, 0),
            )
            for (shape, color), cell in zip(sorted(pairs), cells, strict=True)
        )
        scene = Scene(objects, rng.choice(backgrounds))
        if held_out_pairs is not None and scene.has_held_out_pair != held_out_pairs:
            continue
        if split is None or scene.split == split:
            return scene
