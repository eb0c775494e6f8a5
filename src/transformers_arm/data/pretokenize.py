"""Pictures -> codes, once and before training: what `transformers-arm tokenize` does.

    pretokenize("my_pictures", "my_codes", "checkpoints/arm-tiny")
    dataset = load_files("parquet", data_dir="my_codes")  # goes straight into ArmSFTTrainer

Each input file is cut into windows of rows, and each window becomes one parquet file, written aside and renamed. What
a file holds depends on the input alone: however many workers there are and however often they are killed, the folder
ends up the same, but for rounding in pictures that several windows name (`PictureCodes`). A file's own metadata says
how many rows it took, which it skipped and whether its source ended there; the folder is the only state, and
`report.json` sums it up. Knows nothing about sequences or training.
"""

import json
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, count, islice
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Features, List, Value
from tqdm.auto import tqdm

from ..fetching_arm import Fetcher
from ..whole_files import whole_file, write_whole
from .columns import COLUMNS, SOURCES, TASKS, is_plain, read_list, row_conversation, row_task
from .conversations import is_codes, pictures_of, pixel_values_of
from .file_errors import until_broken
from .fingerprints import digest
from .input_files import InputFile, find_sources
from .picture_codes import PictureCodes
from .renaming import arranged, check_rename
from .row_errors import SHOWN_ROWS, RowError, Tally, as_row_error, check_share, row_error
from .signals import starting_processes
from .visual_tokenizer import describe_tokenizer, load_tokenizer

CODES = {"codes": List(Value("uint16")), "height": Value("uint8"), "width": Value("uint8")}
PART = {"type": Value("string"), "text": Value("string"), "image": CODES}
WRITTEN = {
    "task": Value("string"),
    "prompt": Value("string"),
    "answer": Value("string"),
    "text": Value("string"),
    "source_image": CODES,
    "source_images": List(CODES),
    "image": CODES,
    "messages": List({"role": Value("string"), "content": List(PART)}),
}
# `images` is not among them: the parts of the messages hold them. Whatever the first file lacks, a later one may have.
SCHEMA = Features(WRITTEN).arrow_schema
PICTURES = {"text_to_image": ("image",), "editing": (*SOURCES, "image"), "image_to_text": ("image",), "text": ()}
TAR_COLUMNS = {"jpg": "image", "jpeg": "image", "png": "image", "webp": "image", "txt": "prompt"}
DTYPES = ("float32", "bfloat16", "float16")
ROWS_AT_ONCE = 128  # whose pictures are in memory together
ROWS_BEFORE_JUDGING = 1000  # a share of skipped rows says little before
REPORT, KNOWN, METADATA = "report.json", ".pictures.sqlite", b"transformers_arm"


# --- what is read ----------------------------------------------------------------------------------------------------


def find_columns(sources: list[InputFile], rename: dict[str, str]) -> list[str]:
    """The columns of `COLUMNS` that the rows have once renamed, judged by the first rows that can be read.

    Raises:
        ValueError: there are no rows, or they have none of these columns, or not what is renamed.
    """
    problems = []
    for source in sources:
        names = {name: None for row in islice(until_broken(source.rows(), problems), 100) for name in row}
        if names:
            if rename is not TAR_COLUMNS:  # somebody stated it
                check_rename(rename, COLUMNS, names)
            renamed = {column for name, column in rename.items() if {name, name.partition(".")[0]} & set(names)}
            if columns := [column for column in COLUMNS if column in renamed | set(names)]:
                return columns
            raise ValueError(
                f"{source.name} has {', '.join(names)}, and none of {', '.join(COLUMNS)}. Say what stands for what, "
                "as in --rename jpg=image txt=prompt."
            )
    why = f": {problems[0]}" if problems else ", nor are there any. Does it hold pictures, parquet files or tars?"
    raise ValueError(f"No row of the dataset can be read{why}")


# --- rows ------------------------------------------------------------------------------------------------------------


