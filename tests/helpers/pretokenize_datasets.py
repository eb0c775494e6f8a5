"""Datasets of drawn pictures to make codes of, and what was written."""

import io
import random

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value, load_dataset

from transformers_arm.data.input_files import InputFile
from transformers_arm.worlds.shapes.captions import full_caption
from transformers_arm.worlds.shapes.draw import render_scene
from transformers_arm.worlds.shapes.edits import sample_editing_pair

ROW = {"task": Value("string"), "prompt": Value("string"), "answer": Value("string")}
ROW = Features(ROW | {"source_image": Image(), "source_images": List(Image()), "image": Image()})


def png(picture):
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def drawn_rows(count, seed=0):
    """Rows of the four tasks in turn, edits of one source and of two; pictures as files named after row and column."""
    rng, rows = random.Random(seed), []
    for number in range(count):
        pair = sample_editing_pair(rng)
        source, target = (
            {"bytes": png(render_scene(scene)), "path": f"{number}-{name}.png"}
            for name, scene in (("source", pair.source), ("target", pair.target))
        )
        of_task = {
            "text_to_image": {"prompt": full_caption(pair.source), "image": source},
            "editing": {"prompt": pair.instruction, "image": target}
            | ({"source_image": source} if number % 8 < 4 else {"source_images": [source, target]}),
            "image_to_text": {"prompt": "what is it?", "image": source, "answer": full_caption(pair.source)},
            "text": {"prompt": f"count to {number}", "answer": "one, two"},
        }
        task = list(of_task)[number % 4]
        rows.append(dict.fromkeys(ROW) | {"task": task} | of_task[task])
    return rows


def write_parquet(file, rows):
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, ROW.arrow_schema), file)  # `to_parquet` would fetch addresses


def load(folder):
    cache = str(folder.with_name(f"{folder.name}-cache"))
    return load_dataset("parquet", data_dir=str(folder), split="train", cache_dir=cache)


NOWHERE = InputFile("here", "none", "here")
