"""Which form of answer VLMJudge asks for, and how it finds out what the server takes."""

import asyncio
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from judge_endpoint import GOOD, REWARD, picture, score, status

from transformers_arm.rewards.rubrics import RUBRICS


def takes(*types, code=400, message="response_format {type!r} is not supported"):
    """A server that refuses other types of `response_format`; None is a request without one."""

    def answer(handler):
        payload = handler.payload
        given = payload.get("response_format", {}).get("type")
        if given in types:
            return handler.say(GOOD)
        handler.send(code, json.dumps({"error": {"message": message.format(type=given)}}))

    return answer


def types_asked(endpoint):
    return [payload.get("response_format", {}).get("type") for payload in endpoint.payloads]


def test_a_schema_is_asked_for(endpoint, new_judge):
    score(new_judge())
    form = endpoint.payloads[0]["response_format"]
    assert form["json_schema"] == {"name": "scores", "strict": True, "schema": RUBRICS["text_to_image"].schema}


@pytest.mark.parametrize(
    ("takes_objects", "code", "message"),
    [
        (True, 400, "This response_format type is unavailable now"),
        (True, 400, "The provided JSON schema contains features not supported by xgrammar."),
        (False, 422, "Unexpected fields in the request: {{'response_format'}}"),
        (False, 501, "structured outputs are not implemented"),
    ],
)
def test_a_refused_form_is_stepped_down_from_once(endpoint, new_judge, caplog, takes_objects, code, message):
    types = ("json_object", None) if takes_objects else (None,)
    asked = ["json_schema", "json_object"] if takes_objects else ["json_schema", "json_object", None]
    caplog.set_level(logging.INFO)
    endpoint.script = [takes(*types, code=code, message=message)] * 20
    judge = new_judge(retries=0, concurrency=8)
    assert score(judge, 8) == [pytest.approx(REWARD)] * 8
    last = asked[-1]
    assert types_asked(endpoint) == asked + [last] * 7
    assert judge.requests == len(asked) + 7 and judge.failures == 0
    assert caplog.text.count("refuses response_format") == len(asked) - 1
    assert f"; {last or 'none'} from now on." in caplog.text
    score(judge, images=[picture(50)])  # remembered
    assert types_asked(endpoint)[-1] == last and judge.requests == len(asked) + 8


def test_loops_in_threads_step_down_together(endpoint, new_judge):
    endpoint.script = [takes(None)] * 40
    judge = new_judge(retries=0)
    with ThreadPoolExecutor(2) as pool:
        given = list(pool.map(lambda _: score(judge, 6), range(2)))
    assert given == [[pytest.approx(REWARD)] * 6] * 2
    asked = types_asked(endpoint)
    assert asked.count(None) == 12 and len(asked) <= 12 + 2 * 2  # two extra requests a loop at most


@pytest.mark.parametrize("code", [400, 422])
def test_other_refusals_do_not_step_down(endpoint, new_judge, code):
    endpoint.script = [status(code, '{"error": {"message": "The picture is too large"}}')] * 3
    judge = new_judge()
    assert score(judge) == [None]
    assert types_asked(endpoint) == ["json_schema"] and judge.failures == 1


def test_a_format_of_the_user_s_own_is_sent_and_never_changed(endpoint, new_judge):
    own = {"type": "text"}
    endpoint.script = [takes(None)] * 3
    judge = new_judge(sampling={"max_tokens": 9, "response_format": own})
    assert score(judge) == [None]
    assert [payload["response_format"] for payload in endpoint.payloads] == [own]
    endpoint.script = [takes("text")]
    assert score(judge) == [pytest.approx(REWARD)]


def test_others_do_not_wait_for_a_first_request_that_is_asked_again(endpoint, new_judge):
    """The gate opens after one request: else a server that is down would be asked one picture at a time."""

    def down(handler):
        time.sleep(0.2)
        handler.send(503, "{}")

    endpoint.script = [down] * 8
    assert score(new_judge(retries=0, concurrency=8), 8) == [None] * 8
    assert 3 < endpoint.max_in_flight <= 7


def test_the_gate_costs_no_deadline(endpoint, new_judge):
    def after(seconds):
        def answer(handler):
            time.sleep(seconds)
            handler.say(GOOD)

        return answer

    endpoint.script = [after(1.2), *[after(0.8)] * 3]
    judge = new_judge(deadline=1.7, concurrency=4)
    assert score(judge, 4) == [pytest.approx(REWARD)] * 4


def test_a_first_request_that_is_given_up_lets_others_in(endpoint, new_judge):
    judge = new_judge()
    endpoint.script = [lambda handler: handler.server.closing.wait(3)]
    rows = {"prompts": ["p"], "source_images": [[]], "task": ["text_to_image"]}

    async def cancel_the_first():
        first = asyncio.create_task(judge(images=[picture(0)], **rows))
        while not endpoint.payloads:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(judge(images=[picture(1)], **rows))
        await asyncio.sleep(0.1)
        assert len(endpoint.payloads) == 1
        first.cancel()
        return await second

    start = time.monotonic()
    assert asyncio.run(cancel_the_first()) == [pytest.approx(REWARD)]
    assert time.monotonic() - start < 2.5