def tokenized(row: dict, task: str | None, messages: list[dict], codes: Iterator[dict]) -> dict:
    """A row with codes in place of its pictures; `codes` come in the order of its conversation."""
    if task is None:
        filled = [
            [part | {"image": next(codes)} if part["type"] == "image" else part for part in turn["content"]]
            for turn in messages
        ]
        return {"messages": [turn | {"content": parts} for turn, parts in zip(messages, filled, strict=True)]}
    texts = ("prompt", "answer") if task in ("image_to_text", "text") else ("prompt",)
    texts = ("text",) if is_plain(row) else texts
    result = {"task": task, **{column: row[column] for column in texts}}
    for column in PICTURES[task]:
        if row.get(column) is not None:
            several = column == "source_images"
            result[column] = [next(codes) for _ in read_list(row, "", column)] if several else next(codes)
    return result


# --- workers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What all workers have to know; see `pretokenize`.

    Raises:
        ValueError: an option outside its bounds.
    """

    output: Path
    tokenizer: str
    columns: list[str]
    rename: dict[str, str]
    task: str | None
    local_files: bool
    rows_per_file: int
    batch_size: int
    max_skipped: float
    device: str
    dtype: str

    def __post_init__(self):
        for name in ("rows_per_file", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1.")
        check_share(self.max_skipped)
        for name, known in (("task", (None, *TASKS)), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {', '.join(filter(None, known))}.")

    def file(self, source: int, part: int) -> Path:
        return self.output / f"train-{source:05d}-{part:05d}.parquet"


@dataclass
class WindowTally(Tally):
    """What became of a window's rows, and how often those that are written name a picture."""

    pictures: int = 0


class Tokenizing:
    """A worker: windows of sources -> files.

    Args:
        job: see `Job`.
        totals: rows read, and rows skipped, of all workers.
        stop: an event; when it is set, no more files are begun.
        number: which of the workers this is; they take the GPUs in turn.
    """

    def __init__(self, job: Job, totals, stop, number: int):
        self.job, self.totals, self.stop = job, totals, stop
        self.vq_model, self.image_processor = load_tokenizer(job.tokenizer, job.dtype)
        device = f"cuda:{number % torch.cuda.device_count()}" if job.device == "cuda" else job.device
        self.vq_model.to(device)
        self.codes = PictureCodes(job.output / KNOWN)

    def pixel_values(self, picture) -> torch.Tensor:
        """`pixel_values_of` a picture."""
        return pixel_values_of(picture, self.image_processor)

    def encode(self, alike: list[torch.Tensor]) -> list[dict]:
        """Pictures [3, H, W] of one size -> their codes, as `CODES` has them."""
        size, encoded = self.job.batch_size, []
        for start in range(0, len(alike), size):
            pixel_values = torch.stack(alike[start : start + size]).to(self.vq_model.device, self.vq_model.dtype)
            encoded.extend(self.vq_model.get_codes(pixel_values).cpu().numpy().astype(np.uint16))
        return [{"codes": grid.ravel(), "height": grid.shape[0], "width": grid.shape[1]} for grid in encoded]

    def read(self, row: dict, index: int, fetcher: Fetcher) -> tuple[dict, str | None, list[dict]]:
        """A row -> itself, its task (None if it has messages), and its conversation with `pixel_values` as pictures.

        Args:
            fetcher: opens what it names as pictures.

        Raises:
            RowError: it cannot be used.
        """
        job = self.job
        row = arranged(row, index, job.rename, columns=job.columns, default={"task": job.task})
        messages = row_conversation(row, index, self.pixel_values, fetcher)
        if any(is_codes(picture) for picture in pictures_of(messages)):
            raise row_error(index, "image", "holds codes already, of whichever tokenizer. Give the picture.", "codes")
        return row, None if row.get("messages") is not None else row_task(row, index), messages

    def window(self, source: InputFile, rows: Iterable[dict], start: int) -> tuple[list[dict], WindowTally]:
        """Rows from the `start`-th on -> those that can be used, with codes for pictures."""
        results, tally, numbered = [], WindowTally(), enumerate(rows, start)
        fetcher = source.fetcher(self.job.local_files)
        while chunk := list(islice(numbered, ROWS_AT_ONCE)):
            usable = []
            for index, row in chunk:
                try:
                    with as_row_error(index, file=source.name):
                        usable.append(self.read(row, index, fetcher))
                except RowError as error:
                    tally.skip(source.name, error)
            pictures = [picture for _, _, messages in usable for picture in pictures_of(messages)]
            codes = iter(self.codes.of(pictures, self.encode))
            results += [tokenized(*each, codes) for each in usable]
            tally.tasks.update(task or "messages" for _, task, _ in usable)
            tally.pictures += len(pictures)
            tally.rows += len(chunk)
            tally.written += len(usable)
            self.report(tally, len(chunk), len(chunk) - len(usable))
        return results, tally

    def report(self, tally: Tally, rows: int, skipped: int) -> None:
        """Adds to the totals; ends this worker if it should stop, or if too many rows were skipped."""
        with self.totals.get_lock():
            self.totals[0] += rows
            self.totals[1] += skipped
            rows, skipped = self.totals
        if self.stop.is_set():
            raise CancelledError
        if rows >= ROWS_BEFORE_JUDGING:
            tally.check_skipped(self.job.max_skipped, rows, skipped)

    def write(self, file: Path, results: list[dict], about: dict) -> None:
        schema = SCHEMA.with_metadata(SCHEMA.metadata | {METADATA: json.dumps(about)})
        with whole_file(file) as aside, pq.ParquetWriter(aside, schema) as writer:
            if results:  # `datasets` cannot read a row group without rows
                writer.write_table(pa.Table.from_pylist(results, schema=schema))

    def source(self, number: int, source: InputFile, first: int, step: int) -> None:
        """Writes every `step`-th window of a source, from the `first` on, that has no file yet."""
        problems, size = [], self.job.rows_per_file
        rows = until_broken(source.rows(), problems)
        ahead = next(rows, None)
        for part in count():
            window = [] if ahead is None else chain([ahead], islice(rows, size - 1))
            file, made = self.job.file(number, part), None
            if part % step == first and not file.exists():
                made = self.window(source, window, part * size)
            deque(window, maxlen=0)
            ahead = next(rows, None)  # a file says whether it is its source's last
            if made is not None:
                end = {"last": ahead is None, "problem": problems[0] if problems else None}
                self.write(file, made[0], {"source": source.name, **vars(made[1]), **end})
            if ahead is None:
                return


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent_process().join()
    os._exit(1)


