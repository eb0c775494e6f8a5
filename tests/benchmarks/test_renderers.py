"""Bases of renderers are what `from_base` takes, and renderers are compared from the same tokens."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from marked_tiles import ticked_in_rows
from PIL import Image

from transformers_arm.data.collators import to_pixel_values
from transformers_arm.modeling_arm_vq import ArmVQModel
from transformers_arm.renderers_arm import detokenizer_class_of_base
from transformers_arm.training.renderer import LatentTraining
from transformers_arm.worlds.shapes.pictures import ShapesDataset

ROOT = Path(__file__).parents[2]
BENCHMARKS, SHIPPED = ROOT / "benchmarks" / "renderers", ROOT / "checkpoints" / "arm-tiny"


def run(name: str, monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


def write_base(family: str, folder: Path, monkeypatch) -> None:
    run("bases.py", monkeypatch, family, folder, "--steps", 1, "--batch-size", 2, "--items", 64)


@pytest.mark.parametrize("family", ["flux2", "flux", "sana"])
def test_latents_of_a_base_have_unit_variance_where_its_family_looks_for_it(family, tmp_path, monkeypatch, capsys):
    write_base(family, tmp_path / "base", monkeypatch)
    assert "read_back" in capsys.readouterr().out
    renderer = detokenizer_class_of_base(tmp_path / "base").from_base(tmp_path / "base", condition_size=128)
    data = ShapesDataset(64, batch_size=64, seed=1)
    pictures = to_pixel_values([data[index]["image"] for index in range(64)])
    latents, codes = LatentTraining(renderer, ArmVQModel.from_pretrained(SHIPPED / "vq_model")).encode(pictures)
    assert codes.shape == (64, 3, 3) and latents.shape == renderer.sample_shape(64, 48, 48)
    assert latents.std().item() == pytest.approx(1, abs=0.1)
    if family == "flux2":  # each channel by its own
        assert torch.allclose(latents.std((0, 2, 3)), torch.ones(32), atol=0.2)


def test_renderers_are_compared_and_shown(tmp_path, monkeypatch, capsys):
    write_base("flux2", tmp_path / "base", monkeypatch)
    renderer = detokenizer_class_of_base(tmp_path / "base").from_base(tmp_path / "base", condition_size=128)
    renderer.save_pretrained(tmp_path / "untrained")
    pixels = SHIPPED / "detokenizer"
    names = [f"pixels={pixels}", f"again={pixels}", f"untrained={tmp_path / 'untrained'}"]
    output, picture = tmp_path / "scores.json", tmp_path / "shown.png"
    options = ["--items", 8, "--steps", 1, 4, "--guidance", 1, "--output", output, "--picture", picture]
    run("compare.py", monkeypatch, *names, *options)
    result, printed = json.loads(output.read_text()), capsys.readouterr().out
    scores, agreement = result["scores"], result["agreement"]
    assert list(scores["untrained"]) == ["its VAE alone", "1, 1", "4, 1"]
    assert list(scores["pixels"]) == [
        "1, 1",
        "4, 1",
    ]
    assert scores["pixels"] == scores["again"] and agreement["pixels, again"] == {"read_alike": 1, "psnr": 100}
    good, bad = (scores[name]["4, 1"] for name in ("pixels", "untrained"))
    assert good["read_back"] > 0.8 > 0.2 > bad["read_back"] and good["psnr"] > 35 > 20 > bad["psnr"]
    assert good["weakest_read_back"] == min(good["groups"].values()) <= good["read_back"]
    assert agreement["pixels, untrained"]["read_alike"] < 0.2
    assert "| pixels, again | 1.000 | 100.0 |" in printed and "| untrained | its VAE alone |" in printed
    with Image.open(picture) as page:  # scenes, pixels, again, VAE, untrained
        scenes, good, again, _, bad = ticked_in_rows(page, 96, rows=5)
    assert scenes == 6 and good == again > 4 > 1 >= bad


def test_sana_has_no_halvings_to_choose(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run("bases.py", monkeypatch, "sana", tmp_path, "--halvings", 2)
    assert "--halvings is of FLUX's VAEs" in capsys.readouterr().err


def test_what_is_no_renderer_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run("compare.py", monkeypatch, f"pixels={tmp_path}")
    assert "is no NAME=FOLDER of a renderer" in capsys.readouterr().err
