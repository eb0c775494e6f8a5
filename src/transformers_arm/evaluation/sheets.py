"""Sheets of pictures for people: enlarged, lettered, token grids as tiles. Knows nothing about what they show."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .tokenizer import Tokenizer

LABEL_LINES, LINE_HEIGHT, LETTER_WIDTH = 3, 14, 6  # of labels in PIL's own font; sizes in px
_ZOOM = 4  # screen pixels a picture pixel
_FRAME, _STRIP = 4, 18  # px: sides of marked pictures, and the strip above them
_TICK, _CROSS = [((4, 9), (8, 13)), ((8, 13), (15, 5))], [((5, 5), (13, 13)), ((5, 13), (13, 5))]
_MARKS = {True: ("#1a7f37", _TICK), False: ("#cf222e", _CROSS)}
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


def marked(picture: Image.Image, right: bool | None) -> Image.Image:
    """A picture in a green frame under a tick if it is right, in a red one under a cross if it is wrong; as it is if
    nobody has judged it (None).
    """
    if right is None:
        return picture
    color, strokes = _MARKS[bool(right)]
    page = Image.new("RGB", (picture.width + 2 * _FRAME, _STRIP + picture.height + _FRAME), color)
    page.paste(picture, (_FRAME, _STRIP))
    for ends in strokes:
        ImageDraw.Draw(page).line(ends, fill="white", width=3)
    return page


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


def lettered(picture: Image.Image, text: str, right: bool | None = None, width: int = 32) -> Image.Image:
    """A picture, enlarged and `marked`, above a text of up to five lines of `width` letters."""
    picture = marked(enlarged(picture), right)
    page = Image.new("RGB", (max(picture.width, 6 * width), picture.height + 64), "white")
    page.paste(picture, (0, 0))
    lines = textwrap.shorten(text, 5 * width, placeholder=" ...")
    ImageDraw.Draw(page).multiline_text((0, picture.height + 2), textwrap.fill(lines, width), fill="black", spacing=1)
    return page


def in_columns(pictures: list[Image.Image], columns: int) -> list[list[Image.Image]]:
    return [pictures[column::columns] for column in range(columns)]


def token_sheet(tokenizer: Tokenizer, images: Mapping[str, np.ndarray]) -> tuple[Image.Image, str]:
    """uint8 pictures [H, W, 3] by title -> a sheet with a column of each, original, reconstruction and tokens, and the
    titles with the tokens as text.
    """
    columns, lines, config = [], [], tokenizer.model.config
    for title, image in images.items():
        (codes,), (returned,) = tokenizer.reconstruct([image])
        heat = heat_map(codes, config.codebook_size, config.patch_size)
        columns.append([enlarged(Image.fromarray(image)), enlarged(returned), heat])
        lines.append(f"{title}: {codes.shape[0]}x{codes.shape[1]} tokens\n{np.array2string(codes)}\n")
    return sheet(columns), "\n".join(lines)


def picture_sheet(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str] | None = None) -> Image.Image:
    """Pictures in rows and columns, each resized to the first one's size; with labels, each row below its own, of
    which as much is shown as fits into three lines of Latin letters.
    """
    width, height = rows[0][0].size
    top = 0 if labels is None else LABEL_LINES * LINE_HEIGHT
    sheet = Image.new("RGB", (width * max(len(row) for row in rows), (top + height) * len(rows)), "white")
    for number, row in enumerate(rows):
        above = (top + height) * number
        if labels is not None:
            lines = textwrap.wrap(labels[number], max(1, sheet.width // LETTER_WIDTH))[:LABEL_LINES]
            ImageDraw.Draw(sheet).multiline_text((2, above), "\n".join(lines), fill="black", spacing=2)
        for column, picture in enumerate(row):
            sheet.paste(picture.resize((width, height)), (column * width, above + top))
    return sheet
