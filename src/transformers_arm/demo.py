"""The demo: what arm-tiny draws, edits, answers and tells, pictures to tokens and back, and scores on held-out scenes.

Knows nothing about how any of it is done.
"""

import json
import random
import textwrap
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .data.shapes import ShapesDataset
from .evaluation import EVALUATION_SEED, Tokenizer, tiny_scores
from .evaluation_multimodal import Arm, editing_pairs, multimodal_scores, question_pairs
from .shapes.captions import full_caption
from .shapes.draw import render_scene
from .shapes.prompts import PROMPT_TASKS, generation_prompts
from .shapes.scene import sample_scene

_ZOOM = 4  # screen pixels a picture pixel
_HEAT = np.array([(24, 15, 62), (114, 31, 129), (229, 80, 100), (254, 176, 120), (252, 253, 191)], float)


def heat_color(share: np.ndarray) -> np.ndarray:
    """Values in 0..1 -> uint8 RGB on a dark-to-light map."""
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(share, stops, _HEAT[:, channel]) for channel in range(3)], -1).astype(np.uint8)


def heat_map(codes: np.ndarray, codebook_size: int, patch_size: int) -> Image.Image:
    """A token grid [h, w] as coloured tiles with their codes written on them, on the picture's own grid."""
    tile = patch_size * _ZOOM
    picture = Image.fromarray(heat_color(codes / (codebook_size - 1)))
    picture = picture.resize((codes.shape[1] * tile, codes.shape[0] * tile), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    for (row, column), code in np.ndenumerate(codes):
        ink = "black" if code > codebook_size / 2 else "white"
        draw.text(((column + 0.5) * tile, (row + 0.5) * tile), str(code), fill=ink, anchor="mm")
    return picture


def enlarged(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width * _ZOOM, picture.height * _ZOOM), Image.Resampling.NEAREST)


def sheet(columns: list[list[Image.Image]], gap: int = 8) -> Image.Image:
    """Columns of pictures side by side on white; the pictures of a column one below the other."""
    widths = [max(picture.width for picture in column) for column in columns]
    heights = [sum(picture.height + gap for picture in column) for column in columns]
    page = Image.new("RGB", (sum(widths) + gap * (len(columns) + 1), max(heights) + gap), "white")
    left = gap
    for column, width in zip(columns, widths, strict=True):
        top = gap
        for picture in column:
            page.paste(picture, (left, top))
            top += picture.height + gap
        left += width + gap
    return page


def _column(tokenizer: Tokenizer, image: np.ndarray) -> tuple[list[Image.Image], np.ndarray]:
    """Original, reconstruction and heat map of one uint8 picture [H, W, 3], and its codes [h, w]."""
    codes, pictures = tokenizer.reconstruct([image])
    config = tokenizer.model.config
    heat = heat_map(codes[0], config.codebook_size, config.patch_size)
    return [enlarged(Image.fromarray(image)), enlarged(pictures[0]), heat], codes[0]


def _write_page(tokenizer: Tokenizer, images: dict[str, np.ndarray], output: Path, name: str) -> None:
    columns, lines = [], []
    for title, image in images.items():
        column, codes = _column(tokenizer, image)
        columns.append(column)
        lines.append(f"{title}: {codes.shape[0]}x{codes.shape[1]} tokens\n{np.array2string(codes)}\n")
    sheet(columns).save(output / f"{name}.png")
    (output / f"{name}-tokens.txt").write_text("\n".join(lines))
    print(f"{output / name}.png: originals, reconstructions, token grids ({output / name}-tokens.txt)")


def lettered(picture: Image.Image, text: str, width: int = 32) -> Image.Image:
    """A picture, enlarged, above a text of up to five lines of `width` letters."""
    picture = enlarged(picture)
    page = Image.new("RGB", (max(picture.width, 6 * width), picture.height + 64), "white")
    page.paste(picture, (0, 0))
    lines = textwrap.shorten(text, 5 * width, placeholder=" ...")
    ImageDraw.Draw(page).multiline_text((0, picture.height + 2), textwrap.fill(lines, width), fill="black", spacing=1)
    return page


def in_columns(pictures: list[Image.Image], columns: int) -> list[list[Image.Image]]:
    return [pictures[column::columns] for column in range(columns)]


