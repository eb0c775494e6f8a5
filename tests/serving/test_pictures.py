"""Pictures that requests bring are opened within limits, and addresses only where they may lead."""

import asyncio
import base64

import pytest
from arm_server import file_of, picture_of, url_of
from file_server import losing
from PIL import Image
from pipeline_requests import picture

from transformers_arm.serving.errors import ApiError
from transformers_arm.serving.limits import Limits
from transformers_arm.serving.pictures import encoded, opened, whitened

ADDRESSES = Limits(image_urls=True)


def open_all(sources, limits=ADDRESSES):
    return asyncio.run(opened([(f"image {number}", source) for number, source in enumerate(sources)], limits))


def test_files_data_urls_and_base64_are_opened():
    image = picture()
    sources = [file_of(image), url_of(image), base64.b64encode(file_of(image)).decode()]
    assert all(each.tobytes() == image.tobytes() for each in open_all(sources))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0x7f000001", "169.254.169.254", "10.0.0.1", "[::ffff:127.0.0.1]"]
)
def test_addresses_of_this_machine_and_its_network_are_refused(host):
    with pytest.raises(ApiError, match="image 0 cannot be opened: .*not on the public internet") as refused:
        open_all([f"http://{host}/a.png"])
    assert refused.value.status == 400


def test_not_even_what_is_served_there_is_asked_for(tmp_path):
    (tmp_path / "a.png").write_bytes(file_of(picture()))
    with losing(tmp_path, lost_at=0, losses=1, status=500) as server:
        with pytest.raises(ApiError, match="not on the public internet"):
            open_all([f"{server.url}/a.png"])
        assert server.losses == 1  # nobody came


@pytest.mark.parametrize("source", ["/etc/passwd", "file:///etc/passwd", "ftp://example.com/a.png", ""])
def test_paths_and_other_addresses_are_refused(source):
    with pytest.raises(ApiError, match="image 0 cannot be opened"):
        open_all([source])


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("/etc/passwd", id="path"),
        pytest.param(b"no picture", id="rubbish"),
        pytest.param(bytes(200_001), id="too many bytes"),
        pytest.param("QUJD" * 100_000, id="too much base64"),
        pytest.param(file_of(Image.new("1", (200, 200))), id="too many pixels"),
        pytest.param(file_of(Image.new("1", (20_000, 20_000))), id="bomb"),
    ],
)
def test_errors_advise_nothing_that_only_the_servers_code_can_do(source):
    with pytest.raises(ApiError) as refused:
        open_all([source], Limits(max_body=200_000, max_pixels=100 * 100))
    assert not [word for word in ("Fetcher", "pathlib", "PIL.", "raise") if word in str(refused.value)]


def test_pixels_are_bounded_over_all_pictures():
    limits = Limits(max_pixels=48 * 48 * 2)
    pictures = [file_of(picture(seed=seed)) for seed in range(3)]
    assert len(open_all(pictures[:2], limits)) == 2
    with pytest.raises(ApiError, match="image 2 cannot be opened: .*48x48 pixels.* before it have used 4,608"):
        open_all(pictures, limits)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_are_refused(kind):
    animation = file_of(picture(), kind, save_all=True, append_images=[picture(seed=1)])
    with pytest.raises(ApiError, match="animated"):
        open_all([animation])
    assert open_all([file_of(picture(), kind)])


def test_masks_are_white_where_openais_are_transparent():
    mask = Image.new("RGBA", (4, 2), (255, 255, 255, 255))
    mask.putpixel((1, 0), (255, 0, 0, 0))
    mask.putpixel((2, 0), (255, 0, 0, 1))  # hardly, but not fully
    white = whitened(mask)
    assert [white.getpixel((x, 0)) for x in range(4)] == [0, 255, 0, 0]
    assert whitened(mask.convert("LA")).tobytes() == white.tobytes()


def test_palettes_with_a_transparent_color_are_masks():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.putpixel((0, 0), 0)
    (opened_mask,) = open_all([file_of(palette, transparency=0)])
    assert whitened(opened_mask).getpixel((0, 0)) == 255 and whitened(opened_mask).getpixel((1, 1)) == 0


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
def test_pictures_are_encoded_in_each_format(output_format):
    image = picture_of(encoded(picture(), output_format, 80))
    assert (image.format.lower(), image.size) == (output_format, (48, 48))
