"""Answers in texts and pictures: their order, their parts as they come, and chats that are none."""

import pytest
import torch
from PIL import Image
from scripted_answers import steered
from transformers import GenerationConfig, LogitsProcessor, TextIteratorStreamer, pipeline

from transformers_arm import ArmInterleavedPipeline, ArmTextToImagePipeline

FOLDER = "checkpoints/arm-tiny"
STORY = "tell a story of a red circle above a blue square"


@pytest.fixture(scope="module")
def tell():
    return pipeline("interleaved", model=FOLDER)


@pytest.fixture(scope="module")
def story(tell):
    return tell(STORY, generator=seeded())


def seeded():
    return torch.Generator().manual_seed(0)


def kinds(parts):
    return [part["type"] for part in parts]


def test_the_shipped_model_tells_a_story(tell, story):
    assert kinds(story) == ["image", "text", "image", "text", "image"]
    assert all(part["text"] and "<|" not in part["text"] for part in story[1::2])
    assert all(isinstance(part["image"], Image.Image) and part["image"].size == (48, 48) for part in story[::2])
    assert tell("how many objects are there?") == [{"type": "text", "text": "two"}]


def test_order_and_shapes_are_as_the_model_writes_them(tell):
    text = (
        "a red<|vision_start|><|h:2|><|w:3|><|vision_end|>then<|vision_start|><|h:1|><|w:1|><|vision_end|><|im_end|>"
    )
    seen = []
    previews = {"preview": lambda number, rows, picture: seen.append((number, rows)), "preview_every": 2}
    first, wide, then, small = tell("draw", **steered(tell, text), **previews)
    assert seen == [(0, 2)]  # the other has a row
    assert (first, then) == ({"type": "text", "text": "a red"}, {"type": "text", "text": "then"})
    assert (wide["image"].size, small["image"].size) == ((48, 32), (16, 16))


def test_a_picture_is_that_of_the_other_pipelines(tell):
    text = "<|vision_start|><|h:3|><|w:3|><|vision_end|><|im_end|>"
    options = {"guidance_scale": 2.0, "temperature": 0.9, "num_inference_steps": 2}
    (part,) = tell("a red circle", generator=torch.Generator().manual_seed(5), **options, **steered(tell, text))
    draw = ArmTextToImagePipeline(tell.model, processor=tell.processor, detokenizer=tell.detokenizer)
    drawn = draw("a red circle", generator=torch.Generator().manual_seed(5), **options)
    assert part["image"].tobytes() == drawn.tobytes()


def test_parts_texts_and_previews_come_as_they_are_ready(tell, story):
    streamer = TextIteratorStreamer(tell.processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=9)
    seen = []
    parts = tell.stream(
        STORY,
        generator=torch.Generator().manual_seed(0),
        text_streamer=streamer,
        preview=lambda number, rows, picture: seen.append((number, rows)),
        preview_every=2,
    )
    assert not seen
    assert next(parts)["type"] == "image" and seen == [(0, 2)]
    assert next(parts)["type"] == "text" and seen == [(0, 2)]
    rest = list(parts)
    assert kinds(rest) == ["image", "text", "image"] and seen == [(0, 2), (1, 2), (2, 2)]
    assert "".join(streamer) == story[1]["text"] + story[3]["text"]
    assert rest[-1]["image"].tobytes() == story[-1]["image"].tobytes()


def test_an_answer_is_content_of_the_next_chat(tell):
    chat = [{"role": "user", "content": [{"type": "text", "text": "a red circle"}]}]
    answer = tell(chat)
    chat += [{"role": "assistant", "content": answer}, {"role": "user", "content": "what color is the circle?"}]
    one, other = tell([chat, STORY], max_new_tokens=60)
    assert one and kinds(other)[0] == "image"


