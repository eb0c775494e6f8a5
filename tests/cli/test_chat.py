"""A conversation in this process, through a pipe and at a terminal."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from terminal import Terminal
from transformers import pipeline

from transformers_arm.cli import main
from transformers_arm.cli.chat import COMMANDS

TINY = os.path.abspath("checkpoints/arm-tiny")
DRAWN, QUESTION = "a red circle above a blue square", "what color is the circle?"


@pytest.fixture
def chat(tmp_path, monkeypatch, capsys):
    """Says lines to arm-tiny in an empty folder: (exit status, what it printed, what it said of errors)."""
    monkeypatch.chdir(tmp_path)

    def run(*lines, options=(), model=TINY):
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        status = main(["chat", model, *map(str, options)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err.splitlines()[-1:]

    return run


def test_texts_and_pictures_are_those_of_the_pipeline(chat, tmp_path):
    Image.new("RGB", (8, 8)).save("chat-1.png")
    said = (DRAWN, "", "/reset", f"chat-2.png {QUESTION}", "/text and what is in chat-2.png?", "/seed", "/quit", DRAWN)
    status, out, _ = chat(*said, options=("--seed", 4))
    tell = pipeline("interleaved", model=TINY, dtype="float32")
    (picture,) = tell(DRAWN, generator=torch.Generator().manual_seed(4))
    question = [{"type": "image", "image": picture["image"]}, {"type": "text", "text": QUESTION}]
    messages = [{"role": "user", "content": question}]
    for more in (None, "and what is in chat-2.png?"):
        messages += [] if more is None else [{"role": "user", "content": more}]
        messages += [{"role": "assistant", "content": tell(messages, generator=torch.Generator().manual_seed(0))}]
    color, rest = (message["content"] for message in messages[1::2])
    assert [part["type"] for part in color + rest] == ["text", "text"]
    assert (status, out) == (0, f"chat-2.png\n{color[0]['text']}\n{rest[0]['text']}\n7\n")
    assert Image.open("chat-2.png").tobytes() == picture["image"].tobytes()
    assert Image.open("chat-1.png").size == (8, 8) and sorted(os.listdir(tmp_path)) == ["chat-1.png", "chat-2.png"]


def test_a_seed_brings_a_picture_back(chat):
    output = ("--output", "o p.jpg")
    assert chat(DRAWN, "/reset", "/seed 0", DRAWN, "/reset", DRAWN, options=output)[0] == 0
    first, again, other = (Image.open(f"o p-{number}.jpg").tobytes() for number in (1, 2, 3))
    assert first == again != other


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("what is in nowhere.png?", "nowhere.png; a name with spaces stands in quotes, and /text before"),
        ("/draw a circle", "There is no /draw; /help names what there is, and /text says a line as it is."),
        ("/seed -1", "-1 is no seed; write a whole number, 0 or more."),
        ("/seed 9223372036854775808", "Seed 9223372036854775808 and those that follow must be in 0.."),
        ("a red circle, " * 7200, "tokens, and the model positions for 4096: there is no room for an answer"),
    ],
)
def test_nobody_at_a_pipe_tries_again(chat, line, message):
    status, out, (said,) = chat("/help", line, "/help")
    assert (status, out) == (1, f"{COMMANDS}\n")
    assert said.startswith("transformers-arm: ") and message in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", -1), "Seed -1 and those that follow must be in 0.."),
        (("--output", "nowhere/a.png"), "There is no folder nowhere to write a.png into; make it first."),
        (("--output", "a.txt"), "a.txt must end in .png, .jpg or .webp."),
    ],
)
def test_options_are_checked_before_anything_is_said(chat, tmp_path, options, message):
    status, out, (said,) = chat(DRAWN, options=options)
    assert (status, out) == (1, "") and message in said
    assert os.listdir(tmp_path) == []


def test_a_model_is_named_once_and_must_be_one(chat, capsys):
    assert chat(model="nowhere")[2] == [
        "transformers-arm: nowhere holds no config.json; name an ARM folder with --checkpoint."
    ]
    with pytest.raises(SystemExit, match="2"):
        main(["--checkpoint", TINY, "chat", TINY])
    assert "--checkpoint is given twice" in capsys.readouterr().err


def test_what_comes_through_a_pipe_is_answered_in_lines(chat, tmp_path):
    said = (DRAWN, "/reset", f"chat-1.png {QUESTION}")
    status, out, _ = chat(*said)
    assert status == 0 and out.startswith("chat-1.png\n") and out.count("\n") == 2
    os.remove("chat-1.png")
    command = [sys.executable, "-m", "transformers_arm", "chat", TINY]
    streams = {"capture_output": True, "text": True, "timeout": 300}
    ran = subprocess.run(command, cwd=tmp_path, input="\n".join(said), **streams)
    assert (ran.returncode, ran.stdout) == (0, out)
    assert "\n> " not in ran.stderr


@pytest.fixture
def endless(arm_folder, tmp_path):
    """A model that goes on writing: a token that it never writes ends its answers."""
    folder = Path(shutil.copytree(arm_folder, tmp_path / "endless"))
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["eos_token_id"] = [json.loads((folder / "config.json").read_text())["shape_token_offset"] - 1]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return str(folder)


def test_at_a_terminal_errors_and_ctrl_c_end_an_answer_and_not_the_conversation(endless, tmp_path):
    Image.new("RGB", (48, 48), "red").save(tmp_path / "Käfer 1.png")
    command = [sys.executable, "-m", "transformers_arm", "chat", endless, "--seed", "7"]
    with Terminal(command, cwd=tmp_path) as terminal:
        terminal.until("> ")
        terminal.type("/draw\n")
        assert "There is no /draw; /help names" in terminal.until("> ")
        terminal.type("nowhere.png\n")
        assert "no such file: nowhere.png" in terminal.until("> ")
        terminal.type("'Käfer 1.png' and now?\n")
        assert "and now?\n" in terminal.until("\n")
        terminal.until(" ")  # the model writes, and does not stop
        terminal.type("\x03")
        terminal.until("\nstopped\n")
        terminal.until("> ")
        terminal.type("/seed\n")
        terminal.until("\n7\n")
        terminal.until("> ")
        terminal.type("/quit\n")
        assert terminal.process.wait(300) == 0


@pytest.mark.parametrize(("key", "status"), [("\x04", 0), ("\x03", 130)])
def test_a_key_leaves_a_terminal(arm_folder, tmp_path, key, status):
    with Terminal([sys.executable, "-m", "transformers_arm", "chat", arm_folder], cwd=tmp_path) as terminal:
        terminal.until("> ")
        terminal.type(key)
        assert terminal.process.wait(300) == status
    assert ("transformers-arm: interrupted" in terminal.shown) is (status == 130)
    assert "Traceback" not in terminal.shown
