"""Judgements that begin while later pictures are still drawn: what a call takes over from them and what not."""

import asyncio
import gc
import time
import weakref

import pytest
from judge_endpoint import GOOD, REWARD, asked_of, picture, score, stall

from transformers_arm.rewards.pictures import PictureEncoder
from transformers_arm.training.reward_calls import AsyncGuardedReward

POOR = '{"objects": 1, "attributes": 2, "relations": 3}'
ANSWERS = {"good": GOOD, "poor": POOR}


def rows_of(*prompts, first=0):
    """A picture of its own for each prompt."""
    images = [picture(first + place) for place, _ in enumerate(prompts)]
    count = len(prompts)
    columns = {"prompts": list(prompts), "images": images, "source_images": [[]] * count}
    return {**columns, "task": ["text_to_image"] * count, "name": [None] * count}


def part(rows, *places):
    return {name: [values[place] for place in places] for name, values in rows.items()}


def after(seconds):
    """An answer by the prompt's first word, some time later."""

    def answer(handler):
        time.sleep(seconds)
        handler.say(ANSWERS[asked_of(handler.payload).split()[0]])

    return answer


def test_judging_overlaps_with_drawing_and_changes_nothing_else(endpoint, new_judge):
    rows = rows_of("good a", "poor b", "good c", "poor d")
    metrics, seconds, rewards, criteria = [{}, {}], [], [], []

    async def draw_and_judge(judge, overlapped):
        for place in range(4):
            await asyncio.sleep(0.25)  # a picture is drawn
            if overlapped:
                await judge.start(**part(rows, place))
        return await judge(**rows, log_metric=metrics[overlapped].__setitem__)

    for overlapped in (False, True):
        endpoint.script = [after(0.25)] * 4
        judge = new_judge(concurrency=1, input_price=2.0, output_price=1.0)
        start = time.monotonic()
        rewards.append(asyncio.run(draw_and_judge(judge, overlapped)))
        seconds.append(time.monotonic() - start)
        criteria.append(judge.criteria_scores)
        assert (judge.requests, judge.cache_hits, judge.failures) == (4, 0, 0)
        assert judge.cost == pytest.approx(4 * (1000 * 2.0 + 20) / 1e6)
    assert rewards[0] == rewards[1] == [pytest.approx(value) for value in (0.8, 0.2, 0.8, 0.2)]
    assert criteria[0] == criteria[1] and metrics[0] == metrics[1]
    assert metrics[1]["judge_judge-model/cost"] == pytest.approx(4 * (1000 * 2.0 + 20) / 1e6)
    assert len(endpoint.payloads) == 8
    assert seconds[1] < seconds[0] - 0.3, seconds  # of the 0.75 s that can overlap


def test_each_call_pays_for_what_it_collects(endpoint, new_judge, tmp_path):
    judge = new_judge(input_price=1.0, cache_dir=tmp_path)
    rows = rows_of("good a", "good b", "good c")
    metrics = [{}, {}]

    async def two_calls():
        await judge.start(**part(rows, 0, 1))
        await judge(**part(rows, 0, 0, 1), log_metric=metrics[0].__setitem__)
        await judge.start(**part(rows, 0, 2))  # the first is in the cache by now
        await judge(**part(rows, 0, 2), log_metric=metrics[1].__setitem__)

    asyncio.run(two_calls())
    assert [each["judge_judge-model/cost"] for each in metrics] == [pytest.approx(0.002), pytest.approx(0.001)]
    assert [each["judge_judge-model/cache_hits"] for each in metrics] == [1.0, 1.0]
    assert judge.requests == 3 and judge.cost == pytest.approx(0.003)


def test_a_call_that_comes_while_pictures_are_read_joins_too(endpoint, new_judge):
    judge = new_judge()
    rows = rows_of("good a", "good b")

    async def at_once():
        started = asyncio.create_task(judge.start(**rows))
        await asyncio.sleep(0)
        rewards = await judge(**rows)
        await started
        return rewards

    assert asyncio.run(at_once()) == [pytest.approx(REWARD)] * 2
    assert judge.requests == 2 and judge.cache_hits == 0


