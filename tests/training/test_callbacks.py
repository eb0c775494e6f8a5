"""Looks into a training: what is drawn, edited and answered on the way, while the training goes on as without them."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainerState

from transformers_arm import ArmForCausalLM, ArmProcessor
from transformers_arm.evaluation_multimodal import Arm
from transformers_arm.pipeline_arm import load_detokenizer
from transformers_arm.shapes.captions import parse_caption
from transformers_arm.shapes.edits import apply_edit
from transformers_arm.shapes.reader import read_scene
from transformers_arm.shapes.scene import Scene, SceneObject
from transformers_arm.training import multimodal
from transformers_arm.training.callbacks import TaskScoresCallback

SCORES = {"eval_generation", "eval_full", "eval_editing", "eval_understanding"}
CALLBACK = {"every": 2, "count": 8}


def scene_of(items, background):
    return Scene(tuple(SceneObject(item.shape, item.color, item.size, item.cell) for item in items), background)


def scene_in(image):
    reading = read_scene(image)
    return scene_of(reading.objects, reading.background)


@pytest.fixture(scope="module")
def parts(arm_folder):
    model = ArmForCausalLM.from_pretrained(arm_folder, attention_dropout=0.1)
    return model, ArmProcessor.from_pretrained(arm_folder), load_detokenizer(arm_folder)


@pytest.fixture
def look(parts, tmp_path):
    """Has the callback look at the model after a step; gives the log."""

    def at_step(step, is_world_process_zero=True):
        model, processor, detokenizer = parts
        state = TrainerState(global_step=step, is_world_process_zero=is_world_process_zero)
        args = SimpleNamespace(output_dir=str(tmp_path))
        TaskScoresCallback(processor, detokenizer, **CALLBACK).on_step_end(args, state, None, model=model)
        return state.log_history

    return at_step


def test_it_logs_four_scores_and_writes_a_sheet(look, tmp_path, capsys):
    (log,) = look(2)
    assert set(log) == {"step"} | SCORES
    assert log["step"] == 2
    assert all(0 <= log[name] <= 1 for name in SCORES)
    assert Image.open(tmp_path / "samples" / "step-0000002.png").size == (16 * 48, 48)
    assert "eval_editing" in capsys.readouterr().out


@pytest.mark.parametrize(("step", "first"), [(3, True), (2, False)])
def test_it_looks_only_when_due_and_in_one_process(look, tmp_path, step, first):
    assert look(step, first) == []
    assert not (tmp_path / "samples").exists()


def test_it_leaves_the_model_and_all_randomness_as_they_are(parts, look):
    model, _, detokenizer = parts
    model.train()
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    modes = {name: module.training for name, module in model.named_modules()}
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    settings = model.generation_config.to_dict()
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    look(2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name for name, value in model.named_parameters() if value.requires_grad} == trained
    left = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert left.keys() == gradients.keys() and gradients
    assert all(torch.equal(left[name], value) for name, value in gradients.items())
    assert model.generation_config.to_dict() == settings
    model.zero_grad()


def test_it_looks_at_training_scenes_only(look, monkeypatch):
    given = {"draw": [], "edit": [], "answer": []}

    def noting(plain, items):
        def note(self, *args, **kwargs):
            items.append(args)
            return plain(self, *args, **kwargs)

        return note

    for name, items in given.items():
        monkeypatch.setattr(Arm, name, noting(getattr(Arm, name), items))
    look(2)
    (scored, _), (shown,) = given["draw"]
    full = [spec for spec in map(parse_caption, [*scored, *shown]) if spec.background]
    assert len(full) == 8 + 16
    assert {scene_of(spec.nouns, spec.background).split for spec in full} == {"train"}
    ((images, prompts, _),) = given["edit"]
    assert {apply_edit(scene_in(image), prompt).split for image, prompt in zip(images, prompts, strict=True)} == {
        "train"
    }
    ((images, _, _),) = given["answer"]
    assert {scene_in(image).split for image in images} == {"train"}


def test_training_ends_in_the_same_weights_with_and_without_it(arm_folder, tmp_path, monkeypatch):
    logs, dropping = {}, str(tmp_path / "dropping")
    ArmForCausalLM.from_pretrained(arm_folder, dtype="float32", attention_dropout=0.1).save_pretrained(dropping)
    ArmProcessor.from_pretrained(arm_folder).save_pretrained(dropping)

    class Remembering(TaskScoresCallback):
        def on_train_end(self, args, state, control, **kwargs):
            logs[args.output_dir] = state.log_history

    monkeypatch.setattr(multimodal, "TaskScoresCallback", Remembering)

    def train(name, every):
        recipe = {
            "start_from": dropping,
            "output_dir": str(tmp_path / name),
            "data": {"mixture": {"text": 1.0, "image_to_text": 1.0, "text_to_image": 1.0, "editing": 1.0}},
            "evaluation": {"detokenizer": f"{arm_folder}/detokenizer", "every": every, "count": 8},
            "generation": {"max_new_tokens": 7, "image_generation": {"temperature": 0.5}},
            "training": {
                **{"seed": 0, "use_cpu": True, "max_steps": 4, "per_device_train_batch_size": 2, "report_to": "none"},
                **{"learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True},
            },
        }
        multimodal.train_on_conversations(recipe)
        return tmp_path / name

    with_looks, without = train("with", 2), train("without", 100)
    assert [log["step"] for log in logs[str(with_looks)] if set(log) >= SCORES] == [2, 4]
    assert not [log for log in logs[str(without)] if set(log) & SCORES]
    ours, theirs, first = (
        load_file(f"{folder}/model.safetensors") for folder in (with_looks / "model", without / "model", arm_folder)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert not all(torch.equal(value, first[name]) for name, value in ours.items())
    saved = ArmForCausalLM.from_pretrained(with_looks / "model")
    assert saved.generation_config.max_new_tokens == 7
    assert saved.generation_config.image_generation == {"temperature": 0.5}
    ArmProcessor.from_pretrained(with_looks / "model")
