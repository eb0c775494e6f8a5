"""How much VLMJudge asks at a time, how often, and at what cost."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from judge_endpoint import GOOD, REWARD, SECRET, asked_of, picture, score, stall

from transformers_arm.rewards.judge import Rubric, VLMJudge
from transformers_arm.rewards.pictures import PictureEncoder


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


def test_a_call_that_is_given_up_leaves_its_judgement_to_others(endpoint, new_judge):
    judge, go_on = new_judge(), threading.Event()

    def slow(handler):
        go_on.wait(10)
        handler.say(GOOD)

    endpoint.script = [slow]
    rows = {"prompts": ["p"], "images": [picture()], "source_images": [[]], "task": ["text_to_image"]}

    async def cancel_the_first():
        first = asyncio.create_task(judge(**rows))
        while not endpoint.payloads:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(judge(**rows))
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.sleep(0.1)
        go_on.set()
        return await second

    assert asyncio.run(cancel_the_first()) == [pytest.approx(REWARD)]
    assert len(endpoint.payloads) == 1


def test_a_call_that_all_give_up_is_asked_anew(endpoint, new_judge):
    judge = new_judge()
    endpoint.script = [stall]
    rows = {"prompts": ["p"], "images": [picture()], "source_images": [[]], "task": ["text_to_image"]}

    async def cancel_and_ask_again():
        first = asyncio.create_task(judge(**rows))
        while not endpoint.payloads:
            await asyncio.sleep(0.01)
        first.cancel()
        return await judge(**rows)

    start = time.monotonic()
    assert asyncio.run(cancel_and_ask_again()) == [pytest.approx(REWARD)]
    assert len(endpoint.payloads) == 2 and time.monotonic() - start < 4


def test_cache_answers_the_second_time_and_another_process(endpoint, new_judge, tmp_path):
    judge = new_judge(cache_dir=tmp_path / "cache")
    assert score(judge, 3) == score(judge, 3) == score(new_judge(cache_dir=str(tmp_path / "cache")), 3)
    assert len(endpoint.payloads) == 3 and judge.cache_hits == 3
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 3 and all(file.suffix == ".json" for file in files)
    assert SECRET not in "".join(file.read_text() for file in files)
    (tmp_path / "plain").touch()
    assert all(file.stat().st_mode == (tmp_path / "plain").stat().st_mode for file in files)  # others may read them


def test_a_hit_encodes_no_picture(endpoint, new_judge, tmp_path):
    class Idle(PictureEncoder):
        def data_url(self, image):
            raise AssertionError("A picture was encoded.")

    assert score(new_judge(cache_dir=tmp_path), 2) == [pytest.approx(REWARD)] * 2
    judge = new_judge(cache_dir=tmp_path)
    judge._encoder = Idle("jpeg", 1024)
    assert score(judge, 2) == [pytest.approx(REWARD)] * 2 and judge.cache_hits == 2 and judge.failures == 0


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"sampling": {"temperature": 1.0}},
        {"image_format": "png"},
        {"max_side": 8},
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
    answers = {"a": GOOD, "b": '{"objects": 4, "attributes": 0, "relations": null}', "c": "?"}
    endpoint.script = [lambda handler: handler.say(answers[asked_of(handler.payload)])] * 3
    judge = new_judge(concurrency=1, retries=0, input_price=1.0)
    metrics = {}
    ignored = {"completions": [""] * 3, "trainer_state": None, "log_extra": None}
    rewards = score(judge, 3, prompts=list(answers), log_metric=metrics.__setitem__, **ignored)
    assert rewards == [pytest.approx(0.8), pytest.approx(0.2), None]
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
