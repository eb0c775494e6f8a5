"""The demo: pictures of the world and the user's own, to tokens and back, with the scores on held-out scenes."""

import json
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .data.shapes import ShapesDataset
from .evaluation import EVALUATION_SEED, Tokenizer, tiny_scores

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


def run_demo(checkpoint: Path, output: Path, image_files: list[str], *, count: int) -> None:
    """Writes the demo's pictures, token grids and scores into `output` and prints what it wrote.

    Args:
        checkpoint: an arm-tiny folder.
        image_files: pictures of the user's; resized to the area the tokenizer was trained at, proportions kept.
        count: held-out scenes to score.

    Raises:
        ValueError, OSError: an image file that is missing or none; nothing is written then.
    """
    started = time.perf_counter()
    tokenizer = Tokenizer.from_pretrained(checkpoint)
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
    scores = tiny_scores(checkpoint, count=count)
    (output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(f"\nOn {count} held-out scenes:")
    for name, value in scores.items():
        print(f"  {name:<18} {value:8.3f}")
    print(f"\nDone in {time.perf_counter() - started:.0f} s.")
