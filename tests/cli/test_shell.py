"""The command and the shell: statuses, one line for what went wrong, pipes, interrupts that keep what is done."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from PIL import Image
from pretokenize_datasets import drawn_rows, write_parquet
from safetensors import SafetensorError
from torch import OutOfMemoryError

from transformers_arm.cli import COMMANDS, app, ask, env, memory, parameters, serve
from transformers_arm.cli.shell import TRACEBACK, Shell
from transformers_arm.rewards import RewardError

COMMAND = [sys.executable, "-m", "transformers_arm"]


@pytest.mark.parametrize(
    ("number", "status", "kept", "said"),
    [
        (signal.SIGINT, 130, "pictures stay", "arm: interrupted; pictures stay.\n"),
        (signal.SIGTERM, 143, None, "arm: interrupted.\n"),
    ],
)
def test_a_signal_ends_work_and_is_told(number, status, kept, said, capsys):
    before, cleaned = signal.getsignal(number), []
    with Shell("arm") as shell:
        shell.begin(kept)
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append("up")
    assert (shell.status, cleaned, capsys.readouterr().err) == (status, ["up"], said)
    assert signal.getsignal(number) is before


def test_who_ignores_ctrl_c_keeps_doing_so(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Shell("arm") as shell:
            shell.begin()
            signal.raise_signal(signal.SIGINT)
        assert shell.status == 0 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_of_several_is_ended_by_sigterm_as_it_is(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with Shell("arm") as shell:
        shell.begin()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("error", [ValueError, OSError, MemoryError, RewardError, SafetensorError, OutOfMemoryError])
def test_an_expected_error_is_a_line(capsys, error):
    with Shell("arm") as shell:
        raise error("3 is none of them.")
    assert (shell.status, capsys.readouterr().err) == (1, "arm: 3 is none of them.\n")


@pytest.mark.parametrize("error", [RuntimeError, TypeError, AttributeError])
def test_a_bug_has_its_traceback(capsys, monkeypatch, error):
    with pytest.raises(error, match="a bug"), Shell("arm"):
        raise error("a bug")
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ValueError, match="3 is none"), Shell("arm"):
        raise ValueError("3 is none of them.")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("unbuffered", ["1", ""])
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_output_that_goes_nowhere_ends_quietly_or_says_so(option, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run([*COMMAND, option], stdout=writing, stderr=subprocess.PIPE, env=environment)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (141, b"")
    with open("/dev/full", "w") as full:
        ran = subprocess.run([*COMMAND, option], stdout=full, stderr=subprocess.PIPE, env=environment)
    said = b"transformers-arm: what was printed cannot be written: No space left on device.\n"
    assert (ran.returncode, ran.stderr) == (1, said)


def interrupted(folder, *arguments, when, number=signal.SIGINT):
    """Runs a command in a folder until `when` of what it has printed; then sends the whole group a signal, as a
    terminal does. Returns its status, and the lines that it wrote as errors.
    """
    printed, said = folder.with_name("printed.txt"), folder.with_name("said.txt")
    with open(printed, "w") as out, open(said, "w") as err:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], cwd=folder, stdout=out, stderr=err, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while not when(printed.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.02)
        os.killpg(process.pid, number)
        status = process.wait(300)
    lines = said.read_text().splitlines()
    assert not [line for line in lines if "Traceback" in line], lines
    return status, lines[-1]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def test_commands_that_write_say_what_an_interruption_leaves():
    assert {module for module in COMMANDS if not hasattr(module, "KEPT")} == {app, ask, env, memory, parameters, serve}


def test_who_stops_reading_ends_it_quietly(arm_folder, folder):
    command = f"{sys.executable} -m transformers_arm generate circle --checkpoint {arm_folder} --count 4"
    for pipe in ("| head -n 1", "2>&1 | head -c 10"):
        script = f"set -o pipefail; {command} {pipe}"
        ran = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)
        assert ran.returncode == 141 and len(ran.stdout.strip().splitlines()) == 1
        assert "rror" not in ran.stderr and "Traceback" not in ran.stderr


def test_interrupted_generate_keeps_the_pictures_that_came(arm_folder, folder):
    command = ("generate", "a red circle", "--count", 500, "--checkpoint", arm_folder, "--guidance-scale", 1)
    ended = interrupted(folder, *command, when=lambda printed: "generated-2.png\n" in printed)
    assert ended == (130, "transformers-arm: interrupted; pictures that were named are whole.")
    names = {file.name for file in folder.iterdir()}
    assert names == {f"generated-{number}.png" for number in range(1, len(names) + 1)} and 2 <= len(names) < 500
    for name in names:
        Image.open(folder / name).load()


def test_terminated_demo_keeps_pages_and_the_scores_so_far(folder):
    command = ("demo", "--checkpoint", os.path.abspath("checkpoints/arm-tiny"), "--items", 4)
    status, said = interrupted(folder, *command, when=lambda printed: "\n  psnr " in printed, number=signal.SIGTERM)
    assert (status, said.partition(";")[0]) == (143, "transformers-arm: interrupted")
    assert "psnr" in json.loads((folder / "demo" / "scores.json").read_text())
    for picture in (folder / "demo").glob("*.png"):
        Image.open(picture).load()


def test_interrupted_tokenize_keeps_its_windows_and_its_workers_say_nothing(arm_folder, folder):
    write_parquet(folder / "rows" / "0.parquet", drawn_rows(2000))
    codes = folder / "codes"
    command = ("tokenize", "rows", "--output", "codes", "--checkpoint", arm_folder, "--rows-per-file", 1)
    ended = interrupted(folder, *command, "--workers", 2, when=lambda _: any(codes.glob("train-*")))
    assert ended == (130, "transformers-arm: interrupted; what is written stays, and the same command goes on.")
    files = list(codes.glob("train-*.parquet"))
    assert 0 < len(files) < 2000 and sum(pq.read_metadata(file).num_rows for file in files) == len(files)
    assert json.loads((codes / "report.json").read_text())["complete"] is False


def test_interrupted_training_keeps_its_newest_checkpoint(arm_folder, folder):
    recipe = (f"start_from={arm_folder}", "output_dir=sft", "evaluation=null", "training.save_steps=1")
    recipe += ("training.per_device_train_batch_size=1", "training.report_to=none")
    command = ("train", "sft", "--config", "arm_tiny/sft", *recipe)
    status, said = interrupted(folder, *command, when=lambda _: (folder / "sft" / "checkpoint-1").exists())
    assert (status, said.partition(",")[0]) == (
        130,
        "transformers-arm: interrupted; the newest checkpoint in its output_dir stays",
    )
    for checkpoint in (folder / "sft").glob("checkpoint-*"):
        assert (checkpoint / "trainer_state.json").is_file()
