"""The benchmark of the judge's pictures runs, and its figures add up."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_every_way_of_encoding_is_measured_on_the_same_pictures(tmp_path, monkeypatch, capsys):
    command = ["judge.py", "--pictures", "3", "--size", "64", "--output", str(tmp_path / "speed.json")]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(BENCHMARKS / "speed" / "judge.py"), run_name="__main__")
    result = json.loads((tmp_path / "speed.json").read_text())
    before, *_ = result["seconds"].values()
    assert len(result["seconds"]) == 3
    for way, seconds in result["seconds"].items():
        assert 0 < seconds["first request"] < seconds["all"]
        assert result["ratios"][way] == {part: pytest.approx(before[part] / seconds[part]) for part in seconds}
    assert "| JPEG, threads |" in capsys.readouterr().out


def test_pictures_in_jpeg_were_judged_several_times_as_quickly():
    result = json.loads((BENCHMARKS / "results" / "speed_judge.json").read_text())
    assert result["size"] == 1024 and result["ratios"]["JPEG, threads"]["all"] > 4
    assert result["ratios"]["JPEG, threads"]["first request"] > 20
