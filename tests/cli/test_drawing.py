"""Pictures of several prompts and seeds, what is told of each, and files that show what is drawn."""

import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image
from terminal import Terminal

from transformers_arm.cli import drawing

PROMPTS = ["a red circle above a blue square", "a green triangle"]


def told(ended):
    """The objects that a command printed."""
    status, out, _ = ended
    assert status == 0
    return [json.loads(line) for line in out.splitlines()]


def test_each_picture_is_that_of_its_prompt_and_seed_alone(arm, tmp_path):
    several = told(arm("generate", *PROMPTS, "--seed", 3, "--count", 2, "--batch-size", 3, "--json", "--width", 64))
    names = [f"generated-{number}.png" for number in range(1, 5)]
    assert [picture.pop("file") for picture in several] == names
    assert all(picture.pop("seconds") > 0 for picture in several)
    own = {"size": "64x48", "tokens": 12}
    assert several == [{"prompt": prompt, "seed": seed, **own} for prompt in PROMPTS for seed in (3, 4)]
    assert arm("generate", PROMPTS[1], "--seed", 4, "--width", 64, "--output", "alone.png")[:2] == (0, "alone.png\n")
    alone = Image.open(tmp_path / "alone.png").tobytes()
    assert [Image.open(tmp_path / name).tobytes() == alone for name in names] == [False, False, False, True]


def test_edits_of_several_instructions_and_seeds(arm, source, tmp_path):
    (tmp_path / "what.txt").write_text("make it blue\n-1 star\n")
    output = tmp_path / "Käfer & Co"
    output.mkdir()
    command = ("edit", "source.png", "--prompts", "what.txt", "--count", 2, "--json", "--output", output / "é 1.webp")
    edits = told(arm(*command, "--previews", ".", "--preview-every", 3, "--preview-steps", 1))
    shown, edits = edits[::2], edits[1::2]
    assert shown == [{"preview": f"é 1-{number}-row3.png", "rows": 3} for number in range(1, 5)]
    assert [edit["file"] for edit in edits] == [str(output / f"é 1-{number}.webp") for number in range(1, 5)]
    asked = [(edit["image"], edit["prompt"], edit["seed"], edit["size"], edit["tokens"]) for edit in edits]
    prompts = ("make it blue", "-1 star")
    assert asked == [("source.png", prompt, seed, "100x80", 9) for prompt in prompts for seed in (0, 1)]
    assert {Image.open(file).size for file in output.iterdir()} == {(100, 80)}


def test_no_file_is_drawn_over_a_folder(arm, tmp_path):
    (tmp_path / "generated-2.png").mkdir()
    status, out, said = arm("generate", *PROMPTS)
    assert (status, out, said) == (1, "", "transformers-arm: generated-2.png is a folder; name a file.\n")
    assert os.listdir(tmp_path) == ["generated-2.png"]


