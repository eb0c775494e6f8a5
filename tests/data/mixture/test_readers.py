"""Rows of one source are shared out without repeats, and gone on with exactly where they stopped."""

import json
from itertools import islice

import pytest
from datasets import load_dataset
from mixture_sources import by_epoch, streamed_texts, texts, write_tar

from transformers_arm.data.mixture import IndexedRows, StreamedRows, permuted


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 1000])
def test_a_permutation_hits_every_index_once(length):
    order = [permuted(index, length, "a") for index in range(length)]
    assert sorted(order) == list(range(length))
    if length > 10:
        assert order != sorted(order) and order != [permuted(index, length, "b") for index in range(length)]


@pytest.mark.parametrize("streams", [1, 3, 4])
def test_streams_read_every_indexed_row_once_an_epoch_in_a_new_order(streams):
    reader = IndexedRows(texts(12), key="a")
    epochs = by_epoch(reader, streams, 24 // streams)
    assert set(epochs) == {0, 1}
    for of_streams in epochs.values():
        assert sorted(sum(of_streams, []), key=int) == [str(number) for number in range(12)]
    assert epochs[0] != epochs[1] and sum(epochs[0], []) != sorted(sum(epochs[0], []), key=int)


def test_unshuffled_rows_keep_their_order():
    (first, second), (third, fourth) = (
        [read.row["prompt"] for read in islice(IndexedRows(texts(4), key="a", shuffle=False).read(stream, 2), 2)]
        for stream in range(2)
    )
    assert [first, third, second, fourth] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("sizes", "streams"), [([5, 9, 7, 3, 8], 2), ([9, 12, 10], 3), ([10, 14], 8)])
def test_streams_read_every_streamed_row_once_an_epoch_in_a_new_order(tmp_path, sizes, streams):
    reader = StreamedRows(streamed_texts(tmp_path, sizes), key="a", shuffle_buffer=4)
    epochs = by_epoch(reader, streams, 3 * sum(sizes))
    for epoch in (0, 1):
        assert sorted(sum(epochs[epoch], []), key=int) == [str(number) for number in range(sum(sizes))]
    assert epochs[0] != epochs[1]
    assert all(of_stream != sorted(of_stream, key=int) for of_stream in epochs[0] if len(of_stream) > 4)


def readers(folder):
    yield IndexedRows(texts(7), key="a")
    (folder / "parquet").mkdir()
    yield StreamedRows(streamed_texts(folder / "parquet", [5, 9, 4]), key="a", shuffle_buffer=4)
    files = [write_tar(folder / f"{number}.tar", 6, 6 * number) for number in range(3)]
    dataset = load_dataset("webdataset", data_files=files, split="train", streaming=True)
    yield StreamedRows(dataset.rename_column("txt", "prompt"), key="a", shuffle_buffer=4)


@pytest.mark.parametrize("streams", [1, 4])
def test_a_reader_goes_on_behind_any_row(tmp_path, streams):
    for reader in readers(tmp_path):
        expected = [(read.row["prompt"], read.state) for read in islice(reader.read(0, streams), 45)]
        assert len({prompt for prompt, _ in expected}) < 45  # into a later epoch
        for place in range(0, 30):
            state = type(expected[place][1])(**json.loads(json.dumps(expected[place][1].to_json())))
            resumed = [(read.row["prompt"], read.state) for read in islice(reader.read(0, streams, state), 15)]
            assert resumed == expected[place + 1 : place + 16]


def test_a_source_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Source a has no rows"):
        IndexedRows(texts(3).select([]), key="a")
    reader = StreamedRows(streamed_texts(tmp_path, [3]).filter(lambda row: False), key="a", shuffle_buffer=4)
    with pytest.raises(ValueError, match="Source a gave stream 0 of 2 no row in 100 epochs"):
        next(reader.read(0, 2))
