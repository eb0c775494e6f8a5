"""Training: what is optimised, logged, evaluated and resumed, in one process and in two."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from grpo_requests import MIXED, TINY, brightness, dataset_of, logged
from huggingface_hub import ModelCard
from peft import LoraConfig
from PIL import Image as PILImage
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from transformers_arm import ArmForCausalLM
from transformers_arm.training.grpo import ArmGRPOConfig, ArmGRPOTrainer


@pytest.mark.parametrize(
    "setting",
    [
        {"beta": 0.0},
        {"beta": 0.1, "use_bias_correction_kl": True},
        {"num_iterations": 2, "max_steps": 3},
        {"steps_per_generation": 2, "max_steps": 3},
        {"gradient_accumulation_steps": 2},
        {"importance_sampling_level": "token"},
        *({"loss_type": name, "importance_sampling_level": "token"} for name in ("bnpo", "dr_grpo", "dapo", "cispo")),
        {"loss_type": "luspo"},
        {"loss_type": "sapo"},
        {"loss_type": "vespo", "importance_sampling_level": "token"},
        {"scale_rewards": "batch"},
        {"scale_rewards": "none"},
        {"multi_objective_aggregation": "normalize_then_sum"},
        {"entropy_coef": 0.01},
        {"top_entropy_quantile": 0.5},
        {"delta": 2.0, "epsilon_high": 0.3},
        {"activation_checkpointing": True},
        {"top_k": 10, "top_p": 0.9},
    ],
    ids=lambda setting: ",".join(f"{name}={value}" for name, value in setting.items()),
)
def test_trls_knobs_work(train, setting):
    trainer = train(**{"max_steps": 1, **setting})
    before = ArmForCausalLM.from_pretrained(trainer.arm.config._name_or_path, dtype=torch.float32)
    moved = [
        name
        for (name, old), new in zip(before.named_parameters(), trainer.arm.parameters(), strict=True)
        if not torch.equal(old, new)
    ]
    assert "lm_head.weight" in moved and not any("vq_model" in name for name in moved)
    assert all(math.isfinite(value) for value in logged(trainer, "loss") + logged(trainer, "grad_norm"))


@pytest.mark.parametrize("folder", [True, False], ids=["reference-is-the-disabled-adapter", "reference-is-a-copy"])
def test_lora_trains_the_adapter_alone(train, arm_folder, folder):
    lora = LoraConfig(r=4, target_modules=ArmForCausalLM.LORA_TARGETS, task_type="CAUSAL_LM")
    if folder:
        trainer = train(peft_config=lora, beta=0.1)
    else:
        from peft import get_peft_model

        model = get_peft_model(ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32), lora)
        trainer = train(model=model, beta=0.1)
    assert trainer.ref_model is None
    assert logged(trainer, "kl")[0] == pytest.approx(0, abs=1e-6)
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name and ".ref." not in name for name in trained)
    changed = [
        name
        for name, each in trainer.model.named_parameters()
        if "lora_B" in name and ".ref." not in name and each.any()
    ]
    assert changed
    base = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
    assert torch.equal(trainer.arm.lm_head.weight, base.lm_head.weight)


def test_a_reward_that_can_be_learnt_is_learnt(train):
    trainer = train(
        rows=MIXED[:1], max_steps=12, per_device_train_batch_size=16, num_generations=16, beta=0.0, learning_rate=5e-3
    )
    rewards = logged(trainer, "reward")
    assert np.mean(rewards[-3:]) > rewards[0] + 0.1  # the first were drawn before anything was learnt


def test_training_logs_what_a_run_is_judged_by(train, tmp_path):
    def alike(task, **_):
        return [1.0 if each == "editing" else None for each in task]

    trainer = train([brightness, alike], picture_steps=1, report_to="tensorboard")
    entry = trainer.state.log_history[0]
    for name in (
        "rewards/brightness/mean", "rewards/brightness/failed", "rewards/text_to_image/brightness",
        "rewards/editing/brightness", "rewards/editing/alike", "kl", "entropy", "clip_ratio/region_mean",
        "frac_reward_zero_std", "completions/mean_length",
    ):  # fmt: skip
        assert math.isfinite(entry[name]), name
    assert "rewards/text_to_image/alike" not in entry  # it never applies
    assert not any("clipped_ratio" in name or "terminated" in name for name in entry)
    sheet = PILImage.open(tmp_path / "run" / "rollouts" / "step-0000000.png")
    assert sheet.height == 2 * 48 and sheet.width == 5 * 48  # two groups of four, one behind its source
    assert len((tmp_path / "run" / "rollouts" / "step-0000001.txt").read_text().splitlines()) == 2
    (events,) = (tmp_path / "run").glob("runs/*/events.*")
    events = EventAccumulator(str(events)).Reload()
    assert [event.step for event in events.Images("rollouts")] == [0, 1]
    assert [event.step for event in events.Scalars("train/rewards/brightness/mean")] == [1, 2]


def test_completion_tables_hold_rewards_as_they_were_given(train, tmp_path):
    import pandas

    def edits_only(task, **_):
        return [0.25 if each == "editing" else None for each in task]

    train([brightness, edits_only], log_completions=True, max_steps=1)
    table = pandas.read_parquet(tmp_path / "run" / "completions" / "completions_00001.parquet")
    assert set(table["edits_only"].dropna()) == {0.25}
    assert table["brightness"].between(0, 1).all()


def test_evaluation_runs_on_prompts_of_its_own(arm_folder, tmp_path):
    args = ArmGRPOConfig(str(tmp_path), **TINY | {"per_device_eval_batch_size": 8})
    trainer = ArmGRPOTrainer(arm_folder, brightness, args, dataset_of(MIXED), dataset_of(MIXED[:2]))
    scores = trainer.evaluate()
    assert 0 <= scores["eval_rewards/brightness/mean"] <= 1 and "eval_rewards/editing/brightness" in scores


def test_resuming_gives_the_weights_of_training_at_once(train, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "num_iterations": 2}
    at_once = train(**settings, output_dir=str(tmp_path / "at_once"))
    resumed = train(**settings, resume=str(tmp_path / "at_once" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    for one, other in zip(at_once.arm.parameters(), resumed.arm.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not (tmp_path / "at_once" / "_saving").exists()
    card = ModelCard.load(tmp_path / "at_once" / "README.md")
    assert {"arm", "grpo"} <= set(card.data.tags)
    assert "ArmGRPOTrainer" in card.text and "started from `arm-untrained`" in card.text


TWO_PROCESSES = """
import sys, torch
from transformers_arm import ArmForCausalLM
from transformers_arm.data.world import find_world
from transformers_arm.training.grpo import ArmGRPOConfig, ArmGRPOTrainer

