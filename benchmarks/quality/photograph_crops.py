"""Photographs in scikit-image's wheel that their docstrings there free, and crops of them as a folder of pictures.

    write_crops("runs/photographs/crops", 5000, seed=0)

Reads files of the wheel only and never asks `skimage.data` to download any. Knows nothing about tokenizers.
"""

import csv
import importlib
import math
import random
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps
from tqdm.auto import tqdm

from transformers_arm.extras import require


class Photograph(NamedTuple):
    """A photograph: the function of `skimage.data` that tells of it, its file, the words there that free it, and
    whether it is kept from training.
    """

    name: str
    file: str
    licence: str
    held_out: bool = False


PHOTOGRAPHS = (
    Photograph("astronaut", "astronaut.png", "released into the public domain"),
    Photograph("brick", "brick.png", "licensed under the Creative Commons CC0 License"),
    Photograph("camera", "camera.png", "CC0 by the photographer (Lav Varshney)", held_out=True),
    Photograph("chelsea", "chelsea.png", "CC0 by the photographer (Stefan van der Walt)", held_out=True),
    Photograph("clock", "clock_motion.png", "Released into the public domain by the photographer"),
    Photograph("coffee", "coffee.png", "CC0 by the photographer (Rachel Michetti)"),
    Photograph("grass", "grass.png", "licensed under the Creative Commons CC0 License"),
    Photograph("gravel", "gravel.png", "licensed under the Creative Commons CC0 License", held_out=True),
    Photograph("hubble_deep_field", "hubble_deep_field.jpg", "may be freely used in the public domain"),
    Photograph("microaneurysms", "microaneurysms.png", "CC0 given by owner (Andreas Maier)"),
    Photograph("retina", "retina.jpg", "Creative Commons CC0 1.0 Universal Public Domain Dedication"),
    Photograph("rocket", "rocket.jpg", "released in the public domain", held_out=True),
    Photograph("text", "text.png", "released into the public domain"),
)
HELD_OUT = tuple(each for each in PHOTOGRAPHS if each.held_out)  # a person, an animal, a texture, a sky

# Of crops: (height, width) in px, and the share of them. Small ones are cheap; long ones have as many rows and columns
# of patches as whole photographs, at which a tokenizer that had never seen them would fail.
SHAPES = {(128, 128): 0.92, (256, 256): 0.06, (192, 640): 0.01, (640, 192): 0.01}
ZOOM = (0.75, 1.5)  # px of the photograph that a pixel of a crop covers; the first counts where photographs are small


def _data():
    """`skimage.data`; imported late, because only photographs need it."""
    require("What cuts photographs", "metrics", "skimage")
    return importlib.import_module("skimage.data")


def docstring_of(photograph: Photograph) -> str:
    """What the installed `skimage.data` says about it."""
    return getattr(_data(), photograph.name).__doc__ or ""


def read_photograph(photograph: Photograph) -> Image.Image:
    """The photograph in RGB, at its own size.

    Raises:
        ValueError: the installed docstring does not have the words that free it.
        FileNotFoundError: the file is not in the installed wheel.
        ModuleNotFoundError: scikit-image is missing; says how to install it.
    """
    if photograph.licence not in " ".join(docstring_of(photograph).split()):
        raise ValueError(
            f"skimage.data.{photograph.name} does not say {photograph.licence!r}; read what it says, and change or "
            "leave out this photograph."
        )
    file = Path(_data().__file__).parent / photograph.file
    if not file.is_file():
        raise FileNotFoundError(
            f"This scikit-image has no file {photograph.file}; install 0.26, or leave out this photograph."
        )
    with Image.open(file) as image:
        return image.convert("RGB")


def draw_crop(photograph: Image.Image, height: int, width: int, rng: random.Random) -> Image.Image:
    """A random part of a photograph, height x width px, mirrored or not; in every other one the colors change places,
    for a few photographs have few colors.
    """
    zoom = math.exp(rng.uniform(*map(math.log, ZOOM)))
    zoom = min(zoom, photograph.height / height, photograph.width / width)
    high, wide = int(zoom * height), int(zoom * width)
    top, left = rng.randint(0, photograph.height - high), rng.randint(0, photograph.width - wide)
    box = (left, top, left + wide, top + high)
    crop = photograph.resize((width, height), Image.Resampling.BICUBIC, box)
    for mirror in (ImageOps.mirror, ImageOps.flip):
        if rng.random() < 0.5:
            crop = mirror(crop)
    return Image.merge("RGB", rng.sample(crop.split(), 3)) if rng.random() < 0.5 else crop


def write_crops(folder: str | PathLike, count: int, *, seed: int = 0) -> None:
    """Crops of the photographs that are not held out, each drawn as often but for chance, as `imagefolder` reads them:
    PNG files, and at last `metadata.csv`. A crop's `prompt` is the first line of its photograph's docstring.

    Args:
        count: number of crops; crop n is the same whatever it is.
        seed: two seeds give other crops.

    Raises:
        ValueError: there is nothing to write, or the folder has other crops; and as `read_photograph`.
    """
    folder = Path(folder)
    if count < 1:
        raise ValueError(f"{count} crops cannot be trained on; write at least 1.")
    if folder.exists():
        raise ValueError(f"{folder} exists, and may hold other crops; remove it, or name another folder.")
    training = [each for each in PHOTOGRAPHS if not each.held_out]
    pictures = [(docstring_of(each).splitlines()[0], read_photograph(each)) for each in training]
    folder.mkdir(parents=True)
    rows = []
    for number in tqdm(range(count), desc="Crops"):
        rng = random.Random(f"{seed}/{number}")
        prompt, picture = rng.choice(pictures)
        ((height, width),) = rng.choices(list(SHAPES), SHAPES.values())
        rows.append((f"{number:06}.png", prompt))
        draw_crop(picture, height, width, rng).save(folder / rows[-1][0], compress_level=1)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "prompt"), *rows])
