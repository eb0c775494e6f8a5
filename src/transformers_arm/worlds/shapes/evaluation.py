"""Scores of an ARM, its tokenizer and its backbones on scenes: what the demo, the card and trainings print.

Knows nothing about where a model comes from or what becomes of its scores.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from ...data.collators import ASKED, to_pixel_values
from ...evaluation.arm import Arm
from ...evaluation.code_noise import code_noise
from ...evaluation.results import EVALUATION_SEED
from ...evaluation.tokenizer import Picture, Tokenizer, ZeroShot
from ...metrics.arm_understanding.arm_understanding import exact_match, understanding_scores
from .captions import NUMBERS, ORDERS, caption_is_true, sized_caption
from .draw import DEFAULT_SIDE, HARD_JITTER, HARD_SIDE, PICTURE_SIZES, render_scene
from .edits import EDIT_KINDS, NAMING_KINDS
from .items import TRAINED_NAMES, editing_pairs, number_of, question_pairs
from .metrics.arm_editing.arm_editing import editing_scores
from .metrics.arm_generation.arm_generation import generation_scores
from .metrics.arm_reconstruction.arm_reconstruction import reconstruction_scores
from .pictures import Canvas, ShapesDataset
from .prompts import COMPOSITION_CELLS, FULL_CELLS, GENERATION_TASKS, full_prompts, generation_prompts
from .questions import NAMING, QUESTION_KINDS
from .reader import read_scene
from .scene import MAX_OBJECTS
from .text import WorldText

DEFAULT_CANVAS, HARD_CANVAS = Canvas(), Canvas(HARD_SIDE, HARD_SIDE, HARD_JITTER)
UNGUIDED = {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
READERS = {"": read_scene}
_NUMBERS = NUMBERS[1 : MAX_OBJECTS + 1]
_CELLS = (*(f"full_{name}" for name in (*ORDERS, *FULL_CELLS)), *(f"composition_{name}" for name in COMPOSITION_CELLS))


def merged(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """Scores in one, in the order in which they came."""
    return {name: score for part in parts for name, score in part.items()}


def _by_reader(readers: Mapping[str, Callable], score: Callable) -> dict[str, float]:
    return {prefix + name: value for prefix, read in readers.items() for name, value in score(read).items()}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _full_means(scores: Mapping[str, float]) -> dict[str, float]:
    """Of cells, `full_reversed_three`: their mean `full`, the least `full_weakest`, and means by order."""
    cells = {cell: scores[f"full_{cell}"] for cell in FULL_CELLS if f"full_{cell}" in scores}  # few items have few
    if not cells:
        return {}
    orders = {order: [value for cell, value in cells.items() if cell.startswith(order)] for order in ORDERS}
    means = {f"full_{order}": _mean(values) for order, values in orders.items() if values}
    return {"full": _mean(cells.values()), "full_weakest": min(cells.values()), **means}


def _prompts(tasks: Sequence[str], count: int, *, seed: int, split: str) -> list[tuple[str, str]]:
    """Tasks and their prompts; of full captions, cells of the task."""
    found = []
    for task in tasks:
        each = -(-count // len(GENERATION_TASKS)) if task in GENERATION_TASKS else count
        if task == "full":
            found += [(f"full_{cell}", prompt) for cell, prompt in full_prompts(each, seed=seed, split=split)]
        else:
            found += [(task, prompt) for prompt in generation_prompts(task, each, seed=seed, split=split)]
    return found


def generation(
    arm: Arm,
    canvas: Canvas = DEFAULT_CANVAS,
    *,
    count: int = 300,
    seed: int = EVALUATION_SEED,
    split: str = "test",
    tasks: Sequence[str] = (*GENERATION_TASKS, "full", "composition"),
    readers: Mapping[str, Callable] = READERS,
    stated_size: bool = False,
    **kwargs,
) -> dict[str, float]:
    """Shares of right pictures, by each reader, whose name stands before those of its scores.

    GenEval's six tasks (`count` prompts in all), their mean `"overall"` and the `"weakest"` of them; `count` prompts
    each of `"full"` and `"composition"`; and of `"full"` its cells, by the order and the number of objects,
    `"full_weakest"` of them, and means by order. Where `stated_size`, every other prompt states the picture's size.
    """
    found = _prompts(tasks, count, seed=seed, split=split)
    sizes = [canvas.word if stated_size and index % 2 else None for index in range(len(found))]
    prompts = [sized_caption(prompt, size) for (_, prompt), size in zip(found, sizes, strict=True)]
    drawn = arm.draw(prompts, seed=seed, **canvas.size, **kwargs)

    def share(places: Sequence[int], read: Callable) -> dict[str, float]:
        chosen = zip(*((drawn[place], prompts[place], found[place][0]) for place in places), strict=True)
        return generation_scores(*chosen, read)

    def score(read: Callable) -> dict[str, float]:
        scores = share(range(len(found)), read)
        if "overall" in scores:
            scores["weakest"] = min(scores[task] for task in GENERATION_TASKS)
        composed = [place for place, (task, _) in enumerate(found) if task == "composition"]
        turns = [
            composed[turn :: len(COMPOSITION_CELLS)] for turn in range(min(len(composed), len(COMPOSITION_CELLS)))
        ]
        cells = [share(turn, read)["composition"] for turn in turns]
        scores |= {f"composition_{name}": value for name, value in zip(COMPOSITION_CELLS, cells, strict=False)}
        return scores | ({"composition_weakest": min(cells)} if cells else {}) | _full_means(scores)

    return _by_reader(readers, score)


def editing(
    arm: Arm,
    canvas: Canvas = DEFAULT_CANVAS,
    *,
    count: int = 300,
    seed: int = EVALUATION_SEED,
    split: str = "test",
    readers: Mapping[str, Callable] = READERS,
    kinds: Sequence[str] = EDIT_KINDS,
    names: Sequence[str] = TRAINED_NAMES,
    **kwargs,
) -> dict[str, float]:
    """`editing_scores` over `count` pairs, by kind, number of objects and group of names, and the `"weakest"` of these
    by exact edits; by each reader, whose name stands before those of its scores.
    """
    wanted = {"max_jitter": canvas.max_jitter, "kinds": kinds, "names": names}
    pairs = editing_pairs(count, seed=seed, split=split, **wanted)
    sources = [render_scene(pair.source, **canvas.size) for pair in pairs]
    scenes, instructions = [pair.source.to_json() for pair in pairs], [pair.instruction for pair in pairs]
    cells = [[number_of(pair.source), *([f"{pair.names}_names"] if pair.names else [])] for pair in pairs]
    edited = arm.edit(sources, instructions, seed=seed, **canvas.size, **kwargs)

    def score(read: Callable) -> dict[str, float]:
        scores = editing_scores(edited, scenes, instructions, read, cells)
        return scores | {"weakest": min(value for name, value in scores.items() if name.endswith("_exact"))}

    return _by_reader(readers, score)


def understanding(
    arm: Arm,
    canvas: Canvas = DEFAULT_CANVAS,
    *,
    count: int = 300,
    seed: int = EVALUATION_SEED,
    split: str = "test",
    kinds: Sequence[str] = QUESTION_KINDS,
    names: Sequence[str] = TRAINED_NAMES,
    **kwargs,
) -> dict[str, float]:
    """`understanding_scores` over `count` questions; exact match by kind and number of objects, `color_three`, and by
    group of names; and the `"weakest"` of these. kwargs as `Arm.answer`'s.
    """
    wanted = {"max_jitter": canvas.max_jitter, "kinds": kinds, "names": names}
    pairs = question_pairs(count, seed=seed, split=split, **wanted)
    images = [render_scene(scene, **canvas.size) for scene, _ in pairs]
    asked = [question for _, question in pairs]
    answers = arm.answer(images, [question.question for question in asked], **canvas.size, **kwargs)
    due, of_kind = [question.answer for question in asked], [question.kind for question in asked]
    scores = understanding_scores(answers, due, of_kind, [question.negatives for question in asked])
    cells = exact_match(answers, due, [f"{question.kind}_{number_of(scene)}" for scene, question in pairs])
    cells |= exact_match(answers, due, [f"{question.names}_names" for question in asked])
    cells = {name: value for name, value in cells.items() if name not in ("overall", "None_names")}
    return {**scores, **cells, "weakest": min(cells.values())}


def size_choices(arm: Arm, *, count: int = 300, seed: int = EVALUATION_SEED, split: str = "test") -> dict[str, float]:
    """Share of `count` full captions for which the model, free to choose, opens a picture of the size that is stated,
    or of the default one where none is; by what is stated, and the `"weakest"` of these.
    """
    stated = (*PICTURE_SIZES, None)
    prompts = generation_prompts("full", count, seed=seed, split=split)
    sizes = [stated[index // len(FULL_CELLS) % len(stated)] for index in range(count)]
    opened = arm.opened_sizes([sized_caption(*pair) for pair in zip(prompts, sizes, strict=True)])
    due = [str(PICTURE_SIZES.get(size, (DEFAULT_SIDE, DEFAULT_SIDE))) for size in sizes]
    scores = exact_match([str(size) for size in opened], due, [size or "unstated" for size in sizes])
    return {**scores, "weakest": min(scores.values())}


OTHER_CANVASES = MappingProxyType(
    {word: Canvas(*size) for word, size in PICTURE_SIZES.items() if size != (DEFAULT_SIDE, DEFAULT_SIDE)}
)
"""Canvases of `PICTURE_SIZES` beside the default one, by their words."""


def known_canvases(arm: Arm) -> dict[str, Canvas]:
    """Those of `OTHER_CANVASES` that a model says it knows."""
    return {word: each for word, each in OTHER_CANVASES.items() if each.height * each.width <= arm.max_pixels}


def _row(name: str, scores: Mapping[str, float], mean: str, weakest: str) -> dict[str, float]:
    """A mean and its weakest cell beside it."""
    return {name: scores[mean], f"{name}_weakest": scores[weakest]}


def _drawing_rows(drawn: Mapping, edited: Mapping, reader: str = "") -> dict[str, float]:
    found = _row("generation", drawn, f"{reader}overall", f"{reader}weakest")
    found |= _row("generation_full", drawn, f"{reader}full", f"{reader}full_weakest")
    if f"{reader}composition" in drawn:
        found |= _row("generation_composition", drawn, f"{reader}composition", f"{reader}composition_weakest")
    found |= _row("editing_exact", edited, f"{reader}exact", f"{reader}weakest")
    return {reader + name: value for name, value in found.items()}


def _main_rows(arm: Arm, readers: Mapping[str, Callable], *, count: int, seed: int) -> Iterator[dict[str, float]]:
    """What the folder draws, edits and answers as it samples, cell by cell."""
    settings = {"count": count, "seed": seed}
    drawn = generation(arm, tasks=(*GENERATION_TASKS, "composition"), readers=readers, **settings)
    drawn |= generation(arm, tasks=("full",), readers=readers, count=count * len(ORDERS), seed=seed)
    edited = editing(arm, readers=readers, **settings)
    yield merged(_drawing_rows(drawn, edited, reader) for reader in readers)
    yield {f"generation_{task}": drawn[task] for task in GENERATION_TASKS}
    yield {f"generation_{name}": drawn[name] for name in _CELLS if name in drawn}
    found = {f"editing_{name}": edited[name] for name in ("sc", "pq", "o")}
    cells = [cell for cell in (*EDIT_KINDS, *_NUMBERS, "plain_names", "other_names") if f"{cell}_exact" in edited]
    yield found | {f"editing_{cell}": edited[f"{cell}_exact"] for cell in cells}  # few items hold few kinds
    answered = understanding(arm, count=count * len(QUESTION_KINDS), seed=seed)
    found = _row("understanding", answered, "overall", "weakest")
    yield found | {f"understanding_{n}": score for n, score in answered.items() if n not in ("overall", "weakest")}
    first = understanding(arm, question_first=True, **settings)
    yield _row("understanding_question_first", first, "overall", "weakest")
    new = {"names": ("new",), **settings}
    yield _row("editing_new_names", editing(arm, kinds=NAMING_KINDS, **new), "exact", "weakest")
    yield _row("understanding_new_names", understanding(arm, kinds=tuple(NAMING), **new), "overall", "weakest")


def _variant_rows(
    arm: Arm, canvas: Canvas, *, answers: bool = True, stated_size: bool = False, count: int, seed: int, **sampling
) -> dict[str, float]:
    """Means and weakest cells alone, of another canvas or another way to sample."""
    tasks = (*GENERATION_TASKS, "full", *(() if stated_size else ("composition",)))
    settings = {"count": count, "seed": seed}
    drawn = generation(arm, canvas, tasks=tasks, stated_size=stated_size, **settings, **sampling)
    found = _drawing_rows(drawn, editing(arm, canvas, **settings, **sampling))
    if answers:
        found |= _row("understanding", understanding(arm, canvas, **settings), "overall", "weakest")
    return found


def multimodal_parts(
    arm: Arm,
    *,
    count: int = 300,
    seed: int = EVALUATION_SEED,
    readers: Mapping[str, Callable] = READERS,
    canvases: Mapping[str, Canvas] | None = None,
) -> Iterator[dict[str, float]]:
    """All scores of an ARM on held-out items, flat, by name, each mean with its weakest cell behind it: as its folder
    samples, then without guidance, on the hard variant, and on other `canvases`: at each size that it says it knows,
    if none are given.

    `count` items a row; each of GenEval's six tasks has a sixth of it, each kind of question and each order of full
    captions as many as that. Of variants, the row is the mean.
    """
    settings = {"count": count, "seed": seed}
    yield from _main_rows(arm, readers, **settings)
    unguided = _variant_rows(arm, DEFAULT_CANVAS, answers=False, **settings, **UNGUIDED)
    yield {f"unguided_{name}": value for name, value in unguided.items()}
    yield {f"hard_{name}": value for name, value in _variant_rows(arm, HARD_CANVAS, **settings).items()}
    canvases = known_canvases(arm) if canvases is None else canvases
    for word, canvas in canvases.items():
        rows = _variant_rows(arm, canvas, stated_size=True, **settings)
        yield {f"{word}_{name}": value for name, value in rows.items()}
    if canvases:
        chosen = size_choices(arm, **settings)
        rows = _row("size_choice", chosen, "overall", "weakest")
        yield rows | {f"size_choice_{name}": chosen[name] for name in chosen if name not in ("overall", "weakest")}


def multimodal_scores(arm: Arm, **settings) -> dict[str, float]:
    """All of `multimodal_parts`, together."""
    return merged(multimodal_parts(arm, **settings))


# --- the tokenizer and the backbones ---


def _batches(total: int, size: int, what: str):
    return tqdm([range(start, min(start + size, total)) for start in range(0, total, size)], desc=what, leave=False)


def reconstruction(
    tokenizer: Tokenizer, canvas: Canvas = DEFAULT_CANVAS, *, count: int = 500, seed: int = EVALUATION_SEED
) -> dict[str, float]:
    """PSNR, read-back, codebook usage, code perplexity and `code_noise` on `count` test scenes drawn on `canvas`."""
    data = ShapesDataset(count, batch_size=count, seed=seed, canvases=[canvas], split="test")
    originals, returned, all_codes = [], [], []
    for batch in _batches(count, 100, f"reconstructing {canvas.height}x{canvas.width}"):
        images = [data[index]["image"] for index in batch]
        codes, pictures = tokenizer.reconstruct(images, seed=seed)
        originals += images
        returned += pictures
        all_codes.append(codes)
    codes = np.concatenate(all_codes)
    scores = reconstruction_scores(returned, originals, codes, tokenizer.model.config.codebook_size)
    return scores | {"code_noise": code_noise(originals, codes)}


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
    """All scores of the parts of an arm-tiny folder on `count` held-out scenes, flat, by name, as they come; of the
    backbones where the folder has them.
    """
    folder = Path(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    yield reconstruction(tokenizer, count=count, seed=seed)
    hard = reconstruction(tokenizer, HARD_CANVAS, count=count, seed=seed)
    yield {f"hard_{name}": hard[name] for name in ("read_back", "psnr")}
    if not (folder / "backbones").is_dir():
        return
    similarity = zero_shot(tokenizer, folder / "backbones" / "siglip", count=count, seed=seed)
    yield {"zero_shot": similarity["z_q"], "siglip_zero_shot": similarity["siglip"]}
    yield text_scores(folder / "backbones" / "qwen2", count=count, seed=seed)


def score_parts(
    folder: str | Path, *, count: int = 500, seed: int = EVALUATION_SEED, **settings
) -> Iterator[dict[str, float]]:
    """All scores of a complete ARM folder and its parts on `count` held-out items a row, flat, as they come; further
    `settings` are those of `multimodal_parts`.
    """
    yield from tiny_parts(folder, count=count, seed=seed)
    yield from multimodal_parts(Arm.from_pretrained(folder), count=count, seed=seed, **settings)


def all_scores(folder: str | Path, **settings) -> dict[str, float]:
    """All of `score_parts`, together."""
    return merged(score_parts(folder, **settings))