@pytest.mark.parametrize("parts", range(6))
def test_an_answer_goes_on_where_it_stopped(tell, story, parts):
    begun = [{"role": "user", "content": STORY}, {"role": "assistant", "content": story[:parts]}]
    assert kinds(story[:parts]) + kinds(tell(begun)) == kinds(story)
    begun[1]["content"] = [*story[:parts], {"type": "text", "text": "here it is: "}]
    assert tell(begun, **steered(tell, "a circle<|im_end|>")) == [{"type": "text", "text": "a circle"}]


@pytest.mark.parametrize(
    "ways",
    [
        {"prompt_lookup_num_tokens": 3},  # of a picture's tokens, which it guesses as well, none are kept
        {"num_beams": 2},
        {"generation_config": GenerationConfig(do_sample=False, return_dict_in_generate=True)},
        {"stopping_criteria": None},
    ],
    ids=lambda ways: next(iter(ways)),
)
def test_texts_are_written_in_any_way_of_generate(tell, story, ways):
    assert kinds(tell(STORY, generate_kwargs=ways, generator=seeded())) == kinds(story)


class BreaksOff(LogitsProcessor):
    """Fails once an answer has a picture."""

    def __call__(self, input_ids, scores):
        if input_ids.shape[1] > 40:
            raise RuntimeError("broken off")
        return scores


@pytest.mark.parametrize("how", ["left", "broken", "no room"])
def test_a_reader_of_texts_is_not_left_waiting(tell, how):
    streamer = TextIteratorStreamer(tell.processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=5)
    if how == "left":
        next(parts := tell.stream(STORY, text_streamer=streamer))
        parts.close()
    elif how == "broken":
        with pytest.raises(RuntimeError, match="broken off"):
            tell(STORY, text_streamer=streamer, generate_kwargs={"logits_processor": [BreaksOff()]})
    else:
        with pytest.raises(ValueError, match="no room"):
            tell("red " * 5000, text_streamer=streamer)
    assert "".join(streamer) == ""


def test_an_answer_has_no_more_tokens_than_it_may(tell):
    parts = tell(STORY, max_new_tokens=20)  # a picture takes 13
    assert kinds(parts)[:2] == ["image", "text"] and kinds(parts).count("image") == 1
    assert "image" not in kinds(tell(STORY, max_new_tokens=4))


@pytest.mark.parametrize(
    ("chat", "options", "kind", "message"),
    [
        ([], {}, ValueError, r"The chat \[\] says nothing"),
        ("", {}, ValueError, "says nothing; give a message with a text or a picture"),
        ([{"role": "user", "content": []}], {}, ValueError, "says nothing"),
        (3, {}, TypeError, "A chat is a str or a list .* not 3"),
        (["a", 3], {}, TypeError, "A chat is a str or a list .* not 3"),
        ("a", {"max_new_tokens": 0}, ValueError, "max_new_tokens 0 must be a whole number, 1 or more"),
        ("a", {"height": 48}, TypeError, "Unknown argument height; this pipeline takes"),
        (
            "a",
            {"generate_kwargs": {"num_return_sequences": 2}},
            TypeError,
            "hold num_return_sequences",
        ),
        ("a", {"batch_size": 2}, TypeError, "Unknown argument batch_size"),
        ("a", {"generator": [torch.Generator()]}, ValueError, "give one for all"),
        ("red " * 5000, {}, ValueError, "positions for 4096: there is no room"),
    ],
)
def test_what_is_no_chat_is_refused(tell, chat, options, kind, message):
    with pytest.raises(kind, match=message):
        tell(chat, **options)


def test_stream_takes_one_chat(tell):
    with pytest.raises(TypeError, match="stream answers one chat"):
        tell.stream(["a", "b"])


def test_a_model_without_a_detokenizer_says_what_is_missing(tmp_path, tell):
    tell.model.save_pretrained(tmp_path)
    tell.processor.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no detokenizer/model_index.json"):
        pipeline("interleaved", model=str(tmp_path))
    assert isinstance(tell, ArmInterleavedPipeline)
