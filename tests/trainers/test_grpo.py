"""The GRPO recipes: arm-tiny's run and write folders that load, arm-7b's state the paper's numbers."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from peft import PeftModel
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import pipeline

from transformers_arm import ArmForCausalLM
from transformers_arm.rewards import EditPreservation, VLMJudge
from transformers_arm.training.recipe import RecipeError
from transformers_arm.training.reinforcement import arguments_of_run, find_reward
from transformers_arm.training.stages import read_stage
from transformers_arm.worlds.shapes.rewards import world_alignment

ROOT = Path(__file__).parents[2]
TRAINERS = ROOT / "trainers"
RECIPES = ROOT / "src" / "transformers_arm" / "recipes"
ARM_TINY = ("grpo_text_to_image", "grpo_editing", "grpo_joint")
PAPER = {  # section 5: steps, prompts a step, learning rate, temperatures
    "grpo_text_to_image": (280, 64, 3e-5, {"temperature": 0.7}),
    "grpo_editing": (100, 40, 5e-5, {"editing_temperature": 1.0}),
    "grpo_joint": (200, 40, 5e-5, {"temperature": 0.7, "editing_temperature": 1.0}),
}


@pytest.fixture
def run(tmp_path, monkeypatch, arm_folder):
    """Runs trainers/grpo.py as its command line does, on a recipe with a small batch and two steps."""

    def train(name, *overrides, **sections):
        recipe = yaml.safe_load((RECIPES / "arm_tiny" / f"{name}.yaml").read_text())
        recipe |= {"start_from": arm_folder, "output_dir": str(tmp_path / "run"), "prompts_per_step": 4}
        recipe["evaluation"] = {"every": 2, "count": 6}
        recipe["training"] |= {"num_generations": 2, "per_device_train_batch_size": 4, "max_steps": 2, "save_steps": 1}
        recipe["training"] |= {"logging_steps": 1, "report_to": "tensorboard", "disable_tqdm": True}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | sections))
        command = [str(TRAINERS / "grpo.py"), "--config", str(tmp_path / "recipe.yaml"), *overrides]
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(command[0], run_name="__main__")
        return tmp_path / "run"

    return train


@pytest.mark.parametrize("name", ARM_TINY)
def test_arm_tiny_s_recipes_write_folders_that_pipelines_load(run, name):
    folder = run(name)
    picture = pipeline("text-to-image", model=str(folder / "model"))("a red circle")
    assert picture.size == (48, 48)
    assert pipeline("image-editing", model=str(folder / "model"))(picture, "make the red circle blue").size == (48, 48)
    history = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert any("rewards/world_quality/mean" in log for log in history)
    assert any("eval_generation" in log for log in history)
    assert list(folder.glob("**/events.out.tfevents.*")) and list((folder / "samples").glob("*.png"))
    assert list((folder / "rollouts").glob("*.png"))
    assert not list(folder.glob(".model"))


def test_a_finished_run_is_not_trained_again(run, capsys):
    folder = run("grpo_text_to_image")
    weights = (folder / "model" / "model.safetensors").read_bytes()
    run("grpo_text_to_image")
    assert (folder / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("visual_rows", [False, True], ids=["", "visual-rows"])
def test_lora_saves_the_adapter_and_a_whole_model_that_the_next_stage_starts_from(
    run, arm_folder, tmp_path, visual_rows
):
    settings = {"lora": {"r": 2, "visual_rows": visual_rows}, "evaluation": {"every": 10, "count": 6}}
    folder = run("grpo_text_to_image", "training.learning_rate=0.1", **settings) / "model"
    ids = torch.arange(20)[None]
    base = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32).eval()
    merged = ArmForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert not torch.allclose(merged(ids).logits, base(ids).logits, atol=1e-3)
    adapted = PeftModel.from_pretrained(base, folder / "adapter").eval()
    torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, atol=1e-3, rtol=1e-3)
    first = folder.rename(tmp_path / "first")
    shutil.rmtree(tmp_path / "run")
    second = run("grpo_text_to_image", "training.learning_rate=0", start_from=str(first), **settings) / "model"
    again = ArmForCausalLM.from_pretrained(second, dtype=torch.float32).eval()
    torch.testing.assert_close(again(ids).logits, merged(ids).logits, atol=1e-5, rtol=1e-5)


def paper_recipe(name, *overrides):
    """One of arm-7b's recipes where there is no GPU and no DeepSpeed."""
    here = ["training.use_cpu=true", "training.bf16=false", "training.deepspeed=null"]
    return read_stage("grpo", f"arm_7b/{name}", [*here, *overrides])


