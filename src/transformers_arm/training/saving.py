"""Folders that appear only when they are whole, on all nodes or on none: checkpoints, and what a training ends in.

Knows nothing about what is trained.
"""

import functools
import logging
import os
import shutil
import socket
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from .pushing import HeardPushesMixin, push_folder, raise_failed_pushes
from .sharding import take_whole, whole_state_dict

logger = logging.getLogger(__name__)

_WRITING = (OSError, RuntimeError, SafetensorError, CheckpointException)  # what a full disk raises, by who writes


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


class Staging:
    """A folder written aside by all processes, that appears when all of them are done, or not at all.

    One process saves, or one a node with `save_on_each_node`; others add what is theirs alone, such as the states of
    their random generators. All call `open`, write below `folder`, and call `appear`.

    Args:
        target: the folder that is to appear; one that is there is replaced.
        root: a folder for what is unfinished, on the same file system; nothing else is in it.
        arguments: say who saves.
        what: is written, for errors.

    Attributes:
        folder: where this process writes, in a folder of `target`'s name.
        renamed: whether this process has made `target` appear; of nodes that share a file system one does.
    """

    def __init__(self, target: Path, root: Path, arguments: TrainingArguments, what: str):
        self.target, self.root, self.what = target, root, what
        self.rank, self.processes, self.saves = arguments.process_index, arguments.world_size, arguments.should_save
        self.first_of_node = arguments.local_process_index == 0
        saver = self.rank - arguments.local_process_index if arguments.save_on_each_node else 0
        self.folder, self.renamed = root / str(saver), False

    def open(self) -> None:
        """Makes room. Raises OSError, on all processes, where one cannot."""
        if self.first_of_node:
            shutil.rmtree(self.root, ignore_errors=True)  # what an interrupted save left behind
        PartialState().wait_for_everyone()
        error = None
        try:
            if self.saves:
                self.folder.mkdir(parents=True)
        except OSError as caught:
            error = caught
        self.agree(error)
        with suppress(OSError):
            os.listdir(self.root.parent)  # so that a network file system looks anew
        self.apart = not self.folder.is_dir()  # nobody who saves sees what this process writes

    def appear(self, error: BaseException | None = None) -> None:
        """Renames what was written; to be called with what has hindered this process, if anything has.

        Raises:
            OSError: on all processes: what has hindered one of them. Whatever else it was is raised where it was.
        """
        self.agree(error or self._left_alone())
        try:
            writers = sorted(self.root.iterdir(), key=lambda folder: int(folder.name)) if self.saves else []
            if writers and writers[0] == self.folder:
                self._rename(writers[1:])
        except OSError as caught:
            error = caught
        self.agree(error)
        if self.first_of_node:
            shutil.rmtree(self.root, ignore_errors=True)

    def _rename(self, others: list[Path]) -> None:
        written = self.folder / self.target.name
        for other in others:  # on a file system that nodes share, each with files of its own processes
            for file in sorted((other / self.target.name).rglob("*")):
                place = written / file.relative_to(other / self.target.name)
                if file.is_file() and not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    file.rename(place)
        if self.target.exists():  # aside first, since a folder that is half deleted would look like a whole one
            self.target.rename(written.with_name(f"{written.name}.replaced"))
        written.rename(self.target)
        self.renamed = True

    def _left_alone(self) -> OSError | None:
        """What is wrong where nobody saves what this process has written."""
        files = [file for file in self.folder.rglob("*") if file.is_file()] if self.apart else []
        advice = "Let all nodes share output_dir, or set save_on_each_node=True."
        if shares := sorted(file.name for file in files if not file.name.startswith("rng_state")):
            return OSError(f"{shares[0]} is part of it and on a disk that process 0 does not see. {advice}")
        if files and self.first_of_node:
            _warn_once(
                f"{self.target.parent} is not the folder that process 0 saves to: there are no checkpoints here, and "
                f"those there lack this node's random states. {advice}"
            )
        return None

    def agree(self, error: BaseException | None) -> None:
        """Raises on all processes if one has an error, as `appear`; none goes on before all are here."""
        reasons = [each for each in gather_object([error and self._reason(error)]) if each]
        if not reasons:
            return
        mistake = error is not None and not isinstance(error, _WRITING)
        if self.first_of_node and not mistake:
            shutil.rmtree(self.root, ignore_errors=True)
        raise error if mistake else self._failure(reasons) from error

    def failure(self, error: BaseException) -> OSError:
        """What this process alone has to say."""
        return self._failure([self._reason(error)])

    def _failure(self, reasons: list[str]) -> OSError:
        return OSError(
            f"{self.what} could not be written {'; nor '.join(reasons)}. Earlier checkpoints are whole: make room, "
            "and the same command goes on from the newest."
        )

    def _reason(self, error: BaseException) -> str:
        there = next(folder for folder in self.target.absolute().parents if folder.is_dir())
        free = shutil.disk_usage(there).free / 1e9
        who = f" (process {self.rank} of {self.processes}, on {socket.gethostname()})" if self.processes > 1 else ""
        text = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        return f"to {self.target.parent}, where {free:.3f} GB are free{who}: {text}"