def test_a_path_that_the_shell_left_begins_at_home(arm, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert arm("generate", PROMPTS[0], "--output=~/one.png")[:2] == (0, f"{tmp_path}/home/one.png\n")
    assert os.listdir(tmp_path) == ["home"]


# --- live ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """What files held after each time that one was saved, as (name, picture). `watched.then` is called after it."""
    real = drawing.save

    class Watched(list):
        def then(self):
            """Nothing, unless a test says what."""

    seen = Watched()

    def save(picture, file):
        real(picture, file)
        with Image.open(file) as shown:
            seen.append((file.name, shown.convert("RGB").tobytes()))
        seen.then()

    monkeypatch.setattr(drawing, "save", save)
    return seen


def test_a_file_shows_what_is_drawn_while_it_is_drawn(arm, watched, tmp_path):
    assert arm("generate", PROMPTS[0], "--output", "plain.png")[0] == 0
    (tmp_path / "live.png").write_bytes(b"before")
    assert arm("generate", PROMPTS[0], "--output", "live.png", "--live")[:2] == (0, "live.png\n")
    (_, plain), *shown = watched
    assert [name for name, _ in shown] == ["live.png"] * 4  # its three rows, and itself
    assert shown[-1][1] == plain and len({picture for _, picture in shown}) >= 3
    assert sorted(os.listdir(tmp_path)) == ["live.png", "plain.png"]


def test_the_edited_file_may_show_its_edit(arm, source, watched, tmp_path):
    command = ("edit", "source.png", "make it blue", "--output", "source.png", "--live", "--preview-every", 2)
    assert arm(*command)[:2] == (0, "source.png\n")
    assert len(watched) == 2 and os.listdir(tmp_path) == ["source.png"]
    assert Image.open("source.png").tobytes() == watched[-1][1]


@pytest.mark.parametrize("was", [b"what was there before", None])
def test_who_is_interrupted_finds_no_preview(arm, watched, tmp_path, was):
    if was is not None:
        (tmp_path / "elsewhere.png").write_bytes(was)
        (tmp_path / "generated-2.png").symlink_to("elsewhere.png")
    before = sorted(os.listdir(tmp_path))
    watched.then = lambda: len(watched) == 3 and signal.raise_signal(signal.SIGINT)
    status, out, said = arm("generate", *PROMPTS, "--batch-size", 2, "--live")
    assert (status, out) == (130, "")
    assert said.splitlines()[-1] == "transformers-arm: interrupted; pictures that were named are whole."
    assert sorted(os.listdir(tmp_path)) == before
    assert was is None or (tmp_path / "generated-2.png").read_bytes() == was


def test_of_a_batch_what_was_named_stays_and_what_was_not_is_away(arm, watched, tmp_path):
    def no_room():
        if len(watched) == 8:  # after three rows of each and the first picture, with the second
            raise OSError("there is no room left")

    watched.then = no_room
    status, out, said = arm("generate", *PROMPTS, "--batch-size", 2, "--live")
    assert (status, out, said.splitlines()[-1]) == (1, "generated-1.png\n", "transformers-arm: there is no room left")
    assert os.listdir(tmp_path) == ["generated-1.png"]
    assert Image.open(tmp_path / "generated-1.png").tobytes() == watched[6][1]


def test_a_pipe_takes_no_live_pictures(arm, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    status, out, said = arm("generate", PROMPTS[0], "--output", "pipe.png", "--live")
    assert (status, out) == (1, "")
    assert said.splitlines()[-1] == (
        "transformers-arm: pipe.png is no file, and cannot be again as it was; name another one."
    )


# --- asking ----------------------------------------------------------------------------------------------------------


def test_answers_to_several_questions(arm, source):
    questions = ["what color is the circle?", "how many shapes?"]
    answers = told(arm("ask", "source.png", *questions, "--json", "--seed", 2))
    assert all(answer.pop("seconds") > 0 and 1 <= answer.pop("tokens") <= 16 for answer in answers)
    said = arm("ask", "source.png", questions[1])[1]
    assert said == f"{answers[1]['answer']}\n"
    own = {"image": "source.png", "seed": 2}
    assert answers == [
        {**own, "prompt": question, "answer": answer["answer"]}
        for question, answer in zip(questions, answers, strict=True)
    ]


def test_answers_of_several_seeds_are_sampled(arm, source):
    command = ("ask", "source.png", "what is it?", "--count")
    status, out, said = arm(*command, 2)
    assert (status, out) == (1, "") and "--count 2 answers would be the same, for the model writes" in said
    assert "would be the same" in arm(*command, 2, "--temperature", 0)[2]
    zero = ("--temperature", 0)
    assert len({arm(*command, 1, *options)[1] for options in ((), zero, (*zero, "--seed", 1))}) == 1
    several = [each["answer"] for each in told(arm(*command, 3, "--temperature", 2, "--json"))]
    assert len(set(several)) == 3
    assert arm(*command, 1, "--temperature", 2, "--seed", 2)[1] == f"{several[2]}\n"


# --- terminals -------------------------------------------------------------------------------------------------------


def test_a_bar_is_for_terminals_alone(arm, arm_folder, tmp_path):
    command = [sys.executable, "-m", "transformers_arm", "generate", *PROMPTS, "--checkpoint", arm_folder, "--json"]
    with Terminal(command, cwd=tmp_path, stdout=subprocess.PIPE) as terminal:
        out = terminal.process.stdout.read().decode()
        assert terminal.process.wait(300) == 0
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["generated-1.png", "generated-2.png"]
    assert "drawing" in terminal.shown and "tokens/s" in terminal.shown
    status, out, said = arm("generate", PROMPTS[0])
    assert (status, out) == (0, "generated.png\n") and "drawing" not in said
