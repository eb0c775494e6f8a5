"""Pushes to the Hub while a model trains: what is pushed stays as it was, and what does not arrive is told.

transformers pushes in the background. Knows nothing about what is trained, nor how checkpoints are written.
"""

import logging
import os
import shutil
from concurrent import futures
from pathlib import Path

from accelerate.utils import gather_object
from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy

logger = logging.getLogger(__name__)

_PUSHING = "_pushing"  # inside output_dir, so that links will do; what starts with _ is not pushed itself
_PATIENCE = 30  # seconds in which one process waits for a push before all meet: none may seem dead to the others


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


class HeardPushesMixin:
    """For a `Trainer` that may `push_to_hub`.

    A checkpoint is pushed from links of its own, which no rotation deletes. Where one is still on its way, the next
    waits for it with `hub_always_push`, and is else not pushed. A push that fails is a warning while training goes
    on, and an error in the log at its end unless a later one has brought the same.

    Attributes:
        failed_pushes: by path in the repo, what is missing there because a push failed, why, and how it is pushed.
    """

    def __init__(self, *args, **kwargs):
        self.failed_pushes: dict[str, str] = {}
        self._pushes: list[tuple[futures.Future, str, Path]] = []  # under way, with path in the repo and folder
        super().__init__(*args, **kwargs)

    def train(self, *args, **kwargs):
        output = super().train(*args, **kwargs)
        self._hear_pushes()
        for path, problem in self.failed_pushes.items():
            logger.error("Not on the Hub: %s of %s. %s", path, self.hub_model_id, problem)
        return output

    def _push_from_checkpoint(self, checkpoint_folder):
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        self._hear_pushes()
        folder, output = Path(checkpoint_folder), Path(self.args.output_dir)
        if self._pushes:
            logger.warning(
                "%s is not pushed, the one before it is still on its way; hub_always_push=True would wait.", folder
            )
            return
        linked, before = output / _PUSHING / folder.name, self.push_in_progress
        targets = {".": output, folder.name: folder}
        if self.args.hub_strategy == HubStrategy.CHECKPOINT:
            targets = {".": output, "last-checkpoint": folder}
        try:
            shutil.rmtree(linked.parent, ignore_errors=True)
            shutil.copytree(folder, linked, copy_function=_link)
            super()._push_from_checkpoint(str(linked))
        except Exception as error:  # training goes on, as it does when the Hub does not answer
            self._push_failed(".", output, error)
        if self.push_in_progress is not before:
            self._pushes = [
                (job, *target) for job, target in zip(self.push_in_progress.jobs, targets.items(), strict=False)
            ]

    def _push_failed(self, path: str, folder: Path, error: BaseException) -> None:
        command = f"hf upload {self.hub_model_id} {folder} {path}"
        if path == "." and folder == Path(self.args.output_dir):
            command += " --exclude '_*' 'checkpoint-*'"
        if self.args.hub_revision:
            command += f" --revision {self.args.hub_revision}"
        self.failed_pushes[path] = f"{type(error).__name__}: {error}. All is in {folder}; push it by: {command}"
        logger.warning("A push to %s failed: %s", self.hub_model_id, self.failed_pushes[path])

    def _hear_pushes(self) -> None:
        """Notes how pushes ended that have."""
        ended = [each for each in self._pushes if each[0].done()]
        self._pushes = [each for each in self._pushes if not each[0].done()]
        for job, path, folder in ended:
            if (error := job.exception()) is not None:
                self._push_failed(path, folder, error)
            else:
                self.failed_pushes.pop(path, None)
        if ended and not self._pushes:
            shutil.rmtree(Path(self.args.output_dir) / _PUSHING, ignore_errors=True)

    def _wait_for_pushes(self) -> None:
        """Has all processes wait until nothing is on its way."""
        pushing = self.args.push_to_hub
        while pushing:
            waited = futures.wait([job for job, *_ in self._pushes], timeout=_PATIENCE)
            pushing = any(gather_object([bool(waited.not_done)]))

    def _finish_current_push(self):
        super()._finish_current_push()
        self._hear_pushes()

    def _finalize_training(self, *args, **kwargs):
        self._wait_for_pushes()  # all of them; transformers would have one wait, until the others take it for dead
        return super()._finalize_training(*args, **kwargs)


def push_folder(trainer: Trainer, folder: Path, path_in_repo: str) -> None:
    """Pushes a finished folder where the training pushes; a failure is noted as of any other push."""
    if not (trainer.args.push_to_hub and trainer.is_world_process_zero()):
        return
    try:
        HfApi().upload_folder(
            repo_id=trainer.hub_model_id,
            folder_path=folder,
            path_in_repo=path_in_repo,
            commit_message=f"Trained: {folder.name}",
            token=trainer.args.hub_token,
            revision=trainer.args.hub_revision,
        )
        trainer.failed_pushes.pop(path_in_repo, None)
    except Exception as error:  # raised by `raise_failed_pushes`, when all else is done
        trainer._push_failed(path_in_repo, folder, error)


def raise_failed_pushes(trainer: Trainer) -> None:
    """To be called by all processes when all is saved.

    Raises:
        OSError: something is missing on the Hub; says what, and how it is pushed.
    """
    failed = {path: why for each in gather_object([trainer.failed_pushes]) for path, why in each.items()}
    if failed:
        missing = " ".join(f"{path}: {why}." for path, why in failed.items())
        raise OSError(f"All is trained and saved, but not all has arrived at the Hub. {missing}")
