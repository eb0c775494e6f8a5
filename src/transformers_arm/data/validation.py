"""Held-out rows of each source of a mixture, in batches as training has them, shared out among processes.

    sets = validation_sets(PackedMixture.from_recipe(processor, config, seed=0, held_out=64, **recipe["data"]))
    for batch in sets["web"].loader():
        weight = batch.pop("weight")
        loss = model(**batch).loss

All are read when the sets are made, so that rows that cannot be used are known before training begins. Conditions are
not dropped. Knows nothing about trainers.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest

import torch
from torch.utils.data import DataLoader, Dataset

from .mixture import Source
from .readers import Read
from .row_errors import SHOWN_ROWS, RowError, Tally, as_row_error
from .streams import MixtureRows

logger = logging.getLogger(__name__)

OTHER_SEED = 900004  # added to the run's, for what a world draws to validate


class ValidationRows(Dataset):
    """Batches of held-out rows of one source, made anew whenever they are asked for: in memory are the rows alone.

    A batch holds samples that fit together, in the order of the rows, up to the budget of a row of training.

    Args:
        rows: what they are held out of; says how samples and batches are made.
        name: of the source, for messages.
        source: how its rows become conversations.
        reads: the rows.

    Raises:
        ValueError: there are none, or none that can be used.
    """

    def __init__(self, rows: MixtureRows, name: str, source: Source, reads: Iterable[Read]):
        self.rows, self.name, self.source, self.batches = rows, name, source, []
        tally, begun, encoder = Tally(), {}, rows.encoder()
        for read in reads:
            tally.rows += 1
            try:
                parts = self._parts(read, encoder)
            except RowError as error:
                self._skip(tally, error)
                continue
            for number, part in enumerate(parts):
                kind, size = rows.kind(part), rows.tokens(part)
                batch, taken = begun.get(kind, (None, 0))
                if batch is None or taken + size > rows.row_budget:
                    batch, taken = [], 0
                    self.batches.append(batch)
                batch.append((read, number))
                begun[kind] = batch, taken + size
        if not tally.rows:
            raise ValueError(f"Validation of source '{name}' has no rows. Name files that have some.")
        if not self.batches:
            raise ValueError(
                f"Validation of source '{name}': none of its {tally.rows} rows can be used, they are "
                f"{dict(tally.skipped)}. The first: {tally.examples[0]['problem']}"
            )

    def _skip(self, tally: Tally, error: RowError) -> None:
        tally.skip(self.name, error)
        if tally.skipped.total() <= SHOWN_ROWS:
            logger.warning("Validation of source '%s', skipped: %s", self.name, error)

    def _parts(self, read: Read, encoder) -> list:
        with as_row_error(read.number, file=read.file):
            if isinstance(read.row, RowError):
                raise read.row
            return self.rows.parts(encoder(self.source.conversation(read.row, read.number, encoder.prepare)))

    def samples_of(self, batch: int) -> list:
        """The samples of a batch, without those whose pictures cannot be read any more: it is no reason to stop."""
        encoder, samples = self.rows.encoder(), []
        for read, part in self.batches[batch]:
            try:
                samples.append(self._parts(read, encoder)[part])
            except RowError as error:
                logger.warning("Validation of source '%s', left out this time: %s", self.name, error)
        return samples

    def samples(self) -> Iterator[object]:
        """All samples, one after the other."""
        return (sample for batch in range(len(self)) for sample in self.samples_of(batch))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> dict:
        """A batch, and as its `weight` what its loss is a mean over, as the rows count it, or else its samples.

        Raises:
            ValueError: no row can be read any more.
        """
        samples, counts = self.samples_of(number), True
        if not samples:  # another batch keeps processes in step, and counts for nothing
            others = (self.samples_of(other) for other in range(len(self)) if other != number)
            samples, counts = next(filter(None, others), None), False
        if not samples:
            raise ValueError(f"Validation of source '{self.name}': none of its rows can be read any more.")
        first = next(iter(self.rows.mixture.sources))  # a source of another set has no number
        name = self.name if self.name in self.rows.mixture.sources else first
        row = self.rows.row([(name, sample) for sample in samples])
        batch = self.rows.collator()([{**row, "stream": 0, "state": None}])
        del batch["states"]
        items = self.rows.items(batch)
        return {**batch, "weight": counts * (len(samples) if items is None else items)}

    def loader(self, *, process_index: int = 0, processes: int = 1, **options) -> DataLoader:
        """This process's share: as many batches as any other has, some of `weight` 0 to keep it in step.

        Args:
            options: as for torch's `DataLoader`.
        """
        share = _Share(self, process_index, processes)
        # A generator of its own: DataLoader would take its seed from torch's, and training another course.
        return DataLoader(share, batch_size=None, generator=torch.Generator(), **options)


class _Share(Dataset):
    """Every so-many-eth batch of a set; where there is none left, the last, of weight 0."""

    def __init__(self, batches: ValidationRows, process_index: int, processes: int):
        self.batches, self.process_index, self.processes = batches, process_index, processes

    def __len__(self) -> int:
        return -(-len(self.batches) // self.processes)

    def __getitem__(self, step: int) -> dict:
        if step >= len(self):
            raise IndexError(step)
        number = step * self.processes + self.process_index
        if number < len(self.batches):
            return self.batches[number]
        return {**self.batches[len(self.batches) - 1], "weight": 0}


def samples_of_sets(sets: Mapping[str, ValidationRows]) -> Iterator[dict]:
    """Held-out pairs in turns of each source, as `World.pictures` gives them: `image` uint8 [H, W, 3], as the model is
    given it, and `caption`.
    """
    for turn in zip_longest(*(each.samples() for each in sets.values())):
        for sample in filter(None, turn):
            yield {"image": sample.pixels.permute(1, 2, 0).numpy(), "caption": sample.caption}


def validation_sets(rows: MixtureRows) -> dict[str, ValidationRows]:
    """The rows that a mixture holds out, by source; see `ValidationRows`."""
    mixture = rows.mixture
    return {
        name: ValidationRows(rows, name, source, mixture.readers[name].held_out())
        for name, source in mixture.sources.items()
    }


def sets_of_sources(rows: MixtureRows, sources: Mapping[str, Mapping], count: int) -> dict[str, ValidationRows]:
    """The first rows of other sources, `Source.from_recipe`'s sections by name; see `ValidationRows`. Worlds draw them
    by another seed than the training's.
    """
    seed = rows.mixture.seed + OTHER_SEED
    opened = {name: Source.from_recipe(section, seed=seed) for name, section in sources.items()}
    return {
        name: ValidationRows(rows, name, source, source.reader(name).first(count)) for name, source in opened.items()
    }
