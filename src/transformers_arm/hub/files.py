"""Which files of a folder are published, by a list of what a repo of this kind may hold; each must be what it says.

Knows names and formats; nothing about models, and nothing about uploads.
"""

import json
import os
import pickletools
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import PIL.Image
import PIL.ImageFile

PACKAGE = Path(__file__).parents[1]
WEIGHTS = ".safetensors"
PIPELINE = "model_index.json"  # of diffusers: names the parts of a pipeline
MAX_FILE_BYTES = 50 * 10**9  # the Hub's limit
MAX_TOLD = 20  # files that one error is about
MAX_TEXT_BYTES = 200 * 10**6  # of a text, which is read whole; a large vocabulary takes 20 MB
MAX_PIXELS = 100 * 10**6  # of a picture

# Names, at any depth, of what training and tools leave behind and no reader needs, and what it is.
LEFT_OUT = MappingProxyType(
    {
        ".*": "hidden",
        "__pycache__": "Python's cache",
        "checkpoint-[0-9]*": "a checkpoint of training",
        "global_step[0-9]*": "a checkpoint of training",
        "runs": "training logs",
        "logs": "training logs",
        "wandb": "training logs",
        "mlruns": "training logs",
        "completions": "training logs",
        "*.log": "a log",
        "events.out.tfevents*": "a training log",
        "step-[0-9]*": "a sample of training",
        "training_args.bin": "a state of training",
        "optimizer.pt": "a state of training",
        "optimizer.bin": "a state of training",
        "scheduler.pt": "a state of training",
        "scaler.pt": "a state of training",
        "rng_state*.pth": "a state of training",
        "latest": "DeepSpeed's note of a checkpoint",
        "zero_to_fp32.py": "DeepSpeed's script for a checkpoint",
        "trainer_state.json": "a state of training",
        "data_state.json": "a state of training",
        "all_results.json": "a training log",
        "train_results.json": "a training log",
        "eval_results.json": "a training log",
    }
)
CONFIGS = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *(PIPELINE, "scheduler_config.json", "adapter_config.json", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("chat_template.json", "examples.json"),
)
TEXTS = (
    *("*.md", "CITATION.cff", "merges.txt", "vocab.txt"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja"),
)
LEGAL = re.compile(r"(?i:licen[sc]e|notice|copying|third[-_]?party(?:notice)?)s?([-_][\w-]*)?(\.\d+)*(\.txt|\.md)?")
PICTURES = MappingProxyType(  # endings, and Pillow's names
    {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF"}
)
RESULT_KEYS = frozenset({"command", "date", "hardware"})
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")


class FolderFiles(NamedTuple):
    """What of a folder is published, and what is not: paths in the repo, in order, with the files, or with why."""

    published: dict[str, Path]
    left_out: dict[str, str]


def left_out_as(name: str) -> str | None:
    """What a name of `LEFT_OUT` is of; None for others."""
    return next((why for pattern, why in LEFT_OUT.items() if fnmatchcase(name, pattern)), None)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a path ends as one of some patterns says."""
    ends = {name, name.rpartition("/")[-1], "/".join(name.split("/")[-2:])}
    return any(fnmatchcase(end, pattern) for end in ends for pattern in patterns)


def listed(folder: str | os.PathLike) -> FolderFiles:
    """The files of a folder, by their names alone: none is opened.

    Raises:
        ValueError: there is no such folder, a link leads out of it, to a folder or to nothing, something is no regular
            file (a pipe, a socket, a device), or part of the folder cannot be listed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} to publish{', but a file' if folder.exists() else ''}.")
    root, found = folder.resolve(), FolderFiles({}, {})

    def unreadable(error: OSError):
        raise ValueError(f"{error.filename} cannot be listed ({error.strerror}); make it readable.") from error

    for place, folders, names in os.walk(folder, onerror=unreadable):
        kept = []
        for path in (Path(place) / name for name in sorted(folders + names)):
            name = path.relative_to(folder).as_posix()
            if why := left_out_as(path.name):
                found.left_out[name + "/" * (path.is_dir() and not path.is_symlink())] = why
            elif path.is_symlink() and (path.is_dir() or not path.exists() or not path.resolve().is_relative_to(root)):
                raise ValueError(f"{path} links to {path.resolve()}; put what it points to in its place (`cp -RL`).")
            elif path.is_dir():
                kept.append(path.name)
            elif not stat.S_ISREG(path.stat().st_mode):
                raise ValueError(f"{path} is no regular file, but a pipe, a socket or a device; remove it.")
            elif path.suffix == ".py" and (PACKAGE / path.name).is_file() and "_arm" in path.stem:
                found.left_out[name] = "ARM's code, which this package publishes its own of"
            else:
                found.published[name] = path
        folders[:] = kept
    return found


def checked_files(folder: str | os.PathLike) -> FolderFiles:
    """The files of a folder that are published, each of which is on the list and what it says.

    Raises:
        ValueError: as `listed`; or files are not on the list, too large, or not what their names say. The message is
            about all of them, `MAX_TOLD` at most.
    """
    found, refused = listed(folder), []
    for name, file in found.published.items():
        try:
            check_size(name, file)
            check_of(name)(name, file)
        except ValueError as error:
            refused.append(str(error))
    if refused:
        several = f"{len(refused)} files cannot be published as they are. " if len(refused) > 1 else ""
        raise ValueError(several + " ".join(refused[:MAX_TOLD]))
    return found


def check_size(name: str, file: Path) -> None:
    """Raises ValueError if a file is larger than the Hub takes."""
    if file.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(
            f"{name} has {file.stat().st_size / 1e9:.1f} GB, the Hub takes {MAX_FILE_BYTES / 1e9:.0f} GB a file; "
            'save the model again with save_pretrained(max_shard_size="5GB").'
        )


def check_of(name: str) -> Callable[[str, Path], None]:
    """What checks a file of a name; raises ValueError for one that is not on the list."""
    suffix = Path(name).suffix.lower()
    if name.endswith(WEIGHTS):
        return lambda *_: None  # each is opened as what it says where its model is known
    if matches(name, CONFIGS):
        return check_json
    if suffix == ".json":
        return check_result
    if suffix in PICTURES:
        return check_picture
    if matches(name, TEXTS) or LEGAL.fullmatch(Path(name).name):
        return check_text
    raise ValueError(
        f"{name} is nothing that a model's repo may hold: safetensors, their configurations and tokenizers, README.md "
        "and licences, results/*.json and pictures. Move it out of the folder (weights can be saved as safetensors, "
        "text as .md)."
    )


def text_of(name: str, file: Path) -> str:
    """A file's text; raises ValueError if it is none."""
    if file.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(
            f"{name} has {file.stat().st_size / 1e6:.0f} MB, texts {MAX_TEXT_BYTES / 1e6:.0f}; shorten it."
        )
    content = file.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no UTF-8 text ({error}); write it again as one, or remove it.") from error
    if found := CONTROL.search(text):
        raise ValueError(
            f"{name} is no text: it holds {found[0]!r} at character {found.start()}; write it again, or remove it."
        )
    if is_pickle(content):
        raise ValueError(f"{name} is a pickle, which can run code; remove it.")
    return text


def is_pickle(content: bytes) -> bool:
    """Whether all of a text is a pickle: of protocol 0, for the others are no texts."""
    try:
        *_, (_, _, last) = pickletools.genops(content)
    except Exception:  # whatever its readers of arguments stumble on
        return False
    return last + 1 == len(content.rstrip())


def read_json(file: Path) -> dict:
    """The object in a JSON file, an empty one where there is only a list or a value; raises ValueError for no JSON."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); write it again.") from error
    return content if isinstance(content, dict) else {}


def check_text(name: str, file: Path) -> None:
    """Raises ValueError if a file is no text."""
    text_of(name, file)


def check_json(name: str, file: Path) -> dict | list:
    """The object or list in a JSON file; raises ValueError if there is none."""
    try:
        content = json.loads(text_of(name, file))
    except (RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"{name} is no JSON ({error}); write it again.") from error
    if not isinstance(content, dict | list):
        raise ValueError(f"{name} holds a {type(content).__name__}, and no object; write it again.")
    return content


def check_result(name: str, file: Path) -> None:
    """Raises ValueError if a JSON file is no result file."""
    content = check_json(name, file)
    if not Path(name).parent.name == "results" and not (
        isinstance(content, Mapping) and RESULT_KEYS <= content.keys()
    ):
        raise ValueError(
            f"{name} is no configuration that is known, and no result file ({', '.join(sorted(RESULT_KEYS))}); move "
            "it out of the folder, or into results/."
        )


def open_picture(name: str, file: Path) -> PIL.Image.Image:
    """A picture, decoded whole, with all that is written beside its pixels.

    Raises:
        ValueError: it is none of its name's format, too large, damaged, or there is a zip in it.
    """
    picture_format = PICTURES[Path(name).suffix.lower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # ours is the bound
            picture = PIL.Image.open(file, formats=[picture_format])
            width, height = picture.size
            pixels = width * height * getattr(picture, "n_frames", 1)
            if pixels > MAX_PIXELS:
                raise ValueError(
                    f"it has {pixels / 1e6:.0f} million pixels, of which {MAX_PIXELS / 1e6:.0f} are taken"
                )
            picture.load()
    except Exception as error:  # of many kinds: what decoders stumble on
        raise ValueError(f"{name} is no whole {picture_format} picture: {error}. Save it again.") from error
    if zipfile.is_zipfile(file):
        raise ValueError(f"{name} is a picture and a zip in one; save it again.")
    return picture


def check_picture(name: str, file: Path) -> None:
    """Raises ValueError if a file is no picture."""
    open_picture(name, file).close()
