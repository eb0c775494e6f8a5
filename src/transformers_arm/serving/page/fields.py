"""What people type, upload and paint on the page, as an engine takes it.

Knows nothing about Gradio.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageChops
from PIL.Image import Image

from ...fetching_arm import DECODING_ERRORS, Fetcher
from ...image_processing_arm import convert_to_rgb
from ..engine import About, InvalidRequest, Sampling

LIMITS = Fetcher(max_pixels=2**24, animated=False, advises_code=False)  # of what is uploaded: 4096x4096
AUTO = "auto"
SIZE = re.compile(r"(\d{1,6}) *[x×] *(\d{1,6})")


def uploaded(files: Sequence[tuple[str, str | None]] | None) -> list[Image]:
    """The pictures that were uploaded, of a gallery's files and captions.

    Raises:
        InvalidRequest: one is no picture, damaged, or too large; it is named as its owner calls it.
    """
    pictures = []
    for file, _ in files or ():
        try:
            pictures.append(convert_to_rgb(LIMITS.open(Path(file).read_bytes())))
        except (ValueError, *DECODING_ERRORS) as error:
            raise InvalidRequest(f"{Path(file).name} cannot be opened: {error}", "image") from error
    return pictures


def edited(painting: Mapping | None) -> tuple[Image, Image | None]:
    """The picture that an editor has, and the mask of what was painted over it.

    Raises:
        InvalidRequest: there is none, or it is too large.
    """
    source = painting and painting["background"]
    if source is None:
        raise InvalidRequest("There is no picture to edit; upload one that your browser can open.", "image")
    if source.width * source.height > LIMITS.max_pixels:
        raise InvalidRequest(
            f"The picture has {source.width}x{source.height} px, more than {LIMITS.max_pixels:,} in all; shrink it.",
            "image",
        )
    return convert_to_rgb(source), painted(painting["layers"], source.size)


def painted(layers: Sequence[Image], size: tuple[int, int]) -> Image | None:
    """The mask, white where a brush has been, of what was painted over a picture of this size; None of nothing."""
    mask = PIL.Image.new("L", size)
    for layer in layers:
        alpha = layer.convert("RGBA").getchannel("A").resize(size, PIL.Image.Resampling.NEAREST)
        mask = PIL.ImageChops.lighter(mask, alpha.point(lambda value: 255 * (value > 0)))
    return mask if mask.getbbox() else None


def sizes(about: About) -> list[str]:
    """Sizes to choose from, of those that the model can state: its own, twice as wide, twice as tall, both."""
    width, height = about.size
    several = [(width, height), (2 * width, height), (width, 2 * height), (2 * width, 2 * height)]
    return [AUTO, *(f"{w}x{h}" for w, h in several if max(w, h) <= about.max_side)]


def size_of(text: str) -> tuple[int, int] | None:
    """`96x48` -> (96, 48); None of "auto".

    Raises:
        InvalidRequest: it is neither.
    """
    if text.strip().lower() in ("", AUTO):
        return None
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(
            f'Size "{text[:40]}" is no width x height in px; write one like 96x48, or {AUTO}.', "size"
        )
    return int(match[1]), int(match[2])


def stated(text: str, what: str) -> str:
    """A text that is not empty.

    Raises:
        InvalidRequest: it is; `what` should have been written, as a sentence ends with it.
    """
    if not text.strip():
        raise InvalidRequest(f"There is no text; write {what}.", "prompt")
    return text.strip()


def number(text: str, what: str, kind: type = float) -> int | float | None:
    """A number as it was typed; None of an empty field, which leaves it to the model.

    Raises:
        InvalidRequest: it is none; `what` names the field.
    """
    if not text.strip():
        return None
    try:
        value = kind(text)
        if not math.isfinite(value):
            raise ValueError(value)
        return value
    except (ValueError, OverflowError):  # of a whole number too large to be any
        whole = "a whole number" if kind is int else "a number"
        raise InvalidRequest(f'{what} "{text[:40]}" is not {whole}; write one, or leave it empty.', what) from None


def sampling(guidance: str = "", image_guidance: str = "", temperature: str = "") -> Sampling:
    """How pictures are drawn, as it was typed.

    Raises:
        InvalidRequest: a text is no number.
    """
    return Sampling(
        temperature=number(temperature, "Temperature"),
        guidance_scale=number(guidance, "Guidance"),
        image_guidance_scale=number(image_guidance, "Guidance of pictures"),
    )
