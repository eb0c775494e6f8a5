"""Work in progress on one event loop: equal requests share it, and it can begin before anybody waits for it.

Knows nothing about what the work is.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


class Work:
    """A task under a key, and who waits for it."""

    def __init__(self, key: str):
        self.key = key
        self.task: asyncio.Task
        self.is_claimed = False  # a call has asked for it
        self.waiting = 0


class InFlight:
    """Works by key. One that is claimed leaves when it is done, another one when it is claimed or dropped."""

    def __init__(self):
        self._works: dict[str, Work] = {}
        self._beginning: set[asyncio.Future] = set()

    def begin(self, work: Work, run: Callable[[], Awaitable]) -> Work:
        """The work in flight under the same key, or else this one, begun."""
        if work.key in self._works:
            return self._works[work.key]
        self._works[work.key] = work
        work.task = asyncio.ensure_future(run())
        work.task.add_done_callback(lambda _: work.is_claimed and self._forget(work))
        return work

    def claim(self, work: Work) -> bool:
        """Whether a call is the first that asks for this work."""
        is_first, work.is_claimed = not work.is_claimed, True
        if work.task.done():
            self._forget(work)
        return is_first

    async def result(self, work: Work):
        """What a claimed work comes to. It is cancelled if all who wait for it are."""
        work.waiting += 1
        try:
            await asyncio.wait([work.task])
        finally:
            work.waiting -= 1
            if not work.waiting:
                self._cancel(work)
        return work.task.result()

    def unclaimed(self) -> list[Work]:
        return [work for work in self._works.values() if not work.is_claimed]

    def drop(self, works: list[Work]) -> None:
        """Gives up those of the works that are still unclaimed."""
        for work in works:
            if not work.is_claimed:
                self._cancel(work)

    @asynccontextmanager
    async def beginning(self) -> AsyncIterator[None]:
        """Around the preparation of works: `begun` waits for it."""
        future = asyncio.get_running_loop().create_future()
        self._beginning.add(future)
        try:
            yield
        finally:
            self._beginning.discard(future)
            future.cancel()

    async def begun(self) -> None:
        if self._beginning:
            await asyncio.wait(set(self._beginning))

    def _cancel(self, work: Work) -> None:
        self._forget(work)
        work.task.cancel()  # nothing happens where it is done

    def _forget(self, work: Work) -> None:
        if self._works.get(work.key) is work:
            del self._works[work.key]
