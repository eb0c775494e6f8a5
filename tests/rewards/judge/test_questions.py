"""What VLMJudge asks, which answers count, and what it refuses to ask at all."""

import base64
import io
import json
import math
import threading

import pytest
from judge_endpoint import GOOD, REWARD, SECRET, picture, score, status
from PIL import Image, ImageChops

from transformers_arm.rewards.judge import RUBRICS, Rubric, VLMJudge
from transformers_arm.rewards.pictures import PictureEncoder


def decode(part, image_format="png"):
    prefix = f"data:image/{image_format};base64,"
    assert part["type"] == "image_url" and part["image_url"]["url"].startswith(prefix)
    return Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"][len(prefix) :])))


def same(one, other):
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


# What is asked


def test_text_to_image_request(endpoint, new_judge):
    assert score(new_judge(image_format="png")) == [pytest.approx(REWARD)]
    (payload,), (headers,) = endpoint.payloads, endpoint.headers
    system, user = payload.pop("messages")
    assert payload.pop("response_format")["type"] == "json_schema"
    assert payload == {"model": "judge-model", "temperature": 0.0, "max_tokens": 256, "stream": False}
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert system["role"] == "system" and system["content"].startswith(RUBRICS["text_to_image"].text)
    assert '"relations": <number 0..10 or null>}' in system["content"]
    assert user["role"] == "user"
    request, label, image = user["content"]
    assert request == {"type": "text", "text": "Request: a red cube"}
    assert label == {"type": "text", "text": "Result:"}
    assert same(decode(image), picture(0))


def test_editing_request_shows_sources_first_and_scores_as_gedit(endpoint, new_judge):
    endpoint.script = ['{"quality": 9, "instruction": 8, "preservation": 4}']
    sources = [picture(1), picture(2, (8, 8))]
    rewards = score(new_judge(image_format="png"), source_images=[sources], task=["editing"], prompts=["make it blue"])
    assert rewards == [pytest.approx(math.sqrt(4 * 9) / 10)]
    system, user = endpoint.payloads[0]["messages"]
    assert system["content"].startswith(RUBRICS["editing"].text) and "or null" not in system["content"]
    texts, shown = [user["content"][0], *user["content"][1::2]], user["content"][2::2]
    assert [part["text"] for part in texts] == [
        "Request: make it blue",
        *("Source picture 1:", "Source picture 2:", "Result:"),
    ]
    assert all(same(decode(part), image) for part, image in zip(shown, [*sources, picture(0)], strict=True))


def test_large_pictures_are_shrunk_and_left_as_they_were(endpoint, new_judge):
    image = picture(0, (60, 30)).convert("RGBA")
    score(new_judge(max_side=20), images=[image])
    assert decode(endpoint.payloads[0]["messages"][1]["content"][-1], "jpeg").size == (20, 10)
    assert image.size == (60, 30) and image.mode == "RGBA"


def test_a_request_leaves_while_other_pictures_are_encoded(endpoint, new_judge):
    asked, images = threading.Event(), [picture(0), picture(1)]

    class Waiting(PictureEncoder):
        def data_url(self, image):
            assert image is images[0] or asked.wait(10)
            return super().data_url(image)

    def note(handler):
        asked.set()
        handler.say(GOOD)

    endpoint.script = [note]
    judge = new_judge()
    judge._encoder = Waiting("jpeg", 1024)
    assert score(judge, 2, images=images) == [pytest.approx(REWARD)] * 2


def test_own_rubric_and_sampling(endpoint, new_judge):
    rubric = Rubric("beauty", "How beautiful?", ("beauty",), combine=lambda scores: scores["beauty"] / 20)
    endpoint.script = ['{"beauty": 10}']
    judge = new_judge(rubrics={"text_to_image": rubric}, sampling={"max_completion_tokens": 4096})
    assert score(judge) == [0.5]
    payload = endpoint.payloads[0]
    assert payload["messages"][0]["content"] == (
        "How beautiful?\n\nAnswer with one JSON object of this form and nothing else: " + '{"beauty": <number 0..10>}'
    )
    assert payload["max_completion_tokens"] == 4096 and "temperature" not in payload


def test_a_judge_leaves_tasks_that_are_not_its_own_to_others(endpoint, new_judge):
    sources = [[picture()], [], []]
    judge = new_judge(tasks=["text_to_image"])
    assert judge.__name__ == "judge_judge-model"  # TRL's name for it in logs
    rewards = score(judge, 3, source_images=sources, task=["editing", "text_to_image", "video"])
    assert rewards == [None, pytest.approx(REWARD), None]
    assert judge.requests == 1 and judge.failures == 0
    with pytest.raises(ValueError, match="no rubric for task video; there is one for text_to_image, editing"):
        new_judge(tasks=["video"])


