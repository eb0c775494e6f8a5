"""Rows and files that cannot be used are named, counted and skipped, up to a share."""

import gzip
import json
from collections import Counter
from functools import partial
from itertools import islice

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from mixture_sources import EDITS, cut, png, said, streamed_texts, texts, write_tar

from transformers_arm.data.input_files import open_dataset
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.readers import StreamedRows
from transformers_arm.data.row_errors import RowError


def broken_edits():
    """Four edits: a good one, a source that is no picture, an instruction without its picture, a cut result."""
    good = {"bytes": png()[0], "path": "good.png"}
    rows = {
        "prompt": ["red", "blue", "green", "gray"],
        "source_image": [good, {"bytes": b"no picture", "path": "before/1.png"}, None, good],
        "image": [good, good, good, {"bytes": good["bytes"][:200], "path": "after/3.png"}],
    }
    return Dataset.from_dict(rows, features=EDITS)


def test_bad_rows_are_skipped_counted_and_named(caplog):
    sources = {"text": Source(texts(9)), "edits": Source(broken_edits(), shuffle=False, condition_dropout={"text": 0})}
    mixture = Mixture(sources, seed=0, streams=1, max_skipped=0.9)
    samples = list(islice(mixture.draw(0), 50))
    state = samples[-1][2]
    assert {name for name, _, _ in samples} == {"text", "edits"}
    assert {text for name, sample, _ in samples for text in said(sample) if name == "edits"} <= {"red"}
    skipped = state.skipped["edits"]
    assert set(skipped) == {f"{what} picture" for what in ("source_image: unreadable", "image: unreadable")} | {
        "source_image: missing"
    }
    assert "text" not in state.skipped
    good = sum(name == "edits" for name, _, _ in samples)
    assert sum(skipped.values()) == state.read["edits"] - good > 2 * good
    log = caplog.text
    assert "Source 'edits', skipped: Row 1, column 'source_image': before/1.png: cannot identify image file" in log
    assert "Row 2, column 'source_image': an edit has no picture to start from" in log
    assert "Row 3, column 'image': after/3.png: " in log
    assert len(caplog.records) == 9  # three of each reason, not thousands


def test_too_many_bad_rows_stop_the_training():
    mixture = Mixture({"edits": Source(broken_edits())}, seed=0, streams=1, max_skipped=0.05)
    with pytest.raises(ValueError, match="6 of 100 rows that stream 0 read of source 'edits' cannot.*They are"):
        list(islice(mixture.draw(0), 50))


def test_few_bad_rows_do_not_stop_it():
    rows = {"prompt": [""] + ["a"] * 39, "answer": ["b"] * 40}
    mixture = Mixture({"text": Source(Dataset.from_dict(rows))}, seed=0, streams=1, max_skipped=0.05)
    *_, (_, _, state) = islice(mixture.draw(0), 1000)
    assert sum(state.skipped["text"].values()) / state.read["text"] == pytest.approx(1 / 40, abs=0.003)


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "json"])
def test_a_file_that_ends_early_is_reported_and_the_others_go_on(tmp_path, caplog, kind):
    files = [tmp_path / f"{number}.{kind}" for number in range(3)]
    for number, file in enumerate(files):
        if kind == "webdataset":
            write_tar(file, 8, 8 * number)
        else:
            getattr(texts(8, 8 * number), f"to_{kind}")(file)
    cut(files[1], 7000 if kind == "webdataset" else 200)
    dataset = load_dataset(kind, data_files=[str(file) for file in files], split="train", streaming=True)
    reader = StreamedRows(dataset, key="a", shuffle_buffer=5)
    reads = list(islice(reader.read(0, 1), 80))
    ended = [read for read in reads if isinstance(read.row, RowError)]
    good = Counter((read.file, read.number) for read in reads if not isinstance(read.row, RowError))
    assert {read.file for read in ended} == {str(files[1])} and len(ended) == reads[-1].state.epoch + 1 > 2
    assert {file for file, _ in good} >= {str(files[0]), str(files[2])}
    assert {number for file, number in good if file == str(files[0])} == set(range(8))
    rows = ended[0].number
    assert rows == sum(file == str(files[1]) for file, _ in good) < 8
    assert f"the file ends early, after {rows} rows (" in str(ended[0].row)
    if kind == "webdataset":
        assert rows > 0


