"""The data of a run that a world draws: as many samples as its steps take, batches and seed as its arguments say.

Knows no world.
"""

import datasets
from torch.utils.data import Dataset
from transformers import TrainingArguments

from .sections import DocumentsOfWorld, PicturesOfWorld, RequestsOfWorld, TasksOfWorld


def samples_per_step(arguments: TrainingArguments) -> int:
    """Samples of one step over all processes.

    Raises:
        ValueError: the run has no stated end.
    """
    if arguments.max_steps <= 0:
        raise ValueError(f"max_steps is {arguments.max_steps}; the recipe must say how many steps to train.")
    each = arguments.per_device_train_batch_size * arguments.world_size
    return each * arguments.gradient_accumulation_steps


def world_pictures(data: PicturesOfWorld, arguments: TrainingArguments, **others) -> Dataset:
    """`World.pictures` of a run; those of a process's batch have one size. `others` replace what follows from it."""
    settings = {
        "length": arguments.max_steps * samples_per_step(arguments),
        "seed": arguments.seed,
        "batch_size": arguments.per_device_train_batch_size,
    }
    return data.of.pictures(**(settings | others), **data.arguments)


def world_documents(data: DocumentsOfWorld, arguments: TrainingArguments, *, batch_size: int = 1, **others) -> Dataset:
    """`World.documents` of a run, whose batches hold any. `others` replace what follows from the run."""
    settings = {"length": arguments.max_steps * samples_per_step(arguments), "seed": arguments.seed}
    return data.of.documents(**(settings | others), **data.arguments)


def world_tasks(data: TasksOfWorld, arguments: TrainingArguments, **others) -> Dataset:
    """`World.tasks` of a run; those of a batch over all processes, which wait for the longest, are of one task.
    `others` replace what follows from the run.
    """
    per_step = samples_per_step(arguments)
    settings = {
        "length": arguments.max_steps * per_step,
        "seed": arguments.seed,
        "batch_size": per_step // arguments.gradient_accumulation_steps,
        "per_step": per_step,
    }
    return data.of.tasks(**(settings | others), **data.arguments)


def world_requests(data: RequestsOfWorld, count: int, seed: int) -> datasets.Dataset:
    """`World.requests`."""
    return data.of.requests(count, seed=seed, **data.arguments)
