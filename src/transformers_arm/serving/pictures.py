"""Pictures as requests and responses carry them: opened within limits, masks turned round, encoded."""

import asyncio
import base64
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from typing import TypeVar

import PIL.Image

from ..fetching_arm import ADDRESS, DECODING_ERRORS, Fetcher
from .errors import ApiError
from .limits import Limits

T = TypeVar("T")
COMPRESSED = ("jpeg", "webp")  # formats that take a quality
LONGEST_SIDES = {"webp": 16_383, "jpeg": 65_500}  # px, that a format can state
# Threads of their own: pictures must not keep an engine from its, nor slow addresses pictures that are here.
CODING = ThreadPoolExecutor(8, "pictures")
FETCHING = ThreadPoolExecutor(32, "addresses")


async def coded(work: Callable[..., T], *given) -> T:
    """What becomes of pictures, made in a thread."""
    return await asyncio.get_running_loop().run_in_executor(CODING, work, *given)


async def opened(sources: Sequence[tuple[str, str | bytes]], limits: Limits) -> list[PIL.Image.Image]:
    """Pictures of data URLs, http(s) addresses and bytes of files; in a thread.

    Args:
        sources: what the request calls each, and the picture.

    Raises:
        ApiError: one cannot, or may not, be opened.
    """
    elsewhere = limits.image_urls and any(is_address(source) for _, source in sources)
    pool, left = FETCHING if elsewhere else CODING, threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, _opened, sources, limits, left)
    finally:
        left.set()


def is_address(source: str | bytes) -> bool:
    return isinstance(source, str) and bool(ADDRESS.match(source))


def _opened(
    sources: Sequence[tuple[str, str | bytes]], limits: Limits, left: threading.Event
) -> list[PIL.Image.Image]:
    fetcher = Fetcher(max_bytes=limits.max_body, animated=False, advises_code=False)
    pixels, pictures = limits.max_pixels, []
    for parameter, source in sources:
        if left.is_set():  # nobody waits for them any more
            break
        if is_address(source) and not limits.image_urls:
            raise ApiError(
                400,
                f"{parameter} is an address, and this server opens none; send the picture as a data URL.",
                parameter=parameter,
                code="image_url_not_allowed",
            )
        try:
            picture = replace(fetcher, max_pixels=pixels).open(source)
        except (ValueError, *DECODING_ERRORS) as error:
            message = f"{parameter} cannot be opened: {error}"
            if pixels < limits.max_pixels:
                message += f" The pictures before it have used {limits.max_pixels - pixels:,} of a request's pixels."
            raise ApiError(400, message, parameter=parameter, code="invalid_image") from error
        pixels -= picture.width * picture.height
        pictures.append(picture)
    return pictures


def whitened(mask: PIL.Image.Image) -> PIL.Image.Image:
    """A mask as OpenAI's API has them, transparent where a picture may change -> white there and black elsewhere.

    Raises:
        ApiError: nothing of it is transparent.
    """
    if not mask.has_transparency_data:
        raise ApiError(
            400,
            "mask has no alpha channel; send a PNG that is fully transparent (alpha 0) where the picture may change.",
            parameter="mask",
            code="invalid_image",
        )
    white = mask.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha == 0 else 0)
    if white.getextrema()[1] == 0:
        raise ApiError(
            400,
            "mask is fully transparent (alpha 0) nowhere, so that nothing may change; make it so where the edit is.",
            parameter="mask",
            code="invalid_image",
        )
    return white


def check_format(output_format: str, size: tuple[int, int]) -> None:
    """Raises ApiError if a format has no room for a width and height."""
    longest = LONGEST_SIDES.get(output_format, math.inf)
    if max(size) > longest:
        raise ApiError(
            400,
            f"output_format {output_format} has sides of {longest:,} px at most, and the picture will have "
            f"{size[0]}x{size[1]} px; take png.",
            parameter="output_format",
            code="invalid_value",
        )


def check_edits(count: int, size: tuple[int, int], limits: Limits) -> None:
    """Raises ApiError if so many edits, each as large as its picture, are more than a request may ask for."""
    pixels = count * size[0] * size[1]
    if pixels > limits.max_pixels:
        raise ApiError(
            400,
            f"{count} edits of {size[0]}x{size[1]} px have {pixels:,} pixels, and a request may have "
            f"{limits.max_pixels:,}; ask for fewer, or edit a smaller picture.",
            parameter="n",
            code="invalid_value",
        )


def encoded(picture: PIL.Image.Image, output_format: str = "png", compression: int = 100) -> str:
    """A picture as a file of a format, in base64."""
    file = BytesIO()
    picture.save(file, output_format, **({"quality": compression} if output_format in COMPRESSED else {}))
    return base64.b64encode(file.getvalue()).decode()


def data_url(picture: PIL.Image.Image) -> str:
    return f"data:image/png;base64,{encoded(picture)}"
