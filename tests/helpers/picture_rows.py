"""Rows of pictures of random pixels, and what was made of them."""

import csv
import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import load_dataset


def drawing(height=48, width=48, seed=0):
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def png(picture):
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


ONE, TWO, THREE = (drawing(seed=seed) for seed in range(3))
ROWS = {
    "text_to_image": {"prompt": "a cat", "image": ONE},
    "editing": {"prompt": "make it red", "source_image": ONE, "image": TWO},
    "image_to_text": {"image": ONE, "prompt": "what is it?", "answer": "a cat"},
    "text": {"prompt": "hello", "answer": "hi"},
}
GRID = {"codes": [5, 65535, 0, 7, 8, 9], "height": 2, "width": 3}


def said(messages):
    """Messages -> [(role, part, ...)], a part as its text or its pixels."""
    return [
        (turn["role"], *(part["text"] if part["type"] == "text" else part["image"] for part in turn["content"]))
        for turn in messages
    ]


def folder_dataset(folder, metadata, pictures=("a.png", "b.png", "before/a.png", "before/b.png"), **options):
    """An imagefolder: pictures of random pixels, each of its own, and `metadata` as a CSV text or JSON rows."""
    for seed, name in enumerate(pictures):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawing(seed=seed).save(folder / name)
    if isinstance(metadata, str):
        (folder / "metadata.csv").write_text(metadata)
    else:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metadata))
    cache = str(folder.with_name("cache"))
    return load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=cache, **options)


def captioned_folder(folder, captions, height=64, width=64):
    """A folder of pictures, named 00.png and so on, with their captions as people keep them: metadata.csv."""
    folder.mkdir(parents=True)
    names = [f"{number:02}.png" for number in range(len(captions))]
    for number, name in enumerate(names):
        drawing(height, width, seed=number).save(folder / name)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "prompt"), *zip(names, captions, strict=True)])
    return str(folder)


def pictures_in_folder_and_archive(folder, count=3):
    """The same image folder plain and as a .zip: paths of the two."""
    plain = folder / "plain"
    plain.mkdir()
    for number in range(count):
        drawing(seed=number).save(plain / f"{number}.png")
    lines = [f"{number}.png,picture {number}\n" for number in range(count)]
    (plain / "metadata.csv").write_text("file_name,prompt\n" + "".join(lines))
    return plain, Path(shutil.make_archive(folder / "pictures", "zip", plain))


def streamed_lines(file, rows, broken=()):
    """A file of JSON lines, streamed, of which those at some places are cut off."""
    lines = map(json.dumps, rows)
    file.write_text("\n".join(line[: len(line) // 2] if place in broken else line for place, line in enumerate(lines)))
    return load_dataset("json", data_files=str(file), split="train", streaming=True)
