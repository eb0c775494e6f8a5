"""Files that are whole or not there: written aside, then renamed. Knows nothing about what is in them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


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
    aside = file if in_place else target.with_name(f".{target.stem}.{uuid4().hex[:12]}{file.suffix}")
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
