"""What a command owes the shell that runs it: errors in a line, exit statuses, quiet ends of pipes and of Ctrl-C.

Knows nothing about what the command does.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from ..extras import MissingExtra

ERRORS = (ValueError, OSError, MemoryError, MissingExtra)  # what is told in a line; anything else is a bug
IMPORTED_ERRORS = (  # and these, by their modules: who raised one has imported it
    ("torch", "OutOfMemoryError"),
    ("safetensors", "SafetensorError"),
    ("transformers_arm.rewards.errors", "RewardError"),
)
TRACEBACK = "TRANSFORMERS_ARM_TRACEBACK"
STATUSES = f"""\
exit status: 0 done, 1 an error, told in a line, 2 wrong usage, 130 interrupted, 141 nobody reads the output any more,
143 terminated. With {TRACEBACK}=1 in the environment, an error shows where it came from."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends work as Ctrl-C does: what is begun is cleaned up."""


def _terminate(number: int, frame) -> None:
    raise Terminated


def told_errors() -> tuple[type[Exception], ...]:
    """Kinds of exceptions that are told in a line."""
    if os.environ.get(TRACEBACK):
        return ()
    return (*ERRORS, *(getattr(sys.modules[name], kind) for name, kind in IMPORTED_ERRORS if name in sys.modules))


class Printed:
    """Standard output or error, which remembers why it could not be written: argparse keeps that to itself, and a pipe
    may be another.
    """

    def __init__(self, stream):
        self.stream, self.error = stream, None

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def _try(self, method: Callable, *arguments):
        try:
            return method(*arguments)
        except OSError as error:
            self.error = self.error or error
            raise

    def write(self, text: str) -> int:
        return self._try(self.stream.write, text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def close_if_broken(self) -> OSError | None:
        """Writes out what is left; what was wrong with that or before, after which Python tries no more at its end."""
        with suppress(OSError):
            self.flush()
        if self.error is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return self.error


class Shell:
    """A context in which a command runs: it tells what is raised there, and has a status for it.

    SystemExit passes, and so does what is no expected error: its traceback is what a report of a bug needs.

    Args:
        name: of the command.

    Attributes:
        status: to exit with.
    """

    def __init__(self, name: str):
        self.name, self.status, self.kept = name, 0, None
        self._handlers, self._out, self._err = {}, None, None

    def __enter__(self) -> "Shell":
        if sys.stdout is not None:
            sys.stdout = self._out = Printed(sys.stdout)
        if sys.stderr is not None:
            sys.stderr = self._err = Printed(sys.stderr)
        # Whoever ignores a signal, or has a handler for it, keeps that. A process of several would wait for the others
        # and run no handler of Python's: SIGTERM ends it as it is.
        usual = {signal.SIGINT: signal.default_int_handler}
        if "LOCAL_RANK" not in os.environ:
            usual[signal.SIGTERM] = signal.SIG_DFL
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: each for number, each in usual.items() if signal.getsignal(number) is each}
        for number in self._handlers:
            signal.signal(number, self._leave)
        return self

    def _leave(self, number: int, frame) -> None:
        """Ends the process before anything is begun: what is imported then takes an exception for the end of C++."""
        with suppress(OSError):
            os.write(2, f"{self.name}: {self._interrupted}\n".encode())
        os._exit(128 + number)

    @property
    def _interrupted(self) -> str:
        return f"interrupted; {self.kept}." if self.kept else "interrupted."

    def begin(self, kept: str | None = None) -> None:
        """From now on there is work, which an interruption ends by an exception.

        Args:
            kept: what remains of it, in words, if anything does.
        """
        self.kept = kept
        raising = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _terminate}
        for number in self._handlers:
            signal.signal(number, raising[number])

    def __exit__(self, kind, error: BaseException | None, trace: TracebackType | None) -> bool:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        unwritten = self._out and self._out.close_if_broken()
        unread = self._err and self._err.close_if_broken()  # nor can it be told what went wrong
        sys.stdout, sys.stderr = self._out and self._out.stream, self._err and self._err.stream
        if unwritten is None or not (error in (None, unwritten) or isinstance(error, SystemExit)):
            unwritten = unread if isinstance(error, told_errors()) else None
        if isinstance(unwritten, BrokenPipeError):
            self.status = 128 + 13  # SIGPIPE, which Python ignores; Windows has no name for it
        elif unwritten is not None:
            self._tell(f"what was printed cannot be written: {unwritten.strerror}.", 1)
        elif isinstance(error, KeyboardInterrupt):
            self._tell(self._interrupted, 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT))
        elif isinstance(error, told_errors()):
            self._tell(str(error), 1)
        return self.status != 0

    def _tell(self, what: str, status: int) -> None:
        self.status = status
        if "tqdm" in sys.modules:  # a bar that is left open would be drawn once more below
            for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
                with suppress(Exception):  # it may have been interrupted while it was made
                    bar.close()
        with suppress(OSError):  # nobody may be reading
            if sys.stderr is not None:
                print(f"{self.name}: {what}", file=sys.stderr)
