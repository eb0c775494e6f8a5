"""The report of the environment says what is installed, what is missing and what does not fit."""

import subprocess
import sys
from importlib import metadata

import torch
from packaging.requirements import Requirement

from transformers_arm.cli import main
from transformers_arm.cli.env import PURPOSES, environment_report, installed, required


def test_the_command_prints_a_list_without_any_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    assert printed == environment_report() + "\n"
    assert all(line.startswith("- ") for line in printed.splitlines())


def test_what_is_required_comes_with_its_version():
    lines = environment_report().splitlines()
    for name in ("torch", "transformers", "diffusers", "huggingface_hub", "safetensors", "datasets", "evaluate"):
        assert f"- {name}: {metadata.version(name)}" in lines
    assert f"- transformers-arm: {metadata.version('transformers-arm')}" in lines
    assert ("no GPU" in environment_report()) == (torch.accelerator.current_accelerator() is None)


def test_every_extra_but_the_developers_is_listed_with_its_packages():
    assert {*PURPOSES, "dev"} == set(metadata.metadata("transformers-arm").get_all("Provides-Extra"))
    lines = [line for line in environment_report().splitlines() if line.startswith("- transformers-arm[")]
    assert [line.partition("]")[0] for line in lines] == [f"- transformers-arm[{extra}" for extra in PURPOSES]
    train, rl = lines[:2]
    for name in ("accelerate", "peft", "pyyaml", "tensorboard"):
        assert f"{name} {metadata.version(name)}" in train
    assert "what train has" in rl and f"trl {metadata.version('trl')}" in rl


def test_extras_are_not_among_what_is_required():
    names = {requirement.name for requirement in required()}
    assert "torch" in names
    for extra in PURPOSES:
        assert required(extra) and not names & {requirement.name for requirement in required(extra)}


def test_a_version_outside_its_bounds_and_a_missing_package_are_said():
    version = metadata.version("numpy")
    assert installed(Requirement("numpy>=1")) == version
    assert installed(Requirement("numpy<1")) == f"{version}, but must be <1"
    assert installed(Requirement("no-such-package>=2")) == "not installed, must be >=2"


def test_no_optional_package_is_imported_for_its_version():
    code = (
        "import sys, transformers_arm.cli.env as environment\n"
        "before = set(sys.modules)\n"
        "environment.environment_report()\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    optional = {"accelerate", "peft", "tensorboard", "trl", "skimage", "torchmetrics", "bitsandbytes", "gradio"}
    assert not optional & set(ran.stdout.split())
