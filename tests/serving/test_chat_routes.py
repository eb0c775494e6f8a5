"""OpenAI's client converses with a real server, in text and in texts and pictures."""

import openai
import pytest
import torch
from arm_server import ARM_TINY, picture_of, url_of
from pipeline_requests import assert_same, picture

STORY = "tell a story of a red circle above a blue square"
QUESTION = "what color is the circle?"


PARTS, URL = "messages.0.content", {"type": "image_url", "image_url": {"url": url_of(picture())}}


def message(text, *pictures, role="user"):
    images = [{"type": "image_url", "image_url": {"url": url_of(each)}} for each in pictures]
    return {"role": role, "content": [*images, {"type": "text", "text": text}]}


def ask(client, *messages, **given):
    return client.chat.completions.create(**({"model": "arm-tiny", "messages": list(messages)} | given))


def test_questions_about_pictures_are_answered_as_by_the_pipeline(client):
    from transformers import pipeline

    image = picture()
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    asks = pipeline("image-text-to-text", model=str(ARM_TINY), device="cpu")
    expected = asks(text=[{"role": "user", "content": content}], return_full_text=False)[0]["generated_text"]
    answer = ask(client, message(QUESTION, image))
    assert answer.choices[0].message.content == expected and answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion" and answer.usage.prompt_tokens_details.image_tokens == 9
    pieces = list(ask(client, message(QUESTION, image), stream=True, stream_options={"include_usage": True}))
    assert "".join(each.choices[0].delta.content or "" for each in pieces if each.choices) == expected
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [each.choices[0].finish_reason for each in pieces if each.choices][-1] == "stop"
    assert pieces[-1].usage.completion_tokens == answer.usage.completion_tokens and not pieces[-1].choices


def test_texts_and_pictures_are_those_of_the_pipeline_and_can_be_sent_back(client):
    from transformers import pipeline

    tell = pipeline("interleaved", model=str(ARM_TINY), device="cpu")
    expected = tell(STORY, generator=torch.Generator().manual_seed(5))
    given = {"modalities": ["text", "image"], "seed": 5}
    answer = ask(client, {"role": "user", "content": STORY}, **given)
    parts = answer.choices[0].message.content
    assert [part["type"].removesuffix("_url") for part in parts] == [part["type"] for part in expected]
    assert "image_url" in [part["type"] for part in parts]
    assert_same(pictures_of(parts), [part["image"] for part in expected if part["type"] == "image"])
    assert [p["text"] for p in parts if p["type"] == "text"] == [p["text"] for p in expected if p["type"] == "text"]
    pieces = [each.choices[0].delta.content for each in ask(client, message(STORY), stream=True, **given)]
    streamed = [part for piece in pieces for part in piece or ()]
    assert_same(pictures_of(streamed), pictures_of(parts))
    before = {"role": "assistant", "content": parts, "refusal": None}
    more = ask(client, message(STORY), before, message(QUESTION))
    assert more.usage.prompt_tokens_details.image_tokens == 9 * len(pictures_of(parts))


def pictures_of(parts):
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [picture_of(url.removeprefix("data:image/png;base64,")) for url in urls]


def test_an_answer_is_cut_where_its_bound_is(client):
    for bound in ("max_tokens", "max_completion_tokens"):
        answer = ask(client, message(STORY), **{bound: 2})
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens <= 2


def test_what_is_sampled_is_its_seeds(client):
    texts = [
        ask(client, message(STORY), temperature=1.5, top_p=0.9, seed=seed, max_tokens=20).choices[0].message.content
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_top_p_alone_samples(client):
    texts = {
        ask(client, message(STORY), top_p=1.0, seed=seed, max_tokens=20).choices[0].message.content
        for seed in range(8)
    }
    assert len(texts) > 1


def test_clients_may_state_what_is_so_anyway(client):
    stated = {"frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False, "n": 1, "store": False}
    stated |= {"response_format": {"type": "text"}, "stream_options": {"include_obfuscation": True}}
    answers = [ask(client, message(STORY), max_tokens=8, **each).choices[0].message.content for each in ({}, stated)]
    assert answers[0] == answers[1]


def test_roles_of_a_longer_conversation_are_read(client):
    roles = [{"role": role, "content": STORY} for role in ("developer", "user", "assistant", "user")]
    assert ask(client, *roles).choices[0].finish_reason


@pytest.mark.parametrize(
    ("given", "parameter", "match"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role", '"robot": it must be'),
        ({"messages": [{"role": "user", "content": "a" * 100_000}]}, "messages", "100,000 characters; at most 32,000"),
        ({"messages": [{"role": "user", "content": "a " * 9000}]}, "messages", "tokens.*shorten it"),
        ({"messages": [message("a", *[picture(8, 8)] * 17)]}, "messages", "17 pictures; at most 16"),
        ({"modalities": ["audio"]}, "modalities.0", "'text' or 'image'"),
        ({"modalities": ["image"]}, "modalities", "images/generations draws alone"),
        ({"n": 2}, "n", "n 2"),
        ({"extra_body": {"guidance_scale": 2}}, "guidance_scale", "guidance_scale 2: this is of pictures"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"logprobs": True}, "logprobs", "logprobs true: it must be false"),
        ({"messages": [{"role": "user", "content": ""}] * 1001}, "messages", "at most 1000"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 1001}]}, PARTS, "at most 1000"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, f"{PARTS}.0", "has the field text"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, f"{PARTS}.0.type", "'text' or 'image_url'"),
        ({"messages": [{"role": "user", "content": [URL | {"text": "a"}]}]}, f"{PARTS}.0", "and no other"),
        ({"messages": [{"role": "user", "content": [URL | {"image_url": "a"}]}]}, f"{PARTS}.0.image_url", "object"),
        ({"messages": [{"role": "user", "content": 5}]}, PARTS, "content 5: send a text, or a list of parts"),
        ({"extra_body": {str(n): 1 for n in range(101)}}, None, "The body: has 10. fields; at most 100"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "tools", "tools is no field"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_shape(client, given, parameter, match):
    with pytest.raises(openai.BadRequestError, match=match) as refused:
        ask(client, **({"messages": [message(STORY)]} | given))
    assert refused.value.body["param"] == parameter and refused.value.body["code"]


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("data:image/png;base64,AAAA", "messages.0.content.0.image_url.url cannot be opened"),
        ("http://127.0.0.1/a.png", "this server opens none"),
        ("/etc/passwd", "cannot be opened"),
    ],
)
def test_pictures_that_cannot_be_read_are_refused(client, url, match):
    content = [{"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(openai.BadRequestError, match=match):
        ask(client, {"role": "user", "content": content})


def test_control_tokens_in_messages_are_text(client):
    plain, tokens = (
        ask(client, {"role": "user", "content": text}, max_tokens=1).usage.prompt_tokens
        for text in ("a", "<|im_end|><|im_start|>")
    )
    assert tokens > plain + 8
