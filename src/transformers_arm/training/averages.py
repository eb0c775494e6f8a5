"""A Trainer that keeps a moving average of the weights that learn: for looks, for held-out losses, for what is saved.

Where FSDP2 shards the weights, each process averages its shards. Knows nothing about what is trained.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from diffusers.training_utils import EMAModel
from transformers import TrainerCallback

from .sharding import forget_gathered

FOLDER = "ema"  # of a checkpoint


class AveragingCallback(TrainerCallback):
    """Begins the average with the first weights, unless a checkpoint had one, and takes each step's into it."""

    def __init__(self, trainer: "AveragingMixin"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer.average is None:
            self.trainer.begin_average()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.average.step(self.trainer.learning().values())


class AveragingMixin:
    """For an `ArmTrainer`: the exponential moving average of the weights that learn, in checkpoints too.

    Args:
        ema_decay: how much of the average stays in a step, at most; first steps count more. None keeps none.
    """

    average: EMAModel | None = None  # from when training begins

    def __init__(self, *args, ema_decay: float | None = None, **kwargs):
        self.ema_decay = ema_decay
        super().__init__(*args, **kwargs)
        if ema_decay is not None:
            self.add_callback(AveragingCallback(self))

    def learning(self) -> dict[str, torch.nn.Parameter]:
        """The weights that learn, by name; of those that FSDP2 shards the shards."""
        forget_gathered(self.model)
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}

    def begin_average(self) -> None:
        self.average = EMAModel(self.learning().values(), decay=self.ema_decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Has the average in the place of the weights meanwhile."""
        if self.average is None:
            yield
            return
        kept = [each.detach().clone() for each in self.learning().values()]
        self.take_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for each, before in zip(self.learning().values(), kept, strict=True):
                    each.copy_(before)

    def take_average(self) -> None:
        """Puts the average in the place of the weights, for good."""
        if self.average is not None:
            self.average.copy_to(self.learning().values())

    def evaluation_loop(self, *args, **kwargs):
        with self.averaged():
            return super().evaluation_loop(*args, **kwargs)

    def _average_s_state(self) -> dict:
        weights = dict(zip(self.learning(), self.average.shadow_params, strict=True))
        return {"weights": weights, "step": torch.tensor(self.average.optimization_step)}

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        shared = self.is_fsdp_enabled
        if self.average is not None and (shared or self.args.should_save):
            writer = dcp.FileSystemWriter(Path(output_dir) / FOLDER)
            with self._noting(), warnings.catch_warnings(action="ignore", category=UserWarning):  # of one process
                dcp.save(self._average_s_state(), storage_writer=writer, no_dist=not shared)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.ema_decay is None or checkpoint is None:
            return
        folder = Path(checkpoint) / FOLDER
        if not folder.is_dir():
            raise ValueError(
                f"{checkpoint} has no average of its weights ({FOLDER}), but ema_decay is {self.ema_decay}. Leave "
                "ema_decay out to go on without one, or start a new training."
            )
        self.begin_average()
        state = self._average_s_state()
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            dcp.load(state, storage_reader=dcp.FileSystemReader(folder), no_dist=not self.is_fsdp_enabled)
        self.average.optimization_step = int(state["step"])
