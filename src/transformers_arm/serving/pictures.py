"""Pictures as requests and responses carry them: opened within limits, masks turned round, encoded."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

import PIL.Image
from anyio import to_thread

from ..fetching_arm import ADDRESS, DECODING_ERRORS, Fetcher
from .errors import ApiError
from .limits import Limits

COMPRESSED = ("jpeg", "webp")  # formats that take a quality


async def opened(sources: Sequence[str | bytes], limits: Limits, parameters: Sequence[str]) -> list[PIL.Image.Image]:
    """Pictures of data URLs, http(s) addresses and bytes of files; in a thread.

    Args:
        parameters: what each is called in the request.

    Raises:
        ApiError: one cannot, or may not, be opened.
    """
    # In threads of their own: addresses that keep them waiting must not keep an engine from its.
    return await to_thread.run_sync(_opened, sources, limits, parameters)


def _opened(sources: Sequence[str | bytes], limits: Limits, parameters: Sequence[str]) -> list[PIL.Image.Image]:
    fetcher = Fetcher(max_bytes=limits.max_body, animated=False, advises_code=False)
    left, pictures = limits.max_pixels, []
    for source, parameter in zip(sources, parameters, strict=True):
        if isinstance(source, str) and ADDRESS.match(source) and not limits.image_urls:
            raise ApiError(
                400,
                f"{parameter} is an address, and this server opens none; send the picture as a data URL.",
                parameter=parameter,
                code="image_url_not_allowed",
            )
        try:
            picture = replace(fetcher, max_pixels=left).open(source)
        except (ValueError, *DECODING_ERRORS) as error:
            message = f"{parameter} cannot be opened: {error}"
            if left < limits.max_pixels:
                message += f" The pictures before it have used {limits.max_pixels - left:,} of a request's pixels."
            raise ApiError(400, message, parameter=parameter, code="invalid_image") from error
        left -= picture.width * picture.height
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


def encoded(picture: PIL.Image.Image, output_format: str = "png", compression: int = 100) -> str:
    """A picture as a file of a format, in base64."""
    file = BytesIO()
    picture.save(file, output_format, **({"quality": compression} if output_format in COMPRESSED else {}))
    return base64.b64encode(file.getvalue()).decode()


def data_url(picture: PIL.Image.Image) -> str:
    return f"data:image/png;base64,{encoded(picture)}"
