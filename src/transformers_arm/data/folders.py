"""Which files of a folder are read, and as which split: stated, where `datasets` guesses it from their names.

    dataset = load_files("imagefolder", data_dir="my_pictures")  # every picture, whatever it is called

`datasets` takes `train.png`, `test-tube.png` and `eval/` for splits and leaves out all else. Here **a folder of this
machine is one split, train**, but for two customs, and for these only if they leave no file out and the split that is
asked for is among theirs: folders called just as splits are (`train/`, `validation/`, `test/`, ..., at the top or in
`data/`); and, of files of rows (parquet, JSON, tars, ...) and never of pictures, what `datasets` reads in their names.
What `data_files`, or `configs` in a folder's README, state is as stated, and the Hub's datasets are as there.

Knows nothing about rows but which pictures they name.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from glob import escape
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset, StreamingDownloadManager, load_dataset, load_dataset_builder
from datasets.data_files import SPLIT_KEYWORDS, DataFilesDict, DataFilesList, get_data_patterns, resolve_pattern
from datasets.load import infer_module_for_data_files
from datasets.packaged_modules import _MODULE_TO_EXTENSIONS, _PACKAGED_DATASETS_MODULES
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from huggingface_hub import DatasetCard

from .columns import undecoded
from .row_errors import SHOWN_ROWS

logger = logging.getLogger(__name__)

SPLITS = {keyword: str(split) for split, keywords in SPLIT_KEYWORDS.items() for keyword in keywords}
ROWS_AT_ONCE = 1000  # that are looked at together


# --- splits ----------------------------------------------------------------------------------------------------------


def stated_files(arguments: Mapping, split: str | None = "train") -> dict:
    """Arguments of `load_dataset` that name a local folder, with its files stated as the rule at the top says.

    Args:
        arguments: of `load_dataset`, `path` among them. Names of files in `data_files` may hold `[` and `*`.
        split: that is asked for; None asks for all.
    """
    arguments, data_files = dict(arguments), arguments.get("data_files")
    packaged = arguments["path"] in _PACKAGED_DATASETS_MODULES
    root = "" if packaged else arguments["path"]
    if data_files is not None:
        return arguments | {"data_files": _literal(data_files, os.path.join(root, arguments.get("data_dir") or ""))}
    folder = Path(root, arguments.get("data_dir") or "").expanduser().resolve()
    names_one = arguments.get("data_dir") if packaged else os.path.isdir(root) and not arguments.get("name")
    if not names_one or not folder.is_dir() or not packaged and _states_configs(Path(root)):
        return arguments
    try:
        found = _listed(resolve_pattern("**", escape(str(folder))))
    except FileNotFoundError:  # there are none, as `datasets` will say
        return arguments
    kind = arguments["path"] if packaged else infer_module_for_data_files(DataFilesDict(train=found), str(folder))[0]
    pictures = kind.endswith("folder")
    metadata = arguments.get("metadata_filenames") or FolderBasedBuilder.METADATA_FILENAMES if pictures else ()
    files = [file for file in found if _is_data(file, kind) or os.path.basename(file) in metadata]
    splits = (_splits_by_folder if pictures else _splits_by_name)(folder, files)
    asked = {each.partition("[")[0].strip() for each in str(split).split("+")} if split is not None else set()
    if not files or set(files).difference(*splits.values()) or not asked <= set(splits):
        splits = {"train": files or found}
    arguments.pop("data_dir", None)
    of_pictures = {"path": kind} if pictures else {}  # which leaves none out for how its ending is written
    return arguments | of_pictures | {"data_files": DataFilesDict({name: _listed(splits[name]) for name in splits})}


def _is_data(file: str, kind: str) -> bool:
    """Whether a file's endings are those of a module of `datasets`, or of an archive that it opens."""
    endings = {ending.lower() for ending in (*_MODULE_TO_EXTENSIONS.get(kind, ()), ".zip", ".tgz")}
    return any(f".{each.lower()}" in endings for each in os.path.basename(file).split(".")[1:])


def _literal(data_files, base: str):
    """What `data_files` state, with names of files that there are as patterns of these alone."""
    if isinstance(data_files, DataFilesList):
        return data_files
    if isinstance(data_files, Mapping):
        return type(data_files)({name: _literal(each, base) for name, each in data_files.items()})
    if isinstance(data_files, list | tuple):
        return [_literal(each, base) for each in data_files]
    return escape(data_files) if os.path.isfile(os.path.join(base, data_files)) else data_files


def _states_configs(folder: Path) -> bool:
    """Whether a folder's README, or what stands for it, says which of its files are which split."""
    if (folder / ".huggingface.yaml").is_file():
        return True
    readme = folder / "README.md"
    return readme.is_file() and "configs" in DatasetCard.load(readme).data.to_dict()


def _listed(files: Iterable[str]) -> DataFilesList:
    """Files with what tells them from others of their name, as `datasets` would find it but for names with ::, which
    it takes for places in archives.
    """
    files = sorted(files)
    return DataFilesList(files, [(str(os.stat(file).st_mtime),) for file in files])


