"""Pictures as requests carry them: encoded in threads, each once, and named by their pixels.

Knows nothing about who is asked, nor for what.
"""

import asyncio
import base64
import hashlib
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

# JPEG without subsampled colours: at quality 95 a difference of a few levels, in a thirtieth of PNG's time. Blocks of
# 8 x 8 pixels are coded on their own, so what an edit left alone is equal after it in source and result.
FORMATS = {"jpeg": {"quality": 95, "subsampling": "4:4:4"}, "png": {}}


class PictureEncoder:
    """Makes data URLs of pictures.

    Args:
        image_format: a key of `FORMATS`.
        max_side: pictures are shrunk to this many pixels a side.
    """

    def __init__(self, image_format: str, max_side: int):
        self.image_format, self.max_side = image_format, max_side
        # Threads suffice, as Pillow's encoders let others run. Not the event loop's own: requests look up hosts there.
        self.threads = os.cpu_count() or 1
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="pictures")

    def name(self, image: Image.Image) -> str:
        """Names what `data_url` makes of a picture: equal pixels and settings, equal names. Much quicker than that."""
        image = image.convert("RGB")
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        return f"{self.image_format} {FORMATS[self.image_format]} {self.max_side} {image.size} {pixels}"

    def data_url(self, image: Image.Image) -> str:
        image = image.convert("RGB")  # a copy, which the next lines may change
        image.info.clear()  # comments and profiles are not for others
        image.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, self.image_format, **FORMATS[self.image_format])
        return f"data:image/{self.image_format};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class PicturesOfCall:
    """The pictures of one call on one event loop: each object is read once, equal ones are encoded once."""

    def __init__(self, encoder: PictureEncoder):
        self._encoder = encoder
        self._names: dict[int, asyncio.Future] = {}
        self._urls: dict[str, asyncio.Future] = {}
        self._images: list[Image.Image] = []  # kept, so that no other gets their ids
        self._turns = asyncio.Semaphore(encoder.threads)  # the first are encoded before the last are named

    async def name(self, image: Image.Image) -> str:
        """See `PictureEncoder.name`. Raises what Pillow does where the picture cannot be read."""
        if id(image) not in self._names:
            self._images.append(image)
        async with self._turns:
            return await self._once(self._names, id(image), self._encoder.name, image)

    async def data_url(self, name: str, image: Image.Image) -> str:
        """See `PictureEncoder.data_url`; `name` is the picture's."""
        return await self._once(self._urls, name, self._encoder.data_url, image)

    async def _once(self, done: dict, key: int | str, work: Callable, image: Image.Image):
        if key not in done:
            done[key] = asyncio.get_running_loop().run_in_executor(self._encoder.pool, work, image)
        return await asyncio.shield(done[key])  # others may wait for it longer than this one