def test_a_damaged_file_is_counted_and_a_mixture_goes_on_behind_it(tmp_path, caplog):
    files = [write_tar(tmp_path / f"{number}.tar", 8, 8 * number) for number in range(3)]
    cut(tmp_path / "1.tar", 7000)
    dataset = load_dataset("webdataset", data_files=files, split="train", streaming=True)
    source = Source(dataset, rename={"png": "image", "txt": "prompt"}, fill={"task": "text_to_image"})
    mixture = Mixture({"tars": source}, seed=0, streams=1)
    expected = [(said(sample), state) for _, sample, state in islice(mixture.draw(0), 70)]
    assert expected[-1][1].skipped == {"tars": {"file ends early": 4}}
    assert f"Source 'tars', {files[1]}: skipped: Row " in caplog.text
    for place in range(0, 60, 3):
        resumed = [(said(sample), state) for _, sample, state in islice(mixture.draw(0, expected[place][1]), 9)]
        assert resumed == expected[place + 1 : place + 10]


def test_fewer_rows_than_stated_are_known_after_an_epoch(tmp_path):
    sources = {
        "streamed": Source(streamed_texts(tmp_path, [5, 8]), rows=20),
        "complete": Source(streamed_texts(tmp_path, [5, 8]), rows=13),
        "indexed": Source(texts(9), rows=10),
    }
    mixture = Mixture(sources, seed=0, streams=2)

    def states(samples):
        return [list(islice(mixture.draw(stream), samples))[-1][2] for stream in range(2)]

    assert mixture.missing_rows(states(3)) == {"indexed": 1}
    assert mixture.missing_rows(states(60)) == {"streamed": 7, "indexed": 1}


def test_a_damaged_row_group_ends_its_file_and_the_rows_before_count(tmp_path):
    file = tmp_path / "0.parquet"
    table = texts(400).data.table
    pq.write_table(table, file, row_group_size=100, compression="zstd", use_dictionary=False)
    column = pq.ParquetFile(file).metadata.row_group(2).column(0)
    content = bytearray(file.read_bytes())
    start = column.data_page_offset
    content[start : start + column.total_compressed_size] = b"x" * column.total_compressed_size
    file.write_bytes(content)
    texts(3, 400).to_parquet(tmp_path / "1.parquet")
    dataset = load_dataset("parquet", data_files=str(tmp_path / "*.parquet"), split="train", streaming=True)
    reads = list(islice(StreamedRows(dataset, key="a", shuffle=False, shuffle_buffer=50).read(0, 1), 204))
    rows = next(place for place, read in enumerate(reads) if isinstance(read.row, RowError))
    # Arrow reads row groups ahead: how many of those before the damage it hands over is up to its threads.
    assert rows in (0, 100, 200)
    assert [read.number for read in reads[: rows + 4]] == [*range(rows + 1), 0, 1, 2]
    assert (
        f"the file ends early, after {rows} rows (" in str(reads[rows].row) and reads[rows + 3].state.rows == rows + 3
    )


def as_given(files):
    return load_dataset("json", data_files=files, split="train", streaming=True)


