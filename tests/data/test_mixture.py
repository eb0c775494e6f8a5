"""Mixtures draw by weight, share rows out without repeats, go on exactly where they stopped, and report bad rows."""

import io
import json
import logging
import tarfile
from collections import Counter
from itertools import islice
from random import Random

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, Features, Image, Value, load_dataset

from transformers_arm.data.mixture import IndexedRows, Mixture, Source, StreamedRows, permuted
from transformers_arm.data.row_errors import RowError
from transformers_arm.worlds.shapes import render_scene, sample_scene
from transformers_arm.worlds.shapes.captions import full_caption

DRAWN = Features({"prompt": Value("string"), "image": Image()})
EDITS = Features({"prompt": Value("string"), "source_image": Image(), "image": Image()})


def png(seed=0):
    """A drawn scene as a file, and its caption."""
    scene, file = sample_scene(Random(seed), split="train"), io.BytesIO()
    PIL.Image.fromarray(render_scene(scene, 48, 48)).save(file, "png")
    return file.getvalue(), full_caption(scene)


def drawn(count, first=0):
    """A dataset of pictures to draw."""
    pictures = [png(first + number) for number in range(count)]
    rows = {
        "prompt": [f"{first + number} {caption}" for number, (_, caption) in enumerate(pictures)],
        "image": [{"bytes": file, "path": None} for file, _ in pictures],
    }
    return Dataset.from_dict(rows, features=DRAWN)


def texts(count, first=0):
    """A dataset of numbered texts."""
    numbers = [str(first + number) for number in range(count)]
    return Dataset.from_dict({"prompt": numbers, "answer": [f"answer {number}" for number in numbers]})


def streamed_texts(folder, sizes):
    """Numbered texts in parquet files of these sizes, streamed."""
    files, first = [], 0
    for number, size in enumerate(sizes):
        files.append(str(folder / f"{number:02}.parquet"))
        texts(size, first).to_parquet(files[-1], batch_size=3)
        first += size
    return load_dataset("parquet", data_files=files, split="train", streaming=True)


