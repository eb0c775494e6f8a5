"""What messages name is opened as for somebody outside: no paths of this machine, no addresses of its network."""

import base64

import PIL.Image
import pytest
import torch
from processor_inputs import PLACEHOLDER, drawing, user

from transformers_arm.fetching_arm import FROM_CALLER, FROM_OUTSIDE

TOKENIZED = {"tokenize": True, "return_dict": True}
OUTSIDE = "Image 0: .* (paths in texts are not opened here; pass a pathlib.Path|is not on the public internet)"


@pytest.fixture
def path(tmp_path):
    PIL.Image.fromarray(drawing()).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def named(key, picture):
    return [{"role": "user", "content": [{"type": "image", key: picture}]}]


@pytest.mark.parametrize("key", ["image", "url", "path", "base64"])
def test_messages_open_no_paths_and_no_private_addresses(processor, path, key):
    for source in (str(path), "http://127.0.0.1:9/picture.png", [str(path)], [["http://localhost:9/picture.png"]]):
        with pytest.raises(ValueError, match=OUTSIDE):
            processor.apply_chat_template(named(key, source), **TOKENIZED)
        with pytest.raises(ValueError, match=OUTSIDE):
            processor.apply_chat_template([named(key, source), user("hi")], **TOKENIZED)


def test_pictures_beside_messages_are_opened_like_those_in_them(processor, path):
    """`transformers serve` takes keywords of this call from whoever asks it."""
    for images in (str(path), [str(path)], "http://127.0.0.1:9/picture.png"):
        with pytest.raises(ValueError, match=OUTSIDE):
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}]}], processor_kwargs={"images": images}, **TOKENIZED
            )
    for fetcher in ({"local_files": True}, None, True):
        with pytest.raises(TypeError, match="fetcher is a .*; pass a Fetcher"):
            processor.apply_chat_template(named("url", str(path)), fetcher=fetcher, **TOKENIZED)


def test_what_a_server_makes_of_openai_messages_reaches_nothing_of_its_own(processor, path):
    serving = pytest.importorskip("transformers.cli.serving.utils")
    parts = [
        {"type": "image_url", "image_url": {"url": "URL"}},
        {"type": "input_image", "image_url": "URL"},
    ]
    encoded = base64.b64encode(path.read_bytes()).decode()
    for part in parts:
        for url in (str(path), f"file://{path}", "http://127.0.0.1:9/picture.png", f"data:image/png;base64,{encoded}"):
            given = {"url": url} if isinstance(part["image_url"], dict) else url
            messages = serving.BaseHandler.get_processor_inputs_from_messages(
                [{"role": "user", "content": [{**part, "image_url": given}]}], serving.Modality.VLM
            )
            if url.startswith("data:"):
                inputs = processor.apply_chat_template(messages, add_generation_prompt=True, **TOKENIZED)
                assert len(inputs["pixel_values"]) == 1
            else:
                with pytest.raises(ValueError, match=OUTSIDE):
                    processor.apply_chat_template(messages, add_generation_prompt=True, **TOKENIZED)


def test_paths_that_code_made_and_fetchers_that_say_so_open_files(processor, path):
    expected = processor([str(path)], PLACEHOLDER)["pixel_values"]
    for source, options in ((path, {}), (str(path), {"fetcher": FROM_CALLER})):
        inputs = processor.apply_chat_template(named("image", source), **TOKENIZED, **options)
        assert torch.equal(inputs["pixel_values"], expected)
    assert processor.image_processor.fetcher is FROM_CALLER


def test_arguments_are_the_callers_until_the_image_processor_says_otherwise(processor, path, monkeypatch):
    for source in (path, str(path)):
        assert len(processor([source], PLACEHOLDER)["pixel_values"]) == 1
        assert "pixel_values" in processor.image_generation_inputs("redraw", source)
    monkeypatch.setattr(processor.image_processor, "fetcher", FROM_OUTSIDE, raising=False)
    with pytest.raises(ValueError, match=OUTSIDE):
        processor([str(path)], PLACEHOLDER)
    with pytest.raises(ValueError, match=OUTSIDE):
        processor.image_generation_inputs("redraw", str(path))


def test_nothing_is_opened_where_the_number_of_pictures_does_not_fit(processor):
    with pytest.raises(ValueError, match="2 placeholders .*, but 1 images are given"):
        processor(["http://127.0.0.1:9/picture.png"], PLACEHOLDER * 2)


def test_a_fetcher_is_not_saved(processor, tmp_path, monkeypatch):
    monkeypatch.setattr(processor.image_processor, "fetcher", FROM_OUTSIDE, raising=False)
    processor.save_pretrained(tmp_path)
    assert "fetcher" not in (tmp_path / "processor_config.json").read_text()
    assert type(processor).from_pretrained(tmp_path).image_processor.fetcher is FROM_CALLER
