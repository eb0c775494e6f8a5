"""Pre-training and fine-tuning: recipes train models that load; interrupted, they go on as if they never were."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer
from transformers.trainer_callback import TrainerState

from transformers_arm import ArmPixelDetokenizer, ArmPixelTransformer, ArmVQModel
from transformers_arm.data.world_tasks import WorldTasks
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.processing_arm import ArmProcessor
from transformers_arm.training.trainer import ArmTrainer

TRAINERS = Path(__file__).parents[1] / "trainers"
STEPS = 6


class Killed(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def pretrain(tiny_arm_backbones, tmp_path_factory):
    """Runs trainers/pretrain.py, or another trainer, on arm-tiny's recipe with tiny backbones and few steps, as its
    command line does; in `processes` processes if more than one.
    """
    detokenizer = str(tmp_path_factory.mktemp("detokenizer"))
    size = {"condition_size": 32, "hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "patch_size": 16}
    transformer = ArmPixelTransformer(**size)
    ArmPixelDetokenizer(transformer, FlowMatchEulerDiscreteScheduler(), default_steps=1).save_pretrained(detokenizer)
    recipe = yaml.safe_load((TRAINERS / "arm_tiny" / "pretrain.yaml").read_text())
    recipe |= {"backbones": tiny_arm_backbones, "evaluation": {"detokenizer": detokenizer, "every": 1000, "count": 2}}
    recipe["data"] |= {"mixture": {"text_to_image": 1, "image_to_text": 1, "interleaved": 1}, "curriculum": [2, 4]}
    recipe["training"] |= {"max_steps": STEPS, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4}
    recipe["training"] |= {"warmup_steps": 2, "report_to": "none", "disable_tqdm": True, "save_total_limit": None}

    def run(output_dir, *overrides, trainer="pretrain.py", processes=1, **sections):
        (output_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe | sections | {"output_dir": str(output_dir)}))
        command = [str(TRAINERS / trainer), "--config", str(output_dir / "recipe.yaml"), *overrides]
        if processes > 1:
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
            subprocess.run(torchrun + command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", command)
                runpy.run_path(command[0], run_name="__main__")
        return ArmForCausalLM.from_pretrained(output_dir / "model")

    return run


@pytest.fixture(scope="module")
def uninterrupted(pretrain, tmp_path_factory):
    """The model after all steps, and the folder it was trained in."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return pretrain(folder), folder


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def curve(folder):
    history = TrainerState.load_from_json(folder / f"checkpoint-{STEPS}" / "trainer_state.json").log_history
    return {log["step"]: log for log in history if "loss" in log}


@pytest.mark.parametrize("killed_in_step", [2, 4])
def test_an_interrupted_pre_training_gives_the_same_model(
    pretrain, uninterrupted, tmp_path, monkeypatch, killed_in_step
):
    expected, folder = uninterrupted
    plain_step, taken = ArmTrainer.training_step, []

    def dies(self, *args, **kwargs):
        taken.append(self.state.global_step)
        if len(taken) == killed_in_step:
            raise Killed
        return plain_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ArmTrainer, "training_step", dies)
        with pytest.raises(Killed):
            pretrain(tmp_path)
    assert checkpoints(tmp_path) == [f"checkpoint-{step}" for step in range(2, killed_in_step, 2)]
    assert not (tmp_path / "model").exists()

    torch.manual_seed(99)
    resumed = pretrain(tmp_path)
    for name, value in expected.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    ours, theirs = curve(tmp_path), curve(folder)
    assert ours.keys() == theirs.keys() == set(range(1, STEPS + 1))
    assert all(ours[step]["loss"] == theirs[step]["loss"] for step in ours)


def test_looking_on_leaves_no_trace(pretrain, uninterrupted, tmp_path):
    watched = pretrain(tmp_path, "evaluation.every=3")
    expected, folder = uninterrupted
    for name, value in expected.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name
    history = TrainerState.load_from_json(tmp_path / f"checkpoint-{STEPS}" / "trainer_state.json").log_history
    looks = [log for log in history if "eval_generation" in log]
    assert [log["step"] for log in looks] == [3, 6]
    assert all(0 <= log[f"eval_{name}"] <= 1 for log in looks for name in ("generation", "full", "editing"))
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step-0000003.png", "step-0000006.png"]
    assert not (folder / "samples").exists()