def test_a_start_that_reads_slowly_asks_nothing_twice(endpoint, new_judge):
    class SlowAtFirst(PictureEncoder):
        pauses = [0.5]

        def name(self, image):
            time.sleep(self.pauses.pop() if self.pauses else 0)
            return super().name(image)

    judge = new_judge()
    judge._encoder = SlowAtFirst("jpeg", 1024)
    rows = rows_of("good a")

    async def at_once():
        started = asyncio.create_task(judge.start(**rows))
        await asyncio.sleep(0.1)
        rewards = await judge(**rows)
        await started
        await asyncio.sleep(0.2)
        return rewards

    assert asyncio.run(at_once()) == [pytest.approx(REWARD)]
    assert judge.requests == len(endpoint.payloads) == 1


def test_what_nobody_collects_is_given_up_with_the_next_call(endpoint, new_judge):
    judge = new_judge()
    rows = rows_of("good a", "good b", "good c")
    kept = [weakref.ref(image) for image in rows["images"]]

    async def calls():
        nonlocal rows
        await judge.start(**part(rows, 0))
        while not endpoint.payloads or endpoint.in_flight:
            await asyncio.sleep(0.01)
        endpoint.script = [stall]
        await judge.start(**part(rows, 1))
        while len(endpoint.payloads) < 2:
            await asyncio.sleep(0.01)
        await judge(**part(rows, 2))  # neither of those
        while len(asyncio.all_tasks()) > 1:  # the one that was running ends
            await asyncio.sleep(0.01)
        rewards = await judge(**part(rows, 0))
        rows = None
        gc.collect()
        return rewards

    start = time.monotonic()
    assert asyncio.run(calls()) == [pytest.approx(REWARD)]
    assert judge.requests == 4 and time.monotonic() - start < 4
    assert [image() for image in kept] == [None] * 3


def test_failures_are_the_call_s_to_report(endpoint, new_judge, caplog):
    judge = new_judge(retries=0)
    rows = rows_of("good a", "good b", "good c")

    async def failing():
        endpoint.script = ["?"]
        await judge.start(**part(rows, 0))
        while not endpoint.payloads or endpoint.in_flight:
            await asyncio.sleep(0.01)
        rows["images"][2] = None  # no picture at all
        await judge.start(**part(rows, 1, 2))
        await judge.start(**{**rows, "prompts": ["too few"]})
        await judge.start(**{**part(rows, 0), "task": ["editing"]})  # without a source
        await judge.start(**{**part(rows, 0), "task": ["video"]})  # another's
        assert judge.failures == 0
        return await judge(**rows)

    assert asyncio.run(failing()) == [None, pytest.approx(REWARD), None]
    assert judge.failures == 2 and judge.requests == 2
    assert caplog.text.count("gave no scores") == 2 and "never retrieved" not in caplog.text


def test_a_loop_that_ends_takes_its_judgements_along(endpoint, new_judge, caplog):
    judge = new_judge()
    rows = rows_of("good a")
    endpoint.script = [stall]

    async def start_only():
        await judge.start(**rows)
        while not endpoint.payloads:
            await asyncio.sleep(0.01)

    asyncio.run(start_only())
    assert asyncio.run(judge(**rows)) == [pytest.approx(REWARD)]
    assert len(endpoint.payloads) == 2 and "never retrieved" not in caplog.text


def test_an_edit_is_started_with_its_source(endpoint, new_judge):
    endpoint.script = ['{"instruction": 4, "preservation": 9, "quality": 9}']
    judge = new_judge()
    rows = {"prompts": ["e"], "images": [picture(0)], "source_images": [[picture(1)]], "task": ["editing"]}

    async def edits():
        await judge.start(**rows)
        return await judge(**rows)

    assert asyncio.run(edits()) == [pytest.approx(0.6)] and judge.requests == 1


def test_on_the_loop_that_guarded_rewards_have(endpoint, new_judge):
    judge = new_judge()
    guarded = AsyncGuardedReward(judge)
    rows = rows_of("good a", "poor b")
    endpoint.script = [after(0)] * 2
    started = asyncio.run_coroutine_threadsafe(judge.start(**part(rows, 0)), guarded.loop)
    assert asyncio.run(guarded(**rows)) == [pytest.approx(0.8), pytest.approx(0.2)]
    assert started.result(5) is None and judge.requests == 2 and judge.cache_hits == 0
    assert score(judge) == [pytest.approx(REWARD)]  # on another loop
