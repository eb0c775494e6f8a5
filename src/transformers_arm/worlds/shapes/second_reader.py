"""The second reader of the embedded world: a small CNN trained on drawn scenes, here and now, in a few minutes.

It says what a picture shows as `shapes.reader.read_scene` does, and shares nothing with it but the form of the answer.
Whatever learns from the template reader's verdicts (a reward, say) may learn to please it: a gain that this reader
does not see is none. Knows nothing about prompts.
"""

import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from ...data.collators import to_pixel_values
from ..worn import worn
from .draw import DEFAULT_SIDE, PICTURE_SIZES, render_scene, size_word
from .reader import ObjectReading, SceneReading, as_pixels, read_scene
from .scene import BACKGROUNDS, CELLS, COLORS, SHAPES, SIZES, Scene, SceneObject, sample_scene

READER_STEPS, READER_BATCH_SIZE, READER_SEED = 2000, 64, 0
READER_SIZES = tuple(PICTURE_SIZES[word] for word in ("small", "wide", "tall"))  # a large one is shrunk to a small one
READER_FILE = Path("runs/reader/scene_classifier.safetensors")

_KINDS = {"shape": SHAPES, "color": tuple(COLORS), "size": tuple(SIZES)}
_BACKGROUNDS = (*BACKGROUNDS, None)  # the last: no background of the world


