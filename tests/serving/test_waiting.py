"""Jobs leave the line in batches of one key, oldest first, and each event reaches its own reader."""

import asyncio
import threading

import pytest

from transformers_arm.serving.engine import Busy, Closed, Failed, Finished, Text, Usage
from transformers_arm.serving.waiting import Answer, Job, Line

DONE = Finished("stop", Usage())


class Task(Job):
    def __init__(self, key, answer=None):
        super().__init__(answer or Answer())
        self.key = key


def in_loop(function):
    async def run():
        return function()

    return asyncio.run(run())


def entered(line, *jobs):
    for job in jobs:
        line.enter([job])
    return jobs


def finish(line, batch):
    for job in batch:
        job.over = True
    line.done()


def test_the_oldest_leaves_with_those_of_its_key():
    def check():
        line = Line(bound=10, most=2)
        first, other, second, third = entered(line, *map(Task, "abaa"))
        assert line.take() == [first, second] and line.counts == (2, 2)
        finish(line, [first, second])
        assert line.take() == [other]
        finish(line, [other])
        assert line.take() == [third]

    in_loop(check)


def test_no_stream_of_newer_jobs_makes_an_old_one_wait_for_ever():
    def check():
        line = Line(bound=100, most=2)
        entered(line, *map(Task, "aa"))
        (odd,) = entered(line, Task("b"))
        for taken in range(3):
            entered(line, *map(Task, "aa"))
            batch = line.take()
            if batch == [odd]:
                return taken
            finish(line, batch)

    assert in_loop(check) == 1


def test_a_job_that_goes_on_does_so_behind_the_others():
    def check():
        line = Line(bound=10, most=2)
        long, longer, other, last = entered(line, *map(Task, "aabc"))
        assert line.take() == [long, longer]
        line.done()
        assert line.take() == [other]
        finish(line, [other])
        (new,) = entered(line, Task("b"))
        assert line.take() == [last]
        finish(line, [last])
        assert line.take() == [long, longer]
        line.done()
        assert line.take() == [new]

    in_loop(check)


def test_requests_past_the_bound_are_refused_until_there_is_room():
    def check():
        line = Line(bound=2, most=1)
        answer = Answer()
        line.enter([Task("a", answer) for _ in range(10)])  # of one request
        entered(line, Task("a"))
        with pytest.raises(Busy, match="2; try again later") as refused:
            entered(line, Task("a"))
        assert refused.value.retry_after >= 1
        line.take()  # has begun, though not all of it
        with pytest.raises(Busy):
            line.check_room()
        answer.left = True
        line.check_room()
        entered(line, Task("a"))

    in_loop(check)


def test_jobs_nobody_waits_for_leave_the_line():
    async def check():
        line = Line(bound=10, most=4)
        left, stays = entered(line, Task("a"), Task("a"))
        await left.answer.aclose()
        assert line.counts == (1, 0)
        assert line.take() == [stays]

    asyncio.run(check())


def test_a_closed_line_ends_what_waits_at_once_and_what_runs_after_its_batch():
    async def check():
        line = Line(bound=10, most=1)
        running, waiting = entered(line, Task("a"), Task("a"))
        assert line.take() == [running]
        line.close()
        with pytest.raises(Closed):
            await anext(waiting.answer)
        with pytest.raises(Closed):
            line.enter([Task("a")])
        running.answer.put(Text("last"))
        line.done()
        assert await anext(running.answer) == Text("last")
        with pytest.raises(Closed):
            await anext(running.answer)
        assert line.take() == []

    asyncio.run(check())


def test_a_thread_that_takes_wakes_up_when_a_job_comes():
    async def check():
        line, taken = Line(bound=1, most=1), []
        thread = threading.Thread(target=lambda: taken.append(line.take()))
        thread.start()
        (job,) = entered(line, Task("a"))
        await asyncio.to_thread(thread.join, 10)
        assert taken == [[job]]

    asyncio.run(check())


def test_events_of_another_thread_come_in_order_and_end():
    async def check():
        answer = Answer()
        events = [Text("a"), Text("b"), DONE]
        await asyncio.to_thread(lambda: [answer.put(event) for event in events])
        assert [event async for event in answer] == events

    asyncio.run(check())


def test_an_error_is_the_last_event():
    async def check():
        answer = Answer()
        answer.put(Failed("broken"))
        answer.put(Text("more"))
        with pytest.raises(Failed, match="broken"):
            await anext(answer)
        assert [event async for event in answer] == [] and answer.left

    asyncio.run(check())


def test_events_for_a_loop_that_is_closed_are_nobodys():
    answer = in_loop(Answer)
    answer.put(Text("a"))
    assert answer.left
