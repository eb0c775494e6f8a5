"""Training: interrupted, it goes on as if it never was; recipes are read."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from short_trainings import MODEL, WEIGHTS, Killed, StopAt, assert_same_training, checkpoints, curve
from transformers import AutoImageProcessor, AutoModel

from transformers_arm import ArmGRPOConfig, ArmImageProcessor, ArmSFTConfig, ArmVQForPreTraining, ArmVQModel
from transformers_arm.data.collators import to_pixel_values
from transformers_arm.data.world import find_world
from transformers_arm.training.callbacks import ReconstructionCallback
from transformers_arm.training.trainer import adamw, train, training_arguments
from transformers_arm.worlds.shapes.pictures import ShapesDataset

ROOT = Path(__file__).parents[2]

# --- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "politely"), [(2, True), (3, False), (5, False)])
def test_an_interrupted_training_goes_on_along_the_same_curve(new_trainer, uninterrupted, tmp_path, step, politely):
    interrupted = new_trainer(tmp_path, callbacks=[StopAt(step, politely)])
    try:
        train(interrupted)
    except Killed:
        assert not politely
    assert interrupted.state.global_step == step
    resumed = new_trainer(tmp_path, seed=1)  # other first weights: all must come from the checkpoint
    torch.manual_seed(99)
    train(resumed)
    assert_same_training(resumed, uninterrupted)
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_another_seed_is_another_training(new_trainer, uninterrupted, tmp_path):
    other = new_trainer(tmp_path, seed=1, max_steps=2)
    train(other)
    assert curve(other)[2][0] != pytest.approx(curve(uninterrupted)[2][0], abs=1e-3)


def test_a_finished_training_is_not_trained_again(new_trainer, uninterrupted):
    again = new_trainer(uninterrupted.args.output_dir, seed=1, callbacks=[StopAt(7, politely=False)])
    train(again)
    assert_same_training(again, uninterrupted)


def test_samples_are_taken_in_order(new_trainer, tmp_path):
    trainer = new_trainer(tmp_path)
    batches = list(trainer.get_train_dataloader())
    expected = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    assert len(batches) == 6 and torch.equal(batches[0]["pixel_values"].cpu(), expected["pixel_values"])


def test_the_frozen_towers_are_not_trained(uninterrupted, new_trainer, tmp_path):
    before = new_trainer(tmp_path).model
    for part in ("vq_model.vision_model", "text_model", "pooling_head", "captioner"):
        theirs = uninterrupted.model.get_submodule(part).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in before.get_submodule(part).state_dict().items())
    assert not torch.equal(before.logit_bias, uninterrupted.model.logit_bias)


# --- checkpoints without what is frozen ------------------------------------------------------------------------------


def test_checkpoints_hold_what_learns_and_the_final_folder_all(new_trainer, uninterrupted, tmp_path, caplog):
    model = uninterrupted.model
    model.save_pretrained(tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    checkpoint = load_file(Path(uninterrupted.args.output_dir) / "checkpoint-6" / "model.safetensors")
    frozen = ("vq_model.vision_model.", "text_model.", "pooling_head.", "captioner.")
    assert checkpoint.keys() == {name for name in whole if not name.startswith(frozen)}
    assert {"vq_model.channel_norm.running_mean", "logit_scale", "caption_connector.weight"} <= checkpoint.keys()
    size, less = (sum(tensor.nbytes for tensor in tensors.values()) for tensors in (whole, checkpoint))
    assert less < 0.7 * size
    loaded = ArmVQForPreTraining.from_pretrained(tmp_path / "whole")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())

    logger = logging.getLogger("transformers.trainer")
    logger.addHandler(caplog.handler)  # transformers' do not propagate
    try:
        train(new_trainer(uninterrupted.args.output_dir, seed=1))
    finally:
        logger.removeHandler(caplog.handler)
    assert "missing keys" not in caplog.text  # what is left out is no surprise


def test_checkpoints_find_all_that_is_frozen_in_the_backbones(uninterrupted):
    checkpoint = Path(uninterrupted.args.output_dir) / "checkpoint-6"
    loaded, info = ArmVQForPreTraining.from_pretrained(checkpoint, output_loading_info=True)
    expected = uninterrupted.model.state_dict()
    assert not info["missing_keys"] and loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_an_older_checkpoint_with_what_is_frozen_still_goes_on(new_trainer, uninterrupted, tmp_path):
    interrupted = new_trainer(tmp_path, callbacks=[StopAt(2, politely=True)])
    interrupted.model.frozen_from_backbones = False  # as it was
    train(interrupted)
    assert "captioner.model.norm.weight" in load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    resumed = new_trainer(tmp_path, seed=1)
    train(resumed)
    assert_same_training(resumed, uninterrupted)


# --- logs ------------------------------------------------------------------------------------------------------------


def test_parts_of_the_loss_are_logged_as_means_since_the_last_log(new_trainer, uninterrupted, tmp_path):
    trainer = new_trainer(tmp_path, logging_steps=3)
    train(trainer)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["step"] for log in logs] == [3, 6]
    single = {log["step"]: log for log in uninterrupted.state.log_history if "loss" in log}
    for log in logs:
        steps = range(log["step"] - 2, log["step"] + 1)
        for name in WEIGHTS:
            mean = sum(single[step][f"loss_{name}"] for step in steps) / 3
            assert log[f"loss_{name}"] == pytest.approx(mean, abs=1e-4)
        total = sum(weight * log[f"loss_{name}"] for name, weight in WEIGHTS.items())
        assert log["loss"] == pytest.approx(total, rel=1e-4)


def test_accumulating_gradients_averages_the_loss(new_trainer, uninterrupted, tmp_path):
    trainer = new_trainer(tmp_path, gradient_accumulation_steps=2, max_steps=1, learning_rate=0.0)
    train(trainer)
    log = trainer.state.log_history[0]
    total = sum(weight * log[f"loss_{name}"] for name, weight in WEIGHTS.items())
    assert log["loss"] == pytest.approx(total, rel=1e-4)
    assert log["loss"] < 1.5 * max(curve(uninterrupted)[step][0] for step in (1, 2))


def test_only_training_counts_among_the_parts_of_the_loss(new_trainer, tmp_path):
    trainer = new_trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    for training in (False, True):
        loss, outputs = trainer.compute_loss(trainer.model.train(training), batch, return_outputs=True)
        assert loss.item() == outputs.loss.item()
        assert trainer._parts.counts == ({f"loss_{name}": 4 for name in WEIGHTS} if training else {})


def test_the_reconstruction_callback_looks_without_leaving_a_trace(new_trainer, uninterrupted, tmp_path):
    trainer = new_trainer(tmp_path)
    trainer.add_callback(ReconstructionCallback(trainer, find_world("shapes"), every=3, pictures=4, steps=1))
    train(trainer)
    assert_same_training(trainer, uninterrupted)
    looks = [log for log in trainer.state.log_history if "eval_psnr" in log]
    assert [log["step"] for log in looks] == [3, 6]
    assert all(0 < log["eval_psnr"] < 50 and 1 <= log["eval_codes_used"] <= 36 for log in looks)
    assert all(log["eval_retrieval"] in (0, 0.25, 0.5, 0.75, 1) for log in looks)
    sheets = sorted(path.name for path in (tmp_path / "reconstructions").iterdir())
    assert sheets == ["step-0000003.png", "step-0000006.png"]


# --- settings --------------------------------------------------------------------------------------------------------


def test_adamw_trains_what_is_trainable_and_the_fast_ones_ten_times_as_fast(new_trainer, tmp_path):
    trainer = new_trainer(tmp_path, weight_decay=0.05, adam_beta1=0.8)
    model, groups = trainer.model, trainer.optimizer.param_groups
    assert [group["initial_lr"] if "initial_lr" in group else group["lr"] for group in groups] == [1e-3, 1e-2]
    assert all(group["betas"] == (0.8, 0.95) and group["weight_decay"] == 0.05 for group in groups)
    assert {id(p) for p in groups[1]["params"]} == {id(model.logit_scale), id(model.logit_bias)}
    trained = [id(p) for group in groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    (only,) = adamw(torch.nn.Linear(2, 2), trainer.args).param_groups
    assert len(only["params"]) == 2


def test_a_recipe_s_section_wins_over_defaults():
    arguments = training_arguments({"seed": 7, "report_to": "none"}, output_dir="somewhere", seed=1)
    assert (arguments.seed, arguments.output_dir, arguments.report_to) == (7, "somewhere", [])
    assert arguments.remove_unused_columns is False


@pytest.mark.parametrize("config", [ArmSFTConfig, ArmGRPOConfig, training_arguments])
def test_checkpointing_of_gradients_is_settled_without_a_warning(config, tmp_path):
    settings = {"use_cpu": True, "report_to": "none", "gradient_checkpointing": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        if config is training_arguments:
            made = training_arguments(settings, output_dir=str(tmp_path))
        else:
            made = config(str(tmp_path), **settings)
            assert config(str(tmp_path), use_cpu=True).gradient_checkpointing  # TRL's default
            assert not config(str(tmp_path), use_cpu=True, gradient_checkpointing=False).gradient_checkpointing
    assert made.gradient_checkpointing


# --- the entry point -------------------------------------------------------------------------------------------------


def train_tokenizer(stage, tmp_path, *, model, **sections):
    """Runs trainers/tokenizer.py on one of arm-tiny's recipes, for 3 steps; the folder it wrote."""
    recipe = yaml.safe_load((ROOT / "src" / "transformers_arm" / "recipes" / "arm_tiny" / f"{stage}.yaml").read_text())
    recipe["model"] |= model
    recipe["training"] |= {"max_steps": 3, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4}
    recipe |= {"evaluation": {"every": 2, "pictures": 4}, **sections}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    output = tmp_path / "out"
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "trainers" / "tokenizer.py"), "--config", str(tmp_path / "recipe.yaml")),
            *(f"output_dir={output}", "training.use_cpu=true", "training.learning_rate=1e-3"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        check=True,
        timeout=300,
    )
    return output


