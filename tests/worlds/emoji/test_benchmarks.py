"""Scores of an ARM of emoji, of what reinforcement learning did and of renderers, as their commands tell them."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from marked_tiles import ticked_in_rows
from PIL import Image

from transformers_arm.renderers_arm import detokenizer_class_of_base
from transformers_arm.worlds.emoji import judge as judging
from transformers_arm.worlds.emoji.figure_names import FIGURE_NAMES

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "checkpoints" / "arm-emoji"


@pytest.fixture(autouse=True)
def quickly_judged(emoji_folder, tmp_path, monkeypatch):
    """A second judge that learns for two steps, kept below the folder that the commands run in."""
    train = judging.train_judge
    monkeypatch.setattr(judging, "train_judge", lambda drawn, steps, seed: train(drawn, 2, seed=seed))
    monkeypatch.chdir(tmp_path)


def run(script, *arguments, folder="quality"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(ROOT / "benchmarks" / folder / script), run_name="__main__")


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


@pytest.mark.slow
def test_renderers_are_compared_by_split_each_in_its_own_steps(tmp_path, capsys):
    few = ["--steps", 1, "--batch-size", 2, "--items", 64]
    run("bases.py", "flux", tmp_path / "base", "--world", "emoji", "--halvings", 2, *few, folder="renderers")
    assert "'tone': " in capsys.readouterr().out
    made = detokenizer_class_of_base(tmp_path / "base")
    settings = {"pixels_per_token": 8, "default_steps": 2, "default_guidance_scale": 1.0}
    renderer = made.from_base(tmp_path / "base", condition_size=160, defaults=settings)
    assert renderer.pixels_per_place == 8
    renderer.save_pretrained(tmp_path / "untrained")
    names = [f"pixels={SHIPPED / 'detokenizer'}", f"untrained={tmp_path / 'untrained'}", "--checkpoint", SHIPPED]
    options = ["--items", 4, "--steps", "--guidance", "--output", "scores.json", "--picture", "shown.png"]
    run("compare.py", *names, "--world", "emoji", *options, folder="renderers")
    result = json.loads(Path("scores.json").read_text())
    assert result["compared"] == {"pixels": "1, 1", "untrained": "2, 1"}
    assert list(result["scores"]["untrained"]) == ["its VAE alone", "2, 1"]
    good, bad = result["scores"]["pixels"]["1, 1"], result["scores"]["untrained"]["2, 1"]
    assert good["right"] > bad["right"] and good["cells"]["unseen people"]["psnr"]["mean"] > 10
    assert good["weakest_right"] == good["cells"][good["weakest"]]["right"]["mean"]
    with Image.open("shown.png") as page:  # originals, pixels, VAE, untrained
        originals, good, _, bad = ticked_in_rows(page, 96, rows=4)
    assert originals == 10 > good > bad