folder, output, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
args = ArmGRPOConfig(
    output, per_device_train_batch_size=size, num_generations=4, max_steps=1, learning_rate=1.0, use_cpu=True,
    optim="sgd",  # Adam makes large steps of rounding errors
    bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", top_k=0, picture_steps=0,
)
model = ArmForCausalLM.from_pretrained(folder, dtype=torch.float32)
world = find_world("shapes")
rewards = [world.rewards[f"world_{name}"] for name in ("alignment", "instruction", "preservation", "quality")]
trainer = ArmGRPOTrainer(model, rewards, args, world.requests(16, seed=3, editing=0.5))
trainer.train()
if trainer.is_world_process_zero():
    trainer.arm.save_pretrained(output + "/model")
"""


def test_two_processes_give_the_update_of_one(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    shipped = str(Path(__file__).parents[3] / "checkpoints" / "arm-tiny")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for count in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        arguments = [str(script), shipped, str(tmp_path / str(count)), str(16 // count)]
        done = subprocess.run([*launch, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / str(count) / "model" / "model.safetensors") for count in (1, 2))
    before = load_file(Path(shipped) / "model.safetensors")
    assert not torch.allclose(one["lm_head.weight"], before["lm_head.weight"].float(), atol=1e-4)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-5, rtol=0)
