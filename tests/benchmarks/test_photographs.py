"""The comparison with JPEG on photographs: its search is fair to JPEG, and its parts work together."""

import io
import json
import runpy
import sys
from pathlib import Path

import pytest
from photograph_crops import HELD_OUT, read_photograph
from PIL import Image

from transformers_arm.image_processing_arm import ArmImageProcessor
from transformers_arm.metrics.arm_fidelity.arm_fidelity import psnr
from transformers_arm.modeling_arm_vq_pretraining import ArmVQForPreTraining

ROOT = Path(__file__).parents[2]
BENCHMARK = ROOT / "benchmarks" / "quality" / "photographs.py"
SCRIPT = runpy.run_path(str(BENCHMARK))
best_jpeg, header_size = SCRIPT["best_jpeg"], SCRIPT["header_size"]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A held-out photograph in color, made small."""
    (chelsea,) = (each for each in HELD_OUT if each.name == "chelsea")
    return read_photograph(chelsea).resize((128, 80))


def jpeg(picture: Image.Image, scale: float = 1, **options) -> bytes:
    file = io.BytesIO()
    small = picture.resize([round(scale * side) for side in picture.size], Image.Resampling.LANCZOS)
    small.save(file, "jpeg", **{"optimize": True, "subsampling": "4:2:0", **options})
    return file.getvalue()


def returned(content: bytes, size: tuple[int, int]) -> Image.Image:
    return Image.open(io.BytesIO(content)).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("scale", "quality"), [(1, 5), (1 / 2, 20), (1 / 4, 60)])
@pytest.mark.parametrize("headers", [True, False])
def test_the_search_keeps_to_the_bytes_and_is_no_worse_than_a_fixed_choice(picture, scale, quality, headers):
    fixed = jpeg(picture, scale, quality=quality)
    limit = len(fixed) - (0 if headers else header_size(fixed))
    found = best_jpeg(picture, limit, headers=headers)
    assert found.size <= limit and found.psnr >= psnr(returned(fixed, picture.size), picture)
    again = jpeg(picture, found.scale, quality=found.quality)
    assert len(again) - (0 if headers else header_size(again)) == found.size
    assert psnr(returned(again, picture.size), picture) == found.psnr == psnr(found.picture, picture)


def test_free_headers_never_cost_quality(picture):
    assert best_jpeg(picture, 700, headers=False).psnr >= best_jpeg(picture, 700).psnr


def test_a_gray_picture_pays_for_no_colors(picture):
    gray = picture.convert("L").convert("RGB")
    found = best_jpeg(gray, 600)
    assert found.size == len(jpeg(gray.convert("L"), found.scale, quality=found.quality, subsampling=-1))
    assert found.picture.mode == "RGB"


def test_headers_are_what_two_pictures_have_in_common(picture):
    fixed = {"quality": 50, "optimize": False}  # standard tables
    first, second = jpeg(picture, **fixed), jpeg(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), **fixed)
    size = header_size(first)
    assert size == header_size(second) < len(first)
    assert first[: size - 2] == second[: size - 2] and first[size - 2 :] != second[size - 2 :]
    assert first[-2:] == second[-2:]


def test_too_few_bytes_are_refused_naming_how_many_it_takes(picture):
    with pytest.raises(ValueError, match="No JPEG of 128x80 px has 100 bytes; allow ") as error:
        best_jpeg(picture, 100)
    enough = int(str(error.value).rstrip(".").rsplit(" ", 1)[1])
    assert best_jpeg(picture, enough).size == enough


@pytest.fixture
def command_line(tmp_path, monkeypatch):
    """Runs a script with arguments, as a shell does, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def command(script: Path, *arguments) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [str(script), *map(str, arguments)])
            runpy.run_path(str(script), run_name="__main__")

    return command