def _splits_by_folder(folder: Path, files: list[str]) -> dict[str, list[str]]:
    """The splits after which the folders at the top, or in `data/` if all is there, are called."""
    paths = {file: Path(file).relative_to(folder).parts[:-1] for file in files}
    if all(parts[:1] == ("data",) for parts in paths.values()):
        paths = {file: parts[1:] for file, parts in paths.items()}
    splits: dict[str, list[str]] = {}
    for file, parts in paths.items():
        if parts and parts[0] in SPLITS:
            splits.setdefault(SPLITS[parts[0]], []).append(file)
    return splits


def _splits_by_name(folder: Path, files: list[str]) -> dict[str, list[str]]:
    """The splits that `datasets` reads in names of files."""
    base, among, splits = escape(str(folder)), set(files), {}
    for name, patterns in get_data_patterns(base).items():
        found = set(DataFilesList.from_patterns(patterns, base_path=base))
        splits |= {str(name): list(among & found)} if among & found else {}
    return splits


# --- loading ---------------------------------------------------------------------------------------------------------


def load_files(path: str, *, split: str | None = "train", **arguments) -> Dataset | IterableDataset:
    """What `datasets.load_dataset` loads, but that of a local folder no file is left out for its name.

    Pictures that are in no row, where a folder's metadata does not name them, are counted in a warning, which names
    the first.

    Args:
        path, split, arguments: as for `load_dataset`: `load_files("imagefolder", data_dir="my_pictures")`.

    Raises:
        ValueError, FileNotFoundError, DatasetGenerationError: as `load_dataset`.
    """
    arguments = stated_files({"path": path, **arguments}, split)
    dataset = load_dataset(**arguments, split=split)
    if isinstance(dataset, IterableDataset):
        _put_in_order(dataset)
    told_unnamed(dataset, arguments, split)
    return dataset


def _put_in_order(dataset: IterableDataset) -> None:
    """Has a stream read the metadata of a folder's folders by name: `datasets` keeps them in a set, so that each
    process would have another order, and rows that streams share out would be lost and doubled.
    """
    kwargs = getattr(dataset._ex_iterable, "kwargs", {})
    if isinstance(kwargs.get("metadata_files"), set):
        kwargs["metadata_files"] = sorted(kwargs["metadata_files"], key=itemgetter(-1))  # (..., the file)


def told_unnamed(dataset: Dataset | IterableDataset, arguments: Mapping, split: str | None) -> list[str]:
    """`unnamed_pictures`, and a warning of them."""
    if unnamed := unnamed_pictures(dataset, arguments, split):
        logger.warning(
            "%d pictures are in no row: no metadata names them, or they have '::' in their names, which `datasets` "
            "takes for a place in an archive. Add their lines, rename them, or move them elsewhere: %s%s",
            len(unnamed),
            ", ".join(map(repr, unnamed[:SHOWN_ROWS])),
            ", ..." if len(unnamed) > SHOWN_ROWS else "",
        )
    return unnamed


def unnamed_pictures(dataset: Dataset | IterableDataset, arguments: Mapping, split: str | None) -> list[str]:
    """The pictures among an image folder's files that no row of a whole split names; members of archives too.

    Args:
        dataset: the rows.
        arguments: of `load_dataset`, that they were loaded by.
        split: of which they are.
    """
    if not arguments["path"].endswith("folder") or arguments["path"] not in _PACKAGED_DATASETS_MODULES:
        return []
    found = {name: arguments[name] for name in ("path", "data_dir", "data_files") if name in arguments}
    builder = load_dataset_builder(**found)
    files = {str(name): each for name, each in builder.config.data_files.items()}.get(str(split), ())
    named: set[str] = set()
    if files:
        for table in undecoded(dataset).with_format("arrow").iter(ROWS_AT_ONCE):
            named.update(*map(_paths, table.columns))
    return [each for each in _pictures(files, builder.EXTENSIONS, named) if each not in named]


def _pictures(files: Iterable[str], endings: Iterable[str], named: Iterable[str]) -> Iterator[str]:
    """The pictures among files, and in archives of which rows name any."""
    archives, manager = {name.rpartition("::")[2] for name in named if "::" in name}, StreamingDownloadManager()
    for file in files:
        if file in archives:
            members = manager.iter_files(manager.extract(file))  # zip://a.png::pictures.zip
            yield from (each for each in members if os.path.splitext(each.partition("::")[0])[1].lower() in endings)
        elif os.path.splitext(file)[1].lower() in endings:
            yield file


def _paths(column: pa.ChunkedArray) -> set[str]:
    """What pictures in a column are called: those of structs, of lists of them too."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _paths(pc.list_flatten(column))
    if not pa.types.is_struct(column.type):
        return set()
    if "path" in (names := [field.name for field in column.type]):
        return set(pc.unique(pc.struct_field(column, "path")).to_pylist()) - {None}
    return set().union(*(_paths(pc.struct_field(column, name)) for name in names))
