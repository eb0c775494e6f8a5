"""OpenAI's client draws and edits with a real server, whole and as it is drawn."""

import numpy as np
import openai
import pytest
import torch
from arm_server import file_of, picture_of, url_of
from openai.types import (
    ImageEditCompletedEvent,
    ImageEditPartialImageEvent,
    ImageGenCompletedEvent,
    ImageGenPartialImageEvent,
)
from PIL import Image
from pipeline_requests import assert_same, picture

from transformers_arm.pipeline_arm import ArmImageEditingPipeline

PROMPT, INSTRUCTION = "a red circle above a blue square", "make the red circle green"


def drawn(response):
    return [picture_of(each.b64_json) for each in response.data]


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def hole(size, box):
    """A mask as OpenAI has them: transparent in a box."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), box)
    return mask


def test_pictures_are_those_of_the_pipeline(client, draw):
    response = client.images.generate(model="arm-tiny", prompt=PROMPT, n=2, extra_body={"seed": 3, "codes": True})
    assert_same(drawn(response), draw([PROMPT] * 2, generator=seeds(3, 4)))
    assert [each.seed for each in response.data] == [3, 4]
    assert np.shape(response.data[0].codes) == (3, 3)
    assert (response.size, response.output_format, response.quality, response.background) == (
        *("48x48", "png"),
        *("high", "opaque"),
    )
    usage = response.usage
    assert usage.output_tokens == 18 and usage.output_tokens_details.image_tokens == 18
    assert usage.input_tokens == usage.input_tokens_details.text_tokens > 10
    assert usage.total_tokens == usage.input_tokens + 18


def test_sizes_guidance_and_temperature_are_obeyed(client, draw):
    own = {"seed": 1, "guidance_scale": 2.5, "temperature": 1.0}
    response = client.images.generate(prompt=PROMPT, size="64x32", extra_body=own)
    expected = draw(PROMPT, height=32, width=64, guidance_scale=2.5, temperature=1.0, generator=seeds(1))
    assert response.size == "64x32" and drawn(response)[0].size == (64, 32)
    assert_same(drawn(response), [expected])


def test_low_quality_takes_fewer_steps_for_the_same_codes(client):
    low, high = (
        client.images.generate(prompt=PROMPT, quality=quality, extra_body={"seed": 1, "codes": True})
        for quality in ("low", "high")
    )
    assert low.quality == "low" and low.data[0].codes == high.data[0].codes
    assert low.data[0].b64_json != high.data[0].b64_json


@pytest.mark.parametrize("output_format", ["webp", "jpeg"])
def test_formats_are_compressed_as_far_as_asked(client, output_format):
    files = [
        client.images.generate(
            prompt=PROMPT, output_format=output_format, output_compression=quality, extra_body={"seed": 1}
        )
        for quality in (90, 10)
    ]
    assert [each.output_format for each in files] == [output_format] * 2
    assert [each.format.lower() for each in drawn(files[0])] == [output_format]
    assert len(files[1].data[0].b64_json) < len(files[0].data[0].b64_json)


def test_a_stream_has_partial_pictures_and_then_the_picture(client):
    stream = client.images.generate(prompt=PROMPT, stream=True, partial_images=2, extra_body={"seed": 3})
    events = list(stream)
    assert [type(each) for each in events] == [ImageGenPartialImageEvent] * 2 + [ImageGenCompletedEvent]
    assert [each.type for each in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [each.partial_image_index for each in events[:2]] == [0, 1]
    whole = client.images.generate(prompt=PROMPT, extra_body={"seed": 3})
    assert_same([picture_of(events[-1].b64_json)], drawn(whole))
    assert events[-1].usage.output_tokens == 9 and events[-1].size == "48x48" and events[-1].created_at > 10**9
    first, second, last = (np.asarray(picture_of(each.b64_json), float) for each in events)
    assert np.abs(second - last).mean() <= np.abs(first - last).mean()  # it comes nearer


def test_a_stream_of_several_pictures_says_which_is_which(client):
    events = list(client.images.generate(prompt=PROMPT, n=3, stream=True, partial_images=1, extra_body={"seed": 3}))
    done = {each.index: picture_of(each.b64_json) for each in events if each.type == "image_generation.completed"}
    assert len(events) == 6 and sorted(done) == [0, 1, 2]
    whole = client.images.generate(prompt=PROMPT, n=3, extra_body={"seed": 3})
    assert_same([done[number] for number in range(3)], drawn(whole))


def test_edits_are_those_of_the_pipeline(client, draw):
    edit = ArmImageEditingPipeline(draw.model, processor=draw.processor, detokenizer=draw.detokenizer)
    source, mask = picture(60, 40), hole((60, 40), (0, 0, 30, 40))
    given = {"image": ("a.png", file_of(source)), "prompt": INSTRUCTION, "extra_body": {"seed": 1}}
    response = client.images.edit(**given, mask=("mask.png", file_of(mask)))
    white = Image.new("L", (60, 40))
    white.paste(255, (0, 0, 30, 40))
    assert_same(drawn(response), [edit(source, INSTRUCTION, white, generator=seeds(1))])
    assert response.size == "60x40" and response.usage.input_tokens_details.image_tokens == 9
    right = (40, 0, 60, 40)  # beyond the margin
    assert drawn(response)[0].crop(right).tobytes() == source.crop(right).tobytes()
    assert_same(drawn(client.images.edit(**given)), [edit(source, INSTRUCTION, generator=seeds(1))])


def test_edits_take_several_pictures_and_stream(client):
    pictures = [("a.png", file_of(picture(seed=seed))) for seed in (1, 2)]
    stream = client.images.edit(image=pictures, prompt=INSTRUCTION, stream=True, partial_images=1)
    events = list(stream)
    assert [type(each) for each in events] == [ImageEditPartialImageEvent, ImageEditCompletedEvent]
    assert [each.type for each in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert events[-1].usage.input_tokens_details.image_tokens == 18


@pytest.mark.parametrize("form", ["image", "images"])
def test_edits_take_json(client, form):
    source, mask = picture(), hole((48, 48), (0, 0, 24, 48))
    given = {"prompt": INSTRUCTION, "seed": 1, "codes": True, "n": 2}
    multipart = client.images.edit(
        image=file_of(source), mask=file_of(mask), prompt=INSTRUCTION, n=2, extra_body={"seed": 1, "codes": True}
    )
    url, mask_url = url_of(source), url_of(mask)
    pictures = {"image": url, "mask": mask_url}
    if form == "images":
        pictures = {"images": [{"image_url": url}], "mask": {"image_url": mask_url}}
    response = client.post("/images/edits", cast_to=openai.types.ImagesResponse, body=given | pictures)
    assert [each.codes for each in response.data] == [each.codes for each in multipart.data]


def test_a_picture_that_was_drawn_can_be_edited(client):
    first = client.images.generate(prompt="a blue square", extra_body={"seed": 5})
    data = picture_of(first.data[0].b64_json)
    edited = client.images.edit(image=file_of(data, "JPEG", quality=95), prompt="make the blue square red")
    assert drawn(edited)[0].size == (48, 48)


@pytest.mark.parametrize(
    ("given", "status", "parameter", "match"),
    [
        ({"size": "50x48"}, 400, "size", "50x48 .* multiples of 16 px, 16 to 2048"),
        ({"size": "big"}, 400, "size", '"big": a size is WIDTHxHEIGHT'),
        ({"size": "0x48"}, 400, "size", "such as 96x48, or auto"),
        ({"size": "2048x2048"}, 400, "size", "16384.* 4096 together"),
        ({"n": 0}, 400, "n", "n 0: .*greater than or equal to 1"),
        ({"n": 11}, 400, "n", "n 11: .*less than or equal to 10"),
        ({"prompt": ""}, 400, "prompt", "at least 1"),
        ({"prompt": "a" * 100_000}, 400, "prompt", "100,000 characters: .*at most 32000"),
        ({"prompt": "a " * 9000}, 400, "prompt", "4096 together; shorten the prompt"),
        ({"model": "gpt-image-2"}, 404, "model", "'gpt-image-2' here; take 'arm-tiny'"),
        ({"background": "transparent"}, 400, "background", "'opaque' or 'auto'"),
        ({"output_format": "gif"}, 400, "output_format", "'png', 'webp' or 'jpeg'"),
        ({"output_compression": 50}, 400, "output_compression", "output_compression 50: this is for webp and jpeg"),
        ({"response_format": "url"}, 400, "response_format", "b64_json"),
        ({"partial_images": 2}, 400, "partial_images", "state stream"),
        ({"partial_images": 4, "stream": True}, 400, "partial_images", "less than or equal to 3"),
        ({"extra_body": {"style": "vivid"}}, 400, "style", "style is no field"),
        ({"extra_body": {"seed": -1}}, 400, "seed", "seed -1"),
        ({"extra_body": {"seed": 2**63}}, 400, "seed", "less than"),
        ({"extra_body": {"guidance_scale": -2}}, 400, "guidance_scale", "guidance_scale -2"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_openais_shape(client, given, status, parameter, match):
    with pytest.raises(openai.APIStatusError, match=match) as refused:
        client.images.generate(**({"prompt": PROMPT} | given))
    assert refused.value.status_code == status
    body = refused.value.body
    assert set(body) == {"message", "type", "param", "code"} and body["param"] == parameter and body["code"]
    assert body["type"] == "invalid_request_error"


PNG = file_of(picture())
GIF = file_of(picture(), "GIF", save_all=True, append_images=[picture(seed=1)])
HUGE = file_of(Image.new("L", (1001, 1000)))
LONG, WIDE = file_of(Image.new("L", (20_000, 20))), file_of(Image.new("L", (1000, 600)))


@pytest.mark.parametrize(
    ("given", "parameter", "match"),
    [
        ({"image": b"no picture"}, "image", "image cannot be opened: .*none of JPEG"),
        ({"image": PNG[: len(PNG) // 2]}, "image", "image cannot be opened"),
        ({"image": GIF}, "image", "animated"),
        ({"image": HUGE}, "image", "1000x1001 pixels .* 1,000,000"),
        ({"image": [PNG, b"no picture"]}, "image.1", "image.1 cannot be opened"),
        ({"image": [PNG] * 17}, None, "(17 pictures|files)"),
        ({"image": PNG, "mask": PNG}, "mask", "no alpha channel"),
        ({"image": PNG, "mask": file_of(hole((48, 48), (0, 0, 0, 0)))}, "mask", "transparent .*nowhere"),
        ({"image": PNG, "mask": file_of(hole((32, 48), (0, 0, 9, 9)))}, "mask", "48x32 px .*48x48"),
        ({"image": PNG, "extra_body": {"strength": 1}}, "strength", "strength is no field"),
        ({"image": PNG, "n": 11}, "n", 'n "11"'),
        ({"image": LONG, "output_format": "webp"}, "output_format", "16,383 px at most, .* 20000x20 px; take png"),
        ({"image": WIDE, "n": 2}, "n", "2 edits of 1000x600 px have 1,200,000 pixels, .* 1,000,000; ask for fewer"),
    ],
)
def test_pictures_and_masks_that_cannot_be_edited_are_refused(client, given, parameter, match):
    with pytest.raises(openai.BadRequestError, match=match) as refused:
        client.images.edit(**({"prompt": INSTRUCTION} | given))
    assert parameter is None or refused.value.body["param"] == parameter
    for inside in ("Traceback", "/", "transformers_arm"):
        assert inside not in refused.value.body["message"].replace("http(s)/", "")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.png", "https://example.com/a.png"])
def test_addresses_are_not_opened_unless_the_server_is_told_to(client, url):
    with pytest.raises(openai.BadRequestError, match="this server opens none; send the picture as a data URL"):
        client.post("/images/edits", cast_to=object, body={"prompt": INSTRUCTION, "image": url})


@pytest.mark.parametrize("path", ["/etc/passwd", "file:///etc/passwd", "checkpoints/arm-tiny/pictures/a.png"])
def test_paths_are_no_pictures(client, path):
    with pytest.raises(openai.BadRequestError, match="cannot be opened"):
        client.post("/images/edits", cast_to=object, body={"prompt": INSTRUCTION, "image": path})


def test_an_edit_says_what_kind_of_body_it_is(client):
    with pytest.raises(openai.APIStatusError, match="multipart/form-data, or application/json") as refused:
        client.post("/images/edits", cast_to=object, content=b"a", options={"headers": {"Content-Type": "text/plain"}})
    assert refused.value.status_code == 415
