"""Metrics score drawn pictures as a reader would, load offline from their folders, and work as plain classes."""

import random
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from PIL import Image

import transformers_arm.metrics as metrics
from transformers_arm.metrics.arm_fid.arm_fid import FrechetDistance, fid
from transformers_arm.metrics.arm_fidelity.arm_fidelity import psnr, ssim
from transformers_arm.metrics.arm_reconstruction.arm_reconstruction import code_counts, codebook_scores, usage_scores
from transformers_arm.metrics.arm_understanding.arm_understanding import existence_scores
from transformers_arm.shapes.captions import full_caption, parse_caption
from transformers_arm.shapes.draw import draw_scene
from transformers_arm.shapes.edits import EDIT_KINDS, sample_editing_pair
from transformers_arm.shapes.prompts import GENERATION_TASKS, generation_prompts
from transformers_arm.shapes.scene import Scene, SceneObject, sample_scene
from transformers_arm.shapes.scores import scene_from_json, score_edit

FOLDER = Path(metrics.__file__).parent
RED_CIRCLE = SceneObject("circle", "red", "small", "left")
BLUE_SQUARE = SceneObject("square", "blue", "large", "top")
SCENE = Scene((RED_CIRCLE, BLUE_SQUARE), "gray")


def matching_scene(prompt):
    """Some scene that a prompt is true of."""
    spec, rng = parse_caption(prompt), random.Random(0)
    while True:
        cells = rng.sample(("top-left", "top-right", "center", "bottom-left", "bottom-right"), len(spec.nouns))
        objects = tuple(
            SceneObject(noun.shape, noun.color or color, noun.size or "small", noun.cell or cell)
            for noun, cell, color in zip(spec.nouns, cells, ("red", "green", "blue"), strict=False)
        )
        scene = Scene(objects, spec.background or "white")
        if spec.is_true_of(scene):
            return scene


