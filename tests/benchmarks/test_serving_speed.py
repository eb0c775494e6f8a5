"""The benchmark of the server runs, and its figures add up."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_one_client_and_several_are_measured_in_turns(tmp_path, monkeypatch, capsys):
    command = ["serving.py", "--requests", "4", "--clients", "1", "4", "--rounds", "1", "--max-batch", "4"]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "speed.json")])
    runpy.run_path(str(BENCHMARKS / "speed" / "serving.py"), run_name="__main__")
    one, several = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert (one["clients"], several["clients"], one["times"]) == (1, 4, 1.0)
    assert several["times"] == pytest.approx(several["requests_per_second"] / one["requests_per_second"])
    assert all(0 < row["median_seconds"] <= row["slowest_seconds"] for row in (one, several))
    assert "| 4 |" in capsys.readouterr().out
