"""Requests on their way through an engine of one thread: they wait in a line, are taken out in batches, and their
events reach whoever asked, in the loop where that was.

Knows nothing about what is done with them.
"""

import asyncio
import math
import threading
import time
from collections.abc import Hashable, Sequence

from .engine import Busy, Closed, EngineError, Event, Finished

SHUTTING_DOWN = "This is shutting down; try again later."


class Answer:
    """The `Events` of one request. Made in the event loop that will read them; any thread may `put` them.

    `left` says that nobody reads them any more.
    """

    def __init__(self):
        self.left = False
        self._loop, self._events, self._over = asyncio.get_running_loop(), asyncio.Queue(), False

    def put(self, event: Event | EngineError) -> None:
        """Hands on an event, or an error, after which there are no more."""
        if self.left:
            return
        self.left = isinstance(event, EngineError)
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed
            self.left = True

    def __aiter__(self) -> "Answer":
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        event = await self._events.get()
        self._over = isinstance(event, (Finished, EngineError))
        if isinstance(event, EngineError):
            raise event
        return event

    async def aclose(self) -> None:
        self.left = self._over = True


class Job:
    """What is done in one go, alone or in a batch: a picture, or an answer as far as its next picture.

    Args:
        answer: where its events go.

    Attributes:
        key: jobs of one key can be done together.
        over: whether there is nothing left to do; else it goes on, behind those that wait.
        begun: whether it has been taken out before.
    """

    key: Hashable
    over = begun = False

    def __init__(self, answer: Answer):
        self.answer = answer

    @property
    def wanted(self) -> bool:
        return not (self.over or self.answer.left)


class Line:
    """Jobs in the order in which they came. The first is always in the next batch, and one that goes on after its
    batch is the last again, so that none waits for ever, nor for the end of a long one.

    Args:
        bound: requests of which no job has begun; more are refused.
        most: jobs in a batch.
    """

    def __init__(self, bound: int, most: int):
        self.bound, self.most = bound, most
        self._jobs, self._running, self._closed = [], [], False
        self._changed = threading.Condition()
        self._seconds = 0.0  # a batch takes, lately

    def check_room(self) -> None:
        """Raises Busy if a request would be refused, or Closed."""
        with self._changed:
            self._check_room()

    def _check_room(self) -> None:
        if self._closed:
            raise Closed(SHUTTING_DOWN)
        self._jobs = [job for job in self._jobs if job.wanted]
        if len({job.answer for job in self._jobs if not job.begun}) >= self.bound:
            batches = math.ceil(len(self._jobs) / self.most)
            raise Busy(
                f"As many requests wait as may, {self.bound}; try again later.",
                retry_after=max(1, math.ceil(batches * self._seconds)),
            )

    def enter(self, jobs: Sequence[Job]) -> None:
        """Puts the jobs of a request at the end of the line; raises as `check_room`."""
        with self._changed:
            self._check_room()
            self._jobs += jobs
            self._changed.notify()

    def take(self) -> list[Job]:
        """Waits for jobs: the first, and others of its key; an empty list once the line is closed."""
        with self._changed:
            while not self._closed:
                self._jobs = [job for job in self._jobs if job.wanted]
                if self._jobs:
                    key = self._jobs[0].key
                    self._running = [job for job in self._jobs if job.key == key][: self.most]
                    for job in self._running:
                        job.begun = True
                    self._began = time.monotonic()
                    return self._running
                self._changed.wait()
            return []

    def done(self) -> None:
        """Says that the batch that was taken is done, as far as it went; what is not over waits again."""
        with self._changed:
            took = time.monotonic() - self._began
            self._seconds = took if not self._seconds else 0.8 * self._seconds + 0.2 * took
            others = [job for job in self._jobs if job not in self._running]
            self._jobs = [*others, *(job for job in self._running if job.wanted)]
            self._running = []
        if self._closed:
            self.close()

    def close(self) -> None:
        """Refuses further requests, and ends those that wait; what runs, when its batch is done."""
        with self._changed:
            self._closed = True
            ended = [job for job in self._jobs if job not in self._running]
            self._jobs = self._running
            self._changed.notify_all()
        for job in ended:
            if job.wanted:
                job.answer.put(Closed(SHUTTING_DOWN))

    @property
    def counts(self) -> tuple[int, int]:
        """Jobs that wait and that run."""
        with self._changed:
            waiting = [job for job in self._jobs if job.wanted and job not in self._running]
            return len(waiting), len(self._running)
