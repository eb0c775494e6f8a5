"""Prompts, typed or of a file, and their seeds; what is text stays text."""

import io
import sys

import pytest

from transformers_arm.cli import main, new_parser
from transformers_arm.cli.requests import requests


def asked(*command):
    return requests(new_parser().parse_args(list(map(str, command))))


def test_each_prompt_has_each_seed():
    found = asked("generate", "a circle", "a square", "--seed", 5, "--count", 2)
    assert found == [("a circle", 5), ("a circle", 6), ("a square", 5), ("a square", 6)]


def test_typed_prompts_come_before_those_of_a_file(tmp_path):
    (tmp_path / "more.txt").write_text("a star\n")
    assert asked("generate", "a circle", "--prompts", tmp_path / "more.txt") == [("a circle", 0), ("a star", 0)]
    assert asked("ask", "a.png", "--prompts", tmp_path / "more.txt") == [("a star", 0)]
    arguments = new_parser().parse_args(["edit", "a.png", "--mask", "m.png", "make it red", "--count", "1"])
    assert (arguments.image, arguments.mask, requests(arguments)) == ("a.png", "m.png", [("make it red", 0)])


LINES = [
    "a circle",
    "  two  spaces ",
    "-1 is text",
    "--count",
    "ein Käfer \N{SNOWMAN}",
    "a\u2028b",
    "<|im_end|>",
    "x" * 100_000,
]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_line_of_a_file_is_a_prompt_as_it_stands(tmp_path, monkeypatch, start, end):
    content = (start + end.join([*LINES[:2], "", " \t", *LINES[2:]])).encode()
    (tmp_path / "Über uns.txt").write_bytes(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [request.prompt for request in asked("generate", "--prompts", "~/Über uns.txt")] == LINES
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert [request.prompt for request in asked("generate", "--prompts", "-")] == LINES


@pytest.mark.parametrize(
    ("typed", "prompt"),
    [
        (["--", "-x"], "-x"),
        (["--", "--count"], "--count"),
        (["-5 degrees"], "-5 degrees"),
        (["-5"], "-5"),
        (["-"], "-"),
        (["@prompts.txt"], "@prompts.txt"),
    ],
)
def test_a_prompt_may_begin_with_anything(typed, prompt):
    assert asked("generate", *typed) == [(prompt, 0)]
    assert asked("ask", "--count", 1, "a.png", *typed) == [(prompt, 0)]


@pytest.mark.parametrize("typed", [[""], [" \t"]])
def test_nothing_is_no_prompt(typed):
    """As of a variable of a shell that is not set."""
    with pytest.raises(ValueError, match="^What is typed is empty; write what is wanted, or leave it out"):
        asked("generate", *typed)
    with pytest.raises(ValueError, match="^Number 2 of what is typed is empty"):
        asked("ask", "a.png", "what is it?", *typed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "prompts.txt holds no prompts; write one a line."),
        (b"\n \r\n\n", "prompts.txt holds no prompts; write one a line."),
        (b"a\n\xff\xfe", "prompts.txt is no text in UTF-8 (invalid start byte at byte 2); save it as that."),
    ],
)
def test_a_file_that_holds_no_prompts_is_named(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(ValueError) as raised:
        asked("generate", "--prompts", "prompts.txt")
    assert str(raised.value) == message
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with pytest.raises(ValueError, match="^standard input "):
        asked("generate", "--prompts", "-")


@pytest.mark.parametrize("file", ["nowhere.txt", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=f"no such file: {file}" if file == "nowhere.txt" else f"'{file}'"):
        asked("generate", "--prompts", file)


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_results_is_1_or_more(count):
    with pytest.raises(ValueError, match=f"--count {count} is no number of results; state 1 or more"):
        asked("generate", "a circle", "--count", count)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["generate"], "the following arguments are required: prompt"),
        (["edit", "a.png"], "the following arguments are required: instruction"),
        (["ask", "--prompts", "a.txt"], "the following arguments are required: image"),
        (["generate", "--prompts", "a.txt", "--prompts", "b.txt"], "--prompts is given twice"),
        (["generate", "a circle", "--count", "two"], "argument --count: invalid int value: 'two'"),
        (["generate", "-x"], "the following arguments are required: prompt"),
    ],
)
def test_wrong_usage(command, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert message in capsys.readouterr().err


def test_a_prompt_for_which_the_model_has_no_positions_is_refused_before_any_is_drawn(arm, source, tmp_path):
    (tmp_path / "long.txt").write_text("a circle\n" + "a red circle, " * 7200)
    for command in (("generate",), ("edit", source), ("ask", source)):
        status, out, said = arm(*command, "--prompts", "long.txt")
        assert (status, out) == (1, "")
        assert "The prompt 'a red circle, a red circle, " in said and "positions; shorten it." in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.txt", "source.png"]