def _start_worker(job: Job, totals, stop, numbers) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which has the workers stop
    torch.set_num_threads(1)  # the workers share the cores, and no sum may depend on how many there are
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with numbers.get_lock():
        number, numbers.value = numbers.value, numbers.value + 1
    _worker = Tokenizing(job, totals, stop, number)


def _work(*arguments) -> None:
    _worker.source(*arguments)


# --- the run ---------------------------------------------------------------------------------------------------------


def written_files(output: Path) -> dict[tuple[int, int], dict]:
    """What the files of a folder say of themselves, by the number of their source and of their window, in order."""
    files = {}
    for file in sorted(output.glob("train-*.parquet")):
        _, source, part = file.stem.split("-")
        files[int(source), int(part)] = json.loads(pq.read_schema(file).metadata[METADATA])
    return files


def is_finished(files: Mapping[tuple[int, int], dict], source: int) -> bool:
    """Whether a source's last window is written, and all before it."""
    parts = {part: about for (number, part), about in files.items() if number == source}
    return bool(parts) and sorted(parts) == list(range(len(parts))) and parts[len(parts) - 1]["last"]


def open_output(output: Path, begun: dict) -> None:
    """Makes the folder, or checks that the run that began it is this one.

    Raises:
        ValueError: it holds something else, or was begun by another tokenizer or with other options.
    """
    if (output / REPORT).is_file():
        before = json.loads((output / REPORT).read_text())
        named = [(what, name) for what in begun for name in begun[what]]
        differing = [f"{what}.{name}" for what, name in named if before[what].get(name) != begun[what][name]]
        if differing:
            raise ValueError(
                f"{output} was begun with another {', '.join(differing)} (its {REPORT} says which). Go on as before, "
                "or name another folder."
            )
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} holds something else already. Name a new or empty folder.")
    output.mkdir(parents=True, exist_ok=True)
    for leftover in output.glob(".train-*"):  # of a run that was killed
        leftover.unlink()