def test_crops_train_a_tokenizer_that_is_measured_beside_jpeg(command_line, tiny_backbones, tmp_path, capsys):
    command_line(BENCHMARK, "prepare", "crops", "--count", 12)
    changed = {"output_dir": "run", "backbones.vision": tiny_backbones["vision"], "model.num_projection_layers": 1}
    changed |= {"model.pixel_num_layers": 1, "model.pixel_hidden_size": 32, "model.pixel_num_heads": 2}
    changed |= {"image_processor.size": {"height": 256, "width": 256}, "data.pixel_budget": 256 * 256}
    changed |= {"data.sources.crops.dataset": {"path": "imagefolder", "data_dir": str(tmp_path / "crops")}}
    changed |= {"training.max_steps": 2, "training.report_to": "none", "training.disable_tqdm": True}
    recipe = "arm_tiny/photographs"
    overrides = [f"{name}={json.dumps(value)}" for name, value in changed.items()]
    command_line(ROOT / "trainers" / "tokenizer.py", "--config", recipe, *overrides)
    files = ["--output", "results/scores.json", "--picture", "sheet.png"]
    command_line(BENCHMARK, "measure", "tiny=run", "--crops", "crops", "--items", 8, *files)

    result, printed = json.loads((tmp_path / "results" / "scores.json").read_text()), capsys.readouterr().out
    scores = result["scores"]
    assert scores["tiny"]["bits_per_pixel"] == 16 / 16**2 and scores["tiny"]["crops"]["pictures"] == 8
    for name, row in scores.items():
        values = [each["psnr"] for each in row["each"].values()]
        assert list(row["each"]) == [photograph.name for photograph in HELD_OUT]
        assert row["psnr"] == pytest.approx(sum(values) / len(values))
        assert row["bits_per_pixel"] <= 16 / 16**2 and f"| {name} | " in printed
    jpegs = [scores[name]["each"].values() for name in ("JPEG, all bytes count", "JPEG, headers free")]
    assert all(each["bytes"] <= each["limit"] for row in jpegs for each in row)
    assert all(counted["psnr"] <= free["psnr"] for counted, free in zip(*jpegs, strict=True))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 192 and sheet.height > 3 * 192


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([[2] * 10, [2] * 16], r"differ in .* \[\(10, 16\), \(16, 16\)\]"),
        ([[2] * 4], "No JPEG of 256x256 px has 128 bytes"),
    ],
)
def test_what_cannot_be_compared_is_refused(levels, message, command_line, tiny_backbones):
    for number, each in enumerate(levels):
        losses = {f"{loss}_loss_weight": 0 for loss in ("caption", "sigmoid", "feature")}
        small = {"num_projection_layers": 1, "pixel_num_layers": 1, "pixel_hidden_size": 32, "pixel_num_heads": 2}
        model = ArmVQForPreTraining.from_backbones(vision=tiny_backbones["vision"], fsq_levels=each, **losses, **small)
        model.save_pretrained(f"run-{number}/pretraining")
        model.vq_model.save_pretrained(f"run-{number}/vq_model")
        processor = ArmImageProcessor(size={"height": 256, "width": 256}, keep_aspect_ratio=True)
        processor.save_pretrained(f"run-{number}/vq_model")
    with pytest.raises(SystemExit, match=message):
        command_line(BENCHMARK, "measure", *(f"{number}=run-{number}" for number in range(len(levels))))


def test_a_folder_without_a_trained_tokenizer_is_refused(command_line, capsys):
    with pytest.raises(SystemExit):
        command_line(BENCHMARK, "measure", "binary=nowhere")
    assert "'binary=nowhere' is no NAME=FOLDER that trainers/tokenizer.py wrote" in capsys.readouterr().err


def test_published_scores_are_means_within_their_bytes_and_those_of_the_documentation():
    scores = json.loads((ROOT / "benchmarks" / "results" / "photographs.json").read_text())["scores"]
    page = (ROOT / "docs" / "photographs.md").read_text()
    for name, row in scores.items():
        each = row["each"].values()
        assert row["psnr"] == pytest.approx(sum(one["psnr"] for one in each) / len(each))
        assert all(one["bytes"] <= one["limit"] for one in each if "bytes" in one)
        assert f"| {name} | {row['bits_per_pixel']:.4f} | {row['psnr']:.2f} | {row['ssim']:.3f} |" in page