def write_tar(path, rows, first=0):
    with tarfile.open(path, "w") as tar:
        for number in range(first, first + rows):
            for ending, content in zip(("png", "txt"), png(number), strict=True):
                content = content if isinstance(content, bytes) else content.encode()
                entry = tarfile.TarInfo(f"{number:04}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return str(path)


def by_epoch(reader, streams, reads):
    """What all streams read, in order, by the epoch they read it in: {epoch: [[prompt, ...] of a stream, ...]}."""
    epochs = {}
    for stream in range(streams):
        for read in islice(reader.read(stream, streams), reads):
            of_streams = epochs.setdefault(read.state["epoch"], [[] for _ in range(streams)])
            of_streams[stream].append(read.row["prompt"])
    return epochs


def said(sample):
    """The texts of a conversation."""
    return [part["text"] for turn in sample for part in turn["content"] if part["type"] == "text"]


# --- rows of one source ----------------------------------------------------------------------------------------------


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
            state = json.loads(json.dumps(expected[place][1]))
            resumed = [(read.row["prompt"], read.state) for read in islice(reader.read(0, streams, state), 15)]
            assert resumed == expected[place + 1 : place + 16]


def test_a_source_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Source a has no rows"):
        IndexedRows(texts(3).select([]), key="a")
    reader = StreamedRows(streamed_texts(tmp_path, [3]).filter(lambda row: False), key="a", shuffle_buffer=4)
    with pytest.raises(ValueError, match="Source a gave stream 0 of 2 no row in 100 epochs"):
        next(reader.read(0, 2))


# --- mixtures --------------------------------------------------------------------------------------------------------


def test_weights_are_shares_of_the_examples_drawn():
    weights = {"text": 0.05, "image_to_text": 0.10, "text_to_image": 0.70, "interleaved": 0.15}
    sources = {name: Source(texts(50), weight=10 * weight) for name, weight in weights.items()}
    mixture = Mixture(sources, seed=0, streams=2)
    names = Counter(name for stream in range(2) for name, _, _ in islice(mixture.draw(stream), 3000))
    for name, weight in weights.items():
        assert names[name] / 6000 == pytest.approx(weight, abs=0.02)


def test_streams_and_seeds_draw_differently():
    def first(seed, stream):
        mixture = Mixture({"a": Source(texts(50)), "b": Source(texts(50))}, seed=seed, streams=2)
        return [(name, said(sample)) for name, sample, _ in islice(mixture.draw(stream), 10)]

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(0, 1) and first(0, 0) != first(1, 0)


def test_a_mixture_goes_on_behind_any_sample(tmp_path):
    sources = {
        "indexed": Source(texts(7), weight=2),
        "streamed": Source(streamed_texts(tmp_path, [5, 8]), shuffle_buffer=3),
        "bad": Source(Dataset.from_dict({"prompt": ["a", "", "c"], "answer": ["x", "y", "z"]})),
        "drawn": Source(drawn(3), condition_dropout={"text": 0.5}),
    }
    mixture = Mixture(sources, seed=0, streams=2, max_skipped=0.5)
    expected = [(name, said(sample), state) for name, sample, state in islice(mixture.draw(1), 60)]
    assert expected[-1][2]["skipped"]["bad"]["prompt: blank"] > 3
    for place in range(0, 45, 4):
        state = json.loads(json.dumps(expected[place][2]))
        resumed = [(name, said(sample), after) for name, sample, after in islice(mixture.draw(1, state), 15)]
        assert resumed == expected[place + 1 : place + 16]


def test_columns_are_renamed_and_filled():
    dataset = texts(1).rename_columns({"prompt": "asked", "answer": "caption"}).remove_columns("asked")
    source = Source(dataset, rename={"caption": "answer"}, fill={"prompt": "say it", "task": "text"})
    _, sample, _ = next(Mixture({"a": source}, seed=0, streams=1).draw(0))
    assert [(turn["role"], said([turn])) for turn in sample] == [("user", ["say it"]), ("assistant", ["answer 0"])]


@pytest.mark.parametrize(
    ("dropout", "text", "image"), [(None, 0.15, 0.15), ({"text": 0.5, "image": 0, "both": 0}, 0.5, 0)]
)
def test_conditions_are_dropped_source_by_source(dropout, text, image):
    row = {"prompt": ["make it red"], "source_image": [{"bytes": png(0)[0]}], "image": [{"bytes": png(1)[0]}]}
    source = Source(Dataset.from_dict(row, features=EDITS), condition_dropout=dropout)
    lost = Counter()
    for _, sample, _ in islice(Mixture({"edits": source}, seed=0, streams=1).draw(0), 1000):
        kinds = [part["type"] for part in sample[0]["content"]]
        lost.update(kind for kind in ("text", "image") if kind not in kinds)
        assert len(sample[1]["content"]) == 1
    assert lost["text"] / 1000 == pytest.approx(text, abs=0.04)
    assert lost["image"] / 1000 == pytest.approx(image, abs=0.04)


# --- rows that cannot be used ----------------------------------------------------------------------------------------


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
    skipped = state["skipped"]["edits"]
    assert set(skipped) == {f"{what} picture" for what in ("source_image: unreadable", "image: unreadable")} | {
        "source_image: missing"
    }
    assert "text" not in state["skipped"]
    good = sum(name == "edits" for name, _, _ in samples)
    assert sum(skipped.values()) == state["read"]["edits"] - good > 2 * good
    log = caplog.text
    assert "Source 'edits', skipped: Row 1, column 'source_image': before/1.png: cannot identify image file" in log
    assert "Row 2, column 'source_image': an edit has no picture to start from" in log
    assert "Row 3, column 'image': after/3.png: " in log
    assert len(caplog.records) == 9  # three of each reason, not thousands


def test_too_many_bad_rows_stop_the_training():
    mixture = Mixture({"edits": Source(broken_edits())}, seed=0, streams=1, max_skipped=0.05)
    with pytest.raises(ValueError, match=r"Source 'edits': 6 of the first \d+ rows that stream 0 read cannot be used"):
        list(islice(mixture.draw(0), 50))


def test_few_bad_rows_do_not_stop_it():
    rows = {"prompt": [""] + ["a"] * 39, "answer": ["b"] * 40}
    mixture = Mixture({"text": Source(Dataset.from_dict(rows))}, seed=0, streams=1, max_skipped=0.05)
    *_, (_, _, state) = islice(mixture.draw(0), 1000)
    assert sum(state["skipped"]["text"].values()) / state["read"]["text"] == pytest.approx(1 / 40, abs=0.003)


def cut(path, size):
    """Cuts a file short."""
    path.write_bytes(path.read_bytes()[:size])


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
    good = Counter((read.where, read.number) for read in reads if not isinstance(read.row, RowError))
    assert {read.where for read in ended} == {"file 2 of 3: "} and len(ended) == reads[-1].state["epoch"] + 1 > 2
    assert {where for where, _ in good} >= {"file 1 of 3: ", "file 3 of 3: "}
    assert {number for where, number in good if where == "file 1 of 3: "} == set(range(8))
    rows = ended[0].number
    assert rows == sum(where == "file 2 of 3: " for where, _ in good) < 8
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
    assert expected[-1][1]["skipped"] == {"tars": {"file ends early": 4}}
    assert "Source 'tars', file 2 of 3: skipped: Row " in caplog.text
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


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_a_recipe_states_sources_of_files_and_of_the_embedded_world(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    texts(4).to_parquet(tmp_path / "texts.parquet")
    files = {"path": "parquet", "data_files": str(tmp_path / "*.parquet")}
    sections = {
        "stored": {"dataset": files, "weight": 2, "condition_dropout": {"text": 0.2}},
        "streamed": {"dataset": {**files, "streaming": True}, "shuffle_buffer": 2},
        "world": {
            "world": "shapes",
            "arguments": {"mixture": {"text_to_image": 1.0}},
            "condition_dropout": {"text": 1.0},
        },
    }
    sources = {name: Source.from_recipe(section, seed=3) for name, section in sections.items()}
    mixture = Mixture(sources, seed=0, streams=2)
    assert isinstance(mixture.readers["stored"], IndexedRows) and isinstance(mixture.readers["streamed"], StreamedRows)
    samples = {name: sample for name, sample, _ in islice(mixture.draw(0), 30)}
    assert said(samples["stored"])[1].startswith("answer") and said(samples["streamed"])[1].startswith("answer")
    assert samples["world"][0]["content"] == []  # conditions of the world are dropped once, here
    assert isinstance(samples["world"][1]["content"][0]["image"], np.ndarray)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"weight": 1}, "either 'dataset' .* or 'world'"),
        ({"dataset": {}, "world": {}}, "either 'dataset' .* or 'world'"),
        ({"world": "shapes", "arguments": {"mixture": {"text": 1}}, "wieght": 1}, "A source has no wieght; it takes"),
        ({"world": "shapes", "arguments": {"mixture": {"text": 1}}, "weight": 0}, "weight 0; it must be above 0"),
        (
            {"world": "shapes", "arguments": {"mixture": {"text": 1}}, "condition_dropout": {"txt": 0.1}},
            "names txt; it takes text, image",
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        Source.from_recipe(section)
