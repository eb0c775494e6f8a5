"""What a recipe's `validation` section has a trainer evaluate: rows held out of its data, or of other sources.

Knows nothing about how the loss of them is told; `logs` does.
"""

from torch.utils.data import Dataset, Subset

from ..data.streams import MixtureRows
from ..data.validation import OTHER_SEED, ValidationRows, sets_of_sources, validation_sets
from .sections import DocumentsOfWorld, PicturesOfWorld, TasksOfWorld, Validation, WorldData
from .trainer import ArmTrainingArguments
from .world_data import samples_per_step, world_documents, world_pictures, world_tasks

DRAW = {PicturesOfWorld: world_pictures, DocumentsOfWorld: world_documents, TasksOfWorld: world_tasks}


def when(validation: Validation | None) -> dict:
    """Fields of `ArmTrainingArguments` that say when a trainer evaluates."""
    return {} if validation is None else {"eval_strategy": "steps", "eval_steps": validation.every}


def held_out(validation: Validation | None) -> int:
    """How many rows each source of the data holds out."""
    return 0 if validation is None or validation.sources is not None else validation.rows


def sets_of_rows(validation: Validation | None, rows: MixtureRows) -> dict[str, ValidationRows] | None:
    """What is evaluated beside a mixture, by source; raises ValueError for a set that cannot be used."""
    if validation is None:
        return None
    if validation.sources is None:
        return validation_sets(rows)
    return sets_of_sources(rows, validation.plain()["sources"], validation.rows)


def sets_of_world(
    validation: Validation | None, data: WorldData, arguments: ArmTrainingArguments
) -> dict[str, Dataset] | None:
    """What is evaluated beside what a world draws: its samples with another seed, behind those of the run, where
    whatever it states in steps is at its end. Their number is rounded up to whole batches of all processes.
    """
    if validation is None:
        return None
    batch = arguments.per_device_eval_batch_size * arguments.world_size
    count, taken = -(-validation.rows // batch) * batch, arguments.max_steps * samples_per_step(arguments)
    first = -(-taken // batch) * batch
    drawn = DRAW[type(data)](data, arguments, length=first + count, seed=arguments.seed + OTHER_SEED, batch_size=batch)
    return {data.world: Subset(drawn, range(first, first + count))}
