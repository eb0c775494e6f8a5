"""Scores in a folder, by request. Knows nothing about how they come about."""

import json
import logging
import os
from pathlib import Path

from ..whole_files import write_whole
from .rubrics import Rubric, Scores

logger = logging.getLogger(__name__)


class ScoreCache:
    """A file a request. Safe to share between processes. Without a folder it keeps nothing."""

    def __init__(self, folder: str | os.PathLike | None):
        self.folder = None if folder is None else Path(folder)

    def read(self, key: str, rubric: Rubric) -> Scores | None:
        if self.folder is None:
            return None
        try:
            return rubric.parse((self.folder / f"{key}.json").read_text())
        except (OSError, ValueError):  # not there, or damaged: asked for and written anew
            return None

    def write(self, key: str, scores: Scores) -> None:
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f"{key}.json", json.dumps(scores))
        except OSError as error:  # a full disk costs money, not the run
            logger.warning("A judgement could not be written to the cache: %s", error)
