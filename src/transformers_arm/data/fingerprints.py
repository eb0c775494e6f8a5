"""What data are, in short: to tell in another run whether they are the same, and if not, in what they differ.

Knows nothing about who asks.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

import numpy as np

SAMPLED_ROWS = 256  # that stand for a table: reading all of them could take hours


def digest(value) -> str:
    """A hash of what a row may hold: mappings, lists, texts, bytes, numbers, pictures, arrays and tensors.

    It is the same in every process; of anything else only the type counts.
    """
    state = blake2b(digest_size=16)

    def add(each) -> None:
        if isinstance(each, Mapping):
            state.update(f"mapping {len(each)}".encode())
            add([part for pair in each.items() for part in pair])
        elif isinstance(each, list | tuple):
            state.update(f"list {len(each)}".encode())
            for part in each:
                add(part)
        elif each is None or isinstance(each, str | bytes | bool | int | float):
            content = each if isinstance(each, bytes) else repr(each).encode()
            state.update(f"{type(each).__name__} {len(content)} ".encode() + content)
        elif hasattr(each, "__array_interface__") or hasattr(each, "__array__"):
            array = np.asarray(each)
            state.update(f"array {array.dtype} {array.shape} ".encode() + array.tobytes())
        else:
            state.update(type(each).__qualname__.encode())

    add(value)
    return state.hexdigest()


def of_rows(dataset: Sequence) -> dict:
    """Rows that can be had by number: how many there are, and a digest of up to 256, the first and last among them."""
    length, digests = len(dataset), []
    sampled = range(length) if length <= SAMPLED_ROWS else (n * (length - 1) // 255 for n in range(SAMPLED_ROWS))
    for number in sampled:
        try:
            digests.append(digest(dataset[number]))
        except Exception as error:  # such a row is skipped in training, and is one all the same
            digests.append(type(error).__name__)
    return {"rows": length, "digest": digest(digests)}


def of_files(names: Iterable[str]) -> list[list]:
    """Files by name and size, in order: on a disk from the folder on that they share, elsewhere by their address."""
    names = list(names)
    folders = [name.split(os.sep)[:-1] for name in names if "://" not in name]
    shared = len(os.path.commonprefix(folders)) if folders else 0
    found = []
    for name in names:
        if "://" in name:
            found.append([name.partition("?")[0], None])  # what is signed has another signature tomorrow
        else:
            size = os.path.getsize(name) if os.path.isfile(name) else None
            found.append(["/".join(name.split(os.sep)[shared:]), size])
    return found


def differences(theirs, ours, name: str = "") -> list[str]:
    """What differs between two values of JSON, in words: of mappings by key, of lists the first place."""
    if theirs == ours:
        return []
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        keys = dict.fromkeys([*ours, *theirs])
        return [
            each
            for key in keys
            for each in differences(theirs.get(key), ours.get(key), f"{name}.{key}" if name else str(key))
        ]
    if isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            return [f"{name} were {len(theirs)}, are {len(ours)}"]
        place = next(place for place, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
        return [f"{name}[{place}] was {theirs[place]!r:.200}, is {ours[place]!r:.200}"]
    return [f"{name} was {theirs!r:.200}, is {ours!r:.200}"]