def test_a_further_phase_may_leave_losses_out_and_their_backbones(tiny_backbones, tmp_path):
    ArmVQForPreTraining.from_backbones(**tiny_backbones, **MODEL).save_pretrained(tmp_path / "before")
    weights = {f"{name}_loss_weight": 0.0 for name in ("caption", "sigmoid", "pixel")}
    sections = {"start_from": str(tmp_path / "before"), "backbones": {"vision": tiny_backbones["vision"]}}
    output = train_tokenizer("tokenizer_detail", tmp_path, model=weights, **sections)
    checkpoint = load_file(output / "checkpoint-3" / "model.safetensors")
    assert checkpoint and all(name.startswith("vq_model.") for name in checkpoint)
    trained = ArmVQForPreTraining.from_pretrained(output / "pretraining")
    assert [name for name, _ in trained.named_children()] == ["vq_model"]
    before = ArmVQModel.from_pretrained(tmp_path / "before")
    assert not torch.equal(trained.vq_model.down_projection.weight, before.down_projection.weight)


def test_the_tokenizer_s_recipe_trains_from_the_command_line(tiny_backbones, tmp_path):
    output = train_tokenizer("tokenizer", tmp_path, model=MODEL, backbones=tiny_backbones)
    assert checkpoints(output) == ["checkpoint-2", "checkpoint-3"]
    assert [path.name for path in (output / "reconstructions").iterdir()] == ["step-0000002.png"]

    model = AutoModel.from_pretrained(output / "vq_model")
    processor = AutoImageProcessor.from_pretrained(output / "vq_model")
    assert type(model) is ArmVQModel and type(processor) is ArmImageProcessor
    assert model.config.text_config is None and model.config.captioner_config is None
    picture = ShapesDataset(1, batch_size=1, seed=0)[0]["image"]
    pixel_values = processor(picture, return_tensors="pt").pixel_values
    assert torch.equal(pixel_values, to_pixel_values([picture]))
    training = ArmVQForPreTraining.from_pretrained(output / "pretraining")
    assert torch.equal(model.encode(pixel_values).z_q, training.vq_model.encode(pixel_values).z_q)
    untrained = ArmVQForPreTraining.from_backbones(**tiny_backbones, **MODEL)
    tower, taken_over = model.vision_model.state_dict(), untrained.vq_model.vision_model.state_dict()
    assert all(torch.equal(value, taken_over[name]) for name, value in tower.items())
