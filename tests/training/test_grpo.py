"""GRPO for ARM: what is sampled, scored, optimised and logged, and what becomes of bad rewards and bad rows."""

import asyncio
import inspect
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from huggingface_hub import ModelCard
from peft import LoraConfig
from PIL import Image as PILImage
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trl import GRPOTrainer
from trl.rewards import get_soft_overlong_punishment

from transformers_arm import ArmForCausalLM
from transformers_arm.rewards import RewardError
from transformers_arm.training.grpo import ArmGRPOConfig, ArmGRPOTrainer
from transformers_arm.training.requests import read_request
from transformers_arm.worlds.shapes.draw import draw_scene
from transformers_arm.worlds.shapes.scene import Scene, SceneObject

SCENE = draw_scene(Scene((SceneObject("circle", "red", "large", "center"),)))
TINY = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "picture_steps": 0,
    "top_k": 0,
    "disable_tqdm": True,
}


def brightness(images, **_):
    return [float(np.asarray(image).mean()) / 255 for image in images]


def dataset_of(rows, **columns) -> Dataset:
    """Rows of both tasks as a dataset with `columns` beside the usual ones."""
    features = Features({"task": Value("string"), "prompt": Value("string"), "source_image": Image(), **columns})
    rows = [{"task": "editing" if row.get("source_image") else "text_to_image", **row} for row in rows]
    return Dataset.from_list([dict.fromkeys(features) | row for row in rows], features=features)


MIXED = [
    {"prompt": "a red circle"},
    {"prompt": "make the red circle blue", "source_image": SCENE},
    {"prompt": "two squares"},
    {"prompt": "remove the red circle and then draw a longer instruction", "source_image": SCENE},
]


@pytest.fixture
def train(arm_folder, tmp_path):
    """Trains a fresh untrained ARM and returns the trainer: train(reward, rows=..., model=..., **arguments)."""

    def run(reward=brightness, rows=MIXED, *, model=None, dataset=None, peft_config=None, resume=None, **arguments):
        model = model or ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
        args = ArmGRPOConfig(**{"output_dir": str(tmp_path / "run"), **TINY, **arguments})
        trainer = ArmGRPOTrainer(model, reward, args, dataset or dataset_of(rows), peft_config=peft_config)
        if args.max_steps:
            trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def rollout(trainer: ArmGRPOTrainer) -> dict:
    """What one generation gives the loss."""
    rows = [row for row in trainer.train_dataset for _ in range(trainer.num_generations)]
    trainer.model.train()
    return trainer._generate_and_score_completions(rows)


def logged(trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


# --- defaults and refusals -------------------------------------------------------------------------------------------


def test_defaults_are_the_papers(tmp_path):
    args = ArmGRPOConfig(str(tmp_path), per_device_train_batch_size=16)
    assert args.bf16 == torch.accelerator.is_available()  # TRL's True is many times slower on a CPU
    paper = {
        "num_generations": 16, "epsilon": 0.2, "beta": 0.01, "temperature": 0.7, "editing_temperature": 1.0,
        "top_k": 1000, "top_p": 1.0, "learning_rate": 3e-5, "weight_decay": 0.01, "adam_beta1": 0.9,
        "adam_beta2": 0.95, "max_grad_norm": 1.0, "loss_type": "grpo", "importance_sampling_level": "sequence",
        "use_bias_correction_kl": False,
    }  # fmt: skip
    assert {name: getattr(args, name) for name in paper} == paper


@pytest.mark.parametrize(
    "setting",
    [
        {"remove_unused_columns": True},
        {"sync_ref_model": True},
        {"mask_truncated_completions": True},
        {"use_vllm": True},
        {"use_transformers_continuous_batching": True},
        {"cast_lm_head_to_fp32": True},
        {"use_liger_kernel": True},
        {"repetition_penalty": 1.1},
        {"min_p": 0.1},
        {"generation_kwargs": {"guidance_scale": 3}},
        {"cache_implementation": "static"},
        {"chat_template_kwargs": {"a": 1}},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_that_make_no_sense_for_images_are_refused_with_the_reason(setting, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}=.* makes no sense for images: .*Leave it out"):
        ArmGRPOConfig(str(tmp_path), **TINY | setting)


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 0.0},
        {"editing_temperature": -1.0},
        {"reward_timeout": 0.0},
        {"decode_batch_size": 0},
        {"max_reward_failure_share": 1.5},
        {"loss_type": "dr_grpo", "max_completion_length": None},
    ],
    ids=str,
)
def test_values_outside_their_bounds_are_refused(setting, tmp_path):
    with pytest.raises(ValueError, match=next(reversed(setting))):
        ArmGRPOConfig(str(tmp_path), **TINY | setting)


