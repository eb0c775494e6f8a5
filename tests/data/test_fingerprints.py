"""Fingerprints tell what differs apart, and what is the same not."""

import importlib
import sys
from itertools import combinations

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset

from transformers_arm.data.fingerprints import differences, digest, of_files, of_rows, of_step


def test_values_that_differ_have_other_digests():
    values = [
        *(None, "", b"", "a", b"a", 0, 1, 1.0, True, [], {}, ["a", "b"], ["ab"], [["a"], "b"], {"a": "b"}),
        *(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), np.zeros((2, 3), np.int64)),
        *(torch.zeros(2), PIL.Image.new("RGB", (2, 2)), PIL.Image.new("RGB", (2, 2), "red")),
    ]
    for first, second in combinations(values, 2):
        assert digest(first) != digest(second), (first, second)


def test_equal_values_have_one_whoever_holds_them():
    row = {"prompt": "a", "image": {"bytes": b"x", "path": None}, "list": [1, 2]}
    again = {"prompt": "".join(["", "a"]), "image": {"bytes": bytes(bytearray(b"x")), "path": None}, "list": [1, 2]}
    assert digest(row) == digest(again)
    files = [{"bytes": None, "path": path} for path in ("/a/1.png", "/b/1.png", "/a/2.png", None)]
    assert digest(files[0]) == digest(files[1]) and len({digest(file) for file in files}) == 3


@pytest.mark.parametrize("length", [1, 2, 256, 257, 5000])
def test_the_first_and_the_last_row_always_count(length):
    rows = [{"n": number} for number in range(length)]
    assert of_rows(rows) == of_rows(list(rows)) and of_rows(rows)["rows"] == length
    for place in (0, length - 1):
        changed = [*rows]
        changed[place] = {"n": -1}
        assert of_rows(changed)["digest"] != of_rows(rows)["digest"]


def test_files_are_named_from_the_folder_that_they_share(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place / "deep").mkdir(parents=True)
        (tmp_path / place / "a.tar").write_bytes(b"12")
        (tmp_path / place / "deep" / "b.tar").write_bytes(b"123")
    files = [of_files([str(tmp_path / place / name) for name in ("a.tar", "deep/b.tar")]) for place in ("one", "two")]
    assert files[0] == files[1] and [file[:2] for file in files[0]] == [["a.tar", 2], ["deep/b.tar", 3]]
    assert of_files([str(tmp_path / "one" / "a.tar")]) == files[0][:1]
    (tmp_path / "one" / "a.tar").write_bytes(b"13")
    assert of_files([str(tmp_path / "one" / "a.tar")])[0][:2] == ["a.tar", 2]
    assert of_files([str(tmp_path / "one" / "a.tar")]) != files[0][:1]


@pytest.mark.parametrize("place", [0, 50_000, 99_999])
def test_files_of_one_size_are_told_apart_by_their_beginning_middle_and_end(tmp_path, place):
    content = bytearray(100_000)
    (tmp_path / "a").write_bytes(content)
    before = of_files([str(tmp_path / "a")])
    content[place] = 1
    (tmp_path / "a").write_bytes(content)
    assert of_files([str(tmp_path / "a")]) != before


def test_files_in_an_archive_are_named_from_the_folder_of_the_archive(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "p.zip").write_bytes(b"12")
    one, two = (of_files([f"zip://{n}.png::{tmp_path / place / 'p.zip'}" for n in (1, 2)]) for place in ("one", "two"))
    assert one == two and one[0][:2] == ["zip://1.png::p.zip", 2]
    assert of_files(["zip://1.png::https://example.com/p.zip?x"])[0] == [
        "zip://1.png::https://example.com/p.zip",
        None,
        None,
    ]


def test_addresses_keep_their_names_but_not_their_signatures():
    names = ["https://example.com/a.tar?signed=1", "hf://datasets/me/mine@abc/b.tar"]
    assert of_files(names) == [
        ["https://example.com/a.tar", None, None],
        ["hf://datasets/me/mine@abc/b.tar", None, None],
    ]


def test_differences_are_named_where_they_are():
    theirs = {"seed": 0, "sources": {"a": {"weight": 1, "files": [["x", 1], ["y", 2]]}, "b": {}}}
    ours = {"seed": 1, "sources": {"a": {"weight": 1, "files": [["x", 1], ["y", 3]]}, "c": {"weight": 2}}}
    assert differences(theirs, theirs) == []
    assert differences(theirs, ours) == [
        "seed was 0, is 1",
        "sources.a.files[1] was ['y', 2], is ['y', 3]",
        "sources.c was None, is {'weight': 2}",
        "sources.b was {}, is None",
    ]


def test_a_step_counts_by_its_code_though_its_function_has_a_module_and_a_name(tmp_path, monkeypatch):
    """Pickles hold of such a function no more than these."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    rows, found = Dataset.from_dict({"n": [1]}).to_iterable_dataset(), []
    for by in (1, 2, 1):
        (tmp_path / "their_steps.py").write_text(f"def add(row):\n    return {{'n': row['n'] + {by}}}\n")
        monkeypatch.delitem(sys.modules, "their_steps", raising=False)
        found.append(of_step(rows.map(importlib.import_module("their_steps").add)._ex_iterable))
    assert found[0] != found[1] and found[0] == found[2]
