"""Checkpoints of a training leave out what is frozen and load by themselves: they say where it is."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from short_trainings import MODEL

from transformers_arm import ArmVQForPreTraining
from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.training.trainer import ArmTrainer, train, training_arguments
from transformers_arm.worlds.shapes.pictures import ShapesDataset

PIXELS = MODEL | {f"{name}_loss_weight": 0.0 for name in ("caption", "sigmoid")}


def train_one_step(model, folder):
    settings = {"max_steps": 1, "save_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    data = ShapesDataset(2, batch_size=2, seed=0)
    arguments = training_arguments(settings | {"per_device_train_batch_size": 2}, output_dir=str(folder))
    train(ArmTrainer(model, arguments, train_dataset=data, data_collator=ImageTextCollator()))
    return folder / "checkpoint-1"


@pytest.fixture(scope="module")
def run(tiny_backbones, tmp_path_factory):
    """A folder with copies of the backbones and a training's output, and the trained model."""
    folder = tmp_path_factory.mktemp("run")
    for name, path in tiny_backbones.items():
        shutil.copytree(path, folder / "backbones" / name)
    torch.manual_seed(0)
    model = ArmVQForPreTraining.from_backbones(vision=str(folder / "backbones" / "vision"), **PIXELS)
    train_one_step(model, folder / "out")
    return folder, model


def same(first, second):
    theirs = second.state_dict()
    return first.state_dict().keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in first.state_dict().items()
    )


def test_a_checkpoint_loads_whole_from_anywhere_and_without_a_word(run, monkeypatch, tmp_path, capfd):
    folder, model = run
    monkeypatch.chdir(tmp_path)
    loaded = ArmVQForPreTraining.from_pretrained(folder / "out" / "checkpoint-1")
    assert same(loaded, model) and "MISSING" not in "".join(capfd.readouterr())
    assert not any(parameter.requires_grad for parameter in loaded.vq_model.vision_model.parameters())
    moved = tmp_path / "moved"  # all of it together
    shutil.copytree(folder, moved)
    assert same(ArmVQForPreTraining.from_pretrained(moved / "out" / "checkpoint-1"), model)
    named = json.loads((moved / "out" / "checkpoint-1" / "config.json").read_text())["backbones"]
    assert set(named.values()) == {os.path.join("..", "..", "backbones", "vision")}


def test_whole_folders_name_no_backbones(run, tmp_path):
    folder, model = run
    loaded = ArmVQForPreTraining.from_pretrained(folder / "out" / "checkpoint-1")
    for name, each in {"trained": model, "loaded": loaded}.items():
        each.save_pretrained(tmp_path / name)
        assert "backbones" not in json.loads((tmp_path / name / "config.json").read_text())
        assert same(ArmVQForPreTraining.from_pretrained(tmp_path / name), model)


def test_backbones_that_are_gone_are_named_and_others_can_be_said(run, tiny_backbones, tmp_path):
    folder, model = run
    alone = tmp_path / "a" / "checkpoint-1"
    shutil.copytree(folder / "out" / "checkpoint-1", alone)
    gone = rf"{tmp_path}/backbones/vision, where that was, is gone. Say where it is now: .*backbones="
    with pytest.raises(ValueError, match=f"{alone} leaves out what is frozen, and {gone}"):
        ArmVQForPreTraining.from_pretrained(alone)
    backbones = {"vision": tiny_backbones["vision"]}
    assert same(ArmVQForPreTraining.from_pretrained(alone, backbones=backbones), model)


def test_a_checkpoint_that_lacks_what_it_learnt_is_refused(run):
    folder, _ = run
    broken = folder / "out" / "checkpoint-broken"
    shutil.copytree(folder / "out" / "checkpoint-1", broken)
    tensors = load_file(broken / "model.safetensors")
    del tensors["vq_model.down_projection.weight"]
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 of the tensors of ArmVQForPreTraining: vq_model.down_projection"):
        ArmVQForPreTraining.from_pretrained(broken)


@pytest.mark.parametrize("begins_with", ["checkpoint", "whole folder"])
def test_a_further_phase_s_checkpoints_load_too(run, tmp_path, begins_with):
    folder, model = run
    start = folder / "out" / "checkpoint-1"
    if begins_with == "whole folder":
        start = tmp_path / "pretraining"
        model.save_pretrained(start)
    further = ArmVQForPreTraining.from_pretrained(start, pixel_loss_weight=7.0)
    loaded = ArmVQForPreTraining.from_pretrained(train_one_step(further, tmp_path / "further"))
    assert same(loaded, further) and not same(loaded, model) and loaded.config.pixel_loss_weight == 7.0
