"""The drawn world's metrics score pictures as a reader would, load offline from their folders, and are classes."""

import random
from pathlib import Path

import evaluate
import numpy as np
import pytest
from PIL import Image

import transformers_arm.worlds.shapes.metrics as metrics
from transformers_arm.metrics.arm_fidelity.arm_fidelity import psnr
from transformers_arm.worlds.shapes.captions import full_caption, parse_caption
from transformers_arm.worlds.shapes.draw import draw_scene
from transformers_arm.worlds.shapes.edits import EDIT_KINDS, sample_editing_pair
from transformers_arm.worlds.shapes.prompts import GENERATION_TASKS, generation_prompts
from transformers_arm.worlds.shapes.scene import Scene, SceneObject, sample_scene
from transformers_arm.worlds.shapes.scores import scene_from_json, score_edit

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


def metric(name, cache):
    return getattr(metrics, name)(cache_dir=cache)


@pytest.mark.parametrize("name", ["generation", "editing", "reconstruction"])
def test_a_metric_loads_offline_from_its_folder(name, metric_cache):
    loaded = evaluate.load(str(FOLDER / f"arm_{name}"), cache_dir=metric_cache)
    own = getattr(metrics, f"Arm{name.title()}")
    assert type(loaded).__name__ == own.__name__ and loaded.features == own(cache_dir=metric_cache).features
    picture = draw_scene(SCENE)
    inputs = {
        "generation": {"predictions": [picture], "prompts": [full_caption(SCENE)], "tasks": ["full"]},
        "editing": {
            "predictions": [picture],
            "sources": [Scene(SCENE.objects, "white").to_json()],
            "instructions": ["make the background gray"],
        },
        "reconstruction": {"predictions": [picture], "references": [picture]},
    }[name]
    first = next(iter(loaded.compute(**inputs).values()))
    assert first == {"reconstruction": 100}.get(name, 1)


# Generation


def test_right_pictures_score_one_in_every_task(metric_cache):
    prompts = [(task, prompt) for task in (*GENERATION_TASKS, "full") for prompt in generation_prompts(task, 4)]
    prompts += [("composition", prompt) for prompt in generation_prompts("composition", 4)]
    scores = metric("ArmGeneration", metric_cache).compute(
        predictions=[draw_scene(matching_scene(prompt)) for _, prompt in prompts],
        prompts=[prompt for _, prompt in prompts],
        tasks=[task for task, _ in prompts],
    )
    assert scores == dict.fromkeys((*GENERATION_TASKS, "full", "composition", "overall"), 1.0)


def test_overall_is_the_mean_of_the_six_tasks_alone(metric_cache):
    tasks = [*GENERATION_TASKS, "full", "full"]
    prompts = [generation_prompts(task, 1)[0] for task in tasks]
    pictures = [draw_scene(matching_scene(prompt)) for prompt in prompts]
    pictures[0] = pictures[-1] = Image.new("RGB", (48, 48), (245, 245, 245))
    scores = metric("ArmGeneration", metric_cache).compute(predictions=pictures, prompts=prompts, tasks=tasks)
    assert scores["single_object"] == 0 and scores["full"] == 0.5
    assert scores["overall"] == pytest.approx(5 / 6)


def test_an_extra_object_makes_a_picture_wrong(metric_cache):
    scores = metric("ArmGeneration", metric_cache).compute(
        predictions=[draw_scene(SCENE)] * 2, prompts=["a circle", "a circle and a square"], tasks=["one", "two"]
    )
    assert scores == {"one": 0, "two": 1}


def test_prompts_with_held_out_pairs_count_as_composition_only(metric_cache):
    scores = metric("ArmGeneration", metric_cache).compute(
        predictions=[draw_scene(SCENE)] * 2, prompts=["a purple cross", "a red circle"], tasks=["colors", "colors"]
    )
    assert scores == {"composition": 0, "colors": 0}


# Editing


def test_target_pictures_score_ten_in_every_kind(metric_cache):
    rng = random.Random(0)
    edits = [sample_editing_pair(rng, kind, held_out_pairs=False) for kind in EDIT_KINDS for _ in range(5)]
    scores = metric("ArmEditing", metric_cache).compute(
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


def test_means_go_over_kinds_and_leave_compositions_out(metric_cache):
    rows = [  # two recolors, one right; one removal, right; one composition, wrong
        ("make the red circle green", Scene((SceneObject("circle", "green", "small", "left"), BLUE_SQUARE), "gray")),
        ("make the red circle green", SCENE),
        ("remove the red circle", Scene((BLUE_SQUARE,), "gray")),
        ("add a small purple cross at the bottom", SCENE),
    ]
    scores = metric("ArmEditing", metric_cache).compute(
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


# Reconstruction


def test_reconstructions_read_back_only_if_everything_is_right(metric_cache):
    drawn, other = draw_scene(SCENE), draw_scene(Scene(SCENE.objects, "white"))
    noisy = np.clip(np.asarray(drawn) + np.random.default_rng(0).normal(0, 12, (48, 48, 3)), 0, 255).astype(np.uint8)
    scores = metric("ArmReconstruction", metric_cache).compute(
        predictions=[drawn, Image.fromarray(noisy), other, other], references=[drawn] * 4
    )
    assert scores["read_back"] == 0.5
    assert scores["psnr"] == pytest.approx(np.mean([psnr(i, drawn) for i in (drawn, noisy, other, other)]))


def test_codes_reach_the_metric(metric_cache):
    picture = draw_scene(SCENE)
    scores = metric("ArmReconstruction", metric_cache).compute(
        predictions=[picture], references=[picture], codes=[[0, 1, 1, 0]], codebook_size=8
    )
    assert scores == {"psnr": 100, "read_back": 1, "codebook_usage": 0.25, "code_perplexity": pytest.approx(2)}
