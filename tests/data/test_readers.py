"""Rows of one source are shared out without repeats, and gone on with exactly where they stopped."""

import json
from itertools import islice

import pytest
from datasets import load_dataset
from mixture_sources import by_epoch, streamed_texts, texts, write_tar

from transformers_arm.data.readers import IndexedRows, StreamedRows, permuted


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


# --- rows that are held out ------------------------------------------------------------------------------------------


def read_by(reader, streams, reads=40):
    """Texts that all streams read."""
    return {read.row["prompt"] for stream in range(streams) for read in islice(reader.read(stream, streams), reads)}


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("streams", [1, 3])
def test_the_last_rows_that_have_numbers_are_held_out(shuffle, streams):
    reader = IndexedRows(texts(12), key="a", shuffle=shuffle, held_out=5)
    assert [read.row["prompt"] for read in reader.held_out()] == ["7", "8", "9", "10", "11"]
    assert read_by(reader, streams) == {str(number) for number in range(7)}
    assert [read.number for read in reader.first(3)] == [0, 1, 2]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("streams", "held_out"), [(1, 2), (3, 5), (2, 7), (8, 7)])
def test_the_first_rows_of_streamed_files_are_held_out(tmp_path, shuffle, streams, held_out):
    dataset = streamed_texts(tmp_path, [5, 9, 7])
    reader = StreamedRows(dataset, key="a", shuffle=shuffle, shuffle_buffer=4, held_out=held_out)
    numbers = [str(number) for number in range(21)]
    assert [read.row["prompt"] for read in reader.held_out()] == numbers[:held_out]
    assert read_by(reader, streams) == set(numbers[held_out:])
    assert [read.number for read in reader.first(6)] == [0, 1, 2, 3, 4, 0]


def test_a_reader_with_rows_held_out_goes_on_behind_any_row(tmp_path):
    reader = StreamedRows(streamed_texts(tmp_path, [5, 9, 7]), key="a", shuffle_buffer=4, held_out=7)
    expected = [(read.row["prompt"], read.state) for read in islice(reader.read(0, 2), 30)]
    for place in range(20):
        resumed = reader.read(0, 2, expected[place][1])
        assert [(read.row["prompt"], read.state) for read in islice(resumed, 10)] == expected[place + 1 : place + 11]


def test_holding_out_all_rows_is_refused(tmp_path):
    for rows, held_out in ((3, 3), (3, 9)):
        message = f"Source a has 3 rows, of which validation holds out {held_out}: none is left to train on"
        with pytest.raises(ValueError, match=message):
            IndexedRows(texts(rows), key="a", held_out=held_out)
        with pytest.raises(ValueError, match=message):
            folder = tmp_path / str(held_out)
            folder.mkdir()
            StreamedRows(streamed_texts(folder, [2, 1]), key="a", shuffle_buffer=4, held_out=held_out)
