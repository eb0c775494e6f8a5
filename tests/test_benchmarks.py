"""Benchmarks run, and what they print adds up."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_parts_of_a_grpo_step_make_the_whole(arm_folder, tmp_path, monkeypatch, capsys):
    small = ["--steps", "1", "--prompts", "2", "--samples", "2", "--output", str(tmp_path / "speed.json")]
    monkeypatch.setattr(sys, "argv", ["grpo.py", "--model", arm_folder, *small])
    runpy.run_path(str(BENCHMARKS / "speed" / "grpo.py"), run_name="__main__")
    result = json.loads((tmp_path / "speed.json").read_text())
    assert sum(result["share"].values()) == pytest.approx(1)
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert "| sampling |" in capsys.readouterr().out


def test_heads_are_measured_on_the_same_sequences(tmp_path, monkeypatch, capsys):
    command = ["heads.py", "--hidden", "28", "--lengths", "64", "--mixes", "mixed", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "speed.json")])
    runpy.run_path(str(BENCHMARKS / "speed" / "heads.py"), run_name="__main__")
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    for part in ("seconds", "gib"):
        assert row["flat"][part] > 0 and row["routed"][part] > 0
        assert row["ratios"][part] == pytest.approx(row["flat"][part] / row["routed"][part])
    assert "| mixed | 64 |" in capsys.readouterr().out


def test_on_a_mixed_sequence_at_arm_7b_s_width_the_routed_head_was_faster_or_smaller_and_never_slower():
    rows = json.loads((BENCHMARKS / "results" / "speed_heads.json").read_text())["rows"]
    mixed = [row["ratios"] for row in rows if row["mix"] == "mixed"]
    assert mixed and all(ratios["seconds"] >= 1.5 or ratios["gib"] >= 2 for ratios in mixed)
    assert all(row["ratios"]["seconds"] >= 1 for row in rows)


@pytest.mark.parametrize("name", ["grpo_text_to_image", "grpo_editing"])
def test_results_of_reinforcement_learning_are_means_of_what_was_measured(name):
    result = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    after = [result["all"][folder] for folder in result["after"]]
    for score, row in result["table"].items():
        before = [each[score] for each in result["all"][result["before"]]]
        trained = [sum(each[score] for each in seeds) / len(seeds) for seeds in after]
        assert row["before"] == pytest.approx(sum(before) / len(before))
        assert row["gain"] == pytest.approx(sum(trained) / len(trained) - row["before"])


def test_stages_are_scored_on_the_same_items_and_sample_alike(arm_folder, tmp_path, monkeypatch, capsys):
    detokenizer = ["--detokenizer", f"{arm_folder}/detokenizer", "--items", "8"]
    command = ["stages.py", f"first={arm_folder}", f"last={arm_folder}", *detokenizer]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "stages.json")])
    runpy.run_path(str(BENCHMARKS / "quality" / "stages.py"), run_name="__main__")
    scores = json.loads((tmp_path / "stages.json").read_text())["scores"]
    assert scores["first"] == scores["last"]  # one model under two names
    assert {"understanding", "generation", "editing_exact", "hard_understanding", "text_edit"} <= set(scores["last"])
    printed = capsys.readouterr().out
    assert "| first | last |" in printed and "| editing exact | " in printed


def test_a_stage_without_a_model_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stages.py", f"sft={tmp_path}", "--detokenizer", "unused"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(BENCHMARKS / "quality" / "stages.py"), run_name="__main__")
    assert "is no NAME=FOLDER of a trained model" in capsys.readouterr().err
