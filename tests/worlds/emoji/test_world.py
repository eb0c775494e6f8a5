"""The emoji world is a plug: recipes name it and what it takes, and every stage gets its data."""

import json

import pytest
from transformers import AutoTokenizer, TrainingArguments
from world_training import ONE_STEP, logged, run

from transformers_arm import cli
from transformers_arm.data.collators import TextCollator
from transformers_arm.data.world import find_world
from transformers_arm.training.sections import DocumentsOfWorld, PicturesOfWorld, RequestsOfWorld, TasksOfWorld
from transformers_arm.training.world_data import world_pictures, world_requests, world_tasks

MIXTURE = {"text": 1.0, "image_to_text": 1.0, "text_to_image": 1.0, "editing": 1.0}


@pytest.fixture(scope="module", autouse=True)
def known(emoji_folder):
    return emoji_folder


def section(kind, **arguments):
    return kind(world="emoji", arguments=arguments)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (PicturesOfWorld, {"of": ["train"], "folder": "elsewhere"}),
        (DocumentsOfWorld, {"folder": "elsewhere"}),
        (TasksOfWorld, {"folder": "elsewhere", "mixture": MIXTURE, "paraphrased": 0.2, "edit_kinds": {"style": 0.0}}),
        (RequestsOfWorld, {"editing": 0.5}),
    ],
)
def test_recipes_are_checked_against_what_it_takes(kind, arguments):
    assert not list(section(kind, **arguments).problems())
    (problem,) = section(kind, **arguments, canvases=[]).problems()
    assert "canvases" in " ".join(problem)


def test_every_stage_gets_its_data(tmp_path, tiny_backbones):
    arguments = TrainingArguments(str(tmp_path), max_steps=3, per_device_train_batch_size=4, use_cpu=True)
    pictures = world_pictures(section(PicturesOfWorld), arguments)
    assert len(pictures) == 12 and pictures[11]["image"].shape == (64, 64, 3)
    tasks = world_tasks(section(TasksOfWorld, mixture=MIXTURE), arguments)
    assert len(tasks) == 12 and all(turn["role"] in ("user", "assistant") for turn in tasks[11])
    assert len(world_requests(section(RequestsOfWorld), 5, 0)) == 5
    documents = find_world("emoji").documents(6, seed=0)
    batch = TextCollator(AutoTokenizer.from_pretrained(tiny_backbones["captioner"]))([documents[i] for i in range(6)])
    assert len(batch["input_ids"]) == 6 and (batch["labels"] != -100).any()


def test_it_has_rewards_by_name():
    assert set(find_world("emoji").rewards) == {"emoji_match", "emoji_attribute", "emoji_kept"}


# --- a step of each stage ---------------------------------------------------------------------------------------


def test_the_tokenizer_s_training_tells_what_is_found_again(tiny_backbones, tmp_path):
    small = {"num_projection_layers": 1, "pixel_num_layers": 1, "pixel_hidden_size": 32, "pixel_num_heads": 2}
    recipe = {
        "backbones": tiny_backbones,
        "model": {**small, "fsq_levels": [2] * 10},
        "data": {"world": "emoji"},
        "evaluation": {"every": 1, "pictures": 8, "steps": 1},
        "training": {**ONE_STEP, "per_device_train_batch_size": 4},
    }
    log = run("tokenizer.py", recipe, tmp_path)
    assert all(0 <= logged(log, f"eval_{name}") <= 1 for name in ("right", "concept", "tone", "gender", "style"))


@pytest.mark.slow
def test_the_language_model_learns_all_tasks_and_is_looked_at(arm_folder, tmp_path):
    recipe = {
        "start_from": arm_folder,
        "data": {"world": "emoji", "arguments": {"mixture": MIXTURE}},
        "evaluation": {"detokenizer": f"{arm_folder}/detokenizer", "every": 1, "count": 2},
        "training": {**ONE_STEP, "per_device_train_batch_size": 2},
    }
    log = run("sft.py", recipe, tmp_path)
    assert all(0 <= logged(log, f"eval_{name}") <= 1 for name in ("generation", "editing", "copied", "understanding"))


@pytest.mark.slow
def test_reinforcement_learning_by_the_shipped_recipes_knows_what_is_wanted(arm_folder, tmp_path):
    few = ["max_steps=2", "per_device_train_batch_size=4", "num_generations=2", "logging_steps=1", "save_steps=2"]
    settings = [f"training.{each}" for each in (*few, "picture_steps=0", "report_to=none")]
    settings += ["prompts_per_step=2", "evaluation=null"]
    start = arm_folder
    for stage, rewards in (("text_to_image", ["emoji_match"]), ("editing", find_world("emoji").rewards)):
        folder, reference = tmp_path / stage, [f"reference={arm_folder}"] if stage == "editing" else []
        where = [f"start_from={start}", f"output_dir={folder}", *reference]
        assert cli.main(["train", "grpo", "--config", f"arm_emoji/grpo_{stage}", *where, *settings]) == 0
        log = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
        steps = [entry for entry in log if "reward" in entry]
        assert len(steps) == 2
        assert all(0 <= entry[f"rewards/{name}/mean"] <= 1 for entry in steps for name in rewards)
        start = folder / "model"
