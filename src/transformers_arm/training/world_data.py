"""The data of a run that a world draws: as many samples as its steps take, batches and seed as its arguments say.

    data: {world: shapes, arguments: {...}}     # of a recipe; the world's own arguments

Knows no world.
"""

from collections.abc import Mapping

import datasets
from torch.utils.data import Dataset
from transformers import TrainingArguments

from ..data.world import World, find_world


def world_of(section: Mapping) -> tuple[World, dict]:
    """The world that a recipe's section names, and the arguments that it states for it.

    Raises:
        ValueError: another field, or no such world.
    """
    if unknown := set(section) - {"world", "arguments"}:
        raise ValueError(
            f"data names {', '.join(sorted(map(str, unknown)))} beside a world, which takes 'world' and 'arguments'."
        )
    return find_world(section["world"]), dict(section.get("arguments") or {})


def samples_per_step(arguments: TrainingArguments) -> int:
    """Samples of one step over all processes.

    Raises:
        ValueError: the run has no stated end.
    """
    if arguments.max_steps <= 0:
        raise ValueError(f"max_steps is {arguments.max_steps}; the recipe must say how many steps to train.")
    each = arguments.per_device_train_batch_size * arguments.world_size
    return each * arguments.gradient_accumulation_steps


def world_pictures(section: Mapping, arguments: TrainingArguments) -> Dataset:
    """`World.pictures` of a run; those of a process's batch have one size."""
    world, own = world_of(section)
    length = arguments.max_steps * samples_per_step(arguments)
    return world.pictures(length, seed=arguments.seed, batch_size=arguments.per_device_train_batch_size, **own)


def world_tasks(section: Mapping, arguments: TrainingArguments) -> Dataset:
    """`World.tasks` of a run; those of a batch over all processes, which wait for the longest, are of one task."""
    world, own = world_of(section)
    per_step = samples_per_step(arguments)
    return world.tasks(
        arguments.max_steps * per_step,
        seed=arguments.seed,
        batch_size=per_step // arguments.gradient_accumulation_steps,
        per_step=per_step,
        **own,
    )


def world_requests(section: Mapping, count: int, seed: int) -> datasets.Dataset:
    """`World.requests`."""
    world, own = world_of(section)
    return world.requests(count, seed=seed, **own)
