"""Rewards: what they get, how they are weighed, and what becomes of bad ones."""

import asyncio
import json
import math
import threading
import time

import numpy as np
import pytest
import torch
from datasets import Value
from grpo_requests import MIXED, SCENE, brightness, dataset_of, logged, rollout
from judge_endpoint import REWARD, serving
from PIL import Image as PILImage
from trl import GRPOTrainer
from trl.rewards import get_soft_overlong_punishment

from transformers_arm.rewards import RewardError, VLMJudge
from transformers_arm.training.reward_calls import AsyncGuardedReward, GuardedReward


def test_rewards_get_pictures_and_every_column(train):
    seen = {}

    def reward(prompts, images, source_images, completion_ids, task, note, completions, trainer_state):
        seen.update(locals())
        return brightness(images)

    rows = [{"note": str(index), **row} for index, row in enumerate(MIXED)]
    rollout(train(reward, dataset=dataset_of(rows, note=Value("string")), max_steps=0))
    assert seen["prompts"][::4] == [row["prompt"] for row in MIXED]
    assert all(isinstance(image, PILImage.Image) for image in seen["images"])
    assert [len(images) for images in seen["source_images"][::4]] == [0, 1, 0, 1]
    assert np.array_equal(np.asarray(seen["source_images"][4][0]), np.asarray(SCENE))
    assert seen["task"][::4] == ["text_to_image", "editing"] * 2
    assert seen["note"][::4] == ["0", "1", "2", "3"]


def test_pictures_are_decoded_once_however_many_rewards_look(train, monkeypatch):
    def again(images, **_):
        return brightness(images)

    trainer = train([brightness, again], max_steps=0, decode_batch_size=3)
    sizes = []
    decode = trainer.detokenizer.__class__.__call__

    def counting(self, z_q, **kwargs):
        sizes.append(len(z_q))
        return decode(self, z_q, **kwargs)

    monkeypatch.setattr(trainer.detokenizer.__class__, "__call__", counting)
    rollout(trainer)
    assert sum(sizes) == 16 and max(sizes) == 3