@pytest.fixture
def temporary_cache(tmp_path, monkeypatch):
    """Keeps what `evaluate` copies and writes inside the test's folder."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "metrics")
    return tmp_path


def metric(name, cache):
    return getattr(metrics, name)(cache_dir=str(cache))


@pytest.mark.parametrize(
    "name", ["generation", "editing", "understanding", "reconstruction", "zero_shot", "fidelity", "fid"]
)
def test_a_metric_loads_offline_from_its_folder(name, temporary_cache, inception_file):
    loaded = evaluate.load(str(FOLDER / f"arm_{name}"), cache_dir=str(temporary_cache))
    own = getattr(metrics, "Arm" + name.title().replace("_", ""))
    assert type(loaded).__name__ == own.__name__ and loaded.features == own(cache_dir=str(temporary_cache)).features
    picture = draw_scene(SCENE)
    inputs = {
        "generation": {"predictions": [picture], "prompts": [full_caption(SCENE)], "tasks": ["full"]},
        "editing": {
            "predictions": [picture],
            "sources": [Scene(SCENE.objects, "white").to_json()],
            "instructions": ["make the background gray"],
        },
        "understanding": {"predictions": ["red"], "references": ["red"], "kinds": ["color"]},
        "reconstruction": {"predictions": [picture], "references": [picture]},
        "zero_shot": {"predictions": [3], "references": [3]},
        "fidelity": {"predictions": [picture], "references": [picture]},
        "fid": {"predictions": [picture] * 2, "references": [picture] * 2, "inception": inception_file},
    }[name]
    first = next(iter(loaded.compute(**inputs).values()))
    assert first == {"reconstruction": 100, "fidelity": 100, "fid": 0}.get(name, 1)


# Generation


def test_right_pictures_score_one_in_every_task(temporary_cache):
    prompts = [(task, prompt) for task in (*GENERATION_TASKS, "full") for prompt in generation_prompts(task, 4)]
    prompts += [("composition", prompt) for prompt in generation_prompts("composition", 4)]
    scores = metric("ArmGeneration", temporary_cache).compute(
        predictions=[draw_scene(matching_scene(prompt)) for _, prompt in prompts],
        prompts=[prompt for _, prompt in prompts],
        tasks=[task for task, _ in prompts],
    )
    assert scores == dict.fromkeys((*GENERATION_TASKS, "full", "composition", "overall"), 1.0)


def test_overall_is_the_mean_of_the_six_tasks_alone(temporary_cache):
    tasks = [*GENERATION_TASKS, "full", "full"]
    prompts = [generation_prompts(task, 1)[0] for task in tasks]
    pictures = [draw_scene(matching_scene(prompt)) for prompt in prompts]
    pictures[0] = pictures[-1] = Image.new("RGB", (48, 48), (245, 245, 245))
    scores = metric("ArmGeneration", temporary_cache).compute(predictions=pictures, prompts=prompts, tasks=tasks)
    assert scores["single_object"] == 0 and scores["full"] == 0.5
    assert scores["overall"] == pytest.approx(5 / 6)


def test_an_extra_object_makes_a_picture_wrong(temporary_cache):
    scores = metric("ArmGeneration", temporary_cache).compute(
        predictions=[draw_scene(SCENE)] * 2, prompts=["a circle", "a circle and a square"], tasks=["one", "two"]
    )
    assert scores == {"one": 0, "two": 1}


def test_prompts_with_held_out_pairs_count_as_composition_only(temporary_cache):
    scores = metric("ArmGeneration", temporary_cache).compute(
        predictions=[draw_scene(SCENE)] * 2, prompts=["a purple cross", "a red circle"], tasks=["colors", "colors"]
    )
    assert scores == {"composition": 0, "colors": 0}


# Editing


def test_target_pictures_score_ten_in_every_kind(temporary_cache):
    rng = random.Random(0)
    edits = [sample_editing_pair(rng, kind, held_out_pairs=False) for kind in EDIT_KINDS for _ in range(5)]
    scores = metric("ArmEditing", temporary_cache).compute(
        predictions=[draw_scene(edit.target) for edit in edits],
        sources=[edit.source.to_json() for edit in edits],
        instructions=[edit.instruction for edit in edits],
    )
    for group in ("", *(f"{kind}_" for kind in EDIT_KINDS)):
        assert scores[f"{group}exact"] == 1 and scores[f"{group}sc"] == 10
        assert scores[f"{group}pq"] == pytest.approx(10, abs=1e-3)
        assert scores[f"{group}o"] == pytest.approx(10, abs=1e-3)


def test_unedited_pictures_score_no_consistency():
    rng = random.Random(1)
    for kind in EDIT_KINDS:
        edit = sample_editing_pair(rng, kind)
        score = score_edit(edit.source, edit.instruction, draw_scene(edit.source))
        assert (score.exact, score.consistency, score.overall) == (False, 0, 0)
        assert score.quality == pytest.approx(10, abs=1e-3)


def test_consistency_is_the_share_of_the_rest_that_is_kept():
    wrong_background = Scene((SceneObject("circle", "green", "small", "left"), BLUE_SQUARE), "black")
    score = score_edit(SCENE, "make the red circle green", draw_scene(wrong_background))
    assert (score.exact, score.consistency) == (False, 5)  # the square is kept, the background is not
    lost_square = Scene((SceneObject("circle", "green", "small", "left"),), "gray")
    assert score_edit(SCENE, "make the red circle green", draw_scene(lost_square)).consistency == 5


def test_removing_is_not_replacing_nor_moving():
    done = Scene((BLUE_SQUARE,), "gray")
    replaced = Scene((SceneObject("circle", "green", "small", "left"), BLUE_SQUARE), "gray")
    moved = Scene((SceneObject("circle", "red", "small", "right"), BLUE_SQUARE), "gray")
    consistency = [
        score_edit(SCENE, "remove the red circle", draw_scene(s)).consistency for s in (done, replaced, moved)
    ]
    assert consistency == [10, 0, 0]


def test_a_copy_left_behind_is_no_move():
    copied = np.asarray(draw_scene(SCENE)).copy()
    copied[16:32, 32:] = copied[16:32, :16]
    assert score_edit(SCENE, "move the red circle to the right", copied).consistency == 0


def test_quality_falls_with_residual_and_is_zero_without_objects():
    target = Scene((RED_CIRCLE, BLUE_SQUARE), "white")
    drawn = np.asarray(draw_scene(target), np.float32)
    faded = (245 + 0.5 * (drawn - 245)).astype(np.uint8)
    score = score_edit(SCENE, "make the background white", faded)
    assert score.exact and score.quality == pytest.approx(7.5, abs=0.1)  # residual (1 - 0.5)^2
    assert score.overall == pytest.approx((score.consistency * score.quality) ** 0.5)
    blank = score_edit(SCENE, "make the background white", np.full((48, 48, 3), 245, np.uint8))
    assert (blank.exact, blank.consistency, blank.quality, blank.overall) == (False, 0, 0, 0)


def test_means_go_over_kinds_and_leave_compositions_out(temporary_cache):
    rows = [  # two recolors, one right; one removal, right; one composition, wrong
        ("make the red circle green", Scene((SceneObject("circle", "green", "small", "left"), BLUE_SQUARE), "gray")),
        ("make the red circle green", SCENE),
        ("remove the red circle", Scene((BLUE_SQUARE,), "gray")),
        ("add a small purple cross at the bottom", SCENE),
    ]
    scores = metric("ArmEditing", temporary_cache).compute(
        predictions=[draw_scene(scene) for _, scene in rows],
        sources=[SCENE.to_json()] * len(rows),
        instructions=[instruction for instruction, _ in rows],
    )
    assert (scores["recolor_exact"], scores["remove_exact"], scores["composition_exact"]) == (0.5, 1, 0)
    assert scores["exact"] == 0.75 and scores["sc"] == 7.5


def test_an_edit_that_changes_nothing_is_refused():
    with pytest.raises(ValueError, match="changes nothing"):
        score_edit(SCENE, "make the background gray", draw_scene(SCENE))


def test_scenes_survive_their_json():
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(50)]
    assert [scene_from_json(scene.to_json()) for scene in scenes] == scenes
    for text in ("a circle", '{"background":"white"}', '{"background":"white","objects":[{"shape":"circle"}]}'):
        with pytest.raises(ValueError, match="Not the JSON of a scene"):
            scene_from_json(text)


# Understanding


def test_exact_match_is_per_kind_and_averaged_over_kinds(temporary_cache):
    scores = metric("ArmUnderstanding", temporary_cache).compute(
        predictions=["red", " Blue ", "green", "two"],
        references=["red", "blue", "cyan", "two"],
        kinds=["color", "color", "color", "count"],
    )
    assert scores == {"color": pytest.approx(2 / 3), "count": 1, "overall": pytest.approx(5 / 6)}


def test_existence_is_scored_per_kind_of_negatives(temporary_cache):
    scores = metric("ArmUnderstanding", temporary_cache).compute(
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


def test_the_metric_of_fidelity_is_the_mean_over_pictures(temporary_cache):
    drawn, other = draw_scene(SCENE), draw_scene(Scene(SCENE.objects, "white"))
    scores = metric("ArmFidelity", temporary_cache).compute(predictions=[drawn, other], references=[drawn, drawn])
    assert scores == {
        "psnr": pytest.approx((100 + psnr(other, drawn)) / 2),
        "ssim": pytest.approx((1 + ssim(other, drawn)) / 2),
    }


def test_what_is_missing_for_fidelity_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"scikit-image; install it with `pip install transformers-arm\[metr"
    ):
        psnr(np.zeros((16, 16, 3)), np.zeros((16, 16, 3)))
    with pytest.raises(
        ModuleNotFoundError, match=r"torchmetrics; install it with `pip install transformers-arm\[metr"
    ):
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


# Reconstruction


def test_reconstructions_read_back_only_if_everything_is_right(temporary_cache):
    drawn, other = draw_scene(SCENE), draw_scene(Scene(SCENE.objects, "white"))
    noisy = np.clip(np.asarray(drawn) + np.random.default_rng(0).normal(0, 12, (48, 48, 3)), 0, 255).astype(np.uint8)
    scores = metric("ArmReconstruction", temporary_cache).compute(
        predictions=[drawn, Image.fromarray(noisy), other, other], references=[drawn] * 4
    )
    assert scores["read_back"] == 0.5
    assert scores["psnr"] == pytest.approx(np.mean([psnr(i, drawn) for i in (drawn, noisy, other, other)]))


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


def test_codes_reach_the_metric(temporary_cache):
    picture = draw_scene(SCENE)
    scores = metric("ArmReconstruction", temporary_cache).compute(
        predictions=[picture], references=[picture], codes=[[0, 1, 1, 0]], codebook_size=8
    )
    assert scores == {"psnr": 100, "read_back": 1, "codebook_usage": 0.25, "code_perplexity": pytest.approx(2)}


# Zero-shot


def test_zero_shot_accuracy_counts_right_indices(temporary_cache):
    similarities = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.1, 0.2, 0.7]])
    scores = metric("ArmZeroShot", temporary_cache).compute(
        predictions=similarities.argmax(-1), references=np.arange(3)
    )
    assert scores == {"accuracy": pytest.approx(2 / 3)}
