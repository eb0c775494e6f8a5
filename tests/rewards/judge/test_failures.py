"""Failures of VLMJudge's server: which are asked again, which are not, and when they are too many."""

import asyncio
import json
import random
import time
from email.utils import formatdate
from http.server import ThreadingHTTPServer

import pytest
from judge_endpoint import GOOD, REWARD, SECRET, Handler, picture, score, stall, status
from trl.trainer.utils import is_async_callable, shutdown_event_loop_in_daemon, start_event_loop_in_daemon

from transformers_arm.rewards.errors import RewardError
from transformers_arm.rewards.judge import JudgeError, VLMJudge


def dribble(handler):
    """A byte now and then, so that a read timeout never passes."""
    handler.send(200, "", Content_Length=1000)
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b" ")


def drop_mid_body(handler):
    handler.send(200, '{"choices": [{"mess', Content_Length=1000)
    handler.close_connection = True


# What can pass and what cannot


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        *((status(code), f"HTTP {code}") for code in (408, 409, 429, 500, 503)),
        (stall, "No response within 0.5 s"),
        (dribble, "No response within 0.5 s"),
        (drop_mid_body, "RemoteProtocolError"),
        ("?", "Not one JSON object"),
        (lambda handler: handler.send(200, " " * 2**23), "The response has more than 4,194,304 bytes"),
    ],
)
def test_what_can_pass_is_asked_again(endpoint, new_judge, trouble, reason):
    judge = new_judge(retries=0, timeout=0.5 if trouble in (stall, dribble) else 20)
    endpoint.script = [trouble]
    assert score(judge) == [None] and reason in judge._last_error
    judge.retries = 5
    endpoint.script = [trouble]
    assert score(judge) == [pytest.approx(REWARD)]
    assert judge.requests == len(endpoint.payloads) >= 3 and judge.failures == 1


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_other_refusals_are_not_asked_again(endpoint, new_judge, caplog, code):
    endpoint.script = [status(code, json.dumps({"error": {"message": f"Incorrect API key provided: {SECRET}"}}))]
    judge = new_judge()
    assert score(judge) == [None]
    assert judge.requests == len(endpoint.payloads) == 1
    assert f"HTTP {code}" in caplog.text and SECRET not in caplog.text + judge._last_error + repr(judge)


def test_a_closed_port_is_a_failure_that_says_why(caplog):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.server_close()
    judge = VLMJudge("m", f"http://127.0.0.1:{server.server_port}/v1", retries=1, backoff=0, max_failure_share=1)
    assert score(judge) == [None]
    assert "2 requests failed. ConnectError" in caplog.text


@pytest.mark.parametrize(
    "value", ["1", formatdate(time.time() + 3600, usegmt=True), "soon"], ids=["seconds", "date", "neither"]
)
def test_retry_after_is_kept_to_within_the_deadline(endpoint, new_judge, value):
    endpoint.script = [status(429, Retry_After=value)]
    judge = new_judge(deadline=3)
    rewards = score(judge)
    waited = endpoint.times[-1] - endpoint.times[0]
    if value == "1":
        assert rewards == [pytest.approx(REWARD)] and waited >= 1
    elif value == "soon":
        assert rewards == [pytest.approx(REWARD)] and waited < 0.5
    else:
        assert rewards == [None] and "The next pause would pass the deadline of 3 s" in judge._last_error


def test_pauses_grow(endpoint, new_judge):
    endpoint.script = [status(500)] * 3
    score(new_judge(backoff=0.1, retries=3))
    pauses = [after - before for before, after in zip(endpoint.times, endpoint.times[1:], strict=False)]
    assert all(0.05 * 2**n <= pause < 0.1 * 2**n + 1 for n, pause in enumerate(pauses))


def test_the_deadline_ends_a_picture(endpoint, new_judge):
    endpoint.script = [stall] * 10
    start = time.monotonic()
    assert score(new_judge(timeout=0.3, deadline=0.7, retries=9)) == [None]
    assert time.monotonic() - start < 3 and len(endpoint.payloads) <= 3


def test_jitter_leaves_the_seeded_generator_alone(endpoint, new_judge):
    random.seed(3)
    state = random.getstate()
    endpoint.script = [status(500)]
    score(new_judge())
    assert random.getstate() == state


def test_trl_awaits_it_on_its_own_loop(endpoint, new_judge):
    judge = new_judge()
    assert is_async_callable(judge)
    thread, loop, ready = start_event_loop_in_daemon("rewards")
    ready.wait()
    rows = {"prompts": ["p"], "images": [picture()], "source_images": [[]], "task": ["text_to_image"]}
    assert asyncio.run_coroutine_threadsafe(judge(**rows), loop).result(30) == [pytest.approx(REWARD)]
    shutdown_event_loop_in_daemon(thread, loop)


def test_an_answer_without_scores_is_asked_for_json_alone_once(endpoint, new_judge):
    endpoint.script = ["?", GOOD, "?", "?"]
    judge = new_judge(retries=5)
    assert score(judge) == [pytest.approx(REWARD)] and score(judge) == [None]
    texts = [payload["messages"][1]["content"][-1].get("text") for payload in endpoint.payloads]
    assert texts == [None, "Answer with the JSON object alone."] * 2
    assert "Asked for JSON alone, too: Not one JSON object" in judge._last_error


# When it stops


def test_a_first_call_without_any_answer_stops(endpoint, new_judge):
    endpoint.script = [status(401)] * 2
    with pytest.raises(JudgeError, match=r"2 of the last 2 .*100%; the limit is 20%.*401.*Check that http") as caught:
        score(new_judge(max_failure_share=0.2), 2)
    assert isinstance(caught.value, RewardError)


def test_failures_stop_once_there_are_ten_judgements(endpoint, new_judge):
    judge = new_judge(max_failure_share=0.2, retries=0, concurrency=1)
    for answers in ([GOOD, "?", "?", GOOD], ["?"]):
        endpoint.script = answers
        score(judge, len(answers))  # 3 of 5, but of 5 only
    with pytest.raises(JudgeError, match="3 of the last 10"):
        score(judge, 5)


def test_old_failures_leave_the_window(endpoint, new_judge):
    endpoint.script = ["?"] * 2
    judge = new_judge(max_failure_share=0.2, retries=0, window=10)
    score(judge, 10)  # 20% is not above the limit
    score(judge, 10)
    endpoint.script = ["?"] * 2
    score(judge, 10)
    assert judge.failures == 4


def test_an_empty_call(new_judge):
    assert score(new_judge(max_failure_share=0), 0) == []
