"""Pictures as requests carry them: what is lost, what is equal, how often they are encoded, and on which thread."""

import asyncio
import base64
import io
import threading

import numpy as np
import pytest
from judge_endpoint import picture
from PIL import Image

from transformers_arm.rewards.pictures import PictureEncoder, PicturesOfCall


def decoded(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"), np.int16)


def photograph(size=(96, 64)):
    """Smooth colours with some noise."""
    values = np.asarray(picture(1, (6, 4)).resize(size, Image.Resampling.BICUBIC), np.int16)
    noise = np.random.default_rng(0).integers(-3, 4, values.shape)
    return Image.fromarray((values + noise).clip(0, 255).astype(np.uint8))


def test_png_loses_nothing_and_jpeg_little():
    image = photograph()
    values = np.asarray(image, np.int16)
    assert (decoded(PictureEncoder("png", 1024).data_url(image)) == values).all()
    lost = np.abs(decoded(PictureEncoder("jpeg", 1024).data_url(image)) - values)
    assert 0 < lost.mean() < 2 and lost.max() < 15


def test_jpeg_keeps_the_colours_of_single_pixels():
    """Subsampled colours would leave half of a red line grey."""
    image = Image.new("RGB", (32, 32), "white")
    image.paste("red", (9, 0, 10, 32))
    kept = decoded(PictureEncoder("jpeg", 1024).data_url(image))[:, 9]
    assert (kept[:, 0] > 225).all() and (kept[:, 1:] < 40).all()


def test_what_an_edit_left_alone_is_equal_after_jpeg():
    source = photograph()
    edited = source.copy()
    edited.paste("blue", (40, 24, 64, 48))  # on the edges of blocks of 8
    encoder = PictureEncoder("jpeg", 1024)
    before, after = decoded(encoder.data_url(source)), decoded(encoder.data_url(edited))
    outside = np.ones(before.shape[:2], bool)
    outside[24:48, 40:64] = False
    assert (before[outside] == after[outside]).all() and (before[~outside] != after[~outside]).any()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
@pytest.mark.parametrize("image_format", ["jpeg", "png"])
def test_any_mode(mode, image_format):
    assert decoded(PictureEncoder(image_format, 1024).data_url(picture(0).convert(mode))).shape == (16, 24, 3)


def test_names_tell_what_would_be_sent():
    encoder, image = PictureEncoder("jpeg", 1024), picture(0)
    name = encoder.name(image)
    assert name == encoder.name(image.copy()) == PictureEncoder("jpeg", 1024).name(image.convert("RGBA"))
    others = [encoder.name(picture(1)), PictureEncoder("png", 1024).name(image), PictureEncoder("jpeg", 8).name(image)]
    flat = [encoder.name(Image.new("RGB", size)) for size in ((2, 8), (8, 2))]  # the same bytes
    assert len({name, *others, *flat}) == 6


def test_comments_are_left_out():
    file = io.BytesIO()
    picture(0).save(file, "JPEG", comment="taken at home")
    image = Image.open(file)
    assert b"home" in file.getvalue()
    assert b"home" not in base64.b64decode(PictureEncoder("jpeg", 1024).data_url(image).partition(",")[2])


class Counting(PictureEncoder):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.work = []

    def name(self, image):
        self.work.append(("name", threading.current_thread().name))
        return super().name(image)

    def data_url(self, image):
        self.work.append(("data_url", threading.current_thread().name))
        return super().data_url(image)


def test_each_object_is_read_once_and_equal_ones_are_encoded_once_in_threads_of_their_own():
    encoder, image = Counting("jpeg", 1024), picture(0)

    async def sent(pictures, image):
        return await pictures.data_url(await pictures.name(image), image)

    async def call():
        pictures = PicturesOfCall(encoder)
        return await asyncio.gather(*(sent(pictures, each) for each in (image, image, image.copy(), picture(1))))

    first, second, third, other = asyncio.run(call())
    assert first == second == third != other
    work = [kind for kind, _ in encoder.work]
    assert (work.count("name"), work.count("data_url")) == (3, 2)
    assert all(thread.startswith("pictures") for _, thread in encoder.work)
