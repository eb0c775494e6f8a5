"""What the three stages leave of a tokenizer of emoji becomes a folder that ships: small, scored, with its card."""

import json

import export_emoji_tokenizer
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from transformers_arm import cli
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.hub.card import unbacked_figures
from transformers_arm.worlds.emoji.splits import HELD_OUT

FEW = ["training.max_steps=1", "training.save_steps=1", "training.warmup_steps=0", "training.use_cpu=true"]
FEW += ["training.per_device_train_batch_size=4", "training.report_to=tensorboard"]
SMALL = ["hidden_size=32", "intermediate_size=32", "num_hidden_layers=1", "num_attention_heads=2"]


def within(section, *settings):
    return [f"{section}.{each}" for each in settings]


def train_all(runs):
    """One step of each stage of arm-emoji's recipes, at toy size."""
    stages = {
        "backbones": [
            *("stages=[siglip]", *within("siglip", *FEW, "tokenizer_documents=100", "tokenizer_vocab_size=290")),
            *within("siglip.model.vision_config", *SMALL),
            *within("siglip.model.text_config", *SMALL, "projection_size=32", "max_position_embeddings=48"),
        ],
        "tokenizer": [
            *(*FEW, f"backbones.vision={runs}/backbones/siglip", "evaluation.pictures=4", "evaluation.every=1"),
            *within("model", "pixel_num_layers=1", "pixel_hidden_size=32", "pixel_num_heads=2"),
        ],
        "detokenizer": [*FEW, f"pretraining={runs}/tokenizer/pretraining", "evaluation.pictures=4"],
    }
    for stage, settings in stages.items():
        command = ["train", stage, "--config", f"arm_emoji/{stage}", f"output_dir={runs}/{stage}", *settings]
        assert cli.main(command) == 0, stage


@pytest.fixture(scope="module")
def runs(emoji_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train_all(folder)
    return folder


@pytest.fixture(scope="module")
def shipped(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "arm-emoji-tokenizer"
    export_emoji_tokenizer.export_tokenizer(
        runs, folder, count=2, remark="It was a try.", repo="lab/arm-emoji-tokenizer"
    )
    return folder


def test_the_folder_draws_what_it_is_given_and_holds_half_precision(shipped):
    tokenizer = Tokenizer.from_parts(shipped, shipped / "detokenizer")
    codes, (picture,) = tokenizer.reconstruct([np.zeros((64, 64, 3), np.uint8)])
    assert codes.shape == (1, 4, 4) and picture.size == (64, 64)
    weights = [tensor for file in shipped.rglob("*.safetensors") for tensor in load_file(file).values()]
    assert len(weights) > 20 and {each.dtype for each in weights if each.is_floating_point()} == {torch.float16}
    assert (shipped / "siglip" / "tokenizer.json").is_file()


def test_every_held_out_split_is_scored_beside_its_bounds_and_the_weakest_cell_is_named(shipped):
    result = json.loads((shipped / export_emoji_tokenizer.SCORES).read_text())
    figures, cells = result["scores"]["figures"], result["scores"]["cells"]
    assert {f"ceiling_{split}{end}" for split in HELD_OUT for end in ("", "_low", "_high", "_psnr")} <= set(figures)
    assert result["must"].keys() == result["aim"].keys() <= figures.keys()
    lowest = min(scores["right"]["mean"] for cell, scores in cells.items() if " " in cell)
    assert cells[result["scores"]["weakest"]]["right"]["mean"] == lowest
    width, height = Image.open(shipped / "pictures" / "reconstructions.png").size
    assert (width, height) == (12 * 64, 2 * (1 + len(HELD_OUT)) * 64)


def test_the_card_tells_figures_stages_and_whose_pictures_they_are(shipped):
    text = (shipped / "README.md").read_text()
    assert unbacked_figures(shipped) == [] and ModelCard(text).data.license == "cc-by-4.0"
    for told in ("It was a try.", "Twitter, Inc", "Google Inc", "Microsoft", "CC-BY-4.0", "lab/arm-emoji-tokenizer"):
        assert told in text, told
    stages = json.loads((shipped / export_emoji_tokenizer.TRAINING).read_text())["stages"]
    assert [(each["stage"], each["seed"], each["steps"]) for each in stages] == [
        ("backbones/siglip", 1, 1),
        ("tokenizer", 3, 1),
        ("detokenizer", 4, 1),
    ]
    export_emoji_tokenizer.write_tokenizer_card(shipped, "lab/arm-emoji-tokenizer")
    assert (shipped / "README.md").read_text() == text


def test_a_stage_that_is_missing_is_named_and_nothing_is_written(emoji_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="backbones/siglip is missing; run trainers/backbones.py first"):
        export_emoji_tokenizer.export_tokenizer(tmp_path, tmp_path / "shipped")
    assert not list(tmp_path.iterdir())
