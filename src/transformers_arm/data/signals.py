"""Signals while processes are started, and while they read. Knows nothing about what the processes do."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def starting_processes() -> Iterator[None]:
    """Has Ctrl-C and SIGTERM wait meanwhile; Ctrl-C passes by the processes that are started: it is their parent's.

    A process that is only half started when its parent leaves would complain. Where a signal ends this process at
    once, it still does.
    """
    arrived, handlers, mask = [], {}, None
    if threading.current_thread() is threading.main_thread():  # no other runs handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, lambda number, frame: arrived.append(number))
    if hasattr(signal, "pthread_sigmask"):  # which children inherit
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in arrived:
        signal.raise_signal(number)


def outlive_one_sigterm() -> None:
    """Has a process that reads for its parent pass over the first SIGTERM, and end at the second.

    A scheduler sends the first to all, and the parent still needs its rows to end well; the second is the parent's.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))
