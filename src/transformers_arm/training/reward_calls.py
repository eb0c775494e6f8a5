"""Calls of reward callables that may fail without taking the training along, but never silently.

Knows nothing about models, nor about what a reward means.
"""

import asyncio
import functools
import inspect
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from numbers import Real
from queue import Empty, SimpleQueue
from threading import Thread

import torch

from ..fetching_arm import in_thread
from ..rewards.errors import RewardError

logger = logging.getLogger(__name__)

RECENT_CALLS = 20  # that the share of failures is taken over
FEW_CALLS = 10  # a share of fewer says little, unless it is all of them


class _Late(Exception):
    """A reward did not answer in time."""


def _beside(call: Callable) -> Future:
    """A call in a thread of its own, on the same device."""
    device = torch.accelerator.current_device_index() if torch.accelerator.is_available() else None

    def run():
        if device is not None:
            torch.accelerator.set_device_index(device)
        return call()

    return in_thread(run)


def _called_in_time(call: Callable, timeout: float | None):
    """The result of a call; raises _Late after `timeout` seconds. A thread that hangs is left."""
    if timeout is None:
        return call()
    future = _beside(call)
    if not wait([future], timeout).done:
        raise _Late(f"did not answer within {timeout} s")
    return future.result()


def _is_async(call: Callable) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, _Late) else f"{type(error).__name__}: {error}"


