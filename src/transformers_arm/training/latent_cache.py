"""Latents and codes of pictures, encoded once and kept in a folder for as many epochs and runs as want them.

They lie in Arrow files, memory-mapped. The folder is whole or not there, and says what it was made of. Knows nothing
about what encodes, nor about what is trained.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets.arrow_writer import ArrowWriter
from torch.utils.data import Dataset
from transformers import TrainingArguments

from ..data.fingerprints import differences
from .saving import Staging

MADE_OF = "made_of.json"
FEATURES = datasets.Features(
    {
        "latents": datasets.List(datasets.Value("float16")),  # channels x height x width
        "codes": datasets.List(datasets.Value("int32")),
        "size": datasets.List(datasets.Value("int32")),  # height and width of the latents, and of the codes
    }
)
Encoded = tuple[torch.Tensor, torch.LongTensor]  # latents [B, channels, h, w] and codes [B, rows, columns]


def encode_once(
    folder: Path, made_of: Mapping, encoded: Iterable[Encoded], arguments: TrainingArguments, count: int
) -> None:
    """Writes a folder of latents and codes, unless it is there; to be called by all processes.

    Args:
        made_of: what they follow from; JSON can hold it.
        encoded: batches of this process's share of the pictures, which are made as they are asked for.
        count: pictures of this process.

    Raises:
        ValueError: the folder was made of something else, or holds something else.
        OSError: (on all processes) one could not write.
    """
    described = folder / MADE_OF
    if not described.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds no cache of latents (no {MADE_OF}), but files; name another folder.")
        staging, error = Staging(folder, folder.with_name(f"_{folder.name}.writing"), arguments, "The cache"), None
        staging.open()
        try:
            place = staging.folder / folder.name
            place.mkdir(parents=True, exist_ok=True)
            write(place / f"{arguments.process_index:05}.arrow", encoded, count)
            if arguments.should_save:
                (place / MADE_OF).write_text(json.dumps(made_of))
        except Exception as caught:
            error = caught
        staging.appear(error)
    if changed := differences(json.loads(described.read_text()), json.loads(json.dumps(made_of))):
        raise ValueError(
            f"The latents and codes in {folder} were made of something else: {'; '.join(changed)}. Name another "
            "folder as cache.folder, or delete that one."
        )


def write(file: Path, encoded: Iterable[Encoded], count: int) -> None:
    """Writes the first `count` pictures of batches."""
    with ArrowWriter(path=str(file), features=FEATURES) as writer:
        for latents, codes in encoded:
            size = [*latents.shape[-2:], *codes.shape[-2:]]
            for each, its_codes in zip(latents[:count].half().cpu(), codes[:count].cpu(), strict=True):
                row = {"latents": each.flatten().numpy(), "codes": its_codes.flatten().numpy(), "size": size}
                writer.write(row)
            count -= len(latents)
            if count <= 0:
                break
        writer.finalize()


class CachedLatents(Dataset):
    """Samples `{"latents": [channels, h, w], "codes": [rows, columns]}` of a folder, shuffled anew each epoch.

    Those of a batch have one size: where a size does not fill its last batch, some of its pictures come twice.

    Args:
        folder: of `encode_once`.
        length: how many samples, over all epochs.
        batch_size: of one process.
        seed: of the order.
    """

    def __init__(self, folder: Path, length: int, batch_size: int, seed: int):
        files = [datasets.Dataset.from_file(str(file)) for file in sorted(folder.glob("*.arrow"))]
        self.rows = datasets.concatenate_datasets(files).with_format("numpy")
        sizes = np.asarray(self.rows.select_columns("size")[:]["size"])
        _, kinds = np.unique(sizes, axis=0, return_inverse=True)
        self.alike = [np.flatnonzero(kinds.ravel() == kind) for kind in range(kinds.max() + 1)]
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.epoch, self.order = None, None

    def __len__(self) -> int:
        return self.length

    def order_of(self, epoch: int) -> np.ndarray:
        """The rows of an epoch as they come."""
        random, batches = np.random.default_rng([self.seed, epoch]), []
        for rows in self.alike:
            whole = -(-len(rows) // self.batch_size) * self.batch_size
            batches.append(np.resize(random.permutation(rows), whole).reshape(-1, self.batch_size))
        return random.permutation(np.concatenate(batches)).ravel()

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self.order is None:
            self.epoch, self.order = 0, self.order_of(0)
        epoch, place = divmod(index, len(self.order))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self.order_of(epoch)
        row = self.rows[int(self.order[place])]
        height, width, *grid = (int(side) for side in row["size"])
        latents = torch.tensor(row["latents"]).view(-1, height, width)
        return {"latents": latents, "codes": torch.tensor(row["codes"]).view(grid)}