def write_report(output: Path, begun: dict, sources: list[InputFile]) -> dict:
    """Sums up the files of a folder in its `report.json`, and returns that."""
    files, tally, ended_early, named = written_files(output), Tally(), [], 0
    for (number, _), about in files.items():
        tally.add(about)
        named += about.get("pictures", 0)  # earlier versions did not count them
        if about["problem"]:
            rows = sum(each["rows"] for (source, _), each in files.items() if source == number)
            ended_early.append({"file": about["source"], "rows": rows, "problem": about["problem"]})
    finished = sum(is_finished(files, number) for number in range(len(sources)))
    encoded, unnamed = encoded_pictures(output), [name for source in sources for name in source.unnamed]
    pictures = {"encoded": encoded, "taken_again": max(named - encoded, 0), "in_no_row": len(unnamed)}
    report = begun | {"complete": finished == len(sources), **vars(tally), "ended_early": ended_early}
    report |= {"pictures": pictures | {"examples_in_no_row": unnamed[:SHOWN_ROWS]}}
    write_whole(output / REPORT, json.dumps(report, indent=2) + "\n")
    if report["complete"]:
        (output / KNOWN).unlink(missing_ok=True)
    return report


def encoded_pictures(output: Path) -> int:
    """How many different pictures of a folder were encoded so far; of a finished one as its report says."""
    if (output / KNOWN).is_file():
        with closing(PictureCodes(output / KNOWN)) as known:
            return len(known)
    before = json.loads((output / REPORT).read_text()) if (output / REPORT).is_file() else {}
    return before.get("pictures", {}).get("encoded", 0)


def pretokenize(
    dataset: str,
    output: str | os.PathLike,
    tokenizer: str | os.PathLike,
    *,
    config: str | None = None,
    split: str = "train",
    rename: dict[str, str] | None = None,
    task: str | None = None,
    local_files: bool = False,
    workers: int | None = None,
    rows_per_file: int = 5000,
    batch_size: int = 32,
    max_skipped: float = 0.1,
    device: str | None = None,
    dtype: str = "float32",
) -> dict:
    """Turns a dataset of pictures into one of codes; called again after it was killed, it goes on.

    The rows become parquet files `train-*.parquet` with all columns of `data/columns.py`, `task` stated, and codes in
    place of pictures; other columns are left out. Rows that cannot be used are skipped and counted. Workers are
    processes: a script that calls this does so under `if __name__ == "__main__":`.

    Args:
        dataset: a folder, a Hub id, or parquet or tar files, as `datasets` takes them. Parquet and tars are streamed.
        output: the folder to write.
        tokenizer: the folder of an `ArmVQModel` with its image processor, or of an ARM.
        config: which of a Hub dataset's configurations.
        split: which split to read. What is written is always a split called train.
        rename: {their name: column}, of which the first that holds something counts; `json.caption` is a value inside
            a JSON. None takes for tars jpg, jpeg, png and webp as `image` and txt as `prompt`.
        task: of rows that state none.
        local_files: whether rows of files may name local pictures, see `fetcher_for`; those of image folders may.
        workers: processes, each with a copy of the tokenizer and one thread; None takes one a core, at most 8. On GPUs
            they take turns. Several work on one file only where there are fewer files than workers.
        rows_per_file: input rows a file, which is what is done again after a kill.
        batch_size: pictures of one size that are encoded together.
        max_skipped: share of the rows; if more are skipped, the run stops.
        device: None takes cuda where there is one, else the CPU.
        dtype: of the tokenizer; train with the same, or a few codes differ from those of pixels.

    Returns:
        The report: `tokenizer` and `options` that made the folder, `complete`, how many `rows` were read and
        `written`, of which `tasks`, how many were `skipped` for which reason with the first `examples`;
        `ended_early`, the files that could not be read to their end; and of `pictures` how many different ones were
        `encoded`, how often one was `taken_again`, and how many of an image folder are `in_no_row`.

    Raises:
        ValueError: an option, column or split that there is not; a folder that another tokenizer or other options
            began; or too many rows were skipped.
        OSError: a worker was killed.
    """
    workers = min(8, os.cpu_count()) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers {workers} must be at least 1.")
    check_rename(rename or {}, COLUMNS)
    sources = find_sources(dataset, config, split)
    if rename is None:
        rename = TAR_COLUMNS if sources[0].builder == "webdataset" else {}
    job = Job(
        output=Path(output),
        tokenizer=str(tokenizer),
        columns=find_columns(sources, rename),
        rename=rename,
        task=task,
        local_files=local_files,
        rows_per_file=rows_per_file,
        batch_size=batch_size,
        max_skipped=max_skipped,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=dtype,
    )
    options = {"dataset": dataset, "config": config, "split": split, "files": len(sources)}
    options |= {
        "written": SCHEMA.names,
        "files_fingerprint": digest([(source.name, source.made_of()) for source in sources]),
    }
    stated = ("columns", "rename", "task", "local_files", "rows_per_file", "batch_size")
    options |= {name: getattr(job, name) for name in stated}
    begun = {"tokenizer": describe_tokenizer(job.tokenizer, dtype), "options": options}
    open_output(job.output, begun)
    report = write_report(job.output, begun, sources)
    try:
        run_workers(job, sources, workers, report)
    finally:
        report = write_report(job.output, begun, sources)
    skipped = report["rows"] - report["written"]
    Tally(examples=report["examples"]).check_skipped(max_skipped, report["rows"], skipped)
    return report


