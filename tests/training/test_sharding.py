"""Weights sharded as `trainers/accelerate` has it train, are shown, saved and gone on with as whole ones are.

Two processes on the CPU (`helpers/two_launched.py`).
"""

import json
import shutil
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DeepSpeedPlugin
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2ForCausalLM
from transformers.trainer_callback import TrainerState
from two_launched import launched, train

from transformers_arm import ArmForCausalLM, ArmProcessor
from transformers_arm.training.recipe import parse
from transformers_arm.training.reinforcement import ReinforcementRecipe, train_by_rewards
from transformers_arm.training.sharding import check_can_be_looked_at, sharded_by
from transformers_arm.training.trainer import training_arguments

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "trainers" / "accelerate"
STEPS = 6
WORLD = {"world": "shapes", "arguments": {"mixture": {"text_to_image": 1.0, "image_to_text": 1.0}}}


def losses(folder, steps=STEPS):
    """The loss and the gradient's norm of each step."""
    history = TrainerState.load_from_json(Path(folder) / f"checkpoint-{steps}" / "trainer_state.json").log_history
    return {log["step"]: (log["loss"], log["grad_norm"]) for log in history if "loss" in log}


def assert_same_losses(ours, theirs, atol):
    assert ours.keys() == theirs.keys() == set(range(1, len(theirs) + 1))
    for step, values in theirs.items():
        assert ours[step] == pytest.approx(values, abs=atol, rel=atol), step


def assert_same_weights(ours, theirs, atol):
    ours, theirs = (load_file(Path(folder) / "model" / "model.safetensors") for folder in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=atol, rtol=0, msg=name)


@pytest.fixture(scope="module")
def recipe(arm_folder):
    """Makes recipes of a short training of a whole, untrained ARM; `sections` replace its own."""

    def make(folder, steps=STEPS, **sections):
        training = {
            **{"seed": 0, "use_cpu": True, "max_steps": steps, "per_device_train_batch_size": 2, "save_steps": 2},
            **{"learning_rate": 1e-3, "logging_steps": 1, "report_to": "none", "disable_tqdm": True},
        }
        made = {"data": WORLD}
        made |= {"output_dir": str(folder), "training": training | sections.pop("training", {})}
        return made | ({} if "backbones" in sections else {"start_from": arm_folder}) | sections

    return make


@pytest.fixture(scope="module")
def looks(arm_folder):
    rows = [{"prompt": "a red circle"}, {"question": "what color is the circle"}]
    detokenizer = f"{arm_folder}/detokenizer"
    return {
        "samples": {"rows": rows, "detokenizer": detokenizer, "every": 2, "max_new_tokens": 8},
        "evaluation": {"detokenizer": detokenizer, "every": 4, "count": 2},
    }


# --- one step, as documented -----------------------------------------------------------------------------------------


def test_the_shipped_configuration_trains_shows_and_saves(recipe, looks, tmp_path, arm_folder):
    looks = {"samples": {**looks["samples"], "every": 1, "rows": looks["samples"]["rows"][1:]}}
    train(recipe(tmp_path / "run", steps=1, training={"save_steps": 1}, **looks))
    assert (tmp_path / "run" / "requests" / "step-0000001.txt").read_text().startswith("what color is the circle -> ")
    assert {each.name for each in (tmp_path / "run" / "checkpoint-1").iterdir()} == {
        *("pytorch_model_fsdp_0", "optimizer_0", "scheduler.pt", "trainer_state.json"),
        *("rng_state_0.pth", "rng_state_1.pth"),
    }
    ours, theirs = (load_file(f"{folder}/model.safetensors") for folder in (tmp_path / "run" / "model", arm_folder))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value) == (".vq_model." in name), name


# --- a training, in whole processes and in sharded ones --------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(recipe, looks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(recipe(folder, **looks), by=None)
    return folder


