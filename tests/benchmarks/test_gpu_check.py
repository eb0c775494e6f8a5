"""The check for a GPU runs at toy size without one: what fails or takes too long is told, and the others run."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GPU = ROOT / "benchmarks" / "gpu"
CHECK = runpy.run_path(str(GPU / "check.py"))
SCORES = runpy.run_path(str(GPU / "scores.py"))


def check(output: Path, *arguments: str) -> tuple[subprocess.CompletedProcess, dict]:
    """The script, and what it wrote on how it went."""
    environment = os.environ | {"PYTHON": sys.executable, "CHECK_TOY": "1", "OUT": str(output), "OMP_NUM_THREADS": "1"}
    command = [str(GPU / "check.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    (file,) = output.glob("check_*.json")
    return done, json.loads(file.read_text())


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_section_that_takes_too_long_is_killed_and_told_and_the_next_one_runs(tmp_path):
    done, told = check(tmp_path, "--limit", "decoding=0.5", "training", "decoding")
    assert done.returncode == 1, done.stderr
    assert list(told["sections"]) == ["decoding", "training"] and told["toy"]
    assert told["versions"]["torch"] and told["hardware"] and told["date"]
    decoding, training = told["sections"].values()
    assert (decoding["status"], training["status"]) == ("timed out", "ok")
    assert decoding["seconds"] < 10 and [step["exit"] for step in training["steps"]] == [0]
    (result,) = tmp_path.glob("speed_training_*.json")
    found = json.loads(result.read_text())
    assert found["rows"][0]["tokens_a_second"] > 0 and found["output"] == f"{tmp_path.name}/{result.name}"
    assert found["command"].startswith("python benchmarks/speed/training.py ")
    assert str(tmp_path) not in result.read_text() + json.dumps(told)
    assert "| decoding | timed out | " in done.stdout and "| training | ok | " in done.stdout


@pytest.mark.slow
def test_all_sections_run_at_toy_size(tmp_path):
    names = (*CHECK["DEFAULT"], "renderers")
    done, told = check(tmp_path, *names)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: found["status"] for name, found in told["sections"].items()} == dict.fromkeys(names, "ok")
    card = told["card"]
    names = ("check", "same_tokens", "speed_decoding", "speed_decoding_long", "speed_training", "scores", "speed_grpo")
    names += ("speed_renderers", "speed_renderers_flux2")
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}_{card}.json" for name in names} | {
        f"speed_decoding_{card}.png"
    }


def test_a_command_that_fails_leaves_the_next_to_run_and_says_how_it_ended():
    found = CHECK["run_section"]([python("print('first'); import nowhere"), python("print('second')")], 20)
    assert found["status"] == "failed" and [step["exit"] for step in found["steps"]] == [1, 0]
    assert found["ending"][0] == "first" and "No module named 'nowhere'" in "".join(found["ending"])


def test_what_a_killed_section_started_is_killed_with_it(tmp_path):
    beat = f"import time\nwhile True: open({str(tmp_path / 'beat')!r}, 'a').write('x'); time.sleep(0.02)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {beat!r}]); time.sleep(60)"
    found = CHECK["run_section"]([python(parent), python("print('never')")], 1.5)
    assert found["status"] == "timed out" and [step["exit"] for step in found["steps"]] == [None]
    before = (tmp_path / "beat").stat().st_size
    time.sleep(0.2)
    assert before and (tmp_path / "beat").stat().st_size == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drawing"], "drawing: no such section; there are decoding, training, scores, grpo, renderers, suite"),
        (["--limit", "suite"], "--limit suite must be SECTION=SECONDS"),
        (["--limit", "drawing=3"], "--limit drawing=3 must be SECTION=SECONDS, of decoding"),
    ],
)
def test_what_there_is_not_is_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check.py", *arguments])
    with pytest.raises(SystemExit):
        CHECK["parse"]()
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_sections_that_run_by_default_fit_eight_minutes():
    assert sum(CHECK["LIMITS"][section] for section in CHECK["DEFAULT"]) <= 480


@pytest.mark.parametrize("section", CHECK["DEFAULT"])
def test_commands_name_scripts_from_the_repository(section, tmp_path):
    commands = CHECK["commands_of"](section, tmp_path, "cpu", toy=False)
    scripts = [Path(command[1]) for command in commands]
    assert scripts and all(not script.is_absolute() and (ROOT / script).is_file() for script in scripts)


def test_missing_packages_are_named_where_there_are_no_wheels(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    environment = os.environ | {"PYTHON": str(bare), "WHEELS": str(tmp_path), "SITE": str(tmp_path / "site")}
    done = subprocess.run([str(GPU / "check.sh")], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "trl" in done.stderr and f"{tmp_path}/*.whl; add their wheels." in done.stderr


def test_scores_agree_within_what_few_items_tell():
    published = {"few": 0.9, "far": 0.9, "all": 1.0}
    rows = SCORES["beside"]({"few": 0.8, "far": 0.4, "all": 1.0}, published, 50, 500)
    assert {name: row["agrees"] for name, row in rows.items()} == {"few": True, "far": False, "all": True}


def test_scores_on_the_device_stand_beside_the_published(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scores.py", "--items", "6", "--output", str(tmp_path / "scores.json")])
    runpy.run_path(str(GPU / "scores.py"), run_name="__main__")
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert list(scores) == ["generation", "generation_full", "editing_exact", "understanding"]
    assert all(row["agrees"] for row in scores.values())
    assert "| understanding | " in capsys.readouterr().out
