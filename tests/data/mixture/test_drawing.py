"""Mixtures draw by weight, go on exactly where they stopped, and are stated by recipes."""

import json
import logging
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from datasets import Dataset
from mixture_sources import EDITS, drawn, png, said, streamed_texts, texts

from transformers_arm.data.mixture import Mixture, MixtureState, Source
from transformers_arm.data.readers import IndexedRows, StreamedRows


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
    assert expected[-1][2].skipped["bad"]["prompt: blank"] > 3
    for place in range(0, 45, 4):
        state = MixtureState.from_json(json.loads(json.dumps(expected[place][2].to_json())))
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
            "condition_dropout": {"text": 1.0, "image": 0, "both": 0},
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
