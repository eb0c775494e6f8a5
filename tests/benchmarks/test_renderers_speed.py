"""The benchmark of renderers runs at toy size, and what it prints adds up; what does not fit leaves the others."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "speed" / "renderers.py")
SMALL = ("--size", "tiny", "--steps", "2", "--tiled", "64")


@pytest.fixture
def measured(monkeypatch, tmp_path, capsys):
    """Runs the script with arguments, as a shell does: what it wrote, and what it printed."""

    def run(*arguments):
        file = tmp_path / "speed.json"
        monkeypatch.setattr(sys, "argv", [SCRIPT, *SMALL, *arguments, "--output", str(file)])
        ended = None
        try:
            runpy.run_path(SCRIPT, run_name="__main__")
        except SystemExit as error:
            ended = error.code
        return json.loads(file.read_text()), capsys.readouterr().out, ended

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def test_each_renderer_stands_beside_the_pipeline_of_its_parts(measured):
    result, printed, ended = measured("--grid", "2", "4", "--batches", "1", "3")
    assert ended is None and list(result["renderers"]) == ["flux2", "sana", "flux"]
    for name, found in result["renderers"].items():
        assert [row["pictures"] for row in found["rows"]] == [1, 3] and all(row["finite"] for row in found["rows"])
        for row in found["rows"]:
            assert row["ratio"] == pytest.approx(row["seconds_a_picture"] / row["diffusers_seconds_a_picture"])
            steps = row["seconds_a_step"] * result["steps"]
            whole = row["seconds_a_picture"] * row["pictures"]
            assert steps == pytest.approx(whole * (1 - row["vae_share"])) and row["peak_gib"] > 0
        assert set(found["weights_gib"]) == {"transformer", "connector", "vae"}
        assert found["tiling"]["tiles_gib"] > 0 and f"| {name} | 3 | " in printed


def test_what_cannot_be_measured_is_told_and_leaves_the_others(measured):
    result, printed, ended = measured("--grid", "1", "1", "--batches", "0", "1", "--renderers", "flux2")
    failed, row = result["renderers"]["flux2"]["rows"]
    assert failed["error"] and row["ratio"] > 0 and "Some of it was not measured" in ended
    assert failed["error"].splitlines()[0] in printed


def test_toys_are_of_the_published_classes():
    script = runpy.run_path(SCRIPT)
    for name, model in script["NAMES"].items():
        made, *_ = script["PUBLISHED"][model]
        renderer = script["renderer_of"](name, "tiny", torch.float32)
        assert type(renderer) is made
        assert type(script["theirs"](name, renderer)).__name__ in made.base_pipelines
