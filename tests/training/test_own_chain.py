"""From a folder of pictures with captions to a model that draws: every stage by its command and its shipped recipe."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from picture_rows import captioned_folder
from PIL import Image
from transformers import pipeline

import transformers_arm  # noqa: F401  registers the pipelines

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_pictures.py"
CAPTIONS = [f"a {color} {thing}" for thing in ("cat", "dog", "house") for color in ("red", "green", "blue", "gold")]
FEW = ["training.max_steps=2", "training.save_steps=2", "training.warmup_steps=0"]
SMALL = "hidden_size=32 intermediate_size=32 num_hidden_layers=1 num_attention_heads=2".split()
HELD_OUT = ["validation.rows=2", "validation.every=2"]
LOOKS = [*HELD_OUT, "evaluation.every=2"]
PIXELS = ["data.pixel_budget=16384"]


def within(section, *settings):
    return [f"{section}.{each}" for each in settings]


STAGES = {
    "backbones": [
        *within("siglip", *FEW, *LOOKS, *PIXELS, "tokenizer_vocab_size=280"),
        *within("siglip.model.vision_config", *SMALL),
        *within("siglip.model.text_config", *SMALL, "projection_size=32"),
        *within("qwen2", *FEW, *HELD_OUT, "tokenizer_vocab_size=280"),
        *within("qwen2.model", *SMALL, "num_key_value_heads=1"),
    ],
    "tokenizer": [
        *(*FEW, *LOOKS, *PIXELS, "model.num_projection_layers=1", "model.fsq_levels=[2, 2, 2, 2]"),
        *within("model", "pixel_num_layers=1", "pixel_hidden_size=32", "pixel_num_heads=2"),
    ],
    "detokenizer": [*FEW, *LOOKS, *PIXELS, "pretraining=runs/own/tokenizer/checkpoint-2"],
    "pretrain": [*FEW, *HELD_OUT, "samples.every=2", "samples.rows=[{prompt: a red cat}]"],
    "sft": [*FEW, *HELD_OUT],
    "grpo": ["training.max_steps=1", "prompts_per_step=2", "training.num_generations=2"],
}


@pytest.mark.slow  # processes
def test_a_folder_of_captioned_pictures_becomes_a_model_that_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    captioned_folder(tmp_path / "my_pictures", CAPTIONS)
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    for stage, settings in STAGES.items():
        command = [sys.executable, "-m", "transformers_arm", "train", stage, "--config", f"own/{stage}", *settings]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{stage}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        for score in ("eval_retrieval", "eval_psnr") if stage in ("backbones", "tokenizer", "detokenizer") else ():
            assert score in done.stdout, (stage, score)
    runs = tmp_path / "runs" / "own"
    for place in ("backbones/run/siglip", "tokenizer", "detokenizer"):
        assert Image.open(runs / place / "reconstructions" / "step-0000002.png").size == (2 * 64, 2 * 64)
    assert (runs / "pretrain" / "requests" / "step-0000002.png").is_file()

    for stage in ("pretrain", "sft", "grpo"):
        draw = pipeline("text-to-image", model=str(runs / stage / "model"), num_inference_steps=1)
        picture = draw("a red cat")
        assert picture.size == (64, 64)
    edit = pipeline("image-editing", model=str(runs / "sft" / "model"), num_inference_steps=1)
    assert edit({"prompt": "make it blue", "image": picture}).size == (64, 64)
    asked = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    answer = pipeline("interleaved", model=str(runs / "sft" / "model"))
    assert isinstance(answer([{"role": "user", "content": asked}], max_new_tokens=4), list)


@pytest.mark.slow  # stages at their own size
def test_the_example_goes_from_a_folder_to_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    captioned_folder(tmp_path / "my pictures", CAPTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["", "my pictures", "my_run", "--trial", "--held-out", "4"])
    runpy.run_path(str(EXAMPLE))
    assert f"drew {CAPTIONS[0]!r}" in capsys.readouterr().out
    for name in ("drawn", "edited"):
        assert Image.open(tmp_path / "my_run" / f"{name}.png").size == (64, 64)