def draw_prompts(arm: Arm) -> Image.Image:
    """Twelve held-out prompts with their pictures: each kind of prompt, then full captions."""
    prompts = [generation_prompts(task, 1, seed=EVALUATION_SEED)[0] for task in PROMPT_TASKS]
    prompts += generation_prompts("full", 13 - len(prompts), seed=EVALUATION_SEED)[1:]
    pictures = arm.draw(prompts, seed=EVALUATION_SEED)
    return sheet(in_columns([lettered(*pair) for pair in zip(pictures, prompts, strict=True)], 4))


def draw_edits(arm: Arm) -> Image.Image:
    """Six held-out edits of six kinds: source above result."""
    pairs = editing_pairs(6, seed=EVALUATION_SEED)
    sources = [Image.fromarray(render_scene(pair.source)) for pair in pairs]
    results = arm.edit(sources, [pair.instruction for pair in pairs], seed=EVALUATION_SEED)
    columns = zip(sources, results, pairs, strict=True)
    return sheet([[lettered(source, pair.instruction), enlarged(result)] for source, result, pair in columns])


def draw_answers(arm: Arm) -> Image.Image:
    """Six held-out questions with the model's answers."""
    pairs = question_pairs(6, seed=EVALUATION_SEED)
    pictures = [Image.fromarray(render_scene(scene)) for scene, _ in pairs]
    answers = arm.answer(pictures, [asked.question for _, asked in pairs])
    texts = [f"{asked.question} {answer}" for (_, asked), answer in zip(pairs, answers, strict=True)]
    return sheet(in_columns([lettered(*pair) for pair in zip(pictures, texts, strict=True)], 6))


def draw_story(arm: Arm) -> Image.Image:
    """A story the model tells of a held-out scene: it writes, and opens pictures where it wants them."""
    caption = full_caption(sample_scene(random.Random(EVALUATION_SEED), split="test", held_out_pairs=False))
    parts, texts, columns = arm.tell(caption), [caption], []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        else:
            columns.append([lettered(part, " ".join(texts))])
            texts = []
    return sheet(columns) if columns else lettered(Image.new("RGB", (48, 48), "white"), " ".join(texts))


def run_demo(checkpoint: Path, output: Path, image_files: list[str], *, count: int) -> None:
    """Writes the demo's pictures, token grids and scores into `output` and prints what it wrote.

    Args:
        checkpoint: an arm-tiny folder.
        image_files: pictures of the user's; resized to the area the tokenizer was trained at, proportions kept.
        count: held-out items to score in each row.

    Raises:
        ValueError, OSError: an image file that is missing or none, or no items to score; nothing is written then.
    """
    if count < 1:
        raise ValueError(f"{count} items cannot be scored; score at least 1 a row.")
    started = time.perf_counter()
    tokenizer, arm = Tokenizer.from_pretrained(checkpoint), Arm.from_pretrained(checkpoint)
    prepared = (
        tokenizer.image_processor(list(image_files), keep_aspect_ratio=True) if image_files else {"pixel_values": []}
    )
    own = [tokenizer.image_processor.postprocess([pixels])[0] for pixels in prepared["pixel_values"]]

    output.mkdir(parents=True, exist_ok=True)
    data = ShapesDataset(8, batch_size=8, seed=EVALUATION_SEED, split="test")
    samples = [data[index] for index in range(len(data))]
    _write_page(tokenizer, {sample["caption"]: sample["image"] for sample in samples}, output, "world")
    if own:
        names = [f"{number + 1}. {Path(file).name}" for number, file in enumerate(image_files)]
        _write_page(tokenizer, dict(zip(names, map(np.asarray, own), strict=True)), output, "yours")
    for name, draw, what in (
        ("prompts", draw_prompts, "twelve prompts and what arm-tiny draws"),
        ("edits", draw_edits, "six sources, instructions and results"),
        ("answers", draw_answers, "six questions and answers"),
        ("story", draw_story, "a story, told in text and pictures"),
    ):
        draw(arm).save(output / f"{name}.png")
        print(f"{output / name}.png: {what}")
    scores = {**tiny_scores(checkpoint, count=count), **multimodal_scores(arm, count=count)}
    (output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(f"\nOn {count} held-out items a row:")
    for name, value in scores.items():
        print(f"  {name:<28} {value:8.3f}")
    print(f"\nDone in {time.perf_counter() - started:.0f} s.")
