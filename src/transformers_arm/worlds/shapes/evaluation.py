"""Scores of an ARM, its tokenizer and its backbones on scenes: what the demo, the card and trainings print.

Knows nothing about where a model comes from or what becomes of its scores.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from ...data.collators import ASKED, to_pixel_values
from ...evaluation.arm import Arm
from ...evaluation.results import EVALUATION_SEED
from ...evaluation.tokenizer import Picture, Tokenizer, ZeroShot
from ...metrics.arm_understanding.arm_understanding import understanding_scores
from .captions import caption_is_true
from .draw import HARD_JITTER, HARD_SIDE, render_scene
from .edits import EDIT_KINDS, Edit, sample_editing_pair
from .metrics.arm_editing.arm_editing import editing_scores
from .metrics.arm_generation.arm_generation import generation_scores
from .metrics.arm_reconstruction.arm_reconstruction import reconstruction_scores
from .pictures import Canvas, ShapesDataset
from .prompts import GENERATION_TASKS, generation_prompts
from .questions import NEGATIVES, QUESTION_KINDS, Question, questions, sample_existence_question, sample_question
from .reader import read_scene
from .scene import Scene, sample_scene
from .text import WorldText

DEFAULT_CANVAS, HARD_CANVAS = Canvas(), Canvas(HARD_SIDE, HARD_SIDE, HARD_JITTER)
UNGUIDED = {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
READERS = {"": read_scene}


def editing_pairs(
    count: int, *, seed: int, split: str = "test", max_jitter: int = 0, held_out_pairs: bool | None = False
) -> list[Edit]:
    """Editing pairs, all kinds equally often."""
    rng = random.Random(f"{seed}/editing")
    kinds = [EDIT_KINDS[index % len(EDIT_KINDS)] for index in range(count)]
    return [
        sample_editing_pair(rng, kind, split, max_jitter=max_jitter, held_out_pairs=held_out_pairs) for kind in kinds
    ]


def question_pairs(count: int, *, seed: int, split: str = "test", max_jitter: int = 0) -> list[tuple[Scene, Question]]:
    """Scenes with a question each, all kinds equally often; existence questions take turns in their negatives, and
    then in yes and no, as POPE has as many of both.
    """
    rng = random.Random(f"{seed}/questions")
    pairs = []
    while len(pairs) < count:
        kind = QUESTION_KINDS[len(pairs) % len(QUESTION_KINDS)]
        scene = sample_scene(rng, split=split, max_jitter=max_jitter)
        if kind not in {question.kind for question in questions(scene)}:
            continue
        if kind == "existence":
            turn, negatives = divmod(len(pairs) // len(QUESTION_KINDS), len(NEGATIVES))
            answer = ("yes", "no")[turn % 2]
            asked = sample_existence_question(rng, scene, negatives=NEGATIVES[negatives], answer=answer)
        else:
            asked = sample_question(rng, scene, kind)
        pairs.append((scene, asked))
    return pairs


def merged(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """Scores in one, in the order in which they came."""
    return {name: score for part in parts for name, score in part.items()}


def _by_reader(readers: Mapping[str, Callable], score: Callable) -> dict[str, float]:
    return {prefix + name: value for prefix, read in readers.items() for name, value in score(read).items()}


def generation(
    arm: Arm,
    canvas: Canvas = DEFAULT_CANVAS,
    *,
    count: int = 300,
    seed: int = EVALUATION_SEED,
    split: str = "test",
    tasks: Sequence[str] = (*GENERATION_TASKS, "full", "composition"),
    readers: Mapping[str, Callable] = READERS,
    **kwargs,
) -> dict[str, float]:
    """Shares of right pictures: GenEval's six tasks (`count` prompts in all) and their mean, and `count` prompts each
    of `"full"` and `"composition"`; by each reader, whose name stands before those of its scores.
    """
    prompts, names = [], []
    for task in tasks:
        each = -(-count // len(GENERATION_TASKS)) if task in GENERATION_TASKS else count
        prompts += generation_prompts(task, each, seed=seed, split=split)
        names += [task] * each
    drawn = arm.draw(prompts, seed=seed, **canvas.size, **kwargs)
    return _by_reader(readers, lambda read: generation_scores(drawn, prompts, names, read))


def editing(
    arm: Arm,
    canvas: Canvas = DEFAULT_CANVAS,
    *,
    count: int = 300,
    seed: int = EVALUATION_SEED,
    split: str = "test",
    readers: Mapping[str, Callable] = READERS,
    **kwargs,
) -> dict[str, float]:
    """`editing_scores` over `count` pairs; by each reader, whose name stands before those of its scores."""
    pairs = editing_pairs(count, seed=seed, split=split, max_jitter=canvas.max_jitter)
    sources = [render_scene(pair.source, canvas.height, canvas.width) for pair in pairs]
    scenes, instructions = [pair.source.to_json() for pair in pairs], [pair.instruction for pair in pairs]
    edited = arm.edit(sources, instructions, seed=seed, **canvas.size, **kwargs)
    return _by_reader(readers, lambda read: editing_scores(edited, scenes, instructions, read))


def understanding(
    arm: Arm,
    canvas: Canvas = DEFAULT_CANVAS,
    *,
    count: int = 300,
    seed: int = EVALUATION_SEED,
    split: str = "test",
    **kwargs,
) -> dict[str, float]:
    """`understanding_scores` over `count` questions; kwargs as `Arm.answer`'s."""
    pairs = question_pairs(count, seed=seed, split=split, max_jitter=canvas.max_jitter)
    images = [render_scene(scene, canvas.height, canvas.width) for scene, _ in pairs]
    asked = [question for _, question in pairs]
    answers = arm.answer(images, [question.question for question in asked], **canvas.size, **kwargs)
    return understanding_scores(
        answers,
        [question.answer for question in asked],
        [question.kind for question in asked],
        [question.negatives for question in asked],
    )