def test_saves_between_generations_are_refused(tmp_path):
    several = TINY | {"save_strategy": "steps", "num_iterations": 2, "steps_per_generation": 2}
    assert ArmGRPOConfig(str(tmp_path), **several | {"save_steps": 8})
    with pytest.raises(ValueError, match="save_steps 6 must be a multiple of the 4 steps"):
        ArmGRPOConfig(str(tmp_path), **several | {"save_steps": 6})
    uneven = TINY | {"save_strategy": "steps", "gradient_accumulation_steps": 4, "steps_per_generation": 6}
    assert ArmGRPOConfig(str(tmp_path), **uneven | {"save_steps": 3})
    for other in ({"save_steps": 1}, {"save_steps": 0.3}, {"save_strategy": "best", "eval_strategy": "no"}):
        with pytest.raises(ValueError, match="must be a multiple of the 3 steps"):
            ArmGRPOConfig(str(tmp_path), **uneven | other)


@pytest.mark.parametrize("name", ["tools", "rollout_func", "environment_factory"])
def test_what_a_rollout_of_one_image_has_no_place_for_is_refused(name, arm_folder, tmp_path):
    with pytest.raises(TypeError, match=name):
        ArmGRPOTrainer(arm_folder, brightness, ArmGRPOConfig(str(tmp_path), **TINY), dataset_of(MIXED), **{name: []})


def test_another_config_no_reward_and_no_reference_are_refused(arm_folder, train, tmp_path):
    from trl import GRPOConfig

    with pytest.raises(TypeError, match="ArmGRPOConfig"):
        ArmGRPOTrainer(arm_folder, brightness, GRPOConfig(str(tmp_path), use_cpu=True, bf16=False), dataset_of(MIXED))
    with pytest.raises(ValueError, match="no reward"):
        train([])
    with pytest.raises(TypeError, match="A reward is a callable, not a str: TRL's reward models read text alone"):
        train("org/reward-model")
    with pytest.raises(ValueError, match="Two rewards have one name in brightness, brightness"):
        train([brightness, brightness])
    model = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
    model.config._name_or_path = ""
    with pytest.raises(ValueError, match="beta 0.01 needs a reference model"):
        train(model=model)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_codes_in_place_of_a_picture_to_edit_are_refused():
    row = {"prompt": "make it blue", "source_image": {"codes": list(range(9)), "height": 3, "width": 3}}
    with pytest.raises(ValueError, match="Row 4, column 'source_image': rewards look at pictures, and codes are none"):
        read_request(row, 4, lambda picture: picture)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "make it blue", "task": "editing"}, "Row 1, column 'source_image': an edit needs a picture"),
        ({"prompt": "a", "task": "text_to_image", "source_image": SCENE}, "Row 1, .*starts from none"),
        ({"prompt": "a", "task": None}, "Row 1, column 'source_image': an edit needs a picture"),
        ({"prompt": "a", "task": "poetry"}, "Row 1, column 'task': 'poetry' is not one of text_to_image, editing"),
        ({"prompt": "  "}, "Row 1, column 'prompt': '  ' is blank"),
        ({"prompt": None}, "Row 1, column 'prompt': it is missing"),
    ],
    ids=["no-source", "source-not-asked-for", "task-is-none", "unknown-task", "blank", "no-prompt"],
)
def test_a_bad_row_is_named_before_training(train, row, message):
    with pytest.raises(ValueError, match=f"train_dataset: {message}"):
        train(dataset=dataset_of([{"prompt": "fine"}, row]))