class SceneClassifier(nn.Module):
    """What stands in each of the nine cells of a picture, and on what background.

    A picture is shrunk until its shorter side has 48 px. Four strided convolutions lead to a vector for every 16 px,
    which describes them and what surrounds them (31 px across); those of a cell are averaged, and linear heads read
    them.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 96, 128)):
        super().__init__()
        layers, channels = [], 3
        for width in widths:
            layers += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.GELU(),
            ]
            channels = width
        self.body = nn.Sequential(*layers)
        self.presence = nn.Linear(channels, 1)
        self.kinds = nn.ModuleDict({name: nn.Linear(channels, len(names)) for name, names in _KINDS.items()})
        self.background = nn.Linear(channels, len(_BACKGROUNDS))

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """RGB in -1..1, float32 [B, 3, H, W] -> logits: `presence` [B, 9]; `shape` [B, 9, 4], `color` [B, 9, 6] and
        `size` [B, 9, 2], which say something where an object is present; `background` [B, 4], the last for none."""
        patches = self.body(_shrunk(pixel_values))
        cells = nn.functional.adaptive_avg_pool2d(patches, 3).flatten(2).transpose(1, 2)  # [B, 9, C]
        return {
            "presence": self.presence(cells).squeeze(-1),
            **{name: head(cells) for name, head in self.kinds.items()},
            "background": self.background(cells.mean(1)),
        }

    @torch.inference_mode()
    def read(self, images: Sequence[Image.Image | np.ndarray], *, batch_size: int = 256) -> list[SceneReading]:
        """What each picture shows, in the form of `shapes.reader.read_scene`; residuals are 0, jitters (0, 0).

        Args:
            images: PIL images, or uint8 RGB [height, width, 3], of any sizes that are nearly as high as wide, twice as
                high or twice as wide, with sides of 32 to 192 px.
            batch_size: pictures of one size read at once.

        Raises:
            ValueError: other proportions, a side outside 32..192 px, or an array of another type or shape.
        """
        self.eval()
        pixels = [as_pixels(image) for image in images]
        of_size = defaultdict(list)
        for place, picture in enumerate(pixels):
            of_size[picture.shape].append(place)
        readings = {}
        for places in of_size.values():
            for start in range(0, len(places), batch_size):
                batch = places[start : start + batch_size]
                readings |= zip(batch, self._readings([pixels[place] for place in batch]), strict=True)
        return [readings[place] for place in range(len(pixels))]

    def _readings(self, pixels: list[np.ndarray]) -> Iterator[SceneReading]:
        """`read` of pictures of one size."""
        logits = self(to_pixel_values(pixels).to(self.presence.weight.device))
        present = (logits["presence"] > 0).tolist()
        kinds = {name: logits[name].argmax(-1).tolist() for name in _KINDS}
        for row, background in enumerate(logits["background"].argmax(-1).tolist()):
            objects = (
                ObjectReading(cell=name, **{kind: _KINDS[kind][kinds[kind][row][cell]] for kind in _KINDS})
                for cell, name in enumerate(CELLS)
                if present[row][cell] and _BACKGROUNDS[background] is not None
            )
            yield SceneReading(tuple(objects), _BACKGROUNDS[background], size_word(*pixels[row].shape[:2]))


def _shrunk(pixel_values: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, H, W] with the shorter side at 48 px, in proportions that training has."""
    height, width = sides = tuple(pixel_values.shape[2:])
    size = tuple(DEFAULT_SIDE // 3 * round(3 * side / min(sides)) for side in sides)
    if size not in READER_SIZES:
        raise ValueError(
            f"The second reader knows pictures as high as wide, and twice as high or wide, not {height}x{width}; "
            "resize it, or read it by the template reader."
        )
    return pixel_values if sides == size else nn.functional.interpolate(pixel_values, size, mode="area")


def _crowd(rng: random.Random) -> SceneReading:
    """What is no scene, so in neither split, and has to be read too: nothing, objects all alike, more than three."""
    alike = rng.random() < 0.5
    cells = rng.sample(CELLS, rng.choice((2, 3, 4) if alike else (0, 4, 5, 6)))
    looks = [(rng.choice(SHAPES), rng.choice(tuple(COLORS))) for _ in cells]
    items = (
        SceneObject(*looks[0 if alike else index], rng.choice(tuple(SIZES)), cell) for index, cell in enumerate(cells)
    )
    return SceneReading(tuple(items), rng.choice(tuple(BACKGROUNDS)))


def _window(picture: np.ndarray, cell: str) -> np.ndarray:
    """A cell's part of a picture."""
    row, column = divmod(CELLS.index(cell), 3)
    height, width = picture.shape[0] // 3, picture.shape[1] // 3
    return picture[row * height : (row + 1) * height, column * width : (column + 1) * width]


def _spoil(rng: random.Random, picture: np.ndarray, item: SceneObject, background: str) -> None:
    """Makes an object unreadable in place: mixed with another, its pixels shuffled, or wiped out but for a corner."""
    window, way = _window(picture, item.cell), rng.randrange(3)
    if way == 0:
        shape = rng.choice([name for name in SHAPES if name != item.shape])
        color = rng.choice([name for name in COLORS if name != item.color])
        other = render_scene(
            SceneReading((SceneObject(shape, color, item.size, item.cell),), background), *picture.shape[:2]
        )
        window[:] = (window.astype(np.uint16) + _window(other, item.cell)) // 2
    elif way == 1:
        pixels = window.reshape(-1, 3)
        window[:] = pixels[rng.sample(range(len(pixels)), len(pixels))].reshape(window.shape)
    else:
        window[window.shape[0] // 2 :] = window[:, window.shape[1] // 2 :] = BACKGROUNDS[background]


def _foreign_color(rng: random.Random) -> list[int]:
    """A color that is none of the backgrounds', not even a faded one."""
    while True:
        color = rng.choices(range(256), k=3)
        if all(np.abs(np.subtract(color, known)).max() >= 48 for known in BACKGROUNDS.values()):
            return color


def _training_sample(rng: random.Random, height: int, width: int) -> tuple[np.ndarray, SceneReading | Scene]:
    """A picture, uint8 [height, width, 3], and what is to be read in it.

    Mostly scenes of the train split, some with an object spoilt, which is then none. Besides them crowds, empty
    canvases, and canvases of no background's color.
    """
    draw = rng.random()
    if draw < 0.25:
        crowd = _crowd(rng)
        return render_scene(crowd, height, width), crowd
    scene = sample_scene(rng, split="train", max_jitter=rng.choice((0, 0, 1, 2)))
    picture = render_scene(scene, height, width)
    if draw < 0.3:
        picture[(picture == BACKGROUNDS[scene.background]).all(-1)] = _foreign_color(rng)
        return picture, SceneReading((), None)
    if draw < 0.5:
        spoilt = rng.choice(scene.objects)
        _spoil(rng, picture, spoilt, scene.background)
        return picture, SceneReading(tuple(item for item in scene.objects if item != spoilt), scene.background)
    return picture, scene


def _labels(scenes: Sequence[SceneReading | Scene]) -> dict[str, torch.Tensor]:
    """Class indices: `background` int64 [B], the others int64 [B, 9], -1 where a cell is empty."""
    labels = {name: torch.full((len(scenes), len(CELLS)), -1) for name in _KINDS}
    for row, scene in enumerate(scenes):
        for item in scene.objects:
            for name, names in _KINDS.items():
                labels[name][row, CELLS.index(item.cell)] = names.index(getattr(item, name))
    return labels | {"background": torch.tensor([_BACKGROUNDS.index(scene.background) for scene in scenes])}


def train_scene_classifier(
    steps: int = READER_STEPS,
    *,
    seed: int = READER_SEED,
    batch_size: int = READER_BATCH_SIZE,
    sizes: Sequence[tuple[int, int]] = READER_SIZES,
) -> SceneClassifier:
    """Trains a classifier from scratch on pictures drawn on the way, batches of `sizes` in turn; 4 to 6 minutes on one
    core by default.

    The same arguments give the same weights on the same machine. The state of torch's global generator stays as it is.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SceneClassifier().train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.1)
    cross_entropy = nn.functional.cross_entropy
    for step in tqdm(range(steps), desc="training the second reader", leave=False):
        size = sizes[step % len(sizes)]
        pictures, scenes = zip(*(_training_sample(rng, *size) for _ in range(batch_size)), strict=True)
        logits, labels = model(worn(to_pixel_values(pictures), generator)), _labels(scenes)
        present = labels["shape"] >= 0
        loss = nn.functional.binary_cross_entropy_with_logits(logits["presence"], present.float())
        loss = loss + cross_entropy(logits["background"], labels["background"])
        for name in _KINDS if present.any() else ():
            loss = loss + cross_entropy(logits[name][present], labels[name][present])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def load_or_train(
    path: str | Path = READER_FILE, *, steps: int = READER_STEPS, seed: int = READER_SEED
) -> SceneClassifier:
    """The classifier kept in `path` (safetensors) if it was trained with these steps and this seed, else a new one.

    A new one is written aside and renamed, so that an interrupted or a second process leaves no half file.
    """
    path, settings = Path(path), {"steps": str(steps), "seed": str(seed), "sizes": str(READER_SIZES)}
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            kept = file.metadata()
        if kept == settings:
            model = SceneClassifier()
            model.load_state_dict(load_file(path))
            return model.eval()
    model = train_scene_classifier(steps, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        save_file(model.state_dict(), Path(aside) / path.name, metadata=settings)
        os.replace(Path(aside) / path.name, path)
    return model


def both_readers(path: str | Path = READER_FILE) -> dict[str, Callable]:
    """The template reader and this one, by what stands before the names of their scores."""
    classifier = load_or_train(path)
    return {"": read_scene, "second_reader_": lambda image: classifier.read([image])[0]}
