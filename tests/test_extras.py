"""What a missing extra says, wherever one is needed: which, before anything is done."""

import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from transformers_arm import cli, detokenizer_arm
from transformers_arm.extras import EXTRAS, MissingExtra, require

assert detokenizer_arm  # imported here: diffusers, once it has seen an accelerate, does not do without

OPTIONAL = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_is_required_of_it(extra):
    required = [Requirement(line) for line in OPTIONAL[extra]]
    for inner in [each for requirement in required for each in requirement.extras]:
        required += map(Requirement, OPTIONAL[inner])
    brought = {requirement.name for requirement in required}
    elsewhere = {"bitsandbytes": ["bitsandbytes"], "gradio": ["gradio"]}  # beside what tests run in
    distributions = {**elsewhere, **packages_distributions()}
    for module in EXTRAS[extra]:
        assert {canonicalize_name(name) for name in distributions[module]} & brought, module


def test_what_is_there_is_passed_over():
    require("FID", "metrics")


def test_what_is_missing_is_no_matter_to_who_needs_another_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    require("PSNR", "metrics", "skimage")
    with pytest.raises(MissingExtra, match="PSNR needs torchmetrics"):
        require("PSNR", "metrics")


@pytest.mark.parametrize(
    "command, missing, extra",
    [
        (["demo", "--output", "demo"], "skimage", "metrics"),
        (["memory"], "peft", "train"),
        (["app", str(Path("checkpoints/arm-tiny").resolve())], "gradio", "app"),
        (["push", ".", "--repo", "org/name", "--dry-run"], "accelerate", "train"),
        (["train", "sft", "--config", "arm_tiny/sft", "output_dir=sft"], "pydantic", "train"),
        (["train", "sft", "--help"], "docstring_parser", "train"),
        (["serve", "--port", "0"], "fastapi", "serve"),
        (["train", "grpo", "--config", "arm_tiny/grpo_joint", "output_dir=grpo"], "trl", "rl"),
    ],
)
def test_a_command_names_it_and_does_nothing(monkeypatch, capsys, tmp_path, command, missing, extra):
    needs_model = command[0] in ("demo", "serve")
    checkpoint = ["--checkpoint", str(Path("checkpoints/arm-tiny").resolve())] if needs_model else []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli.main([*checkpoint, *command]) == 1
    said, error = capsys.readouterr()
    assert (said, f"needs {missing}; install it with `pip install transformers-arm[{extra}]`." in error) == ("", True)
    assert not list(tmp_path.iterdir())


def test_it_is_a_missing_module():
    assert issubclass(MissingExtra, ModuleNotFoundError)
