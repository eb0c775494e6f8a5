"""The demo writes what it says, of its own world and the user's pictures, or nothing."""

import json

import numpy as np
from PIL import Image

from transformers_arm.cli import main


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
