"""Pushes while a model trains: what arrives is what was saved, and what does not arrive is told."""

import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from grpo_requests import TINY, brightness, dataset_of
from huggingface_hub import HfApi
from short_trainings import checkpoints

from transformers_arm import ArmForCausalLM, ArmSFTConfig, ArmSFTTrainer
from transformers_arm.training.grpo import ArmGRPOConfig, ArmGRPOTrainer
from transformers_arm.training.pushing import raise_failed_pushes
from transformers_arm.training.saving import save_folder

PUSHED = {"push_to_hub": True, "hub_always_push": True, "max_steps": 2, "save_steps": 1}


@pytest.fixture
def repo(hub, request, monkeypatch):
    """A repo's name, for one test, with what pushes there."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    name = "org/" + re.sub(r"\W+", "-", request.node.name)[-60:].strip("-")
    return name, PUSHED | {"hub_model_id": name, "hub_token": hub.token}


@pytest.fixture
def slow_network(monkeypatch):
    """Commits take longer than a step of these trainings."""
    commit = HfApi.create_commit

    def later(self, *args, **kwargs):
        time.sleep(1.5)
        return commit(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", later)


def arrived(hub, name, revision="main"):
    repo = hub.repos[name]
    return {path: hub.read(name, path) for path in repo.at(revision).files} if repo.branches else {}


def assert_arrived(hub, name, folder, path):
    """All of a folder lies at a path of the repo, as it lies here."""
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    there = arrived(hub, name)
    assert files and {
        file: there.get(f"{path}/{file}") == content for file, content in files.items()
    } == dict.fromkeys(files, True)


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints", "end"])
def test_what_arrives_is_what_was_saved(new_trainer, hub, repo, slow_network, tmp_path, strategy):
    name, settings = repo
    kept = tmp_path / "kept"
    trainer = new_trainer(tmp_path / "out", **settings, hub_strategy=strategy, save_total_limit=1)
    saved = trainer._save_checkpoint

    def keeping(*args):  # the limit of checkpoints takes away the first, while it is pushed
        saved(*args)
        step = f"checkpoint-{trainer.state.global_step}"
        subprocess.run(["cp", "-r", str(tmp_path / "out" / step), str(kept / step)], check=True)

    kept.mkdir()
    trainer._save_checkpoint = keeping
    trainer.train()
    there = arrived(hub, name)
    folders = {path.split("/")[0] for path in there if "/" in path}
    expected = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-1", "checkpoint-2"}}
    assert folders == expected.get(strategy, set())
    if strategy == "end":
        assert "model.safetensors" not in there
    else:
        assert there["model.safetensors"] == (kept / "checkpoint-2" / "model.safetensors").read_bytes()
        titles = [commit.title for commit in hub.repos[name].commits.values()]
        assert {f"Training in progress, step {step}" for step in (1, 2)} <= set(titles)
    for folder in folders:
        assert_arrived(hub, name, kept / folder.replace("last-checkpoint", "checkpoint-2"), folder)
    assert trainer.failed_pushes == {} and checkpoints(tmp_path / "out") == ["checkpoint-2"]
    assert not list((tmp_path / "out").glob("_*"))


def test_a_push_that_is_left_out_is_told(new_trainer, hub, repo, slow_network, tmp_path, caplog):
    name, settings = repo
    new_trainer(tmp_path, **settings | {"hub_always_push": False}, hub_strategy="all_checkpoints").train()
    assert "checkpoint-2 is not pushed, the one before it is still on its way" in caplog.text
    assert_arrived(hub, name, tmp_path / "checkpoint-1", "checkpoint-1")
    assert not any(path.startswith("checkpoint-2") for path in arrived(hub, name))


def test_a_push_that_fails_is_told_and_made_up_for_by_the_next(new_trainer, hub, repo, tmp_path, caplog):
    name, settings = repo
    trainer = new_trainer(tmp_path, **settings, hub_strategy="every_save")
    with hub.failing("POST", f"{name}/commit/", status=403, times=1):
        trainer.train()
    assert re.search(f"A push to {name} failed: .*403", caplog.text)
    assert not any(record.levelno >= logging.ERROR for record in caplog.records)
    assert trainer.failed_pushes == {} and "model.safetensors" in arrived(hub, name)
    raise_failed_pushes(trainer)


def test_what_never_arrives_ends_in_an_error_when_all_is_saved(new_trainer, hub, repo, tmp_path, caplog):
    name, settings = repo
    trainer = new_trainer(tmp_path, **settings, hub_strategy="all_checkpoints")
    with hub.failing("POST", f"{name}/commit/", status=403, skip=1, times=1):  # the model arrives, its checkpoint not
        assert trainer.train().global_step == 2
    assert list(trainer.failed_pushes) == ["checkpoint-1"]
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert f"Not on the Hub: checkpoint-1 of {name}. " in record.getMessage()
    save_folder(trainer, tmp_path / "model", {"": (trainer.model,)})
    assert arrived(hub, name)["model.safetensors"] == (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(
        OSError, match="All is trained and saved, but not all has arrived at the Hub. checkpoint-1: "
    ) as e:
        raise_failed_pushes(trainer)

    command = re.search(r"push it by: (hf upload .*)\.$", str(e.value))[1]  # what it says helps
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, env=environment, check=True, timeout=120)
    assert_arrived(hub, name, tmp_path / "checkpoint-1", "checkpoint-1")


@pytest.mark.parametrize("trainer", ["ArmSFTTrainer", "ArmGRPOTrainer"])
def test_trl_s_trainers_push_the_same_way(arm_folder, hub, repo, slow_network, tmp_path, trainer):
    name, settings = repo
    settings = TINY | settings | {"save_strategy": "steps", "hub_strategy": "checkpoint"}
    model = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
    if trainer == "ArmGRPOTrainer":
        settings |= {"per_device_train_batch_size": 2, "num_generations": 2}
        args = ArmGRPOConfig(str(tmp_path), **settings)
        ArmGRPOTrainer(model, brightness, args, dataset_of([{"prompt": "a red circle"}] * 2)).train()
    else:
        settings = {
            each: settings[each] for each in settings if each not in ("num_generations", "picture_steps", "top_k")
        }
        rows = Dataset.from_list([{"prompt": "who are you?", "answer": "an ARM"}] * 8)
        ArmSFTTrainer(model, ArmSFTConfig(str(tmp_path), **settings), train_dataset=rows).train()
    assert_arrived(hub, name, tmp_path / "checkpoint-2", "last-checkpoint")
    there = arrived(hub, name)
    assert there["model.safetensors"] == (tmp_path / "checkpoint-2" / "model.safetensors").read_bytes()
    assert trainer in there["README.md"].decode() and not any(path.startswith(("_", ".s")) for path in there)