def test_weights_of_the_rewards_that_answered_are_renormalised(train):
    def first(prompts, **_):
        return [1.0, 2.0, 3.0, 4.0] * (len(prompts) // 4)

    def second(prompts, task, **_):
        return [
            None if each == "text_to_image" else value
            for each, value in zip(task, [8.0, 6.0, 4.0, 2.0] * 4, strict=True)
        ]

    def third(prompts, **_):  # applies to two of each group
        return [None, None, 1.0, 1.0] * (len(prompts) // 4)

    trainer = train(
        [first, second, third], max_steps=0, reward_weights=[1.0, 2.0, -1.0], scale_rewards="none", beta=0.0
    )
    advantages = rollout(trainer)["advantages"]
    text = torch.tensor([1 * 4.0, 2 * 4.0, (3 - 1) * 2.0, (4 - 1) * 2.0])  # of 4 in all, 1 or 2 answered
    edit = torch.tensor([(1 + 16) * 4 / 3, (2 + 12) * 4 / 3, 3 + 8 - 1, 4 + 4 - 1.0])
    torch.testing.assert_close(advantages[:4], text - text.mean())
    torch.testing.assert_close(advantages[4:8], edit - edit.mean())
    assert trainer._metrics["train"]["rewards/first/mean"][-1] == 2.5
    assert trainer._metrics["train"]["rewards/second/mean"][-1] == 5.0
    assert trainer._metrics["train"]["rewards/text_to_image/first"][-1] == 2.5


def test_samples_that_no_reward_judged_move_nothing(train):
    def some(prompts, **_):
        return [None, 1.0, 0.0, None] * (len(prompts) // 4)

    def watched(prompts, **_):  # answers always, and weighs nothing
        return [0.5] * len(prompts)

    for rewards, weights in (([some], [1.0]), ([some, watched], [1.0, 0.0])):
        trainer = train(rewards, max_steps=0, scale_rewards="none", reward_weights=weights)
        assert rollout(trainer)["advantages"][:4].tolist() == [0.0, 0.5, -0.5, 0.0]


def test_a_stock_trl_reward_works(train):
    trainer = train([brightness, get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=2)])
    assert logged(trainer, "rewards/soft_overlong_punishment_reward/mean") == [-0.5, -0.5]  # 9 of 8 to 10 tokens


def test_async_rewards_are_awaited_together(train):
    class Slow:
        async def __call__(self, images, **_):
            await asyncio.sleep(0.5)
            return brightness(images)

    async def slow(images):
        await asyncio.sleep(0.5)
        return brightness(images)

    trainer = train([Slow(), slow], max_steps=0)
    start = time.perf_counter()
    rows = [{"images": SCENE}] * 4
    rewards = GRPOTrainer._calculate_rewards(trainer, rows, ["a"] * 4, [""] * 4, [[1]] * 4)
    assert rewards.shape == (4, 2) and not rewards.isnan().any()
    assert time.perf_counter() - start < 0.9
    assert trainer.reward_func_names == ["Slow", "slow"]


class Early:
    """Judges by brightness, and notes when it sees each picture first."""

    def __init__(self):
        self.seen, self.early, self.called = {}, [], None

    def look(self, image):
        self.seen.setdefault(image.tobytes(), time.perf_counter())
        return brightness([image])[0]

    async def start(self, prompts, images, source_images, task):
        assert [bool(sources) for sources in source_images] == [each == "editing" for each in task]
        self.early += [self.look(image) for image in images]

    async def __call__(self, images, **_):
        self.called = time.perf_counter()
        return [self.look(image) for image in images]


class EarlyOnAThread(Early):
    def start(self, prompts, images, source_images, task):
        self.early += [self.look(image) for image in images]

    def __call__(self, images, **_):
        self.called = time.perf_counter()
        return [self.look(image) for image in images]


@pytest.mark.parametrize("kind", [Early, EarlyOnAThread])
def test_a_reward_may_start_while_later_pictures_are_drawn(train, kind):
    reward, drawn = kind(), []
    trainer = train(reward, max_steps=0, decode_batch_size=1)
    render = trainer._render

    def noting(requests):
        render(requests)
        drawn.append(time.perf_counter())

    trainer._render = noting
    rollout(trainer)
    first = min(reward.seen.values())
    assert len(drawn) == 16 and drawn[0] < first < drawn[-1] <= reward.called
    assert len(reward.early) > 1  # the call does not wait for those that are yet to start
    plain = train(brightness, max_steps=0, decode_batch_size=1)
    rollout(plain)
    assert torch.equal(plain._rewards, trainer._rewards)


def test_a_judge_begins_while_later_pictures_are_drawn_and_is_asked_once_of_each(train):
    with serving() as endpoint:
        judge = VLMJudge("judge-model", endpoint.url, api_key="none")
        rows = [{"prompt": f"a red circle {number}"} for number in range(4)]
        trainer = train(judge, rows, max_steps=0, decode_batch_size=1)
        render, drawn = trainer._render, []

        def noting(requests):
            render(requests)
            drawn.append(time.monotonic())

        trainer._render = noting
        rollout(trainer)
    assert drawn[0] < endpoint.times[0] < drawn[-1]
    assert len(endpoint.times) == judge.requests == len({json.dumps(payload) for payload in endpoint.payloads})
    assert judge.requests + judge.cache_hits == len(drawn) and not judge.failures
    assert trainer._rewards.flatten().tolist() == pytest.approx([REWARD] * len(drawn))


def test_a_start_that_fails_or_hangs_takes_nothing_along(train, caplog):
    class Failing:
        async def start(self, prompts, **_):
            if len(prompts) == 1:
                raise OSError("no judge yet")
            await asyncio.sleep(30)

        async def __call__(self, images, **_):
            await asyncio.sleep(0.5)
            return brightness(images)

    class FailingOnAThread:
        def start(self, images, **_):
            raise OSError("no disk yet")

        def __call__(self, images, **_):
            return brightness(images)

    trainer = train([Failing(), FailingOnAThread()], max_steps=1, decode_batch_size=7, reward_timeout=0.9)
    assert logged(trainer, "rewards/Failing/failed") == logged(trainer, "rewards/FailingOnAThread/failed") == [0.0]
    assert "Reward Failing could not start early: OSError: no judge yet" in caplog.text
    assert "Reward FailingOnAThread could not start early: OSError: no disk yet" in caplog.text
    time.sleep(0.5)
    assert "Reward Failing could not start early: did not end within 0.9 s" in caplog.text


def test_starts_that_hang_leave_one_thread(caplog):
    class Hanging:
        def start(self, **_):
            time.sleep(5)

        def __call__(self, images, **_):
            return brightness(images)

    reward, before = GuardedReward(Hanging(), 0.1), threading.active_count()
    for _ in range(50):
        reward.start(prompts=["a"])
        time.sleep(0.005)
    assert threading.active_count() == before + 1
    assert "Reward Hanging could not start early: did not end within 0.1 s" in caplog.text
    assert reward(["a"], images=[SCENE]) == pytest.approx(brightness([SCENE]))


class Timed:
    """Has a `start` that is none of the trainer's."""

    start = 3.0

    def __call__(self, images, **_):
        return brightness(images)


def test_a_start_that_is_no_function_is_left_alone(caplog):
    GuardedReward(Timed(), 1).start(prompts=["a"])
    assert "could not start early" not in caplog.text


@pytest.mark.parametrize(("guard", "kind"), [(GuardedReward, Timed), (AsyncGuardedReward, Early)])
def test_a_start_of_another_kind_than_its_reward_is_refused(guard, kind):
    class Mixed(kind):
        pass

    Mixed.start = EarlyOnAThread.start if kind is Early else Early.start
    with pytest.raises(ValueError, match="Of reward Mixed either `start` or the call is a coroutine function"):
        guard(Mixed())


def raises(**_):
    raise KeyError("no such thing")


def hangs(**_):
    time.sleep(30)


async def hangs_async(**_):
    await asyncio.sleep(30)


async def blocks(**_):
    time.sleep(30)


def stops(**_):
    raise RewardError("the budget is spent")


def stops_late(**_):
    raise TimeoutError("the judge is asleep")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (raises, "Reward raises failed for 100% .*KeyError: 'no such thing'"),
        (lambda prompts, **_: [1.0], "returned 1 values for 8 samples; return a list of float or None, one a sample"),
        (lambda prompts, **_: None, "returned None for 8 samples"),
        (lambda prompts, **_: ["good"] * len(prompts), "returned 'good', a str; return float or None"),
        (lambda prompts, **_: [math.nan] * len(prompts), "returned NaN or infinity for 8 of 8 samples"),
        (hangs, "Reward hangs failed .*did not answer within 0.2 s"),
        (hangs_async, "Reward hangs_async failed .*did not answer within 0.2 s"),
        (blocks, "Reward blocks failed .*did not answer within 0.2 s"),
        (stops, "^the budget is spent$"),
        (stops_late, "Last error: TimeoutError: the judge is asleep"),
    ],
    ids=["raises", "too-few", "none", "text", "nan", "hangs", "hangs-async", "blocks-async", "stops", "times-out"],
)
def test_a_broken_reward_stops_training_by_name(train, reward, message):
    with pytest.raises(RewardError, match=message):
        train([brightness, reward], reward_timeout=0.2)