@pytest.fixture(scope="module")
def sharded(recipe, looks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "run"
    train(recipe(folder, **looks))
    return folder


@pytest.mark.slow
def test_sharded_weights_train_as_whole_ones(whole, sharded):
    assert_same_losses(losses(sharded), losses(whole), atol=1e-4)
    assert_same_weights(sharded, whole, atol=1e-4)
    model = ArmForCausalLM.from_pretrained(sharded / "model")
    ArmProcessor.from_pretrained(sharded / "model")
    assert (sharded / "model" / "detokenizer" / "model_index.json").is_file()
    ids = torch.arange(12)[None]
    expected = ArmForCausalLM.from_pretrained(whole / "model")(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_sharded_weights_are_looked_at_as_whole_ones(whole, sharded):
    for name in ("samples/step-0000004.png", *(f"requests/step-000000{step}.txt" for step in (2, 4, 6))):
        assert (sharded / name).read_bytes() == (whole / name).read_bytes(), name
    found = [
        {
            log["step"]: {name: value for name, value in log.items() if name.startswith("eval_")}
            for log in TrainerState.load_from_json(folder / "checkpoint-6" / "trainer_state.json").log_history
            if "eval_generation" in log
        }
        for folder in (sharded, whole)
    ]
    assert found[0] == found[1] and list(found[0]) == [4]


@pytest.mark.slow
def test_a_sharded_checkpoint_goes_on_as_if_it_had_not_ended(recipe, looks, sharded, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(sharded / "checkpoint-2", folder / "checkpoint-2")
    train(recipe(folder, **looks))
    assert losses(folder) == losses(sharded)
    assert_same_weights(folder, sharded, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {"lora": {"r": 2}},
        {"backbones": {}},
        {"start_from": "tied"},
        {"data": {"sources": {"a": WORLD | {"weight": 1.0}}, "token_budget": 256, "streams": 4}},
    ],
    ids=["lora", "new", "tied", "packed"],
)
def test_other_trainings_are_sharded_as_well(recipe, tiny_arm_backbones, tmp_path, sections):
    """With adapters, from backbones, with one table for embedding and head, on packed rows; and go on."""
    if "backbones" in sections:
        sections = {"backbones": tiny_arm_backbones}
    if "start_from" in sections:
        text, tied = tiny_arm_backbones["text"], str(tmp_path / "text")
        Qwen2ForCausalLM.from_pretrained(text, tie_word_embeddings=True).save_pretrained(tied)
        AutoTokenizer.from_pretrained(text).save_pretrained(tied)
        for each in (ArmForCausalLM, ArmProcessor):
            each.from_backbones(text=tied, vq=tiny_arm_backbones["vq"]).save_pretrained(tmp_path / "tied")
        sections = {"start_from": str(tmp_path / "tied")}
    training = {"save_steps": 1, "per_device_train_batch_size": 1 if "data" in sections else 2}
    for name in ("whole", "sharded", "resumed"):
        if name == "resumed":
            shutil.copytree(tmp_path / "sharded" / "checkpoint-1", tmp_path / name / "checkpoint-1")
        made = recipe(tmp_path / name, steps=3, training=training, **sections)
        train(made, trainer="sft", by=None if name == "whole" else "fsdp2")
    assert_same_losses(losses(tmp_path / "sharded", 3), losses(tmp_path / "whole", 3), atol=1e-4)
    assert_same_weights(tmp_path / "sharded", tmp_path / "whole", atol=1e-4)
    assert losses(tmp_path / "resumed", 3) == losses(tmp_path / "sharded", 3)
    assert_same_weights(tmp_path / "resumed", tmp_path / "sharded", atol=0)
    ArmForCausalLM.from_pretrained(tmp_path / "sharded" / "model")
    if "lora" in sections:
        ours, theirs = (
            load_file(tmp_path / name / "model" / "adapter" / "adapter_model.safetensors")
            for name in ("sharded", "whole")
        )
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, atol=1e-4, rtol=0, msg=name)


@pytest.mark.slow
def test_in_16_bits_the_tokenizer_keeps_its_own_and_losses_theirs(recipe, looks, tmp_path, arm_folder):
    training = {"bf16": True, "learning_rate": 1e-4}  # at ten times that the loss leaps, and rounding with it
    train(recipe(tmp_path / "run", training=training, **looks), precision="bf16")
    train(recipe(tmp_path / "whole", training=training), by=None)
    ours, theirs = (load_file(f"{folder}/model.safetensors") for folder in (tmp_path / "run" / "model", arm_folder))
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and (".vq_model." not in name or torch.equal(ours[name], value)), name
    ours, theirs = losses(tmp_path / "run"), losses(tmp_path / "whole")
    assert_same_losses(ours, theirs, atol=0.05)
    assert [
        each for each, _ in ours.values() if torch.tensor(each).bfloat16().item() != each
    ]  # in 16 bits, none would be


FULL = """
import os, resource, transformers.trainer
from transformers import TrainerCallback

class Full(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4 and os.environ["RANK"] == "RANK_THAT_FAILS":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # as a full disk

transformers.trainer.DEFAULT_CALLBACKS.append(Full)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_cannot_save_its_shards_ends_all_and_loses_nothing(recipe, sharded, tmp_path, rank):
    folder = tmp_path / "run"
    start = time.monotonic()
    ended = launched(recipe(folder), before=FULL.replace("RANK_THAT_FAILS", rank))
    assert ended.returncode != 0 and time.monotonic() - start < 120
    assert "OSError: The checkpoint of step 4 could not be written to " in ended.stderr
    assert "Earlier checkpoints are whole: make room" in ended.stderr
    assert [each.name for each in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    train(recipe(folder))
    assert losses(folder) == losses(sharded)
    assert_same_weights(folder, sharded, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"data": {"sources": {"a": WORLD | {"weight": 1.0}}, "token_budget": 256, "streams": 3}},
            "3 streams cannot be shared out to 2 processes x 1 rows x 1 workers; state a multiple of 2",
        ),
        ({"lora": {"r": 2, "visual_rows": True}}, "rows that are trained alone (visual_rows, "),
    ],
    ids=["streams", "rows"],
)
def test_what_cannot_be_shared_out_ends_all_processes_and_says_why(recipe, tmp_path, sections, message):
    ended = launched(recipe(tmp_path / "run", training={"per_device_train_batch_size": 1}, **sections))
    assert ended.returncode != 0 and message in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_zero3_trains_as_whole_weights_do_and_refuses_to_encode_pictures(recipe, tmp_path):
    text = {"data": {"world": "shapes", "arguments": {"mixture": {"text": 1.0}}}}
    train(recipe(tmp_path / "whole", steps=4, **text), by=None)
    train(recipe(tmp_path / "zero3", steps=4, **text), by="zero3")
    assert_same_losses(losses(tmp_path / "zero3", 4), losses(tmp_path / "whole", 4), atol=1e-4)
    assert_same_weights(tmp_path / "zero3", tmp_path / "whole", atol=1e-4)
    shutil.copytree(tmp_path / "zero3" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    train(recipe(tmp_path / "resumed", steps=4, **text), by="zero3")
    assert losses(tmp_path / "resumed", 4) == losses(tmp_path / "zero3", 4)
    ended = launched(recipe(tmp_path / "pictures"), by="zero3")
    assert ended.returncode != 0 and "ZeRO-3 has divided the visual tokenizer among processes" in ended.stderr


# --- what is refused -------------------------------------------------------------------------------------------------


def test_reinforcement_learning_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    recipe = parse(
        ReinforcementRecipe,
        {
            "output_dir": str(tmp_path),
            "start_from": "nowhere",
            "data": {"world": "shapes"},
            "rewards": [{"reward": "ImageTextSimilarity"}],
            "prompts_per_step": 2,
            "training": {"use_cpu": True, "max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 2},
        },
        "recipe",
    )
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ValueError, match="weights must be whole there, but FSDP2 shards them. .*ZeRO-2"):
        train_by_rewards(recipe)


@pytest.mark.parametrize(("version", "looked_at"), [("1", False), ("2", True)])
def test_looks_know_fsdp2_alone(tmp_path, monkeypatch, version, looked_at):
    class Training:
        args = training_arguments({"use_cpu": True}, output_dir=str(tmp_path))

    assert sharded_by(Training.args) is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", version)
    assert sharded_by(Training.args) == f"FSDP{version}"
    if looked_at:
        check_can_be_looked_at(Training)
    else:
        with pytest.raises(ValueError, match="but FSDP1 does. Take FSDP2"):
            check_can_be_looked_at(Training)


# --- the configurations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "section"), [("fsdp2", "fsdp_config"), ("zero3", "deepspeed_config")])
def test_accelerate_knows_every_field(name, section):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))  # refuses what it does not know outside of sections
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert set(getattr(config, section)) - set(known) == set()


def test_zero3_adds_gradients_up_in_fp32(monkeypatch):
    file = load_config_from_file(str(CONFIGS / "zero3.yaml")).deepspeed_config["deepspeed_config_file"]
    monkeypatch.setenv("ACCELERATE_CONFIG_DS_FIELDS", "deepspeed_config_file,zero3_init_flag")  # as its launcher says
    plugin = DeepSpeedPlugin(hf_ds_config=str(ROOT / file), zero3_init_flag=True)
    assert plugin.zero_stage == 3 and plugin.zero3_save_16bit_model
    assert plugin.deepspeed_config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert set(json.loads((ROOT / file).read_text())) <= set(plugin.deepspeed_config)
