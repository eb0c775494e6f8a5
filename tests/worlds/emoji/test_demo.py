"""The pages of emoji mark what is nearest to the right original; without originals they mark nothing, and say why."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from marked_tiles import marks
from PIL import Image

from transformers_arm.cli import main
from transformers_arm.worlds.emoji.catalog import Emoji
from transformers_arm.worlds.emoji.demo import EXAMPLES, draw_answers, draw_edits, draw_prompts, held_out
from transformers_arm.worlds.emoji.evaluation import COMPOSED
from transformers_arm.worlds.emoji.pictures import read_pictures
from transformers_arm.worlds.emoji.splits import split_of
from transformers_arm.worlds.emoji.tasks import full

SIDE = 4 * 64
WHITE = Image.new("RGB", (64, 64), "white")


def test_pictures_are_ticked_where_their_nearest_original_is_the_one_that_was_asked_for(emoji_folder):
    known = {full(each): Image.fromarray(each.image) for each in read_pictures()}
    nearly = SimpleNamespace(draw=lambda prompts, **_: [*(known[each] for each in prompts[:9]), *[WHITE] * 3])
    assert marks(draw_prompts(nearly), SIDE) == (9, 3)


def test_edits_and_answers_are_ticked_as_they_are_right(emoji_folder):
    items = held_out()
    targets = {
        (edit.source.image.tobytes(), edit.instructions[0]): Image.fromarray(edit.target.image)
        for edit in (edit for of_kind in items.edits.values() for edit in of_kind)
    }

    def edit(sources, instructions, **_):
        asked = list(zip(sources, instructions, strict=True))
        return [*(targets[np.asarray(source).tobytes(), words] for source, words in asked[:2]), *sources[2:]]

    assert marks(draw_edits(SimpleNamespace(edit=edit)), SIDE) == (2, 4)
    assert marks(draw_answers(SimpleNamespace(answer=lambda pictures, _, **size: ["nothing"] * 6)), SIDE) == (0, 6)


def test_without_pictures_it_draws_edits_and_answers_marks_nothing_and_says_what_scores_need(
    arm_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ARM_EMOJI_DATA", str(tmp_path / "none"))
    output = tmp_path / "demo"
    assert main(["demo", "--checkpoint", arm_folder, "--world", "emoji", "--output", str(output)]) == 0
    assert {file.name for file in output.iterdir()} == {"prompts.png", "edits.png", "answers.png"}
    for file in output.iterdir():
        assert marks(Image.open(file), SIDE) == (0, 0)
    printed = capsys.readouterr().out
    assert "No scores: " in printed and "`make emoji-data`" in printed


def test_examples_are_held_out_by_their_names():
    for prompt, _, _ in EXAMPLES:
        gender, concept, tone, style = re.fullmatch(
            r"a (\w+) ([\w ]+), ([\w-]+) skin tone, (\w+) style", prompt
        ).groups()
        emoji = Emoji("", f"{gender} {concept}", concept, "people", (), tones=(tone,), gender=gender)
        assert split_of(emoji, style) in COMPOSED, prompt


@pytest.mark.parametrize("broken", [b"no table", None])
def test_a_demo_that_fails_leaves_no_folder(arm_folder, tmp_path, monkeypatch, capsys, broken):
    monkeypatch.setenv("ARM_EMOJI_DATA", str(tmp_path))
    if broken:
        (tmp_path / "pictures.parquet").write_bytes(broken)
    else:
        (tmp_path / "pictures.parquet").mkdir()
    command = ["demo", "--checkpoint", arm_folder, "--world", "emoji", "--output", str(tmp_path / "demo")]
    assert main(command) == 1
    assert "pictures.parquet" in capsys.readouterr().err and not (tmp_path / "demo").exists()
