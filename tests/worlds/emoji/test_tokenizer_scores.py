"""What a tokenizer keeps is told by split and part, its codes are counted right, and the command tells all of it."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from vq_pretraining import new_model

from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.worlds.emoji.edits import edits
from transformers_arm.worlds.emoji.scores import read_originals
from transformers_arm.worlds.emoji.tokenizer_scores import (
    all_codes,
    code_scores,
    retrieval_cells,
    sample_of_each_split,
    weakest,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def originals(emoji_folder):
    return read_originals()


def test_a_sample_is_seeded_and_of_each_split(originals):
    found = sample_of_each_split(originals.drawn, 5, seed=1)
    splits = [each.split for each in found]
    assert splits == sorted(splits, key=["train", "unseen", "gender", "tone", "style"].index)
    assert {split: splits.count(split) for split in splits} == dict.fromkeys(splits, 5)
    again, other = (sample_of_each_split(originals.drawn, 5, seed=seed) for seed in (1, 2))
    assert list(map(id, again)) == list(map(id, found)) != list(map(id, other))


def test_people_and_objects_stand_apart_and_the_weakest_is_named(originals):
    wanted = [each for each in originals.drawn if each.split == "train"][::7]
    wanted += [each for each in originals.drawn if each.split == "tone"][:10]
    wrong = np.zeros((64, 64, 3), np.uint8)
    returned = [each.image if each.split == "train" else wrong for each in wanted]
    cells = retrieval_cells(originals, wanted, returned)
    assert list(cells) == ["train", "train objects", "train people", "tone", "tone people"]
    assert cells["train"]["right"].mean == 1.0 and cells["train"]["psnr"].mean == 100
    assert cells["train"]["right"].items == sum(
        cells[f"train {part}"]["right"].items for part in ("people", "objects")
    )
    assert "gender" not in cells["train objects"]
    assert weakest(cells) == ("tone people", 2 / 3)


def test_codes_are_counted_and_compared_in_pairs(originals):
    tones = ("none", "light", "medium-light", "medium", "medium-dark", "dark")

    def code(each):  # one position tells the tone, and one the gender, of four
        return [[tones.index((each.emoji.tones or ("none",))[0]), 10 + len(each.emoji.gender or "")], [20, 20]]

    codes = np.array([code(each) for each in originals.drawn])
    codes[-1, 1, 1] = 63
    found = code_scores(codes, originals.drawn, 64)
    assert found["codes_used"] == len(np.unique(codes)) and found["codes_used_once"] == 1
    shares = np.unique(codes, return_counts=True)[1] / codes.size
    assert found["code_perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert found["code_noise"] > 0  # of corners that are white in pictures of all tones
    assert found["tone_codes_shared"].mean == pytest.approx(0.75, abs=0.01)
    assert found["tone_codes_shared"].items == len(list(edits(originals.drawn, "tone")))
    assert found["gender_codes_shared_unseen"].mean == 0.75


def test_codes_are_those_of_the_tokenizer(originals):
    tokenizer = Tokenizer.from_pretrained(ROOT / "checkpoints" / "arm-tiny")
    codes = all_codes(tokenizer, originals.drawn[:130])
    alone, _ = tokenizer.reconstruct([originals.drawn[120].image])
    assert codes.shape == (130, 4, 4) and np.array_equal(codes[120], alone[0])


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["emoji_tokenizer.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "benchmarks" / "quality" / "emoji_tokenizer.py"), run_name="__main__")


@pytest.mark.parametrize("what", ["parts", "pretraining"])
def test_the_command_prints_and_writes_all(what, originals, tiny_backbones, tmp_path, monkeypatch, capsys):
    if what == "parts":
        tiny = ROOT / "checkpoints" / "arm-tiny"
        which = ["--tokenizer", tiny, "--detokenizer", tiny / "detokenizer"]
    else:
        new_model(tiny_backbones).save_pretrained(tmp_path / "pretraining")
        which = ["--pretraining", tmp_path / "pretraining"]
    command(monkeypatch, *which, "--count", 2, "--output", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert {"train", "unseen", "gender", "tone", "style"} <= set(scores["cells"])
    assert scores["weakest"] in scores["cells"] and scores["codes"]["codes_used"] > 0
    assert set(scores["cells"]["tone"]["right"]) == {"mean", "low", "high", "items"}
    printed = capsys.readouterr().out
    assert "| tone people | 2 |" in printed and "weakest: " in printed and "tone_codes_shared: " in printed


def test_the_command_says_what_it_lacks(originals, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        command(monkeypatch, "--tokenizer", tmp_path)
    assert "--tokenizer needs --detokenizer" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"emoji_tokenizer\.py: .*"):
        command(monkeypatch, "--pretraining", tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["", "pretraining"])
def test_a_training_s_own_renderer_takes_as_many_steps_as_asked(part, tiny_backbones, tmp_path):
    new_model(tiny_backbones).save_pretrained(tmp_path / "pretraining")
    tokenizer = Tokenizer.from_training(tmp_path / part, steps=1)
    assert not tokenizer.model.training and tokenizer.detokenizer.config.default_steps == 1
    codes, (picture,) = tokenizer.reconstruct([np.zeros((64, 64, 3), np.uint8)])
    assert codes.shape == (1, 4, 4) and picture.size == (64, 64)