@pytest.mark.parametrize("name", PAPER)
def test_arm_7b_s_recipes_state_the_paper_s_numbers(name, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    recipe = read_stage("grpo", f"arm_7b/{name}")
    assert recipe.training.deepspeed["zero_optimization"]["stage"] == 2
    steps, prompts, rate, temperatures = PAPER[name]
    arguments = arguments_of_run(paper_recipe(name))
    assert (arguments.max_steps, recipe.prompts_per_step, arguments.learning_rate) == (steps, prompts, rate)
    assert arguments.generation_batch_size == 16 * prompts and arguments.num_generations == 16
    stated = {"top_k": 1000, "top_p": 1.0, "epsilon": 0.2, "beta": 0.01, "weight_decay": 0.01, "max_grad_norm": 1.0}
    for field, value in (stated | temperatures | {"adam_beta1": 0.9, "adam_beta2": 0.95}).items():
        assert getattr(arguments, field) == value, field
    assert not any(entry.arguments["base_url"] for entry in recipe.rewards)  # the user's own endpoint
    endpoint = {"base_url": "http://localhost:8000/v1"}
    judges = [find_reward(entry.reward, entry.arguments | endpoint) for entry in recipe.rewards]
    assert all(isinstance(judge, VLMJudge) for judge in judges)
    assert len({judge.__name__ for judge in judges}) == len(judges)


def test_arm_7b_s_recipes_follow_each_other():
    recipes = [paper_recipe(name) for name in PAPER]
    for before, after in zip(recipes, recipes[1:], strict=False):
        assert after.start_from == f"{before.output_dir}/model"


@pytest.mark.parametrize("name", [f"{size}/{name}" for size in ("arm_7b", "arm_tiny") for name in PAPER])
def test_every_stage_is_kept_near_the_fine_tuned_model(name):
    """Paper, section 5."""
    here = ["training.use_cpu=true", "training.bf16=false", "training.deepspeed=null"]
    recipes = {stage: read_stage("grpo", f"{name.partition('/')[0]}/{stage}", here) for stage in PAPER}
    recipe = recipes[name.partition("/")[2]]
    assert (recipe.reference or recipe.start_from) == recipes["grpo_text_to_image"].start_from


@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["", "LoRA"])
def test_a_recipe_s_reference_is_what_the_kl_is_to(run, lora):
    shipped = str(ROOT / "checkpoints" / "arm-tiny")
    first = []
    for reference in (None, shipped):
        folder = run("grpo_text_to_image", reference=reference, lora=lora, evaluation=None)
        history = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
        first.append(next(log["kl"] for log in history if "kl" in log))
        shutil.rmtree(folder)
    assert (
        first[0] == pytest.approx(0, abs=1e-6) and first[1] > 1e-2
    )  # the untrained start is far from the shipped one


@pytest.fixture
def of_processes(monkeypatch):
    """`arguments_of_run` of one of so many processes, of which torch is told that the others are there."""

    def arguments(processes, name, *overrides):
        environment = {"WORLD_SIZE": processes, "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": 29500}  # nobody is asked
        for variable, value in environment.items():
            monkeypatch.setenv(variable, str(value))
        torch.distributed.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            found = arguments_of_run(paper_recipe(name, *overrides))
            assert found.world_size == processes
            return found
        finally:
            torch.distributed.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)

    return arguments


