"""Files that are whole or not there: written aside, then renamed. Knows nothing about what is in them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def name_aside(file: Path, suffix: str) -> Path:
    """A new name in a file's folder, which listings hide."""
    return file.with_name(f".{file.stem}.{uuid4().hex[:12]}{suffix}")


@contextmanager
def whole_file(file: str | os.PathLike) -> Iterator[Path]:
    """Gives a path to write to, which becomes `file` when all is written; else `file` stays as it was, or away.

    The path lies in the same folder and ends in the same suffix. A link stays one, and what it leads to is replaced.
    What is there and no file, such as /dev/stdout, is written to itself.

    Raises:
        OSError: it cannot be written; says why, and what to do.
    """
    file, target = Path(file), Path(os.path.realpath(file))
    in_place = target.exists() and not target.is_file()
    aside = file if in_place else name_aside(target, file.suffix)
    try:
        yield aside
        if not in_place:
            if target.exists():
                shutil.copymode(target, aside)
            aside.replace(target)
    except OSError as error:
        if error.filename not in (None, aside, str(aside)) or isinstance(error, ConnectionError):  # of something else
            raise
        raise OSError(
            f"{file} cannot be written: {error.strerror or error}. Make room, or name another place."
        ) from error
    finally:
        if not in_place:
            aside.unlink(missing_ok=True)


def write_whole(file: str | os.PathLike, text: str) -> None:
    """Writes a text file, in UTF-8, as `whole_file` does."""
    with whole_file(file) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def provisional(file: str | os.PathLike) -> Iterator[Callable[[], None]]:
    """Meanwhile a file may hold what is not done: in the end it is again as it was before, or away, unless the
    function that this gives has been called.

    Raises:
        ValueError: it is there and no file, such as a pipe, which would keep what it gets.
        OSError: what it holds cannot be copied.
    """
    target, done = Path(os.path.realpath(file)), []
    before, is_new = name_aside(target, target.suffix), not target.exists()
    if not (is_new or target.is_file()):
        raise ValueError(f"{file} is no file, and cannot be again as it was; name another one.")
    try:
        if not is_new:
            with whole_file(before) as copy:  # which is there when it is whole
                shutil.copy2(target, copy)
        yield lambda: done.append(file)
    finally:
        if done:
            before.unlink(missing_ok=True)
        elif before.exists():
            before.replace(target)
        elif is_new:
            target.unlink(missing_ok=True)
