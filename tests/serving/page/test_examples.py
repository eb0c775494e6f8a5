"""Texts to try come from the folder of a model, or there are none."""

import json
from pathlib import Path

import pytest
from shipped import SHIPPED_ARMS, name_of

from transformers_arm.serving.page.examples import FILE, examples_of


@pytest.mark.parametrize("folder", SHIPPED_ARMS, ids=name_of)
def test_what_ships_has_some_for_what_it_does(folder):
    assert {"draw", "edit", "converse"} <= set(examples_of(str(folder)))


def test_a_folder_may_have_none_and_so_may_a_repo_that_cannot_be_reached(tmp_path):
    assert examples_of(str(tmp_path)) == examples_of("nobody/nothing") == {}


def test_a_repo_brings_them_in_each_revision(hub, tmp_path):
    for revision, text in (("main", "a circle"), ("v2", "a star")):
        (tmp_path / FILE).write_text(json.dumps({"draw": [text]}))
        hub.add_repo("org/arm", tmp_path, revision=revision)
    assert [examples_of("org/arm", each) for each in (None, "v2")] == [{"draw": ["a circle"]}, {"draw": ["a star"]}]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "examples.json is no JSON"),
        ("[]", "must be an object of lists"),
        (json.dumps({"paint": ["a"]}), "converse, draw, edit, interleave"),
        (json.dumps({"draw": "a"}), "lists of at most 8"),
        (json.dumps({"draw": [""]}), "at most 200 characters"),
        (json.dumps({"draw": ["a" * 201]}), "at most 200 characters"),
        (json.dumps({"draw": ["a"] * 9}), "lists of at most 8"),
        (json.dumps({"draw": [1]}), "at most 200 characters"),
    ],
)
def test_what_are_no_examples_is_told(tmp_path: Path, content, match):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=match):
        examples_of(str(tmp_path))
