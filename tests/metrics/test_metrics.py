"""Metrics that know no world say what can be reckoned by hand, load offline from their folders, and are classes."""

import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from PIL import Image

import transformers_arm.metrics as metrics
from transformers_arm.extras import MissingExtra
from transformers_arm.metrics.arm_codebook.arm_codebook import code_counts, codebook_scores, usage_scores
from transformers_arm.metrics.arm_fid.arm_fid import FrechetDistance, fid
from transformers_arm.metrics.arm_fidelity.arm_fidelity import psnr, ssim
from transformers_arm.metrics.arm_understanding.arm_understanding import existence_scores
from transformers_arm.worlds.shapes.draw import draw_scene
from transformers_arm.worlds.shapes.scene import Scene, SceneObject

FOLDER = Path(metrics.__file__).parent
PICTURE = Image.effect_noise((48, 48), 60).convert("RGB")
SCENE = Scene((SceneObject("circle", "red", "small", "left"), SceneObject("square", "blue", "large", "top")), "gray")


def metric(name, cache):
    return getattr(metrics, name)(cache_dir=cache)


@pytest.mark.parametrize("name", ["codebook", "understanding", "zero_shot", "fidelity", "fid"])
def test_a_metric_loads_offline_from_its_folder(name, metric_cache, inception_file):
    loaded = evaluate.load(str(FOLDER / f"arm_{name}"), cache_dir=metric_cache)
    own = getattr(metrics, "Arm" + name.title().replace("_", ""))
    assert type(loaded).__name__ == own.__name__ and loaded.features == own(cache_dir=metric_cache).features
    inputs = {
        "codebook": {"predictions": [[0, 1], [1, 0]], "codebook_size": 2},
        "understanding": {"predictions": ["red"], "references": ["red"], "kinds": ["color"]},
        "zero_shot": {"predictions": [3], "references": [3]},
        "fidelity": {"predictions": [PICTURE], "references": [PICTURE]},
        "fid": {"predictions": [PICTURE] * 2, "references": [PICTURE] * 2, "inception": inception_file},
    }[name]
    first = next(iter(loaded.compute(**inputs).values()))
    assert first == {"fidelity": 100, "fid": 0}.get(name, 1)


# Understanding


def test_exact_match_is_per_kind_and_averaged_over_kinds(metric_cache):
    scores = metric("ArmUnderstanding", metric_cache).compute(
        predictions=["red", " Blue ", "green", "two"],
        references=["red", "blue", "cyan", "two"],
        kinds=["color", "color", "color", "count"],
    )
    assert scores == {"color": pytest.approx(2 / 3), "count": 1, "overall": pytest.approx(5 / 6)}


def test_existence_is_scored_per_kind_of_negatives(metric_cache):
    scores = metric("ArmUnderstanding", metric_cache).compute(
        predictions=["yes", "yes", "no", "no", "red"],
        references=["yes", "no", "no", "yes", "red"],
        kinds=["existence"] * 4 + ["color"],
        negatives=["random", "random", "popular", "popular", None],
    )
    assert (scores["random_accuracy"], scores["popular_accuracy"], scores["existence"]) == (0.5, 0.5, 0.5)
    assert scores["random_f1"] == pytest.approx(2 / 3) and scores["popular_f1"] == 0
    assert (scores["random_yes_share"], scores["popular_yes_share"]) == (1, 0)


def test_existence_scores_by_hand():
    answers, references = ["yes", "yes", "no", "maybe", "yes"], ["yes", "no", "no", "yes", "yes"]
    assert existence_scores(answers, references) == {
        "accuracy": 0.6,
        "f1": pytest.approx(2 * 2 / (3 + 3)),
        "yes_share": 0.6,
    }


# Fidelity


def test_psnr_by_hand():
    black, dim = Image.new("RGB", (48, 48)), Image.new("RGB", (48, 48), (10, 10, 10))
    assert psnr(dim, black) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(black, black) == 100
    with pytest.raises(ValueError, match="Shapes differ"):
        psnr(black, Image.new("RGB", (32, 48)))


def test_ssim_is_one_of_the_same_picture_and_falls_with_noise():
    drawn = np.asarray(draw_scene(SCENE))
    noise = np.random.default_rng(0).normal(0, 12, drawn.shape)
    noisy, noisier = (np.clip(drawn + strength * noise, 0, 255).astype(np.uint8) for strength in (1, 3))
    assert ssim(drawn, drawn) == pytest.approx(1)
    assert 0.99 > ssim(noisy, drawn) > ssim(noisier, drawn)
    # Of flat pictures only the means count: (2 x y + c) / (x^2 + y^2 + c) with c = (0.01 * 255)^2.
    expected = (2 * 100 * 50 + 2.55**2) / (100**2 + 50**2 + 2.55**2)
    assert ssim(np.full((16, 16, 3), 100), np.full((16, 16, 3), 50)) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"8x16 px .* is smaller than the window of SSIM, 11 px"):
        ssim(drawn[:8, :16], drawn[:8, :16])


