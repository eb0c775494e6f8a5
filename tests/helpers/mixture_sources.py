"""Sources of mixtures, and what is drawn from them."""

import io
import tarfile
from itertools import islice
from random import Random

import PIL.Image
from datasets import Dataset, Features, Image, Value, load_dataset

from transformers_arm.worlds.shapes import render_scene, sample_scene
from transformers_arm.worlds.shapes.captions import full_caption

DRAWN = Features({"prompt": Value("string"), "image": Image()})
EDITS = Features({"prompt": Value("string"), "source_image": Image(), "image": Image()})


def png(seed=0):
    """A drawn scene as a file, and its caption."""
    scene, file = sample_scene(Random(seed), split="train"), io.BytesIO()
    PIL.Image.fromarray(render_scene(scene, 48, 48)).save(file, "png")
    return file.getvalue(), full_caption(scene)


def drawn(count, first=0):
    """A dataset of pictures to draw."""
    pictures = [png(first + number) for number in range(count)]
    rows = {
        "prompt": [f"{first + number} {caption}" for number, (_, caption) in enumerate(pictures)],
        "image": [{"bytes": file, "path": None} for file, _ in pictures],
    }
    return Dataset.from_dict(rows, features=DRAWN)


def texts(count, first=0):
    """A dataset of numbered texts."""
    numbers = [str(first + number) for number in range(count)]
    return Dataset.from_dict({"prompt": numbers, "answer": [f"answer {number}" for number in numbers]})


def streamed_texts(folder, sizes):
    """Numbered texts in parquet files of these sizes, streamed."""
    files, first = [], 0
    for number, size in enumerate(sizes):
        files.append(str(folder / f"{number:02}.parquet"))
        texts(size, first).to_parquet(files[-1], batch_size=3)
        first += size
    return load_dataset("parquet", data_files=files, split="train", streaming=True)


def write_tar(path, rows, first=0):
    with tarfile.open(path, "w") as tar:
        for number in range(first, first + rows):
            for ending, content in zip(("png", "txt"), png(number), strict=True):
                content = content if isinstance(content, bytes) else content.encode()
                entry = tarfile.TarInfo(f"{number:04}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return str(path)


def by_epoch(reader, streams, reads):
    """What all streams read, in order, by the epoch they read it in: {epoch: [[prompt, ...] of a stream, ...]}."""
    epochs = {}
    for stream in range(streams):
        for read in islice(reader.read(stream, streams), reads):
            of_streams = epochs.setdefault(read.state.epoch, [[] for _ in range(streams)])
            of_streams[stream].append(read.row["prompt"])
    return epochs


def said(sample):
    """The texts of a conversation."""
    return [part["text"] for turn in sample for part in turn["content"] if part["type"] == "text"]


def cut(path, size):
    """Cuts a file short."""
    path.write_bytes(path.read_bytes()[:size])
