"""`transformers-arm serve` as a process of its own, for whoever measures or tests it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 180  # that it may take to end


@contextmanager
def running_server(log: Path, model: str, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process, and the address that answers, without a path: a port that is free, unless the options name one.

    Args:
        log: file that gets what it says on standard error.

    Raises:
        RuntimeError: it does not come up; with what it said.
    """
    command = [sys.executable, "-m", "transformers_arm", "serve", model, "--port", "0", *options]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        said = process.stdout.readline()  # nothing, if the process ends
        if "answers at" not in said:
            raise RuntimeError(f"The server did not come up: {log.read_text()}")
        yield process, said.split()[-1].removesuffix("/v1")
    finally:
        process.terminate()
        process.wait(SECONDS)
        process.stdout.close()