def test_a_damaged_source_is_named_before_training(train, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [{"prompt": "make it blue", "source_image": str(tmp_path / "broken.png")}] * 2
    with pytest.raises(ValueError, match="train_dataset: Row 0, column 'source_image': .*cannot identify image file"):
        train(dataset=dataset_of(rows))


def test_a_target_picture_is_not_taken_for_a_source(train):
    rows = [{"prompt": "a", "image": SCENE}] * 4
    with pytest.raises(ValueError, match="Row 0, column 'image': is it what is to be edited"):
        train(dataset=dataset_of(rows, image=Image()))


def test_fewer_rows_than_one_generation_takes_are_refused(train):
    with pytest.raises(ValueError, match="has 1 rows, but one generation takes 2 prompts"):
        train(rows=MIXED[:1])


@pytest.mark.parametrize("height", [40, 0, 2064, 48.5])
def test_a_side_that_no_grid_has_is_refused_before_training(train, height):
    rows = Dataset.from_list([{"prompt": "a", "height": 48.0}, {"prompt": "a", "height": float(height)}] * 4)
    message = (
        f"train_dataset: Row 1, column 'height': {float(height)} must be 16..2048 px, a multiple of the 16 px patch"
    )
    with pytest.raises(ValueError, match=message):
        train(dataset=rows)


def test_a_stream_too_short_for_one_generation_is_an_error(train):
    with pytest.raises(ValueError, match="Nothing was trained: .* 2 prompts"):
        train(dataset=dataset_of(MIXED[:1]).to_iterable_dataset())


def test_streamed_prompts_are_trained_on(train):
    trainer = train(dataset=dataset_of(MIXED * 4).to_iterable_dataset())
    assert trainer.state.global_step == 2 and len(logged(trainer, "rewards/editing/brightness")) > 0


# --- rollouts --------------------------------------------------------------------------------------------------------


def test_completions_are_exactly_the_grids_image_tokens(train):
    sizes = [(None, None), (32, 64), (16, 48), (None, None)]
    rows = [{**row, "height": height, "width": width} for row, (height, width) in zip(MIXED, sizes, strict=True)]
    rows = dataset_of(rows, height=Value("int64"), width=Value("int64"))
    seen = {}

    def reward(images, source_images, completion_ids, task, prompts, **_):
        seen.update(images=images, completion_ids=completion_ids)
        return brightness(images)

    trainer = train(reward, dataset=rows, max_steps=0)
    output = rollout(trainer)
    offset = trainer.arm.config.visual_token_offset
    counts = [9] * 4 + [8] * 4 + [3] * 4 + [9] * 4
    assert [len(ids) for ids in seen["completion_ids"]] == counts
    assert all(token >= offset for ids in seen["completion_ids"] for token in ids)
    assert output["completion_mask"].sum(1).tolist() == counts
    assert seen["images"][8].size == (48, 16)
    assert seen["images"][4].size == SCENE.size  # an edit comes back at its source's size


def test_prompts_are_what_generate_gets_from_the_processor(train):
    trainer = train(max_steps=0)
    output = rollout(trainer)
    first = output["prompt_ids"][4][output["prompt_mask"][4].bool()]  # the first edit
    inputs = trainer.processing_class.image_generation_inputs(
        [MIXED[1]["prompt"]], [SCENE], size={"height": 48, "width": 48}
    )
    expected = trainer.arm.model.fill_image_tokens(inputs["input_ids"], inputs["pixel_values"])[0]
    assert first.tolist() == [*expected.tolist(), *trainer.arm.config.image_opening(3, 3)]


def test_rollouts_ignore_the_folders_generation_config(train, arm_folder):
    def tokens(**image_generation):
        model = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
        model.generation_config.image_generation |= image_generation
        return rollout(train(model=model, max_steps=0))["completion_ids"]

    assert torch.equal(tokens(), tokens(do_sample=False, temperature=0.1, top_k=1, guidance_scale=5.0))


@pytest.mark.parametrize("pad", [None, 16])
def test_log_probabilities_are_the_samplers(train, pad):
    trainer = train(max_steps=0, temperature=0.7, editing_temperature=1.3, pad_to_multiple_of=pad)
    output = rollout(trainer)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    trainer.model.eval()
    log_probs, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, output["completion_ids"].shape[1], batch_size=3, compute_entropy=True
    )
    for row, edit in ((0, False), (4, True), (12, True)):
        prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()][:-3]
        request = trainer._requests[row]
        sampled = trainer.arm.generate(
            input_ids=prompt[None], generation_mode="image", image_grid=(3, 3), do_sample=True, top_k=0, top_p=1.0,
            temperature=1.3 if edit else 0.7, guidance_scale=1.0, image_guidance_scale=1.0,
            generator=[trainer._generator("train", row, request["prompt"])],
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        assert sampled.sequences[0, -10:-1].tolist() == output["completion_ids"][row][:9].tolist()
        scores = torch.stack(sampled.scores, 1)[0].log_softmax(-1)
        codes = sampled.sequences[0, -10:-1] - trainer.arm.config.visual_token_offset
        # Both are differences of logits that are tens in size, in fp32.
        torch.testing.assert_close(log_probs[row][:9], scores.gather(1, codes[:, None])[:, 0], atol=1e-5, rtol=1e-5)
        expected = torch.distributions.Categorical(logits=scores).entropy()
        torch.testing.assert_close(entropies[row][:9], expected, atol=1e-4, rtol=0)


def test_log_probabilities_in_chunks_are_the_same_and_so_are_their_gradients(arm_folder, monkeypatch):
    model = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
    config = model.config
    opening = config.image_opening(3, 3)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(config.visual_token_offset, config.vocab_size, (2, 9), generator=generator)
    ids = torch.cat([torch.tensor([[5, 6, *opening], [7, 8, *opening]]), codes], 1)

    def scored():
        model.zero_grad()
        output = model(input_ids=ids, labels=ids, temperature=torch.tensor([0.5, 2.0]))
        (output.log_probs.sum() + output.entropies.sum()).backward()
        return output.log_probs, output.entropies, model.lm_head.weight.grad.clone()

    whole = scored()
    monkeypatch.setattr("transformers_arm.loss_arm.LOGITS_AT_ONCE", 4 * 1024)
    for one, other in zip(whole, scored(), strict=True):  # large terms cancel: what fp32 rounds is of their size
        torch.testing.assert_close(one, other, atol=1e-5 + 1e-6 * float(one.detach().abs().max()), rtol=1e-5)
    with pytest.raises(ValueError, match="pass labels"):
        model(input_ids=ids, temperature=1.0)


def test_only_image_rows_of_the_head_are_optimised(train):
    trainer = train(max_steps=0, beta=0.0)
    assert not trainer.arm.config.tie_word_embeddings
    inputs = rollout(trainer)
    trainer.current_gradient_accumulation_steps = 1  # `train` sets it
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    gradient = trainer.arm.lm_head.weight.grad
    offset = trainer.arm.config.visual_token_offset
    assert gradient[:offset].abs().max() == 0
    assert gradient[offset:].abs().max() > 0


def test_samples_do_not_depend_on_the_batch_they_are_drawn_in(train):
    whole = rollout(train(max_steps=0))["completion_ids"]
    trainer = train(max_steps=0)
    rows = [row for row in trainer.train_dataset for _ in range(4)]
    trainer.model.train()
    part = trainer._generate_and_score_completions(rows[:8])["completion_ids"]
    assert torch.equal(whole[:8], part)


# --- training --------------------------------------------------------------------------------------------------------


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
    assert not list((tmp_path / "at_once" / ".saving").iterdir())
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
    shipped = str(Path(__file__).parents[2] / "checkpoints" / "arm-tiny")
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


# --- rewards ---------------------------------------------------------------------------------------------------------


def test_rewards_get_pictures_and_every_column(train):
    seen = {}

    def reward(prompts, images, source_images, completion_ids, task, note, completions, trainer_state):
        seen.update(locals())
        return brightness(images)

    rows = [{"note": str(index), **row} for index, row in enumerate(MIXED)]
    rollout(train(reward, dataset=dataset_of(rows, note=Value("string")), max_steps=0))
    assert seen["prompts"][::4] == [row["prompt"] for row in MIXED]
    assert all(isinstance(image, PILImage.Image) for image in seen["images"])
    assert [len(images) for images in seen["source_images"][::4]] == [0, 1, 0, 1]
    assert np.array_equal(np.asarray(seen["source_images"][4][0]), np.asarray(SCENE))
    assert seen["task"][::4] == ["text_to_image", "editing"] * 2
    assert seen["note"][::4] == ["0", "1", "2", "3"]


def test_pictures_are_decoded_once_however_many_rewards_look(train, monkeypatch):
    def again(images, **_):
        return brightness(images)

    trainer = train([brightness, again], max_steps=0, decode_batch_size=3)
    sizes = []
    decode = trainer.detokenizer.__class__.__call__

    def counting(self, z_q, **kwargs):
        sizes.append(len(z_q))
        return decode(self, z_q, **kwargs)

    monkeypatch.setattr(trainer.detokenizer.__class__, "__call__", counting)
    rollout(trainer)
    assert sum(sizes) == 16 and max(sizes) == 3


def test_weights_of_the_rewards_that_answered_are_renormalised(train):
    def first(prompts, **_):
        return [1.0, 2.0, 3.0, 4.0] * (len(prompts) // 4)

    def second(prompts, task, **_):
        return [
            None if each == "text_to_image" else value
            for each, value in zip(task, [8.0, 6.0, 4.0, 2.0] * 4, strict=True)
        ]

    def third(prompts, **_):  # applies to two of each group
        return [None, None, 1.0, 1.0] * (len(prompts) // 4)

    trainer = train(
        [first, second, third], max_steps=0, reward_weights=[1.0, 2.0, -1.0], scale_rewards="none", beta=0.0
    )
    advantages = rollout(trainer)["advantages"]
    text = torch.tensor([1 * 4.0, 2 * 4.0, (3 - 1) * 2.0, (4 - 1) * 2.0])  # of 4 in all, 1 or 2 answered
    edit = torch.tensor([(1 + 16) * 4 / 3, (2 + 12) * 4 / 3, 3 + 8 - 1, 4 + 4 - 1.0])
    torch.testing.assert_close(advantages[:4], text - text.mean())
    torch.testing.assert_close(advantages[4:8], edit - edit.mean())
    assert trainer._metrics["train"]["rewards/first/mean"][-1] == 2.5
    assert trainer._metrics["train"]["rewards/second/mean"][-1] == 5.0
    assert trainer._metrics["train"]["rewards/text_to_image/first"][-1] == 2.5


def test_samples_that_no_reward_judged_move_nothing(train):
    def some(prompts, **_):
        return [None, 1.0, 0.0, None] * (len(prompts) // 4)

    def watched(prompts, **_):  # answers always, and weighs nothing
        return [0.5] * len(prompts)

    for rewards, weights in (([some], [1.0]), ([some, watched], [1.0, 0.0])):
        trainer = train(rewards, max_steps=0, scale_rewards="none", reward_weights=weights)
        assert rollout(trainer)["advantages"][:4].tolist() == [0.0, 0.5, -0.5, 0.0]


def test_a_stock_trl_reward_works(train):
    trainer = train([brightness, get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=2)])
    assert logged(trainer, "rewards/soft_overlong_punishment_reward/mean") == [-0.5, -0.5]  # 9 of 8 to 10 tokens


def test_async_rewards_are_awaited_together(train):
    class Slow:
        async def __call__(self, images, **_):
            await asyncio.sleep(0.5)
            return brightness(images)

    async def slow(images):
        await asyncio.sleep(0.5)
        return brightness(images)

    trainer = train([Slow(), slow], max_steps=0)
    start = time.perf_counter()
    trainer._requests = []
    rows = [{"images": SCENE}] * 4
    rewards = GRPOTrainer._calculate_rewards(trainer, rows, ["a"] * 4, [""] * 4, [[1]] * 4)
    assert rewards.shape == (4, 2) and not rewards.isnan().any()
    assert time.perf_counter() - start < 0.9
    assert trainer.reward_func_names == ["Slow", "slow"]


def raises(**_):
    raise KeyError("no such thing")


def hangs(**_):
    time.sleep(30)


async def hangs_async(**_):
    await asyncio.sleep(30)


async def blocks(**_):
    time.sleep(30)


def stops(**_):
    raise RewardError("the budget is spent")


def stops_late(**_):
    raise TimeoutError("the judge is asleep")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (raises, "Reward raises failed for 100% .*KeyError: 'no such thing'"),
        (lambda prompts, **_: [1.0], "returned 1 values for 8 samples; return a list of float or None, one a sample"),
        (lambda prompts, **_: None, "returned None for 8 samples"),
        (lambda prompts, **_: ["good"] * len(prompts), "returned 'good', a str; return float or None"),
        (lambda prompts, **_: [math.nan] * len(prompts), "returned NaN or infinity for 8 of 8 samples"),
        (hangs, "Reward hangs failed .*did not answer within 0.2 s"),
        (hangs_async, "Reward hangs_async failed .*did not answer within 0.2 s"),
        (blocks, "Reward blocks failed .*did not answer within 0.2 s"),
        (stops, "^the budget is spent$"),
        (stops_late, "Last error: TimeoutError: the judge is asleep"),
    ],
    ids=["raises", "too-few", "none", "text", "nan", "hangs", "hangs-async", "blocks-async", "stops", "times-out"],
)
def test_a_broken_reward_stops_training_by_name(train, reward, message):
    with pytest.raises(RewardError, match=message):
        train([brightness, reward], reward_timeout=0.2)


def test_a_reward_that_limits_itself_has_no_other_limit(train):
    class Judge:
        limits_itself = True

        async def __call__(self, images, **_):
            await asyncio.sleep(0.4)
            return brightness(images)

    trainer = train(Judge(), reward_timeout=0.1, max_steps=1)
    assert logged(trainer, "rewards/Judge/failed") == [0.0]


def test_samples_that_a_reward_does_not_apply_to_hide_no_failure(train):
    def edits_only(task, **_):
        return [math.nan if each == "editing" else None for each in task]

    with pytest.raises(RewardError, match="edits_only failed for 100%"):
        train([brightness, edits_only])


def test_rare_failures_are_borne_logged_and_counted(train, caplog):
    calls = []

    def flaky(images, **_):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the judge is out")
        return [math.inf, *brightness(images)[1:]]

    trainer = train([brightness, flaky], max_steps=3)
    assert logged(trainer, "rewards/flaky/failed") == [0.125, 1.0, 0.125]
    with pytest.raises(RewardError, match="flaky failed for .* of the samples of the last 10 calls"):
        train([brightness, flaky], max_steps=12)
    assert "Reward flaky: OSError: the judge is out; its 8 samples go without it." in caplog.text
    assert "Reward flaky returned NaN or infinity for 1 of 8 samples" in caplog.text
    assert all(math.isfinite(value) for value in logged(trainer, "loss"))


def test_groups_of_equal_rewards_are_logged_and_move_nothing(train, caplog):
    trainer = train(lambda prompts, **_: [1.0] * len(prompts), beta=0.0, max_steps=1)
    assert logged(trainer, "frac_reward_zero_std") == [1.0]
    assert logged(trainer, "grad_norm") == [0.0]
    assert "there is nothing to learn from" in caplog.text


# --- what is relied on in TRL ----------------------------------------------------------------------------------------

RELIED_ON = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_single_turn": [
        "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images",
    ],
    "_generate": ["self", "prompts"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_output_dir": ["self", "trial"],
}  # fmt: skip


@pytest.mark.parametrize("name", RELIED_ON)
def test_trls_private_methods_have_the_signatures_we_override(name):
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == RELIED_ON[name]


def test_trls_log_probability_method_is_called_as_we_override_it():
    theirs = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    ours = [
        name
        for name, parameter in inspect.signature(ArmGRPOTrainer._get_per_token_logps_and_entropies).parameters.items()
        if parameter.kind != parameter.VAR_KEYWORD
    ]
    assert list(theirs)[: len(ours)] == ours
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert "per_token_logps, entropies, aux_loss = self._get_per_token_logps_and_entropies(" in source


def test_trls_generate_returns_what_we_take_apart():
    source = inspect.getsource(GRPOTrainer._generate)
    assert (
        "return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images"
        in source
    )
    weighting = "(rewards_per_func * self.reward_weights.to(device).unsqueeze(0)).nansum(dim=1)"
    assert weighting in inspect.getsource(GRPOTrainer._generate_and_score_completions)
