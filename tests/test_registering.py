"""Importing the package registers its models, but for the command, whose help comes before anything heavy."""

import ast
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from transformers import AutoConfig

import transformers_arm
from transformers_arm import ArmConfig, cli, register

HEAVY = {"torch", "transformers", "diffusers", "datasets", "numpy", "PIL"}
SCRIPT = str(Path(sysconfig.get_path("scripts")) / "transformers-arm")
WORKER = ["python", "-c", "from multiprocessing.spawn import spawn_main; ...", "--multiprocessing-fork"]


@pytest.mark.parametrize(
    "command",
    [("-m", "transformers_arm", "--help"), (SCRIPT, "generate", "--help"), (SCRIPT, "--version")],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(command):
    ran = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ran.stderr.splitlines()}
    assert "transformers_arm" in imported and not imported & HEAVY
    assert ran.stdout.startswith(("usage: transformers-arm ", f"transformers-arm {transformers_arm.__version__}"))


@pytest.mark.parametrize(
    ("argv", "line", "expected"),
    [
        ([SCRIPT, "demo"], ["python", SCRIPT, "demo"], True),
        ([f"{SCRIPT}.exe"], ["python", f"{SCRIPT}.exe"], True),
        (["-m", "demo"], ["python", "-W", "ignore", "-m", "transformers_arm", "demo"], True),
        (["-m"], ["python", "-m", "my_program", "transformers_arm"], False),
        (["my_program.py"], ["python", "my_program.py"], False),
        (["transformers-arm.py"], ["python", "transformers-arm.py"], False),
        ([SCRIPT, "tokenize"], WORKER, False),  # a worker has its parent's arguments
        ([""], ["python"], False),
        ([], ["python"], False),
    ],
)
def test_only_the_command_registers_later(monkeypatch, argv, line, expected):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", line)
    assert transformers_arm._is_the_command() is expected


def test_the_command_registers_before_it_runs(monkeypatch, capsys):
    register.cache_clear()
    known = {}
    monkeypatch.setattr("transformers_arm.registering.AutoConfig.register", lambda *pair: known.update([pair]))
    assert cli.main(["parameters"]) == 0
    assert known["arm"] is ArmConfig


def test_registering_again_changes_nothing(recwarn, caplog):
    register()
    register()
    assert not recwarn and not caplog.records
    assert AutoConfig.for_model("arm").__class__ is ArmConfig


def test_what_reads_the_names_without_running_finds_the_same():
    tree = ast.parse(Path(transformers_arm.__file__).read_text(encoding="utf-8"))
    (block,) = [
        node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    assert {alias.asname: node.module for node in block.body for alias in node.names} == transformers_arm._NAMES
    assert set(transformers_arm._NAMES) <= set(dir(transformers_arm))
