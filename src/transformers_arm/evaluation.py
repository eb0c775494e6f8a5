"""Scores a tokenizer and its detokenizer on held-out scenes: what the demo, the model card and the README print."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from .data.shapes import Canvas, ShapesDataset, to_pixel_values
from .data.world_text import ASKED, WorldText
from .evaluation_tokenizer import Picture, Tokenizer, ZeroShot
from .metrics.arm_reconstruction.arm_reconstruction import reconstruction_scores
from .shapes.captions import caption_is_true
from .shapes.draw import HARD_JITTER, HARD_SIDE

EVALUATION_SEED = 20261123
DEFAULT_CANVAS, HARD_CANVAS = Canvas(), Canvas(HARD_SIDE, HARD_SIDE, HARD_JITTER)


def hardware() -> str:
    """What a figure was measured on, for results and cards: the GPU, or else the CPU's cores and torch."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"


def write_result(file: str | Path, /, **fields) -> None:
    """Writes a benchmark's result as JSON: the command that ran, date, hardware, and `fields`."""
    command = f"python {shlex.join(sys.argv)}"
    result = {"command": command, "date": date.today().isoformat(), "hardware": hardware(), **fields}
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(json.dumps(result, indent=2, default=str) + "\n")


def _batches(total: int, size: int, what: str):
    return tqdm([range(start, min(start + size, total)) for start in range(0, total, size)], desc=what, leave=False)


def reconstruction(
    tokenizer: Tokenizer, canvas: Canvas = DEFAULT_CANVAS, *, count: int = 500, seed: int = EVALUATION_SEED
) -> dict[str, float]:
    """PSNR, read-back, codebook usage and code perplexity on `count` test scenes drawn on `canvas`."""
    data = ShapesDataset(count, batch_size=count, seed=seed, canvases=[canvas], split="test")
    originals, returned, all_codes = [], [], []
    for batch in _batches(count, 100, f"reconstructing {canvas.height}x{canvas.width}"):
        images = [data[index]["image"] for index in batch]
        codes, pictures = tokenizer.reconstruct(images, seed=seed)
        originals += images
        returned += pictures
        all_codes.append(codes)
    return reconstruction_scores(returned, originals, np.concatenate(all_codes), tokenizer.model.config.codebook_size)


def world_pictures(count: int, *, seed: int = EVALUATION_SEED) -> Iterator[Picture]:
    """Test scenes with their captions, and what says of other captions whether they are true of them."""
    data = ShapesDataset(count, batch_size=count, seed=seed, split="test")
    for index in range(count):
        is_described_by = partial(caption_is_true, scene=data.scene(index)[0])
        yield Picture(**data[index], is_described_by=is_described_by, file="world", row=index)


def zero_shot(
    tokenizer: Tokenizer,
    siglip_folder: str | Path,
    *,
    count: int = 500,
    candidates: int = 100,
    seed: int = EVALUATION_SEED,
) -> dict[str, float]:
    """Share of test scenes whose caption scores best among `candidates` captions of test scenes.

    The others are captions of other test scenes that are false of the picture. `z_q` and the frozen SigLIP's own
    features pass through the same pooling head and stand before the same captions; see `ZeroShot`.
    """
    choice = ZeroShot(siglip_folder, candidates=candidates, seed=seed)
    pictures = list(world_pictures(count, seed=seed))
    for batch in _batches(count, 100, "zero-shot"):
        alike = [pictures[index] for index in batch]
        choice.add(alike, tokenizer.model.encode(to_pixel_values([picture.image for picture in alike])))
    scores = choice.scores()
    return {"z_q": scores["zero_shot"], "siglip": scores["siglip_zero_shot"]}


def text_scores(qwen2_folder: str | Path, *, count: int = 500, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """Share of exact answers of the language model on held-out scenes told in words, by task of `WorldText`."""
    model = AutoModelForCausalLM.from_pretrained(qwen2_folder, dtype=torch.float32).eval()
    text_tokenizer = AutoTokenizer.from_pretrained(qwen2_folder, padding_side="left")
    end = text_tokenizer.convert_tokens_to_ids("<|im_end|>")
    documents = WorldText(count, seed=seed, split="test")
    turns = [turn for turn in map(documents.turn, range(count)) if turn[1]]
    hits = {}
    for batch in _batches(len(turns), 100, "answering in words"):
        prompts = [ASKED.format(turns[index][1]) for index in batch]
        inputs = text_tokenizer(prompts, padding=True, return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=48, do_sample=False, eos_token_id=end, pad_token_id=end)
        answers = text_tokenizer.batch_decode(written[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        for index, answer in zip(batch, answers, strict=True):
            task, _, due = turns[index]
            hits.setdefault(f"text_{task}", []).append(answer == due)
    return {task: sum(found) / len(found) for task, found in sorted(hits.items())}


def tiny_scores(folder: str | Path, *, count: int = 500, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """All scores of an arm-tiny folder on `count` held-out scenes, flat, by name."""
    folder = Path(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    scores = reconstruction(tokenizer, count=count, seed=seed)
    hard = reconstruction(tokenizer, HARD_CANVAS, count=count, seed=seed)
    similarity = zero_shot(tokenizer, folder / "backbones" / "siglip", count=count, seed=seed)
    return {
        **scores,
        "hard_read_back": hard["read_back"],
        "hard_psnr": hard["psnr"],
        "zero_shot": similarity["z_q"],
        "siglip_zero_shot": similarity["siglip"],
        **text_scores(folder / "backbones" / "qwen2", count=count, seed=seed),
    }
