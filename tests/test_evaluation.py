"""The shipped arm-tiny does what its card says, and the demo does what it promises."""

import json
from pathlib import Path

import export_tiny
import numpy as np
import pytest
import torch
from PIL import Image

from transformers_arm.cli import main
from transformers_arm.data.shapes import ShapesDataset, to_pixel_values
from transformers_arm.demo import heat_map
from transformers_arm.evaluation import Tokenizer, reconstruction, tiny_scores, zero_shot
from transformers_arm.evaluation_multimodal import Arm, editing, generation, multimodal_scores, understanding
from transformers_arm.shapes.prompts import GENERATION_TASKS

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "checkpoints" / "arm-tiny"


def shipped_scores() -> dict[str, float]:
    return json.loads((CHECKPOINT / export_tiny.SCORES).read_text())["scores"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(CHECKPOINT)


def test_reconstructions_of_held_out_scenes_read_back(tokenizer):
    scores = reconstruction(tokenizer, count=200, seed=5)
    assert scores["read_back"] >= 0.95
    assert scores["psnr"] >= 30


def test_tokens_keep_what_siglip_knew_of_captions(tokenizer):
    accuracy = zero_shot(tokenizer, CHECKPOINT / "backbones" / "siglip", count=200, seed=5)
    assert accuracy["z_q"] >= accuracy["siglip"] - 0.05


def test_the_shipped_model_understands_generates_and_edits():
    arm = Arm.from_pretrained(CHECKPOINT)
    assert understanding(arm, count=320, seed=5)["overall"] >= 0.8
    drawn = generation(arm, count=300, seed=5, tasks=(*GENERATION_TASKS, "full"))
    assert drawn["overall"] >= 0.6 and drawn["full"] >= 0.6
    assert editing(arm, count=300, seed=5)["exact"] >= 0.6


def test_the_readme_states_the_card_s_figures():
    readme, scores = (ROOT / "README.md").read_text(), shipped_scores()
    for name in (
        *("understanding", "generation", "generation_full", "generation_composition", "editing_exact"),
        *("unguided_generation", "hard_understanding", "read_back", "hard_read_back", "zero_shot", "siglip_zero_shot"),
    ):
        assert f"{scores[name]:.3f}" in readme


@pytest.mark.slow
def test_the_card_s_scores_come_out_again():
    stated = shipped_scores()
    scores = tiny_scores(CHECKPOINT) | multimodal_scores(Arm.from_pretrained(CHECKPOINT), count=500)
    assert scores.keys() == stated.keys()
    for name, value in scores.items():
        assert value == pytest.approx(stated[name], rel=0.02, abs=0.01), name


def test_reinforcement_learning_taught_arm_tiny_rl_which_color_belongs_to_which_shape():
    results = json.loads((ROOT / "benchmarks" / "results" / "arm_tiny_rl.json").read_text())
    before = results["table"]["generation: color_attr"]["before"]
    arm = Arm.from_pretrained(CHECKPOINT.with_name("arm-tiny-rl"))
    assert generation(arm, tasks=("color_attr",), count=240)["color_attr"] > before + 0.2


def test_shipped_weights_are_safetensors_within_30_mb():
    files = [file for file in CHECKPOINT.parent.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < export_tiny.MAX_BYTES
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".md", ".jinja", ".txt", ".png"}


@pytest.mark.parametrize(("height", "width"), [(48, 64), (32, 96), (64, 64)])
def test_other_sizes_and_proportions_come_back(tokenizer, height, width):
    canvas = {"height": height, "width": width}
    data = ShapesDataset(32, batch_size=32, seed=6, canvases=[canvas], split="test")
    images = [data[index]["image"] for index in range(32)]
    codes, pictures = tokenizer.reconstruct(images)
    assert codes.shape == (32, height // 16, width // 16)
    assert {picture.size for picture in pictures} == {(width, height)}
    errors = [np.abs(np.asarray(p, float) - i).mean() for p, i in zip(pictures, images, strict=True)]
    assert np.mean(errors) < 10  # of 255


def test_a_picture_s_codes_do_not_depend_on_its_batch(tokenizer):
    data = ShapesDataset(16, batch_size=16, seed=7, split="test")
    pixel_values = to_pixel_values([data[index]["image"] for index in range(16)])
    together = tokenizer.model.encode(pixel_values).codes
    alone = torch.cat([tokenizer.model.encode(picture[None]).codes for picture in pixel_values])
    assert torch.equal(together, alone)


def test_demo_writes_its_pictures_the_user_s_and_the_scores(arm_folder, tmp_path, capsys):
    photo = tmp_path / "my photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 200, 3), np.uint8)).save(photo)
    output = tmp_path / "demo"
    command = ["demo", "--images", str(photo), "--output", str(output), "--items", "2"]
    assert main(["--checkpoint", arm_folder, *command]) == 0
    pictures = {"world.png", "yours.png", "prompts.png", "edits.png", "answers.png", "story.png"}
    others = {"world-tokens.txt", "yours-tokens.txt", "scores.json"}
    assert {file.name for file in output.iterdir()} == pictures | others
    for name in pictures:
        Image.open(output / name).load()
    assert "my photo.png: 2x4 tokens" in (output / "yours-tokens.txt").read_text()
    scores = json.loads((output / "scores.json").read_text())
    assert set(scores) >= {"psnr", "read_back", "zero_shot", "generation", "editing_exact", "understanding"}
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*pictures, *scores))


def test_demo_refuses_a_file_that_is_no_image_and_writes_nothing(arm_folder, tmp_path, capsys):
    (tmp_path / "notes.png").write_text("no picture")
    command = ["demo", "--images", str(tmp_path / "notes.png"), "--output", str(tmp_path / "demo")]
    assert main(["--checkpoint", arm_folder, *command]) == 1
    assert "notes.png" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_demo_names_a_checkpoint_that_is_none(tmp_path, capsys):
    assert main(["--checkpoint", str(tmp_path), "demo", "--output", str(tmp_path / "demo")]) == 1
    assert f"{tmp_path} holds no config.json" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_heat_maps_show_every_token_of_the_grid():
    picture = heat_map(np.array([[0, 1023, 512]]), codebook_size=1024, patch_size=16)
    assert picture.size == (3 * 64, 64)
    assert picture.getpixel((1, 1)) != picture.getpixel((65, 1)) != picture.getpixel((129, 1))
