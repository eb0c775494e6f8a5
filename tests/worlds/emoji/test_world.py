"""The emoji world is a plug: recipes name it and what it takes, and every stage gets its data."""

import pytest
from transformers import AutoTokenizer, TrainingArguments

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
        (PicturesOfWorld, {"of": ["train"]}),
        (DocumentsOfWorld, {}),
        (TasksOfWorld, {"mixture": MIXTURE, "paraphrased": 0.2, "edit_kinds": {"style": 0.0}}),
        (RequestsOfWorld, {"editing": 0.5}),
    ],
)
def test_recipes_are_checked_against_what_it_takes(kind, arguments, emoji_folder):
    assert not list(section(kind, **arguments, folder=emoji_folder).problems())
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
