"""Pre-training and fine-tuning: recipes train models that load; interrupted, they go on as if they never were."""

import json
import os
import random
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from diffusers import FlowMatchEulerDiscreteScheduler
from peft import PeftModel
from transformers import AutoTokenizer
from transformers.trainer_callback import TrainerState

from transformers_arm import ArmPixelDetokenizer, ArmPixelTransformer, ArmVQModel
from transformers_arm.cli.shell import TRACEBACK
from transformers_arm.modeling_arm import VOCABULARY, ArmForCausalLM
from transformers_arm.processing_arm import ArmProcessor
from transformers_arm.renderers_arm import load_detokenizer
from transformers_arm.training.recipe import RecipeError
from transformers_arm.training.trainer import ArmTrainer
from transformers_arm.worlds.shapes.tasks import WorldTasks

ROOT = Path(__file__).parents[2]
TRAINERS = ROOT / "trainers"
RECIPES = ROOT / "src" / "transformers_arm" / "recipes"
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
    recipe = yaml.safe_load((RECIPES / "arm_tiny" / "pretrain.yaml").read_text())
    recipe |= {"backbones": tiny_arm_backbones, "evaluation": {"detokenizer": detokenizer, "every": 1000, "count": 2}}
    mixture = {"text_to_image": 1, "image_to_text": 1, "interleaved": 1}
    recipe["data"]["arguments"] |= {"mixture": mixture, "curriculum": [2, 4]}
    recipe["training"] |= {"max_steps": STEPS, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4}
    recipe["training"] |= {"warmup_steps": 2, "report_to": "none", "disable_tqdm": True, "save_total_limit": None}

    def run(output_dir, *overrides, trainer="pretrain.py", processes=1, **sections):
        changed = recipe | sections | {"output_dir": str(output_dir)}
        if "start_from" in sections:
            del changed["backbones"]
        (output_dir / "recipe.yaml").write_text(yaml.safe_dump(changed))
        command = [str(TRAINERS / trainer), "--config", str(output_dir / "recipe.yaml"), *overrides]
        if processes > 1:
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
            subprocess.run(torchrun + command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", command)
                patch.setenv(TRACEBACK, "1")
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
    data = WorldTasks(
        4 * STEPS, mixture=recipe["data"]["arguments"]["mixture"], batch_size=4, seed=recipe["training"]["seed"]
    )
    of_step = {step: data.task(4 * (step - 1)) for step in range(1, STEPS + 1)}
    assert len(set(of_step.values())) > 1 and "image_to_text" in of_step.values()
    for step, log in curve(folder).items():
        assert log["loss_text"] > 0
        assert ("loss_image" in log) == (of_step[step] != "image_to_text"), step
        if "loss_image" in log:
            assert 5 < log["loss_image"] < 12  # ln 1024 is 6.9


def test_a_trained_model_has_learnt_something(pretrain, tmp_path):
    settings = ["training.max_steps=30", "training.logging_steps=10", "training.save_steps=30"]
    pretrain(tmp_path, *settings, "data.arguments={mixture: {text_to_image: 1}, curriculum: [1000, 1000]}")
    history = TrainerState.load_from_json(tmp_path / "checkpoint-30" / "trainer_state.json").log_history
    losses = [log["loss_image"] for log in history if "loss_image" in log]
    assert len(losses) == 3 and losses[-1] < losses[0] - 0.5


def test_fine_tuning_goes_on_from_a_model_and_saves_how_it_generates(pretrain, uninterrupted, tmp_path):
    start, folder = uninterrupted
    generation = yaml.safe_load((RECIPES / "arm_tiny" / "sft.yaml").read_text())["generation"]
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
    with pytest.raises(
        RecipeError, match="generation.temprature: generate does not know it; did you mean temperature?"
    ):
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


@pytest.fixture
def codes(tmp_path, monkeypatch):
    """What arm-7b's recipes read, as `transformers-arm tokenize` writes it, in the present folder."""
    monkeypatch.chdir(tmp_path)
    picture = {"codes": list(range(9)), "height": 3, "width": 3}
    said = [{"type": "text", "text": "first"}, {"type": "image"}, {"type": "text", "text": "then"}, {"type": "image"}]
    story = [{"role": "user", "content": said[:1]}, {"role": "assistant", "content": said}]
    rows = {
        "text": {"prompt": "what is red?", "answer": "a color"},
        "image_to_text": {"prompt": "what is this?", "image": picture, "answer": "a circle"},
        "text_to_image": {"task": "text_to_image", "prompt": "a red circle", "image": picture},
        "video": {"messages": story, "images": [picture, picture]},
        "web": {"messages": story, "images": [picture, picture]},
        "editing": {"prompt": "make it blue", "source_image": picture, "image": picture},
    }
    for name, row in rows.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        Dataset.from_list([row] * 20).to_parquet(tmp_path / "data" / name / "0.parquet")
    return rows


@pytest.mark.parametrize(
    ("stage", "steps", "learning_rate", "shares"),
    [
        ("pretrain", 100_000, 2e-4, (0.05, 0.10, 0.70, 0.10, 0.05)),
        ("continual", 100_000, 2e-4, (0.05, 0.10, 0.55, 0.15, 0.15)),
        ("sft", 40_000, 5e-5, (0.05, 0.05, 0.50, 0.20, 0.20)),
    ],
)
def test_arm_7b_s_recipes_have_the_paper_s_numbers_and_train(
    tiny_arm_backbones, arm_folder, codes, tmp_path, monkeypatch, stage, steps, learning_rate, shares
):
    file = RECIPES / "arm_7b" / f"{stage}.yaml"
    recipe = yaml.safe_load(file.read_text())
    training, weights = recipe["training"], {n: each["weight"] for n, each in recipe["data"]["sources"].items()}
    assert (training["max_steps"], training["learning_rate"]) == (steps, learning_rate)
    assert training.get("warmup_steps", 0) == (0 if stage == "sft" else 2000)
    assert (training["adam_beta1"], training["adam_beta2"], training["weight_decay"]) == (0.9, 0.95, 0.0)
    weights["web"] += weights.pop("editing")
    assert tuple(weights.values()) == pytest.approx(shares) and list(weights) == list(codes)[:5]

    ArmForCausalLM.from_backbones(**tiny_arm_backbones).save_pretrained(tmp_path / "arm")
    ArmProcessor.from_backbones(**tiny_arm_backbones).save_pretrained(tmp_path / "arm")
    shutil.copytree(Path(arm_folder) / "detokenizer", tmp_path / "arm" / "detokenizer")
    here = ["start_from=arm", "data.token_budget=512", "data.streams=2", "output_dir=run"]
    short = {"max_steps": 3, "gradient_accumulation_steps": 1, "dataloader_num_workers": 0, "save_steps": 3}
    short |= {"use_cpu": True, "bf16": False, "logging_steps": 1, "report_to": "none", "disable_tqdm": True}
    here += [f"training.{name}={json.dumps(value)}" for name, value in short.items()]
    trainer = TRAINERS / ("sft.py" if stage == "sft" else "pretrain.py")
    monkeypatch.setattr(sys, "argv", [str(trainer), "--config", str(file), *here])
    runpy.run_path(str(trainer), run_name="__main__")
    history = TrainerState.load_from_json("run/checkpoint-3/trainer_state.json").log_history
    assert {"loss_of_text_to_image", *(f"documents/{name}" for name in codes)} <= set().union(*history)
    assert all(log["row_fill"] > 0.9 for log in history if "loss" in log)
    ArmForCausalLM.from_pretrained("run/model")
    load_detokenizer("run/model")


@pytest.mark.parametrize("visual_rows", [False, True])
def test_adapters_are_trained_saved_and_merged(pretrain, uninterrupted, tmp_path, visual_rows):
    start, folder = uninterrupted
    lora = {"r": 2, "visual_rows": visual_rows}
    trained = pretrain(tmp_path, start_from=str(folder / "model"), lora=lora, trainer="sft.py")
    changed = {
        name for name, value in trained.state_dict().items() if not torch.equal(value, start.state_dict()[name])
    }
    assert changed and all("proj" in name or (visual_rows and name in VOCABULARY) for name in changed)
    assert any(name in VOCABULARY for name in changed) == visual_rows
    base = ArmForCausalLM.from_pretrained(folder / "model")
    adapted = PeftModel.from_pretrained(base, tmp_path / "model" / "adapter")
    ids = torch.arange(12)[None]
    torch.testing.assert_close(adapted(ids).logits, trained(ids).logits, atol=1e-4, rtol=0)
    assert (tmp_path / f"checkpoint-{STEPS}" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("missing", ["lora", "start_from"])
def test_quantized_weights_alone_are_refused(pretrain, uninterrupted, tmp_path, missing):
    sections = {"quantization": {}, "lora": {"r": 2}, "start_from": str(uninterrupted[1] / "model")}
    del sections[missing]
    with pytest.raises(RecipeError, match=r"it is for a model that is there \(start_from\) and for adapters"):
        pretrain(tmp_path, **sections)


@pytest.mark.slow
def test_killed_ten_times_training_on_a_packed_mixture_ends_in_the_same_weights(pretrain, tmp_path):
    """kill -9, every other time while a checkpoint is being written."""
    tasks = ("text", "image_to_text", "text_to_image", "editing", "interleaved")
    sources = {task: {"world": "shapes", "arguments": {"mixture": {task: 1.0}}, "weight": 1.0} for task in tasks}
    data = {"sources": sources, "token_budget": 192, "streams": 4, "lookahead": 4}
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    settings = [
        "evaluation.world=shapes",
        "training.max_steps=240",
        "training.save_steps=3",
        "training.save_total_limit=2",
    ]
    settings += ["training.per_device_train_batch_size=1", "training.dataloader_num_workers=1"]
    expected = pretrain(folders[0], *settings, data=data)

    (folders[1] / "recipe.yaml").write_text((folders[0] / "recipe.yaml").read_text())
    command = [sys.executable, str(TRAINERS / "pretrain.py"), "--config", str(folders[1] / "recipe.yaml"), *settings]
    command.append(f"output_dir={folders[1]}")
    rng, reached = random.Random(0), []
    for number in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before, deadline = checkpoints(folders[1]), time.monotonic() + 300
        while checkpoints(folders[1]) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if number % 2:
            time.sleep(rng.uniform(0, 0.3))
        else:
            staging = folders[1] / "_saving"
            while not (staging.is_dir() and any(staging.iterdir())) and time.monotonic() < deadline:
                time.sleep(0.001)
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
        reached.append(max(int(name.partition("-")[2]) for name in checkpoints(folders[1])))
    assert reached == sorted(reached) and reached[-1] < 240
    subprocess.run(command, check=True)
    resumed = ArmForCausalLM.from_pretrained(folders[1] / "model")
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)