def run_workers(job: Job, sources: list[InputFile], workers: int, report: dict) -> None:
    """Has all windows written that have no file yet, and shows how far that is."""
    files, step = written_files(job.output), math.ceil(workers / len(sources))
    unfinished = [number for number in range(len(sources)) if not is_finished(files, number)]
    tasks = [(number, sources[number], first, step) for number in unfinished for first in range(step)]
    if not tasks:
        return
    # Forks of this process could not use its GPU; forks of a server can, and only the server has to import all this.
    context = get_context("spawn" if os.name == "nt" else "forkserver")
    context.set_forkserver_preload([__name__])
    totals, stop = context.Array("q", [report["rows"], report["rows"] - report["written"]]), context.Event()
    settings = {"initializer": _start_worker, "initargs": (job, totals, stop, context.Value("q", 0))}
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, **settings)
    try:
        with tqdm(desc="Tokenizing", unit=" rows", initial=totals[0]) as bar:
            with starting_processes():
                pending = {pool.submit(_work, *task) for task in tasks}
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                bar.set_postfix(skipped=totals[1], files_to_read=math.ceil(len(pending) / step), refresh=False)
                bar.update(totals[0] - bar.n)
    except BrokenProcessPool as error:
        raise OSError(
            "A worker was killed, perhaps for want of memory. What is written stays; start again, with fewer workers "
            "or a smaller batch_size."
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def summary(report: dict) -> str:
    """A report in words."""
    skipped = report["rows"] - report["written"]
    tasks = ", ".join(f"{number} {task}" for task, number in report["tasks"].items()) or "none"
    lines = [f"{report['written']} of {report['rows']} rows written ({tasks}), {skipped} skipped"]
    lines += [f"  {number} {reason}" for reason, number in report["skipped"].items()]
    lines += [f"  e.g. {example['file']}: {example['problem']}" for example in report["examples"]]
    pictures = report["pictures"]
    lines.append(f"{pictures['encoded']} pictures encoded, {pictures['taken_again']} times one was taken again")
    for file in report["ended_early"]:
        lines.append(f"{file['file']} ended early, after {file['rows']} rows: {file['problem']}")
    return "\n".join(lines)
