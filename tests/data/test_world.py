"""A world is a plug: one that a package brings trains a step of every stage by its name, is scored and shown."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from world_training import ONE_STEP, logged, run

from transformers_arm import cli
from transformers_arm.data.world import World, find_world
from transformers_arm.evaluation.results import EVALUATION_SEED

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def toy(tmp_path_factory):
    """`tests/toy_world.py` as pip would have installed it, its world registered as "toy"."""
    site = tmp_path_factory.mktemp("site-packages")
    shutil.copy(ROOT / "tests" / "toy_world.py", site)
    (site / "toy_world-1.0.dist-info").mkdir()
    (site / "toy_world-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: toy-world\nVersion: 1.0\n"
    )
    entry = "[transformers_arm.worlds]\ntoy = toy_world:ToyWorld\n"
    (site / "toy_world-1.0.dist-info" / "entry_points.txt").write_text(entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield importlib.import_module("toy_world")
        sys.modules.pop("toy_world")


def test_it_trains_and_scores_the_tokenizer(tiny_backbones, tmp_path):
    small = {"num_projection_layers": 1, "pixel_num_layers": 1, "pixel_hidden_size": 32, "pixel_num_heads": 2}
    recipe = {
        "backbones": tiny_backbones,
        "model": {**small, "fsq_levels": [2] * 10},
        "data": {"world": "toy", "arguments": {"side": 32}},
        "evaluation": {"every": 1, "pictures": 4},
        "training": {**ONE_STEP, "per_device_train_batch_size": 4},
    }
    log = run("tokenizer.py", recipe, tmp_path)
    assert logged(log, "loss") > 0 and 0 <= logged(log, "eval_right_color") <= 1 and logged(log, "eval_psnr") > 0
    assert (tmp_path / "run" / "vq_model" / "config.json").is_file()


def test_it_trains_and_scores_the_language_model(arm_folder, tmp_path):
    recipe = {
        "start_from": arm_folder,
        "data": {"world": "toy", "arguments": {}},
        "evaluation": {"detokenizer": f"{arm_folder}/detokenizer", "every": 1, "count": 2},
        "training": {**ONE_STEP, "per_device_train_batch_size": 2},
    }
    log = run("sft.py", recipe, tmp_path)
    assert logged(log, "loss_image") > 0 and 0 <= logged(log, "eval_right_color") <= 1


def test_it_is_a_source_of_a_mixture(arm_folder, tmp_path):
    source = {"world": "toy", "condition_dropout": {"text": 0.0, "image": 0.0, "both": 0.0}}
    recipe = {
        "start_from": arm_folder,
        "data": {"sources": {"toy": source}, "token_budget": 64, "streams": 1},
        "training": {**ONE_STEP, "per_device_train_batch_size": 1},
    }
    log = run("sft.py", recipe, tmp_path)
    assert logged(log, "loss_of_toy") > 0


def test_it_trains_and_scores_by_reinforcement_learning(arm_folder, tmp_path):
    recipe = {
        "start_from": arm_folder,
        "data": {"world": "toy"},
        "rewards": [{"reward": "right_color"}],
        "prompts_per_step": 2,
        "evaluation": {"every": 1, "count": 2},
        "training": {**ONE_STEP, "bf16": False, "per_device_train_batch_size": 4, "num_generations": 2},
    }
    log = run("grpo.py", recipe, tmp_path)
    assert 0 <= logged(log, "rewards/right_color/mean") <= 1 and 0 <= logged(log, "eval_right_color") <= 1


def test_the_demo_shows_and_scores_it(arm_folder, tmp_path, capsys):
    command = ["demo", "--world", "toy", "--items", "2", "--output", str(tmp_path)]
    assert cli.main(["--checkpoint", arm_folder, *command]) == 0
    assert Image.open(tmp_path / "colors.png").size == (144, 48)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores == find_world("toy").scores(arm_folder, count=2, seed=EVALUATION_SEED)
    assert "colors.png: all colors" in capsys.readouterr().out


def test_an_unknown_world_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match="no world 'shapse', but emoji, shapes, toy. .* of the group transformers_arm.worlds"
    ):
        find_world("shapse")


def test_what_a_world_lacks_is_named():
    class Pictures(World):
        def pictures(self, length, *, seed, batch_size=1):
            return []

    world = Pictures()
    assert world.rewards == {} and world.reconstruction_scores([], []) == {}
    for call in (
        lambda: world.documents(1, seed=0),
        lambda: world.tasks(1, seed=0),
        lambda: world.requests(1, seed=0),
        lambda: world.look(None, count=1, seed=0),
        lambda: world.scores("", count=1, seed=0),
        lambda: world.sheets("", seed=0),
    ):
        with pytest.raises(ValueError, match="Pictures has no (documents|tasks|requests|look|scores|sheets), which"):
            call()