@contextmanager
def writing_here(model):
    """Has a model's `save_pretrained` write: transformers' do on process 0 alone, even where each node is to save."""
    asked = isinstance(model, PreTrainedModel)
    if asked:
        model.should_save_on_this_rank = bool  # of `is_main_process`
    try:
        yield
    finally:
        if asked:
            del model.should_save_on_this_rank


class AtomicCheckpointMixin(HeardPushesMixin):
    """For a `Trainer`: checkpoints are written aside and renamed, so that none is ever half-written, and then pushed.

    A failure to write on one process is an OSError on all: what could not be written is noted and told at the end,
    since processes wait for each other in between. DeepSpeed and FSDP do so where nothing can be noted: there the
    process that fails ends, and whoever launched it ends the others.
    """

    _staging: Staging | None = None  # while a checkpoint is written
    _unwritten: BaseException | None = None

    def __init__(self, *args, **kwargs):
        if any(getattr(each, "enable_jit_checkpoint", False) for each in (*args, *kwargs.values())):
            raise ValueError(
                "enable_jit_checkpoint has each process save by itself, into a folder that seems whole before it is. "
                "Leave it out: recipes save at SIGTERM as it is, other trainers with "
                "callbacks=[PreemptionCallback()] of transformers_arm.training.preemption."
            )
        super().__init__(*args, **kwargs)

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging.folder)

    def _save_checkpoint(self, model, trial):
        run_dir = Path(self._get_output_dir(trial))
        if self.args.hub_always_push:
            self._wait_for_pushes()
        step, error = self.state.global_step, None
        final = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        staging = Staging(final, run_dir / "_saving", self.args, f"The checkpoint of step {step}")
        staging.open()
        self._staging, self._unwritten = staging, None
        try:
            super()._save_checkpoint(model, trial)
            self._name_best(run_dir)
        except (Exception, CheckpointException) as caught:
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                if isinstance(caught, _WRITING):
                    raise staging.failure(caught) from caught
                raise
            error = caught
        finally:
            self._staging = None
        staging.appear(self._unwritten or error)
        if staging.renamed:
            rotate_checkpoints(str(run_dir), self.args.save_total_limit, self.state.best_model_checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        self.accelerator.wait_for_everyone()

    def _name_best(self, run_dir: Path) -> None:
        """Has the best checkpoint's name be where it will be, not where it is now."""
        if (best := self.state.best_model_checkpoint) is not None:
            self.state.best_model_checkpoint = str(run_dir / Path(best).name)
            if self.args.should_save:
                written = self._staging.folder / self._staging.target.name
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))

    @contextmanager
    def _noting(self):
        try:
            yield
        except _WRITING as error:
            if self._staging is None:
                raise
            self._unwritten = self._unwritten or error

    def _save(self, *args, **kwargs):
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        with self._noting(), writing_here(model) if self.args.should_save else nullcontext():
            super()._save(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        with self._noting():
            super()._save_optimizer_and_scheduler(output_dir)

    def create_model_card(self, *args, **kwargs):
        with self._noting():
            super().create_model_card(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder):
        if self._staging is None:  # while it is written, it is not where it will be
            super()._push_from_checkpoint(checkpoint_folder)


def newest_checkpoint(output_dir: str | Path) -> str | None:
    """The newest complete checkpoint that all processes have; None where there is none at all.

    Raises:
        ValueError: (on all processes) some have checkpoints, but there is none that all have.
    """
    start = f"{PREFIX_CHECKPOINT_DIR}-"
    found = (path.name.removeprefix(start) for path in Path(output_dir).glob(f"{start}*") if path.is_dir())
    of_each = gather_object([{int(step) for step in found if step.isdigit()}])
    common = set.intersection(*of_each)
    if not common and any(of_each):
        without = ", ".join(str(rank) for rank, steps in enumerate(of_each) if not steps) or "none"
        raise ValueError(
            f"{output_dir} has no checkpoint that all processes have (without any: {without}). Let all nodes share "
            "output_dir, or copy the newest checkpoint to each node and set save_on_each_node=True."
        )
    return str(Path(output_dir) / f"{start}{max(common)}") if common else None


@dataclass
class Gathered:
    """A model that saves with weights gathered from all processes, or, of a PEFT model, with its adapter merged.

    Args:
        state_dict: all weights, where processes share them; None where the model has them.

    Raises:
        OSError: (on saving) the weights were gathered elsewhere.
    """

    model: torch.nn.Module
    state_dict: dict[str, torch.Tensor] | None = None

    def save_pretrained(self, folder: Path) -> None:
        if self.state_dict is not None and not self.state_dict:
            raise OSError("Sharded weights are gathered on process 0 alone. Let all nodes share output_dir")
        model = self.model.merge_and_unload() if hasattr(self.model, "merge_and_unload") else self.model
        with writing_here(model):
            model.save_pretrained(folder, state_dict=self.state_dict)


def save_folder(trainer: Trainer, folder: Path, parts: dict[str, tuple]) -> None:
    """Saves models, processors, ... by their `save_pretrained` into a folder that appears only when it is whole, and
    pushes it where the training pushes; to be called by all processes.

    Args:
        trainer: says who saves.
        folder: replaced if it is there. On the Hub `model` is the repo itself, others are folders of it.
        parts: what belongs into each subfolder, by its name; "" is the folder itself.

    Raises:
        OSError: (on all processes) one of them could not write.
    """
    staging = Staging(folder, folder.with_name(f"_{folder.name}.saving"), trainer.args, f"The trained {folder.name}")
    staging.open()
    error = None
    try:
        for name, objects in parts.items() if trainer.args.should_save else ():
            for each in objects:
                with writing_here(each):
                    each.save_pretrained(staging.folder / folder.name / name)
    except Exception as caught:
        error = caught
    staging.appear(error)
    push_folder(trainer, folder, "." if folder.name == "model" else folder.name)


def save_model(trainer: Trainer, folder: Path, processor, **others: tuple) -> None:
    """Saves what a trainer trained, and its processor; to be called by all processes.

    Of a PEFT model the adapter goes to `folder`/adapter, and the model with the adapter merged, unless its weights are
    quantized, beside it.

    Args:
        folder: see `save_folder`.
        others: further objects, by subfolder.

    Raises:
        OSError: (on all processes) one could not write, or, when all is saved, something has not arrived at the Hub.
    """
    model, state_dict = trainer.accelerator.unwrap_model(trainer.model), whole_state_dict(trainer)
    if state_dict and hasattr(model, "peft_config"):
        take_whole(model, state_dict)
        state_dict = None
    if not hasattr(model, "peft_config"):
        parts = {"": (Gathered(model, state_dict), processor)}
    elif model.get_base_model().config.to_dict().get("quantization_config"):
        parts = {"adapter": (model,), "": (processor,)}
    else:
        parts = {"adapter": (model,), "": (Gathered(model, state_dict), processor)}
    save_folder(trainer, folder, {**others, **parts})
    raise_failed_pushes(trainer)
