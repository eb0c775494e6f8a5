"""A Trainer on rows of mixtures whose checkpoints hold where the data stood, to the row.

transformers' own way back to the middle of an epoch is to read all batches before it once more. Knows nothing about
what rows are made of.
"""

import json
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from ..data.streams import MixtureRows, StreamState, states_to_json
from ..data.validation import ValidationRows
from .trainer import ArmTrainer

DATA_STATE_NAME = "data_state.json"


class HeldOutRowsMixin:
    """For a `Trainer`: `ValidationRows` by name, as `eval_dataset`, are shared out to processes and workers."""

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        given = self.eval_dataset if eval_dataset is None else eval_dataset
        rows = self.eval_dataset[given] if isinstance(given, str) else given
        if not isinstance(rows, ValidationRows):
            return super().get_eval_dataloader(eval_dataset)
        return rows.loader(
            process_index=self.args.process_index,
            processes=self.args.world_size,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            pin_memory=self.args.dataloader_pin_memory,
        )


class MixtureTrainer(HeldOutRowsMixin, ArmTrainer):
    """`ArmTrainer` for `MixtureRows` as `train_dataset`; `max_steps` says how long.

    Each process reads its own share of the rows, in `dataloader_num_workers` workers; one with all of them sees the
    same rows in the same steps. `per_device_train_batch_size` counts rows. What `MixtureRows.summary` says is logged
    beside the loss. A checkpoint can be resumed with other numbers of processes and workers.
    """

    train_dataset: MixtureRows

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.args.ignore_data_skip = True  # the data begin where they stopped

    def get_train_dataloader(self) -> DataLoader:
        # Not by accelerator.prepare, under which every process reads all rows and keeps some.
        return self.train_dataset.loader(
            batch_size=self._train_batch_size,
            process_index=self.args.process_index,
            processes=self.args.world_size,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of one step, noted as consumed: checkpoints are written between steps. And what their loss is a
        mean over, over all processes: a model that takes `num_items_in_batch` weighs its batch by it.
        """
        if self.state.global_step >= self.state.max_steps:  # begun again at its end, where endless rows would go on
            return [], None
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        items = [self.train_dataset.items(batch) for batch in batches]
        if items and None not in items:
            num_items = torch.tensor(sum(items), device=device)
            if self.args.average_tokens_across_devices:  # as transformers counts labels
                num_items = self.accelerator.gather(num_items).sum()
        return [self.train_dataset.consume(batch) for batch in batches], num_items

    def _states(self) -> dict[int, StreamState]:
        """Where all processes' streams are; after a resumption a process also has old states of others' streams."""
        states = gather_object(list(self.train_dataset.states.items()))
        return dict(sorted(states, key=lambda each: each[1].rows))

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        state = {**self.train_dataset.state_dict(), "states": states_to_json(self._states())}
        if self.is_world_process_zero():
            (Path(output_dir) / DATA_STATE_NAME).write_text(json.dumps(state))

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = Path(checkpoint) / DATA_STATE_NAME
        if not path.is_file():
            raise ValueError(
                f"{checkpoint} has no {DATA_STATE_NAME}, so where its data stood is not known; it is no checkpoint of "
                "a MixtureTrainer. Start a new training from its weights."
            )
        self.train_dataset.load_state_dict(json.loads(path.read_text()))

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs |= self.train_dataset.summary(list(self._states().values()))
        super().log(logs, *args, **kwargs)