def multimodal_parts(arm: Arm, *, count: int = 300, seed: int = EVALUATION_SEED) -> Iterator[dict[str, float]]:
    """All scores of an ARM on held-out items, flat, by name: as its folder samples, then without guidance, then on the
    hard variant. `count` items a row; each of GenEval's six tasks has a sixth of it.
    """
    settings = {"count": count, "seed": seed}
    variants = (("", DEFAULT_CANVAS, {}), ("unguided_", DEFAULT_CANVAS, UNGUIDED), ("hard_", HARD_CANVAS, {}))
    for prefix, canvas, sampling in variants:
        drawn = generation(arm, canvas, **settings, **sampling)
        edited = editing(arm, canvas, **settings, **sampling)
        found = {
            "generation": drawn["overall"],
            "generation_full": drawn["full"],
            "generation_composition": drawn["composition"],
            "editing_exact": edited["exact"],
        }
        if not prefix:
            found |= {f"generation_{task}": drawn[task] for task in GENERATION_TASKS}
            found |= {f"editing_{name}": edited[name] for name in ("sc", "pq", "o")}
            kinds = [kind for kind in EDIT_KINDS if f"{kind}_exact" in edited]  # few items hold few kinds
            found |= {f"editing_{kind}": edited[f"{kind}_exact"] for kind in kinds}
        if not sampling:
            answered = understanding(arm, canvas, **settings)
            found["understanding"] = answered["overall"]
            if not prefix:
                found |= {f"understanding_{name}": score for name, score in answered.items() if name != "overall"}
                found["understanding_question_first"] = understanding(arm, question_first=True, **settings)["overall"]
        yield {prefix + name: value for name, value in found.items()}


def multimodal_scores(arm: Arm, **settings: int) -> dict[str, float]:
    """All of `multimodal_parts`, together."""
    return merged(multimodal_parts(arm, **settings))


# --- the tokenizer and the backbones ---


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
    model = AutoModelForCausalLM.from_pretrained(qwen2_folder, dtype=torch.float32, use_safetensors=True).eval()
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


def tiny_parts(folder: str | Path, *, count: int = 500, seed: int = EVALUATION_SEED) -> Iterator[dict[str, float]]:
    """All scores of the parts of an arm-tiny folder on `count` held-out scenes, flat, by name, as they come."""
    folder = Path(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    yield reconstruction(tokenizer, count=count, seed=seed)
    hard = reconstruction(tokenizer, HARD_CANVAS, count=count, seed=seed)
    yield {f"hard_{name}": hard[name] for name in ("read_back", "psnr")}
    similarity = zero_shot(tokenizer, folder / "backbones" / "siglip", count=count, seed=seed)
    yield {"zero_shot": similarity["z_q"], "siglip_zero_shot": similarity["siglip"]}
    yield text_scores(folder / "backbones" / "qwen2", count=count, seed=seed)


def tiny_scores(folder: str | Path, **settings: int) -> dict[str, float]:
    """All of `tiny_parts`, together."""
    return merged(tiny_parts(folder, **settings))


def score_parts(folder: str | Path, *, count: int = 500, seed: int = EVALUATION_SEED) -> Iterator[dict[str, float]]:
    """All scores of a complete ARM folder and its parts on `count` held-out items a row, flat, as they come."""
    yield from tiny_parts(folder, count=count, seed=seed)
    yield from multimodal_parts(Arm.from_pretrained(folder), count=count, seed=seed)


def all_scores(folder: str | Path, **settings: int) -> dict[str, float]:
    """All of `score_parts`, together."""
    return merged(score_parts(folder, **settings))