def test_the_metric_of_fidelity_is_the_mean_over_pictures(metric_cache):
    drawn, other = draw_scene(SCENE), draw_scene(Scene(SCENE.objects, "white"))
    scores = metric("ArmFidelity", metric_cache).compute(predictions=[drawn, other], references=[drawn, drawn])
    assert scores == {
        "psnr": pytest.approx((100 + psnr(other, drawn)) / 2),
        "ssim": pytest.approx((1 + ssim(other, drawn)) / 2),
    }


def test_what_is_missing_for_fidelity_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtra, match=r"skimage; install it with `pip install transformers-arm\[metr"):
        psnr(np.zeros((16, 16, 3)), np.zeros((16, 16, 3)))
    monkeypatch.delitem(sys.modules, "skimage")
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MissingExtra, match=r"torchmetrics; install it with `pip install transformers-arm\[metr"):
        FrechetDistance("inception-2015-12-05.pt")


# FID


def test_fid_by_hand(inception_file):
    originals, returned = ([np.full((16, 32, 3), each, np.uint8) for each in grays] for grays in ([0, 40], [10, 20]))
    # Gray pictures vary along one line, three times as far as one color: 3 * ((20 - 15)^2 + (sqrt(800) - sqrt(50))^2).
    due = 3 * (5**2 + (800**0.5 - 50**0.5) ** 2)
    assert fid(returned, originals, inception_file) == {"fid": pytest.approx(due, rel=1e-4), "pictures": 2}


def test_fid_takes_pictures_of_several_sizes_in_batches(inception_file):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (16, width, 3), np.uint8) for width in (16, 16, 16, 48)]
    others = [picture // 2 for picture in pictures]
    distance = FrechetDistance(inception_file)
    for real, each in ((True, pictures), (False, others)):
        distance.add(each[:3], real=real)
        distance.add(each[3:], real=real)
    due = fid(others, pictures, inception_file)["fid"]
    assert due > 1
    assert distance.value() == pytest.approx(due)


def test_fid_refuses_one_picture_and_files_that_are_no_network(inception_file, tmp_path):
    picture = draw_scene(SCENE)
    with pytest.raises(ValueError, match="which 1 of them cannot; give at least 2"):
        fid([picture], [picture], inception_file)
    with pytest.raises(ValueError, match="nowhere.pt is no file; name the TorchScript file"):
        fid([picture] * 2, [picture] * 2, tmp_path / "nowhere.pt")
    (tmp_path / "notes.pt").write_text("no network")
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "relu.pt"))
    for name in ("notes.pt", "relu.pt"):
        with pytest.raises(ValueError, match=f"{name} is not FID's network"):
            fid([picture] * 2, [picture] * 2, tmp_path / name)


# Codebook


def test_codebook_usage_and_perplexity_by_hand():
    assert codebook_scores([[0, 1], [2, 3]], 16) == {"codebook_usage": 0.25, "code_perplexity": pytest.approx(4)}
    assert codebook_scores(np.zeros((2, 3, 3), int), 16)["code_perplexity"] == 1
    ragged = [np.array([[0, 0], [0, 1]]), np.array([1, 1, 1, 0])]
    assert codebook_scores(ragged, 4) == {"codebook_usage": 0.5, "code_perplexity": pytest.approx(2)}
    with pytest.raises(ValueError, match=r"Codes 0\.\.9 are outside the codebook 0\.\.7"):
        codebook_scores([0, 9], 8)
    with pytest.raises(ValueError, match="Codes are integers"):
        codebook_scores([0.5], 8)


def test_counts_of_batches_add_up_to_the_scores_of_all_codes():
    batches = np.random.default_rng(0).integers(0, 9, (4, 2, 3, 3))
    assert usage_scores(sum(code_counts(batch, 16) for batch in batches)) == codebook_scores(batches, 16)


# Zero-shot


def test_zero_shot_accuracy_counts_right_indices(metric_cache):
    similarities = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.1, 0.2, 0.7]])
    scores = metric("ArmZeroShot", metric_cache).compute(predictions=similarities.argmax(-1), references=np.arange(3))
    assert scores == {"accuracy": pytest.approx(2 / 3)}