@pytest.mark.parametrize("name", PAPER)
def test_any_number_of_processes_that_divides_the_samples_makes_the_same_update(of_processes, name):
    _, prompts, _, _ = PAPER[name]
    stated = re.search(r": ([\d, ]+) GPUs", (RECIPES / "arm_7b" / f"{name}.yaml").read_text())[1]
    counts = [int(count) for count in stated.split(", ")]
    assert counts == [count for count in (8, 16, 24, 32, 40, 48, 64) if 16 * prompts % count == 0]
    for count in [1, *counts]:
        arguments = of_processes(count, name)
        at_once, accumulated = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
        assert at_once * accumulated * count == arguments.generation_batch_size == 16 * prompts
        assert arguments.steps_per_generation == accumulated and at_once <= 4


def test_a_process_takes_fewer_at_a_time_where_its_share_is_no_multiple(of_processes, caplog):
    assert of_processes(64, "grpo_editing").per_device_train_batch_size == 2
    assert "Each process has 10 samples an update, and takes 2 at a time, not 4." in caplog.text
    assert of_processes(128, "grpo_editing").per_device_train_batch_size == 1


@pytest.mark.parametrize(
    ("processes", "name", "fix"),
    [
        (24, "grpo_text_to_image", "Start 16 or 32 processes, or state prompts_per_step 63 or 66."),
        (40, "grpo_text_to_image", "Start 32 or 64 processes, or state prompts_per_step 60 or 65."),
        (48, "grpo_joint", "Start 40 or 64 processes, or state prompts_per_step 39 or 42."),
        (2000, "grpo_joint", "Start 640 processes, or state prompts_per_step 125."),
    ],
)
def test_processes_that_cannot_share_an_update_are_told_which_can(of_processes, processes, name, fix):
    with pytest.raises(ValueError, match=re.escape(f"{processes} processes cannot share out evenly. {fix}")):
        of_processes(processes, name)
    prompts = re.findall(r"\d+", fix)[-1]
    assert of_processes(processes, name, f"prompts_per_step={prompts}").generation_batch_size == 16 * int(prompts)


def test_rewards_are_found_by_name_or_by_module():
    assert find_reward("world_alignment", world="shapes") is world_alignment
    assert find_reward("transformers_arm.worlds.shapes.rewards:world_alignment") is world_alignment
    assert find_reward("EditPreservation", world="shapes") is EditPreservation
    for name in ("beauty", "world_alignment"):
        with pytest.raises(ValueError, match=f"no reward '{name}' in transformers_arm.rewards; use module:name"):
            find_reward(name)
    with pytest.raises(ValueError, match=r"nor has the world 'shapes' one \(world_alignment, .*; use module:name"):
        find_reward("beauty", world="shapes")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rewards=[]", "rewards: there is none; name at least one"),
        ("rewards=[{reward: beauty}]", "rewards.0.reward: There is no reward 'beauty' in transformers_arm.rewards"),
        ("rewards=[{reward: nowhere:beauty}]", "rewards.0.reward: No module named 'nowhere'"),
        ("training.max_steps=0", "training.max_steps: 0 is no end"),
        ("evaluation={every: 5}", "evaluation.world: the data are of no world"),
        ("training.reward_weights=[1]", "training.reward_weights: there is no such field"),
        ("training.beta=0", "reference: training.beta is 0, so none is asked; set beta, or leave it out"),
    ],
)
def test_what_a_run_cannot_do_is_refused_before_anything_is_loaded(override, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        paper_recipe("grpo_editing", override)


def test_requests_of_one_s_own_are_shown_on_the_way(run):
    folder = run("grpo_text_to_image", samples={"rows": [{"prompt": "a cross"}], "every": 1, "max_new_tokens": 4})
    assert len(list((folder / "requests").glob("*.png"))) == 2
