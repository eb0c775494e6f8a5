"""Result files say what ran, and nothing of where it lay on the machine."""

import json
import os
import sys
from pathlib import Path

import pytest

from transformers_arm.evaluation.results import minutes_trained, publishable, write_result


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A working directory beside a folder that is none of it."""
    for name in ("checkout/checkpoints", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkout")
    return tmp_path / "checkout"


def test_paths_are_told_from_the_working_directory_and_others_by_their_last_names(checkout, monkeypatch):
    other = checkout.parent / "elsewhere"
    script, model = checkout / "benchmarks" / "x.py", checkout / "checkpoints" / "arm"
    parts = ["--model", f"{model}", f"--runs={other}/runs", f"sft={model}", "--output", f"{other}/my files/x.json"]
    monkeypatch.setattr(sys, "argv", [f"{script}", *parts, "k=8^3 5^3", "https://host/v1/x"])
    fields = {"model": str(model), "runs": other / "runs"}
    fields["steps"] = [{"ending": [f"FileNotFoundError: '{other}/a.json'"]}]
    write_result(other / "x.json", **fields, after=[model], table={str(model): 0.5})
    result = json.loads((other / "x.json").read_text())
    assert result["command"] == (
        "python benchmarks/x.py --model checkpoints/arm --runs=elsewhere/runs sft=checkpoints/arm "
        "--output 'my files/x.json' 'k=8^3 5^3' https://host/v1/x"
    )
    assert result["model"] == "checkpoints/arm" and result["runs"] == "elsewhere/runs"
    assert result["steps"] == [{"ending": ["FileNotFoundError: 'elsewhere/a.json'"]}]
    assert result["after"] == ["checkpoints/arm"] and result["table"] == {"checkpoints/arm": 0.5}
    assert str(checkout.parent) not in (other / "x.json").read_text()


def test_a_folder_that_is_linked_is_told_from_where_one_stands(checkout):
    link = checkout.parent / "link"
    link.symlink_to(checkout)
    assert publishable(f"read {link}/a.json") == "read a.json"


OTHERS = ["2,467 tokens/s", "28%| 101/360 [00:00]", "a / b", "/think", "and/or", "../elsewhere", "s3://a/tmp", 3, None]


@pytest.mark.parametrize("value", OTHERS)
def test_what_is_no_path_of_this_machine_stays(checkout, value):
    assert publishable(value) == value


def test_paths_that_are_relative_stay(checkout):
    assert publishable(Path("runs") / "a") == "runs/a"


def test_trainings_elsewhere_stay_apart(checkout):
    folders = [checkout.parent / "elsewhere" / name / "model" for name in ("seed-1", "seed-2")]
    assert publishable({str(each): 0.5 for each in folders}) == {"seed-1/model": 0.5, "seed-2/model": 0.5}
    deeper = {str(each / "last"): number for number, each in enumerate(folders)}
    assert publishable(deeper) == deeper  # rather than one for both
    assert publishable(Path.home() / "x.json") == "x.json"


def test_minutes_of_a_training_are_those_of_all_calls_of_its_trainer(tmp_path):
    for start, end in ((1_000_000_000, 1_000_000_120), (2_000_000_000, 2_000_000_240)):
        file = tmp_path / "runs" / f"events.out.tfevents.{start}.host.1.0"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        os.utime(file, (end, end))
    assert (minutes_trained(tmp_path), minutes_trained(tmp_path / "none")) == (6, 0)