def test_training_changes_the_decoder_and_leaves_the_visual_tokenizer(uninterrupted, tiny_arm_backbones):
    trained, _ = uninterrupted
    torch.manual_seed(0)
    start = ArmForCausalLM.from_backbones(**tiny_arm_backbones)
    vq_model = ArmVQModel.from_pretrained(tiny_arm_backbones["vq"])
    assert all(torch.equal(value, trained.vq_model.state_dict()[n]) for n, value in vq_model.state_dict().items())
    for name in ("model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight"):
        assert not torch.equal(trained.get_parameter(name), start.get_parameter(name))


def test_the_model_s_folder_holds_its_processor(uninterrupted, tiny_arm_backbones):
    trained, folder = uninterrupted
    processor = ArmProcessor.from_pretrained(folder / "model")
    ours, theirs = processor.tokenizer, AutoTokenizer.from_pretrained(tiny_arm_backbones["text"])
    assert theirs.get_vocab().items() <= ours.get_vocab().items()
    assert ours("a <|im_end|>").input_ids == theirs("a <|im_end|>").input_ids
    assert processor.image_processor.patch_size == trained.vq_model.config.patch_size


def test_losses_of_text_and_images_are_logged_only_where_there_are_such_labels(uninterrupted):
    """A mean that counted steps without image labels as zeros would look better than the model is."""
    _, folder = uninterrupted
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    data = WorldTasks(4 * STEPS, mixture=recipe["data"]["mixture"], batch_size=4, seed=recipe["training"]["seed"])
    of_step = {step: data.task(4 * (step - 1)) for step in range(1, STEPS + 1)}
    assert len(set(of_step.values())) > 1 and "image_to_text" in of_step.values()
    for step, log in curve(folder).items():
        assert log["loss_text"] > 0
        assert ("loss_image" in log) == (of_step[step] != "image_to_text"), step
        if "loss_image" in log:
            assert 5 < log["loss_image"] < 12  # ln 1024 is 6.9


def test_a_trained_model_has_learnt_something(pretrain, tmp_path):
    settings = ["training.max_steps=30", "training.logging_steps=10", "training.save_steps=30"]
    pretrain(tmp_path, *settings, "data.mixture={text_to_image: 1}", "data.curriculum=[1000, 1000]")
    history = TrainerState.load_from_json(tmp_path / "checkpoint-30" / "trainer_state.json").log_history
    losses = [log["loss_image"] for log in history if "loss_image" in log]
    assert len(losses) == 3 and losses[-1] < losses[0] - 0.5


def test_fine_tuning_goes_on_from_a_model_and_saves_how_it_generates(pretrain, uninterrupted, tmp_path):
    start, folder = uninterrupted
    generation = yaml.safe_load((TRAINERS / "arm_tiny" / "sft_binding.yaml").read_text())["generation"]
    sections = {"start_from": str(folder / "model"), "generation": generation}
    tuned = {}
    for trainer in ("sft.py", "pretrain.py"):  # pre-training with `start_from` is continual training
        (tmp_path / trainer).mkdir()
        tuned[trainer] = pretrain(tmp_path / trainer, "training.learning_rate=1e-4", trainer=trainer, **sections)
        assert tuned[trainer].generation_config.image_generation == generation["image_generation"]
        assert tuned[trainer].generation_config.max_new_tokens == generation["max_new_tokens"]
    for name, value in tuned["sft.py"].state_dict().items():
        assert torch.equal(tuned["pretrain.py"].state_dict()[name], value), name
    moved = (tuned["sft.py"].lm_head.weight - start.lm_head.weight).abs().max()
    assert 0 < moved < 1e-4 * STEPS * 2
    assert ArmProcessor.from_pretrained(tmp_path / "sft.py" / "model").chat_template


def test_a_generation_section_that_generate_does_not_know_is_refused(pretrain, tmp_path):
    with pytest.raises(ValueError, match="temprature, which generate does not know"):
        pretrain(tmp_path, generation={"temprature": 0.7})


def test_a_recipe_without_steps_is_refused(pretrain, tmp_path):
    with pytest.raises(ValueError, match="max_steps is -1; the recipe must say"):
        pretrain(tmp_path, "training.max_steps=-1")


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_whole_batch(pretrain, uninterrupted, tmp_path):
    expected, _ = uninterrupted
    trained = pretrain(tmp_path, "training.per_device_train_batch_size=2", "evaluation.every=3", processes=2)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, rtol=0, atol=1e-3, msg=name)
    assert len(list((tmp_path / "samples").iterdir())) == 2
