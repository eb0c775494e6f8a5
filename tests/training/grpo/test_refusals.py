"""GRPO's defaults, and the settings and rows that are refused before training."""

import pytest
import torch
from datasets import Dataset, Image
from grpo_requests import MIXED, SCENE, TINY, brightness, dataset_of, logged
from picture_rows import streamed_lines

from transformers_arm.training.grpo import ArmGRPOConfig, ArmGRPOTrainer
from transformers_arm.training.requests import read_request

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
        {"label_smoothing_factor": 0.1},
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
        {"rollout_batch_size": 0},
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


def test_another_config_and_no_reward_are_refused(arm_folder, train, tmp_path):
    from trl import GRPOConfig

    with pytest.raises(TypeError, match="ArmGRPOConfig"):
        ArmGRPOTrainer(arm_folder, brightness, GRPOConfig(str(tmp_path), use_cpu=True, bf16=False), dataset_of(MIXED))
    with pytest.raises(ValueError, match="no reward"):
        train([])
    with pytest.raises(TypeError, match="A reward is a callable, not a str: TRL's reward models read text alone"):
        train("org/reward-model")
    with pytest.raises(ValueError, match="Two rewards have one name in brightness, brightness"):
        train([brightness, brightness])


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


def test_a_broken_line_of_a_stream_costs_its_row_alone(train, tmp_path, caplog):
    prompts = [{"prompt": f"{number} red circles"} for number in range(9)]
    stream, seen = streamed_lines(tmp_path / "rows.jsonl", prompts, broken=[1]), []

    def reward(images, prompts, **_):
        seen.extend(prompts)
        return brightness(images)

    trainer = train(reward, dataset=stream, max_skipped=0.02, max_steps=4, per_device_eval_batch_size=8)
    assert trainer.state.global_step == 4
    assert sorted(seen) == [each["prompt"] for place, each in enumerate(prompts) if place != 1 for _ in range(4)]
    assert f"train_dataset, {tmp_path}/rows.jsonl, skipped: Row 1: the line" in caplog.text


def test_a_broken_line_of_what_is_evaluated_gives_way_to_another_prompt(train, tmp_path, caplog):
    stream = streamed_lines(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "b"}] * 2, broken=[1])
    trainer = train(max_steps=0, max_skipped=0.02, per_device_eval_batch_size=8)
    assert trainer.evaluate(stream)["eval_reward"] > 0
    assert f"eval_dataset, {tmp_path}/rows.jsonl, skipped: Row with prompt None: the line" in caplog.text


def test_streamed_prompts_are_trained_on(train):
    trainer = train(dataset=dataset_of(MIXED * 4).to_iterable_dataset())
    assert trainer.state.global_step == 2 and len(logged(trainer, "rewards/editing/brightness")) > 0
