"""Rows of datasets as they stand in their files: all of them, in order, and files that end early by name."""

import json

import pytest
from datasets import load_dataset
from mixture_sources import cut, streamed_texts, texts

from transformers_arm.data.columns import check_dataset
from transformers_arm.data.input_files import rows_of
from transformers_arm.data.renaming import check_whole
from transformers_arm.data.row_errors import RowError


@pytest.mark.parametrize("step", [lambda rows: rows, lambda rows: rows.take(7), lambda rows: rows.skip(2)])
def test_rows_come_in_order_whatever_was_done_to_a_stream(tmp_path, step):
    dataset = step(streamed_texts(tmp_path, [5, 4, 3]))
    assert list(rows_of(dataset)) == list(dataset)
    assert list(rows_of(texts(4))) == list(texts(4))


@pytest.mark.parametrize("kind", ["parquet", "jsonl.gz", "csv"])
def test_a_file_that_ends_early_is_named(tmp_path, kind):
    for number in range(2):
        write = getattr(texts(3000, number), f"to_{kind.replace('jsonl.gz', 'json')}")
        write(tmp_path / f"{number}.{kind}", **({"compression": "gzip"} if kind == "jsonl.gz" else {}))
    cut(tmp_path / f"1.{kind}", (tmp_path / f"1.{kind}").stat().st_size // 2)
    if kind == "csv":
        (tmp_path / "1.csv").write_bytes((tmp_path / "1.csv").read_bytes() + b"\xff\n")
    builder = {"jsonl.gz": "json"}.get(kind, kind)
    rows = rows_of(load_dataset(builder, data_files=str(tmp_path / f"*.{kind}"), split="train", streaming=True))
    with pytest.raises(RowError, match=rf"1.{kind} ends early, after \d+ rows \(\w+: .*Replace it") as raised:
        for number, row in enumerate(rows):
            last = (number, row["prompt"])
    assert last[0] >= 2999 and raised.value.reason == "file ends early"


def test_lines_that_are_no_json_are_rows_that_say_so(tmp_path):
    lines = [json.dumps({"prompt": "a"}), "{", json.dumps({"prompt": "b"})]
    (tmp_path / "0.jsonl").write_text("\n".join(lines))
    dataset = load_dataset("json", data_files=str(tmp_path / "0.jsonl"), split="train", streaming=True)
    rows = list(rows_of(dataset))
    assert [row.get("prompt") for row in rows] == ["a", None, "b"]
    with pytest.raises(RowError, match="Row 1: the line '{' is no JSON: Expecting property name"):
        check_whole(rows[1], 1)


def test_check_dataset_names_bad_lines_and_files_that_end_early(tmp_path):
    rows = [json.dumps({"prompt": "a", "answer": "b"})] * 3
    (tmp_path / "0.jsonl").write_text("\n".join([*rows, '{"prompt": "c']))
    dataset = load_dataset("json", data_files=str(tmp_path / "0.jsonl"), split="train", streaming=True)
    with pytest.raises(ValueError, match="1 of 4 rows cannot be used:\nRow 3: the line '.*' is no JSON"):
        check_dataset(dataset)
    dataset = streamed_texts(tmp_path, [3, 3])
    cut(tmp_path / "01.parquet", 300)
    with pytest.raises(ValueError, match="01.parquet ends early, after 0 rows"):
        check_dataset(dataset)
