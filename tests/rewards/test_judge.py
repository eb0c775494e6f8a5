"""VLMJudge against a real HTTP server on loopback that speaks /v1/chat/completions and misbehaves on purpose."""

import asyncio
import base64
import io
import json
import logging
import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image, ImageChops
from trl.trainer.utils import is_async_callable, shutdown_event_loop_in_daemon, start_event_loop_in_daemon

from transformers_arm.rewards.errors import RewardError
from transformers_arm.rewards.judge import RUBRICS, JudgeError, Rubric, VLMJudge

GOOD = '{"objects": 8, "attributes": 6, "relations": 10}'
REWARD = 0.8
SECRET = "sk-do-not-tell"


class Endpoint(ThreadingHTTPServer):
    """Answers each request with the next of `script`: a text the judge says, or a function of the handler. `GOOD` when
    the script is over.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.script = []
        self.payloads, self.headers, self.times = [], [], []
        self.in_flight = self.max_in_flight = 0
        self.lock, self.closing = threading.Lock(), threading.Event()

    def handle_error(self, request, client_address):
        pass  # clients that gave up


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        endpoint = self.server
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with endpoint.lock:
            endpoint.payloads.append(payload)
            endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
            endpoint.times.append(time.monotonic())
            endpoint.in_flight += 1
            endpoint.max_in_flight = max(endpoint.max_in_flight, endpoint.in_flight)
            answer = endpoint.script.pop(0) if endpoint.script else GOOD
        try:
            assert self.path == "/v1/chat/completions"
            answer(self) if callable(answer) else self.say(answer)
        finally:
            with endpoint.lock:
                endpoint.in_flight -= 1

    def say(self, content, usage=(1000, 20)):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        self.send(200, json.dumps({"id": "1", "choices": [choice], "usage": usage}))

    def send(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", "Content_Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body.encode("latin-1"))  # so that a test can send what is no UTF-8

    def log_message(self, *args):
        pass


def status(code, body='{"error": {"message": "no"}}', **headers):
    def answer(handler):
        handler.send(code, body, **headers)

    answer.__name__ = str(code)  # pytest shows it
    return answer


def stall(handler):
    handler.server.closing.wait(5)
    handler.close_connection = True


def dribble(handler):
    """A byte now and then, so that a read timeout never passes."""
    handler.send(200, "", Content_Length=1000)
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b" ")


def drop_mid_body(handler):
    handler.send(200, '{"choices": [{"mess', Content_Length=1000)
    handler.close_connection = True


@pytest.fixture
def endpoint():
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def new_judge(endpoint):
    """A judge with short pauses that failures do not stop."""

    def new(**arguments):
        quick = {"api_key": SECRET, "timeout": 20, "backoff": 0.01, "max_failure_share": 1}
        return VLMJudge("judge-model", endpoint.url, **(quick | arguments))

    return new


def picture(seed=0, size=(24, 16)):
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))


def score(judge, count=1, **arguments):
    """Rewards of `count` different text-to-image pictures."""
    images = [picture(seed) for seed in range(count)]
    rows = {"prompts": ["a red cube"] * count, "images": images, "source_images": [[]] * count}
    return asyncio.run(judge(**(rows | {"task": ["text_to_image"] * count} | arguments)))


def decode(part):
    prefix = "data:image/png;base64,"
    assert part["type"] == "image_url" and part["image_url"]["url"].startswith(prefix)
    return Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"][len(prefix) :])))


def same(one, other):
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


# What is asked


def test_text_to_image_request(endpoint, new_judge):
    assert score(new_judge()) == [pytest.approx(REWARD)]
    (payload,), (headers,) = endpoint.payloads, endpoint.headers
    system, user = payload.pop("messages")
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
    rewards = score(new_judge(), source_images=[sources], task=["editing"], prompts=["make it blue"])
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
    assert decode(endpoint.payloads[0]["messages"][1]["content"][-1]).size == (20, 10)
    assert image.size == (60, 30) and image.mode == "RGBA"


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


def test_a_password_in_the_address_is_not_shown(caplog):
    address = "127.0.0.1:9/v1"  # nobody is there
    judge = VLMJudge("judge-model", f"http://{'user:hunter2'}@{address}", retries=0, timeout=5)
    with pytest.raises(JudgeError) as error:
        score(judge, 10)
    assert "hunter2" not in str(error.value) + caplog.text


def test_no_key_sends_no_hugging_face_token(endpoint, new_judge, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_private")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-env")
    score(new_judge(api_key=None))
    monkeypatch.delenv("OPENAI_API_KEY")
    score(new_judge(api_key=None))
    assert [headers["authorization"] for headers in endpoint.headers] == ["Bearer sk-from-env", "Bearer EMPTY"]
    assert not any("hf_private" in str(headers) for headers in endpoint.headers)


# What is answered


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"\n```\n{GOOD}```\n",
        '{"relations": 10.0, "objects": 8.0, "attributes": 6e0}',
        '{"objects": 9, "attributes": 7, "relations": null}',
    ],
)
def test_answers_that_count(endpoint, new_judge, answer):
    endpoint.script = [answer]
    assert score(new_judge(retries=0)) == [pytest.approx(REWARD)]


MALFORMED = [
    "",
    "The picture is lovely: 9 out of 10.",
    GOOD[:-1],
    f"Here you are: {GOOD}",
    f"{GOOD} {GOOD}",
    f"[{GOOD}]",
    '[["objects", 8], ["attributes", 6], ["relations", 10]]',
    '{"objects": 8, "attributes": 6}',
    '{"objects": 8, "attributes": 6, "relations": 10, "style": 3}',
    '{"objects": 8, "objects": 2, "attributes": 6, "relations": 10}',
    '{"objects": 11, "attributes": 6, "relations": 10}',
    '{"objects": -0.1, "attributes": 6, "relations": 10}',
    '{"objects": NaN, "attributes": 6, "relations": 10}',
    '{"objects": 1e999, "attributes": 6, "relations": 10}',
    '{"objects": true, "attributes": 6, "relations": 10}',
    '{"objects": "8", "attributes": 6, "relations": 10}',
    '{"objects": null, "attributes": 6, "relations": 10}',
    '{"objects": {}, "attributes": 6, "relations": 10}',
    "[" * 100_000,
]


@pytest.mark.parametrize("answer", MALFORMED)
def test_malformed_answers_are_refused(answer):
    with pytest.raises(ValueError):
        RUBRICS["text_to_image"].parse(answer)


def test_malformed_answers_are_asked_again_then_none(endpoint, new_judge, caplog):
    judge = new_judge(retries=1)
    for answer in MALFORMED:
        endpoint.script += [answer] * 2
    assert score(judge, len(MALFORMED)) == [None] * len(MALFORMED)
    assert judge.failures == len(MALFORMED) and judge.requests == len(endpoint.payloads) == 2 * len(MALFORMED)
    assert caplog.text.count("2 requests failed. ValueError") == len(MALFORMED)
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


# What can pass and what cannot


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        *((status(code), f"HTTP {code}") for code in (408, 409, 429, 500, 503)),
        (stall, "No response within 0.5 s"),
        (dribble, "No response within 0.5 s"),
        (drop_mid_body, "RemoteProtocolError"),
        ("?", "ValueError"),
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
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
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


# How much at a time, how often, at what cost


def test_concurrency_is_bounded(endpoint, new_judge):
    def slow(handler):
        time.sleep(0.05)
        handler.say(GOOD)

    endpoint.script = [slow] * 12
    assert score(new_judge(concurrency=3), 12) == [pytest.approx(REWARD)] * 12
    assert endpoint.max_in_flight == 3


def test_one_judge_on_several_event_loops(endpoint, new_judge):
    judge = new_judge(concurrency=2)
    for _ in range(2):
        score(judge, 5)
    with ThreadPoolExecutor(2) as pool:  # two loops at once
        assert all(len(rewards) == 4 for rewards in pool.map(lambda _: score(judge, 4), range(2)))
    assert len(endpoint.payloads) == 18 and judge.failures == 0


def test_equal_requests_in_flight_are_asked_once(endpoint, new_judge):
    judge = new_judge()
    image = picture(0)

    async def two_calls():
        rows = {"prompts": ["p", "p"], "images": [image, image.copy()]}
        rows |= {"source_images": [[], []], "task": ["text_to_image"] * 2}
        return await asyncio.gather(judge(**rows), judge(**rows))

    assert asyncio.run(two_calls()) == [[pytest.approx(REWARD)] * 2] * 2
    assert len(endpoint.payloads) == judge.requests == 1 and judge.cache_hits == 3
    asyncio.run(two_calls())  # nothing is kept without a cache
    assert len(endpoint.payloads) == 2


def test_a_call_that_is_given_up_leaves_its_request_to_others(endpoint, new_judge):
    judge = new_judge(timeout=5)
    endpoint.script = [stall]
    rows = {"prompts": ["p"], "images": [picture()], "source_images": [[]], "task": ["text_to_image"]}

    async def cancel_the_first():
        first = asyncio.create_task(judge(**rows))
        while not endpoint.payloads:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(judge(**rows))
        await asyncio.sleep(0.1)
        first.cancel()
        return await second

    assert asyncio.run(cancel_the_first()) == [pytest.approx(REWARD)]
    assert len(endpoint.payloads) == 2


def test_cache_answers_the_second_time_and_another_process(endpoint, new_judge, tmp_path):
    judge = new_judge(cache_dir=tmp_path / "cache")
    assert score(judge, 3) == score(judge, 3) == score(new_judge(cache_dir=str(tmp_path / "cache")), 3)
    assert len(endpoint.payloads) == 3 and judge.cache_hits == 3
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 3 and all(file.suffix == ".json" for file in files)
    assert SECRET not in "".join(file.read_text() for file in files)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"sampling": {"temperature": 1.0}},
        {"rubrics": {"text_to_image": Rubric("r", "Other words.", ("objects", "attributes", "relations"))}},
    ],
)
def test_cache_tells_requests_apart(endpoint, new_judge, tmp_path, change):
    score(new_judge(cache_dir=tmp_path))
    other = {"base_url": endpoint.url, "model": "judge-model", "cache_dir": tmp_path} | change
    score(VLMJudge(**other))
    score(new_judge(cache_dir=tmp_path), images=[picture(7)])
    score(new_judge(cache_dir=tmp_path), prompts=["a blue cube"])
    assert len(endpoint.payloads) == 4


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"objects": 80, "attributes": 6, "relations": 10}'])
def test_damaged_cache_files_are_asked_for_and_written_anew(endpoint, new_judge, tmp_path, damage):
    judge = new_judge(cache_dir=tmp_path)
    score(judge)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage)
    assert score(judge) == [pytest.approx(REWARD)]
    assert len(endpoint.payloads) == 2 and file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_a_warning(endpoint, new_judge, tmp_path, caplog):
    (tmp_path / "file").touch()
    assert score(new_judge(cache_dir=tmp_path / "file")) == [pytest.approx(REWARD)]
    assert "could not be written" in caplog.text


def test_cost_counts_malformed_answers_too(endpoint, new_judge, tmp_path):
    endpoint.script = ["?", GOOD]
    judge = new_judge(cache_dir=tmp_path, input_price=2.0, output_price=8.0)
    score(judge)
    assert judge.cost == pytest.approx((2 * 1000 * 2.0 + 2 * 20 * 8.0) / 1e6)
    score(judge)
    assert judge.cost == pytest.approx((2 * 1000 * 2.0 + 2 * 20 * 8.0) / 1e6)


def test_metrics_and_criteria_scores(endpoint, new_judge):
    endpoint.script = [GOOD, '{"objects": 4, "attributes": 0, "relations": null}', "?"]
    judge = new_judge(concurrency=1, retries=0, input_price=1.0)
    metrics = {}
    ignored = {"completions": [""] * 3, "trainer_state": None, "log_extra": None}
    assert score(judge, 3, log_metric=metrics.__setitem__, **ignored) == [pytest.approx(0.8), pytest.approx(0.2), None]
    assert metrics == {
        "judge_judge-model/cost": pytest.approx(0.003),
        "judge_judge-model/cache_hits": 0.0,
        "judge_judge-model/failure_share": pytest.approx(1 / 3),
        "judge_judge-model/objects": 6.0,
        "judge_judge-model/attributes": 3.0,
        "judge_judge-model/relations": 10.0,
    }
    good, poor, failed = judge.criteria_scores
    assert good == {"objects": 8.0, "attributes": 6.0, "relations": 10.0} and poor["relations"] is None
    assert failed is None


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


# What is refused at once


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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


def test_rubrics_that_cannot_work():
    with pytest.raises(ValueError, match="name at least one"):
        Rubric("r", "text", ())
    with pytest.raises(ValueError, match="and each once"):
        Rubric("r", "text", ("a", "a"))
    with pytest.raises(ValueError, match="are not among"):
        Rubric("r", "text", ("a",), optional=("b",))
    with pytest.raises(ValueError, match="must stay in 0..1"):
        Rubric("r", "text", ("a",), combine=lambda scores: scores["a"]).reward({"a": 8.0})


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


def test_the_key_is_nowhere_to_be_read(endpoint, new_judge, caplog):
    caplog.set_level(logging.DEBUG)
    judge = new_judge()
    score(judge)
    assert SECRET not in repr(judge) + str(judge) + caplog.text