class GuardedReward:
    """A reward callable with a time limit, whose failures are counted, and whose values are checked.

    A call that raises, hangs or returns no list of numbers gives None for every sample; NaN or an infinite value gives
    None for its sample. Each is logged as a warning. A `RewardError` is kept in `stop`, for all processes to raise.
    Keywords that the callable does not take are left out.

    Args:
        reward: takes `prompts`, `images`, ... as keywords and returns a list of float or None. It may have a method
            `start` that takes `prompts`, `images`, `source_images` and `task`; see there.
        timeout: seconds a call may take; None sets no limit. A reward whose `limits_itself` is true has none.

    Raises:
        ValueError: `start` is a coroutine function and the reward is none, or the other way round.
    """

    is_async = False

    def __init__(self, reward: Callable, timeout: float | None = None):
        self.reward, self.timeout = reward, None if getattr(reward, "limits_itself", False) else timeout
        plain = reward
        while isinstance(plain, functools.partial):
            plain = plain.func
        self.__name__ = getattr(plain, "__name__", type(plain).__name__)
        start = getattr(reward, "start", None)
        self._start = start if callable(start) else None  # else it is something of the reward's own
        if self._start is not None and _is_async(start) != self.is_async:
            raise ValueError(
                f"Of reward {self.__name__} either `start` or the call is a coroutine function; make both so, or none."
            )
        self._starts, self._worker, self._began = SimpleQueue(), None, None
        parameters = inspect.signature(reward).parameters.values()
        takes_all = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
        self.keywords = None if takes_all else {parameter.name for parameter in parameters}
        self.failed = self.asked = 0  # samples since `take_counts`; those that it does not apply to are not asked
        self.stop: RewardError | None = None
        self.last_error: str | None = None
        self.recent: deque[tuple[int, int]] = deque(maxlen=RECENT_CALLS)

    def __call__(self, prompts: Sequence[str], **columns) -> list[float | None]:
        with suppress(Empty):  # what is yet to start is asked for now
            while True:
                self._starts.get_nowait()
        try:
            call = functools.partial(self.reward, **self._taken(prompts=prompts, **columns))
            return self._checked(_called_in_time(call, self.timeout), len(prompts))
        except Exception as error:
            return self._failure(error, len(prompts))

    def _taken(self, **columns) -> dict:
        return columns if self.keywords is None else {k: v for k, v in columns.items() if k in self.keywords}

    def start(self, **columns) -> None:
        """Shows the reward some of the pictures that it will be asked for, while others are still drawn: its own
        `start`, if it has one, is called beside the training, one batch after the other, and no more once one exceeds
        the time limit. A failure is only logged: the call is yet to come.
        """
        if self._start is None:
            return
        began = self._began
        if self.timeout is not None and began is not None and time.monotonic() - began > self.timeout:
            return self._not_started(_Late(f"did not end within {self.timeout} s"))
        self._worker = self._worker or _beside(self._work)
        self._starts.put(columns)

    def _work(self) -> None:
        """Starts what is to start, in the one thread for it."""
        while True:
            columns = self._starts.get()
            self._began = time.monotonic()
            try:
                self._start(**columns)
            except Exception as error:
                self._not_started(error)
            self._began = None

    def _not_started(self, error: Exception) -> None:
        logger.warning("Reward %s could not start early: %s", self.__name__, _said(error), exc_info=error)

    def _failure(self, error: Exception, count: int) -> list[None]:
        if isinstance(error, RewardError):
            self.stop = error
        self.failed += count
        self.asked += count
        self.last_error = _said(error)
        said = (self.__name__, self.last_error, count)
        logger.warning("Reward %s: %s; its %d samples go without it.", *said, exc_info=error)
        return [None] * count

    def _checked(self, values, count: int) -> list[float | None]:
        values = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
            got = f"{len(values)} values" if isinstance(values, Sequence) else repr(values)
            raise ValueError(f"returned {got} for {count} samples; return a list of float or None, one a sample.")
        for value in values:
            if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
                raise ValueError(f"returned {value!r}, a {type(value).__name__}; return float or None.")
        checked = [None if value is None or not math.isfinite(value) else float(value) for value in values]
        self.asked += sum(value is not None for value in values)
        if broken := sum(value is not None and kept is None for value, kept in zip(values, checked, strict=True)):
            self.failed += broken
            self.last_error = f"returned NaN or infinity for {broken} of {count} samples"
            logger.warning("Reward %s %s; they go without it.", self.__name__, self.last_error)
        return checked

    def take_counts(self) -> tuple[int, int, int]:
        """Samples that failed and samples asked for since the last call, and whether training has to stop."""
        counts, self.failed, self.asked = (self.failed, self.asked, int(self.stop is not None)), 0, 0
        return counts

    def check_share(self, failed: int, asked: int, limit: float) -> None:
        """Adds the counts of a call on all processes.

        Raises:
            RewardError: more than the share `limit` of the recent calls' samples failed, after ten calls or if nothing
                has ever worked.
        """
        self.recent.append((failed, asked))
        all_failed, all_asked = (sum(counts) for counts in zip(*self.recent, strict=True))
        share = all_failed / max(all_asked, 1)
        if share > limit and (len(self.recent) >= FEW_CALLS or share == 1):
            raise RewardError(
                f"Reward {self.__name__} failed for {share:.0%} of the samples of the last {len(self.recent)} calls, "
                f"more than max_reward_failure_share {limit:.0%}. Last error: "
                f"{self.last_error or 'on another process'}. Mend the reward, or raise the limit."
            )


class AsyncGuardedReward(GuardedReward):
    """The same for a coroutine function, or an object whose `__call__` is one; TRL awaits those together.

    Each runs on an event loop of its own, so that one that blocks holds up neither the others nor its time limit.
    """

    is_async = True

    def __init__(self, reward: Callable, timeout: float | None = None):
        super().__init__(reward, timeout)
        self.loop = asyncio.new_event_loop()
        Thread(target=self.loop.run_forever, daemon=True).start()

    def start(self, **columns) -> None:
        if self._start is not None:
            asyncio.run_coroutine_threadsafe(self._started(columns), self.loop)

    async def _started(self, columns: dict) -> None:
        try:
            await asyncio.wait_for(self._start(**columns), self.timeout)
        except TimeoutError:
            self._not_started(_Late(f"did not end within {self.timeout} s"))
        except Exception as error:
            self._not_started(error)

    async def __call__(self, prompts: Sequence[str], **columns) -> list[float | None]:
        try:
            call = self.reward(**self._taken(prompts=prompts, **columns))
            running = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self.loop))
            done, _ = await asyncio.wait([running], timeout=self.timeout)
            if not done:
                running.cancel()
                raise _Late(f"did not answer within {self.timeout} s")
            return self._checked(running.result(), len(prompts))
        except Exception as error:
            return self._failure(error, len(prompts))
