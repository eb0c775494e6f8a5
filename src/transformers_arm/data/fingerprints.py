"""What data are, in short: to tell in another run whether they are the same, and if not, in what they differ.

Knows nothing about who asks.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

import numpy as np
from datasets.fingerprint import Hasher, generate_random_fingerprint

SAMPLED_ROWS = 256  # that stand for a table: reading all of them could take hours
PIECE = 4096  # bytes
BEFORE = ("ex_iterable", "ex_iterables", "token_per_repo_id")  # what a step takes its rows from, and secrets


def digest(value) -> str:
    """A hash of what a row may hold: mappings, lists, texts, bytes, numbers, pictures, arrays and tensors.

    It is the same in every process; of anything else only the type counts. A picture that lies in a file of its own
    counts by the name of that, wherever it lies.
    """
    state = blake2b(digest_size=16)

    def add(each) -> None:
        if isinstance(each, Mapping) and set(each) == {"bytes", "path"} and each["bytes"] is None:
            add(("file", os.path.basename(each["path"] or "")))
        elif isinstance(each, Mapping):
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
    """Files in order: on a disk by their names from the folder on that they share, their sizes and a digest of 12 kB
    of each; elsewhere by their addresses, of which all that is known at once.
    """
    names = list(names)
    places = [name.rpartition("::")[2] for name in names]  # of a file in an archive that of the archive
    folders = [place.split(os.sep)[:-1] for place in places if "://" not in place]
    shared, found = len(os.path.commonprefix(folders)), []
    for name, place in zip(names, places, strict=True):
        if "://" in place:
            found.append([name.partition("?")[0], None, None])  # what is signed has another signature tomorrow
        else:
            relative = "/".join(place.split(os.sep)[shared:])
            found.append([name.removesuffix(place) + relative, *_of_content(place)])
    return found


def _of_content(path: str) -> tuple[int | None, str | None]:
    """The size of a file, and a digest of its beginning, middle and end."""
    if not os.path.isfile(path):
        return None, None
    size, pieces = os.path.getsize(path), []
    with open(path, "rb") as file:
        for place in (0, size // 2, size - PIECE):
            file.seek(max(place, 0))
            pieces.append(file.read(PIECE))
    return size, digest(pieces)


def of_first_row(dataset: Iterable) -> str:
    """A digest of the first row, of rows that can be had in no other way."""
    try:
        return digest(next(iter(dataset), None))
    except Exception as error:  # training will meet it
        return type(error).__name__


def of_step(step: object) -> str:
    """Something that was done to a dataset, such as a map: its kind, and a hash of its functions and settings.

    Of what a function calls in other modules only the name counts. What cannot be hashed has another hash each time,
    so that it is never taken for the same.
    """
    known = {name: value for name, value in vars(step).items() if name not in BEFORE and not name.startswith("_")}
    stated = {name: value for name, value in known.items() if value is not None and value is not False}
    try:
        hashed = Hasher.hash([stated, [getattr(value, "__code__", None) for value in stated.values()]])
    except Exception as error:  # as many as there are things that cannot be pickled
        hashed = f"{generate_random_fingerprint()}, which cannot be hashed ({type(error).__name__}: {str(error)[:80]})"
    return f"{type(step).__name__} {hashed}"


def of_processing(image_processor, *tokenizers) -> dict:
    """What becomes of pictures and texts: the settings of an image processor, and digests of tokenizers, or None."""
    return {
        "image_processor": json.loads(image_processor.to_json_string()),
        "tokenizers": of_tokenizers(*tokenizers),
    }


def of_tokenizers(*tokenizers) -> list[str | None]:
    """What becomes of texts: digests of tokenizers, or None."""
    return [tokenizer and digest(_of_tokenizer(tokenizer)) for tokenizer in tokenizers]


def _of_tokenizer(tokenizer) -> list:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    made = sorted(tokenizer.get_vocab().items()) if backend is None else json.loads(backend.to_str())
    if backend is not None:
        made |= {"truncation": None, "padding": None}  # of its last call
    return [made, tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)]


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