def test_a_reward_that_limits_itself_has_no_other_limit(train):
    class Judge:
        limits_itself = True

        async def __call__(self, images, **_):
            await asyncio.sleep(0.4)
            return brightness(images)

    trainer = train(Judge(), reward_timeout=0.1, max_steps=1)
    assert logged(trainer, "rewards/Judge/failed") == [0.0]


def test_samples_that_a_reward_does_not_apply_to_hide_no_failure(train):
    def edits_only(task, **_):
        return [math.nan if each == "editing" else None for each in task]

    with pytest.raises(RewardError, match="edits_only failed for 100%"):
        train([brightness, edits_only])


def test_rare_failures_are_borne_logged_and_counted(train, caplog):
    calls = []

    def flaky(images, **_):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the judge is out")
        return [math.inf, *brightness(images)[1:]]

    trainer = train([brightness, flaky], max_steps=3)
    assert logged(trainer, "rewards/flaky/failed") == [0.125, 1.0, 0.125]
    with pytest.raises(RewardError, match="flaky failed for .* of the samples of the last 10 calls"):
        train([brightness, flaky], max_steps=12)
    assert "Reward flaky: OSError: the judge is out; its 8 samples go without it." in caplog.text
    assert "Reward flaky returned NaN or infinity for 1 of 8 samples" in caplog.text
    assert all(math.isfinite(value) for value in logged(trainer, "loss"))


def test_groups_of_equal_rewards_are_logged_and_move_nothing(train, caplog):
    trainer = train(lambda prompts, **_: [1.0] * len(prompts), beta=0.0, max_steps=1)
    assert logged(trainer, "frac_reward_zero_std") == [1.0]
    assert logged(trainer, "grad_norm") == [0.0]
    assert "there is nothing to learn from" in caplog.text