def test_no_key_sends_no_hugging_face_token(endpoint, new_judge, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_private")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-env")
    score(new_judge(api_key=None))
    monkeypatch.delenv("OPENAI_API_KEY")
    score(new_judge(api_key=None))
    assert [headers["authorization"] for headers in endpoint.headers] == ["Bearer sk-from-env", "Bearer EMPTY"]
    assert not any("hf_private" in str(headers) for headers in endpoint.headers)


# What is answered


MALFORMED = [
    "",
    "The picture is lovely: 9 out of 10.",
    GOOD[:-1],
    '{"objects": 8, "attributes": 6}',
    '{"objects": 8, "objects": 2, "attributes": 6, "relations": 10}',
    '{"objects": NaN, "attributes": 6, "relations": 10}',
    "[" * 100_000,
]  # tests/rewards/test_rubrics.py has more of them


def test_malformed_answers_are_asked_again_then_none(endpoint, new_judge, caplog):
    judge = new_judge(retries=1)
    for answer in MALFORMED:
        endpoint.script += [answer] * 2
    assert score(judge, len(MALFORMED)) == [None] * len(MALFORMED)
    assert judge.failures == len(MALFORMED) and judge.requests == len(endpoint.payloads) == 2 * len(MALFORMED)
    assert caplog.text.count("Asked for JSON alone, too: ") == len(MALFORMED)
    assert "objects is nan, not a number in 0..10, in the answer" in caplog.text
    assert score(judge) == [pytest.approx(REWARD)]


def test_responses_that_are_no_chat_completion(endpoint, new_judge):
    usage = '"usage": {"prompt_tokens": "many"}'
    bodies = ["<html>gateway</html>", "", "[]", "null", '{"choices": []}', '{"choices": "x", "usage": 3}', "\xff"]
    bodies += [f'{{"choices": [{{"message": {{"content": {content}}}}}], {usage}}}' for content in ("null", "[]", "3")]
    endpoint.script = [status(200, body) for body in bodies]
    judge = new_judge(retries=0)
    assert score(judge, len(bodies)) == [None] * len(bodies)
    assert (judge.failures, judge.prompt_tokens, judge.cost) == (len(bodies), 0, 0)


# What is refused at once


def test_reasoning_without_an_answer_says_what_to_raise(endpoint, new_judge):
    def reasons(name):
        body = {"choices": [{"finish_reason": "length", "message": {"content": None, name: "First, the cube"}}]}
        return status(200, json.dumps(body))

    judge = new_judge(retries=0)
    for answer in (reasons("reasoning"), reasons("reasoning_content"), "<think>The cube is red, so"):
        endpoint.script = [answer]
        assert score(judge) == [None] and "raise max_tokens" in judge._last_error


def test_an_answer_that_was_cut_off_says_so(endpoint, new_judge):
    body = {"choices": [{"finish_reason": "length", "message": {"content": GOOD[:20]}}]}
    endpoint.script = [status(200, json.dumps(body))]
    judge = new_judge(retries=0)
    assert score(judge) == [None] and "cut off by max_tokens of `sampling`" in judge._last_error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_format": "gif"}, "image_format is 'gif'; it must be one of jpeg, png"),
        ({"model": ""}, "model is empty"),
        ({"base_url": ""}, "base_url is ''"),
        ({"base_url": "localhost:8000/v1"}, "give an http"),
        ({"max_side": 0}, "max_side is 0; it must be in 1..inf"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": math.nan}, "timeout is nan"),
        ({"deadline": -1}, "deadline is -1"),
        ({"retries": -1}, "retries is -1"),
        ({"backoff": -1}, "backoff is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"input_price": -1}, "input_price is -1"),
        ({"output_price": -1}, "output_price is -1"),
        ({"max_failure_share": 1.5}, "max_failure_share is 1.5; it must be in 0..1"),
        ({"window": 9}, "window is 9; it must be in 10..inf"),
    ],
)
def test_arguments_outside_their_bounds(arguments, message):
    with pytest.raises(ValueError, match=message):
        VLMJudge(**({"model": "m", "base_url": "http://localhost:1/v1"} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": ["editing"]}, "no source picture"),
        ({"prompts": []}, "shorter|longer"),
    ],
)
def test_inputs_that_cannot_be_judged(endpoint, new_judge, arguments, message):
    with pytest.raises(ValueError, match=message):
        score(new_judge(), **arguments)
    assert not endpoint.payloads


def test_a_broken_picture_costs_no_other_its_scores(endpoint, new_judge, tmp_path, caplog):
    file = tmp_path / "cut.png"
    picture(1, (64, 64)).save(file)
    file.write_bytes(file.read_bytes()[:5000])
    judge = new_judge()
    rewards = score(judge, 3, images=[picture(0), Image.open(file), picture(2)])
    assert rewards == [pytest.approx(REWARD), None, pytest.approx(REWARD)]
    assert judge.failures == 1 and "A picture cannot be read: OSError" in caplog.text
