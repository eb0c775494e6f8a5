"""State that belongs to one event loop, in an object that is used from several."""

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

State = TypeVar("State")


class PerLoop(Generic[State]):
    """What `make` returns, once for each running event loop; that of closed loops is forgotten."""

    def __init__(self, make: Callable[[], State]):
        self._make = make
        self._states: dict[asyncio.AbstractEventLoop, State] = {}
        self._lock = threading.Lock()

    def here(self) -> State:
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._states:
                self._states = {each: state for each, state in self._states.items() if not each.is_closed()}
                self._states[loop] = self._make()
            return self._states[loop]