def as_opened(files, streaming=True):
    return open_dataset(path="json", data_files=files, streaming=streaming)


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "jsonl.gz"])
@pytest.mark.parametrize("opened", [as_given, as_opened, partial(as_opened, streaming=False)])
def test_a_bad_line_of_json_costs_its_row_and_no_other(tmp_path, monkeypatch, caplog, ending, opened):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    lines = [json.dumps({"prompt": str(number), "answer": "x"}).encode() for number in range(40)]
    lines[7], lines[20], lines[30] = b'{"prompt": "7', b'{"prompt": "\xff", "answer": "x"}', b'["20"]'
    content = b"\n".join([*lines[:35], b"", *lines[35:]])
    file = tmp_path / f"0.{ending}"
    file.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    (tmp_path / f"1.{ending}").write_bytes(gzip.compress(lines[0]) if ending.endswith("gz") else lines[0])
    dataset = opened([str(file), str(tmp_path / f"1.{ending}")])
    mixture = Mixture({"lines": Source(dataset, shuffle=False)}, seed=0, streams=1, max_skipped=0.1)
    samples = list(islice(mixture.draw(0), 38))
    assert [said(sample)[0] for _, sample, _ in samples] == [
        *(str(number) for number in range(40) if number not in (7, 20, 30)),
        "0",
    ]
    assert samples[-1][2].skipped == {"lines": {"undecodable": 3}} and samples[-1][2].read == {"lines": 41}
    assert 'Row 7: the line \'{"prompt": "7\' is no JSON: Unterminated string' in caplog.text


def test_json_that_is_no_lines_and_rows_that_lack_a_column_are_read_as_before(tmp_path):
    rows = [{"prompt": "a", "source_image": None, "image": "x"}, {"prompt": "b", "image": "y"}]
    (tmp_path / "list.jsonl").write_text(json.dumps(rows))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("list", "lines"):
        reader = Source(as_given(str(tmp_path / f"{name}.jsonl")), shuffle=False).reader("a")
        read = [each.row for each in islice(reader.read(0, 1), 2)]
        assert [set(row) for row in read] == [{"prompt", "source_image", "image"}] * 2


@pytest.mark.parametrize("step", ["map", "filter"])
def test_an_error_of_a_step_behind_the_reader_is_raised_and_not_the_file_s(tmp_path, step):
    def steps(row):
        if row["prompt"] == "5":
            raise ValueError("bad caption")
        return {"answer": "y"}

    dataset = getattr(streamed_texts(tmp_path, [9]), step)(steps)
    reads = StreamedRows(dataset, key="a", shuffle=False, shuffle_buffer=2).read(0, 1)
    with pytest.raises(ValueError, match="bad caption") as raised:
        list(islice(reads, 9))
    assert "00.parquet, behind " in raised.value.__notes__[0]


def test_whatever_a_row_or_its_sample_raises_costs_the_row_and_names_it(caplog):
    """Not only ValueErrors, which were expected."""

    class Rows:
        def __len__(self):
            return 4

        def __getitem__(self, number):
            if number == 1:
                raise KeyError("image")
            return {"prompt": str(number), "answer": "x"}

    def encode(conversation):
        number = int(conversation[0]["content"][0]["text"])
        return [number, 1 / (number - 2)]

    mixture = Mixture({"a": Source(Rows(), shuffle=False)}, seed=0, streams=1, max_skipped=1)
    drawn = [(sample[0], state) for _, sample, state in islice(mixture.draw(0, encode=encode), 3)]
    assert [number for number, _ in drawn] == [0, 3, 0]
    assert drawn[-1][1].skipped == {"a": {"unusable (KeyError)": 1, "unusable (ZeroDivisionError)": 1}}
    assert "Source 'a', skipped: Row 1: KeyError: 'image'" in caplog.text and "Row 2: ZeroDivision" in caplog.text


@pytest.mark.parametrize("error", [MemoryError("none left"), OSError(28, "No space left"), ConnectionError("lost")])
def test_what_is_the_machine_s_fault_costs_no_row(error):
    def encode(conversation):
        raise error

    with pytest.raises(type(error)):
        next(Mixture({"a": Source(texts(2))}, seed=0, streams=1, max_skipped=1).draw(0, encode=encode))


def test_what_would_rename_nothing_is_refused():
    with pytest.raises(ValueError, match="No row has caption, which should be 'answer': they have prompt, answer"):
        Source(texts(2), rename={"caption": "answer"})
    with pytest.raises(ValueError, match="Nothing can be renamed to caption"):
        Source(texts(2), rename={"prompt": "caption"})
