"""Codes that were made already, so that a picture is encoded once, however many rows name it and by whatever names.

    codes = PictureCodes(output / ".pictures.sqlite")
    grids = codes.of(pictures, encode)

A picture is known by the pixels that the tokenizer is given. The file is shared by the workers of a run and outlives a
kill; it is as large as what is written. Knows nothing about rows.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ..modeling_arm_vq import encoded_by_size

SECONDS = 600.0  # that a worker waits for the others to write


def known_by(picture: torch.Tensor) -> bytes:
    """What tells pixels [3, H, W] from any others."""
    content = picture.contiguous().numpy()
    return hashlib.sha256(str((content.shape, content.dtype)).encode() + content.tobytes()).digest()


class PictureCodes:
    """Codes by picture, in an SQLite file.

    Args:
        file: made if it is not there.
    """

    def __init__(self, file: Path):
        # Each statement is a transaction of its own: none waits for another while it holds what that one wants.
        self.database = sqlite3.connect(file, timeout=SECONDS, isolation_level=None)
        columns = "picture BLOB PRIMARY KEY, height INTEGER, width INTEGER, codes BLOB"
        self.database.execute(f"CREATE TABLE IF NOT EXISTS pictures ({columns}) WITHOUT ROWID")

    def __len__(self) -> int:
        """How many different pictures were encoded."""
        return self.database.execute("SELECT COUNT(*) FROM pictures").fetchone()[0]

    def of(self, pictures: Sequence[torch.Tensor], encode: Callable[[list], list[dict]]) -> list[dict]:
        """Pictures [3, H, W] -> their `codes`, `height` and `width`, in their order; those not known are encoded.

        Args:
            encode: pictures of one size -> what is returned of each, the codes uint16 [h * w].
        """
        keys = list(map(known_by, pictures))
        known = dict(self._known(set(keys)))
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in known}
        if new:
            grids = encoded_by_size(list(new.values()), encode)
            rows = [
                (key, grid["height"], grid["width"], grid["codes"].tobytes())
                for key, grid in zip(new, grids, strict=True)
            ]
            self.database.execute("BEGIN IMMEDIATE")
            self.database.executemany("INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?)", rows)
            self.database.execute("COMMIT")
            known |= self._known(new)  # another worker may have been first
        return [known[key] for key in keys]

    def _known(self, keys) -> Iterator[tuple[bytes, dict]]:
        for key in keys:
            found = self.database.execute("SELECT height, width, codes FROM pictures WHERE picture = ?", (key,))
            for height, width, codes in found:
                yield key, {"codes": np.frombuffer(codes, np.uint16), "height": height, "width": width}

    def close(self) -> None:
        self.database.close()
