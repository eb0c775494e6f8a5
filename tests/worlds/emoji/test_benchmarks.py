"""Scores of an ARM of emoji, and of what reinforcement learning did, as their commands print and write them."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from transformers_arm.worlds.emoji import judge as judging
from transformers_arm.worlds.emoji.figure_names import FIGURE_NAMES

QUALITY = Path(__file__).parents[3] / "benchmarks" / "quality"


@pytest.fixture(autouse=True)
def quickly_judged(emoji_folder, tmp_path, monkeypatch):
    """A second judge that learns for two steps, kept below the folder that the commands run in."""
    train = judging.train_judge
    monkeypatch.setattr(judging, "train_judge", lambda drawn, steps, seed: train(drawn, 2, seed=seed))
    monkeypatch.chdir(tmp_path)


def run(script, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(QUALITY / script), run_name="__main__")


@pytest.mark.slow
def test_an_arm_is_scored_in_one_command_by_both_judges(arm_folder, tmp_path, capsys):
    run("arm_emoji.py", "--checkpoint", arm_folder, "--items", 12, "--output", tmp_path / "scores.json")
    printed, scores = capsys.readouterr().out, json.loads((tmp_path / "scores.json").read_text())["scores"]
    for row in ("generation_train", "generation_ceiling_tone", "generation_objects_train", "editing_composed"):
        assert f"| {row} | " in printed and {row, f"{row}_low"} <= set(scores["figures"])
    assert {"generation_composed_judge_right", "generation_ceiling_tone_judge_concept"} <= set(scores["figures"])
    assert scores["weakest"]["generation_composed"] in scores["cells"]["generation_composed"]
    assert not any("objects" in name and "judge" in name for name in scores["figures"])
    assert set(scores["figures"]) <= set(FIGURE_NAMES)
    assert (tmp_path / judging.JUDGE_FILE).is_file()


@pytest.mark.slow
def test_what_reinforcement_learning_did_is_told_by_both_judges(arm_folder, tmp_path, capsys):
    small = ["--items", 4, "--seeds", 1, "--output", tmp_path / "rl.json"]
    run("grpo.py", "--world", "emoji", "--before", arm_folder, "--after", arm_folder, *small)
    table = json.loads((tmp_path / "rl.json").read_text())["table"]
    for name in ("generation_composed", "generation_composed_judge_right", "editing_composed_judge_attribute"):
        assert table[name]["before"] == table[name]["after"] and table[name]["gain"] == 0  # one model under two names
    assert all("composed" in name for name in table)
    assert "| generation_composed_judge_right | " in capsys.readouterr().out


def test_the_judge_is_scored_on_originals_as_they_are_and_worn(tmp_path, capsys):
    run("emoji_judge.py", "--items", 8, "--of", "train", "--output", tmp_path / "judge.json")
    result = json.loads((tmp_path / "judge.json").read_text())
    assert result["of"] == ["train"] and {"tone", "tone, moved and worn"} <= set(result["scores"])
    assert "| gender, moved and worn | 8 | " in capsys.readouterr().out


@pytest.mark.slow
def test_stages_of_a_training_are_scored_alike(arm_folder, tmp_path, capsys):
    named = [f"pretrain={arm_folder}", f"sft={arm_folder}", "--detokenizer", f"{arm_folder}/detokenizer"]
    run("stages.py", "--world", "emoji", *named, "--items", 2, "--output", tmp_path / "stages.json")
    result = json.loads((tmp_path / "stages.json").read_text())
    assert result["scores"]["pretrain"] == result["scores"]["sft"]  # one model under two names
    assert {"generation_train_right", "editing_composed_target"} <= set(result["scores"]["sft"])
    assert result["minutes"] == {"pretrain": 0, "sft": 0} and "| pretrain | sft |" in capsys.readouterr().out
