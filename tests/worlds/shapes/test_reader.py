"""What is drawn reads back, under noise too, and what is no scene reads as nothing."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from transformers_arm.worlds.shapes.captions import caption_is_true, full_caption
from transformers_arm.worlds.shapes.draw import HARD_JITTER, HARD_SIDE, draw_scene, render_scene
from transformers_arm.worlds.shapes.reader import read_scene, reading_equals
from transformers_arm.worlds.shapes.scene import (
    BACKGROUNDS,
    CELLS,
    COLORS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    sample_scene,
)

ATTRIBUTES = ("shape", "color", "size", "cell")


def test_scenes(count, max_jitter=0, seed=0):
    rng = random.Random(seed)
    return [sample_scene(rng, split="test", max_jitter=max_jitter) for _ in range(count)]


test_scenes.__test__ = False  # scenes of the test split, not a test


def with_noise(pixels, sigma, generator):
    noisy = pixels + generator.normal(0, 255 * sigma, pixels.shape)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def accuracies(scenes, pictures):
    """Share right of each attribute over all objects drawn, of backgrounds, and of whole scenes."""
    right, drawn = Counter(), 0
    for scene, picture in zip(scenes, pictures, strict=True):
        reading = read_scene(picture)
        found = {item.cell: item for item in reading.objects}
        for item in scene.objects:
            drawn += 1
            right.update(
                name
                for name in ATTRIBUTES
                if item.cell in found and getattr(found[item.cell], name) == getattr(item, name)
            )
        right["background"] += reading.background == scene.background
        right["everything"] += reading_equals(reading, scene)
    shares = {name: right[name] / drawn for name in ATTRIBUTES}
    return {**shares, **{name: right[name] / len(scenes) for name in ("background", "everything")}}


def test_drawn_scenes_read_back_in_every_attribute():
    scenes = test_scenes(1000)
    assert min(accuracies(scenes, [draw_scene(scene) for scene in scenes]).values()) >= 0.999


def test_every_object_reads_back_in_every_cell_on_every_background():
    objects = [(shape, color, size) for shape in SHAPES for color in COLORS for size in SIZES]
    for index, (shape, color, size) in enumerate(objects):
        for background in BACKGROUNDS:
            scene = Scene((SceneObject(shape, color, size, CELLS[index % len(CELLS)]),), background)
            reading = read_scene(render_scene(scene))
            assert reading_equals(reading, scene)
            assert reading.objects[0].residual < 1e-3


def test_noisy_scenes_read_back_in_every_attribute():
    scenes, generator = test_scenes(500, seed=1), np.random.default_rng(1)
    pictures = [with_noise(render_scene(scene), 0.05, generator) for scene in scenes]
    assert min(accuracies(scenes, pictures).values()) >= 0.98


def test_hard_variant_reads_back_everything():
    scenes = test_scenes(500, max_jitter=HARD_JITTER, seed=2)
    pictures = [render_scene(scene, HARD_SIDE, HARD_SIDE) for scene in scenes]
    assert accuracies(scenes, pictures)["everything"] >= 0.999


@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (50, 70), (32, 192), (48, 96), (96, 48), (96, 96), (192, 192)]
)
def test_other_canvases_read_back_everything(height, width):
    scenes = test_scenes(40, seed=3)
    assert accuracies(scenes, [render_scene(scene, height, width) for scene in scenes])["everything"] == 1


def test_jitter_is_read_and_ignored_in_comparison():
    scene = Scene((SceneObject("cross", "green", "large", "right", (2, -1)),), "gray")
    reading = read_scene(render_scene(scene, 64, 64))
    assert reading.objects[0].jitter == (2, -1)
    assert reading_equals(reading, scene) and reading_equals(reading, scene.without_jitter())


@pytest.mark.parametrize("seed", range(5))
def test_noise_holds_no_object(seed):
    generator = np.random.default_rng(seed)
    uniform = generator.integers(0, 256, (48, 48, 3)).astype(np.uint8)
    around_gray = np.clip(generator.normal(128, 30, (48, 48, 3)), 0, 255).astype(np.uint8)
    smooth = Image.fromarray(uniform).resize((6, 6)).resize((48, 48), Image.Resampling.BICUBIC)
    for picture in (uniform, around_gray, smooth):
        assert read_scene(picture).objects == ()


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_blank_canvas_holds_no_object_but_a_background(background):
    blank = np.full((48, 48, 3), BACKGROUNDS[background], np.uint8)
    generator = np.random.default_rng(0)
    for picture in (blank, with_noise(blank, 0.05, generator), with_noise(blank, 0.1, generator)):
        reading = read_scene(picture)
        assert reading.objects == () and reading.background == background


def test_gradients_hold_no_object():
    ramp = np.linspace(0, 255, 48)
    across, down = np.broadcast_to(ramp, (48, 48)), np.broadcast_to(ramp[:, None], (48, 48))
    sky = np.stack([0.4 * down, 0.6 * down + 60, 255 - 0.3 * down], -1)
    for picture in (np.stack([across, down, 255 - across], -1), np.stack([down] * 3, -1), sky):
        reading = read_scene(picture.astype(np.uint8))
        assert reading.objects == () and reading.background is None


@pytest.mark.parametrize(("ground", "mark"), [(b, m) for b in BACKGROUNDS for m in BACKGROUNDS if b != m])
def test_marks_in_background_colors_are_no_objects(ground, mark):
    picture = np.full((48, 48, 3), BACKGROUNDS[ground], np.uint8)
    picture[18:29, 18:29] = BACKGROUNDS[mark]
    assert read_scene(picture).objects == ()


def test_residual_grows_as_an_object_fades_until_it_is_unreadable():
    scene = Scene((SceneObject("circle", "red", "large", "center"),))
    drawn = render_scene(scene).astype(np.float32)
    blank = np.full_like(drawn, 245)
    faded = [(blank + share * (drawn - blank)).astype(np.uint8) for share in (1, 0.8, 0.5, 0.2)]
    objects = [read_scene(picture).objects for picture in faded]
    assert objects[3] == ()
    residuals = [found[0].residual for found in objects[:3]]
    assert residuals == pytest.approx([0, 0.04, 0.25], abs=0.01)  # (1 - share)^2, by the definition


def test_an_extra_object_is_read():
    scene = Scene((SceneObject("circle", "red", "small", "top"), SceneObject("square", "blue", "small", "left")))
    fewer = Scene(scene.objects[:1])
    reading = read_scene(draw_scene(scene))
    assert not reading_equals(reading, fewer)
    assert caption_is_true(full_caption(scene), reading) and not caption_is_true(full_caption(fewer), reading)


def test_same_shape_and_color_twice_is_read_twice():
    canvas = render_scene(Scene((SceneObject("circle", "red", "small", "top-left"),)))
    canvas[32:, 32:] = canvas[:16, :16]
    assert [item.cell for item in read_scene(canvas).objects] == ["top-left", "bottom-right"]


def test_pictures_of_other_modes_and_alpha_are_read():
    scene = Scene((SceneObject("triangle", "cyan", "small", "bottom"),), "black")
    assert reading_equals(read_scene(draw_scene(scene).convert("RGBA")), scene)


def test_unfit_pictures_are_refused_by_name():
    with pytest.raises(ValueError, match=r"Canvas width 200 is outside 32\.\.192"):
        read_scene(Image.new("RGB", (200, 48)))
    with pytest.raises(ValueError, match=r"uint8 of shape \[height, width, 3\], got float64"):
        read_scene(np.zeros((48, 48, 3)))


# Golden pixels: worked out by hand from the signed distances. They hold the drawing to its specification, which all
# templates share, so that reading back could not notice a change.


def drawn_line(shape, color, size, background, row=None, column=None):
    """Red channel along one row or one column of the center cell at the default canvas."""
    canvas = render_scene(Scene((SceneObject(shape, color, size, "center"),), background))[16:32, 16:32, 0]
    return (canvas[row] if row is not None else canvas[:, column]).tolist()


def test_golden_circle():
    # r = 6.2; on the row at y = -0.5 the pixel at x = 6.5 has d = 6.519 - 6.2: 245 - 0.181 * 25
    assert drawn_line("circle", "red", "large", "white", row=7) == [245, 240, *[220] * 12, 240, 245]


def test_golden_square():
    # half a side = 0.88 * 4 = 3.52: the pixel at x = 3.5 is covered by 0.52
    line = [*[16] * 4, 91, *[160] * 6, 91, *[16] * 4]
    assert drawn_line("square", "purple", "small", "black", row=8) == line
    assert drawn_line("square", "purple", "small", "black", column=8) == line


def test_golden_triangle():
    # its base lies at y = 0.8 * 6.2 = 4.96, so the row at 4.5 is covered by 0.96; its apex is above, its base below
    assert drawn_line("triangle", "green", "large", "white", row=12) == [245, 245, 170, *[48] * 10, 170, 245, 245]
    assert drawn_line("triangle", "green", "large", "white", row=4) == [*[245] * 6, 170, 40, 40, 170, *[245] * 6]
    assert drawn_line("triangle", "green", "large", "white", column=0) == [245] * 16


def test_golden_cross():
    # arms of half width 0.36 * 4 = 1.44: the pixel at 1.5 is covered by 0.44
    assert drawn_line("cross", "blue", "small", "white", row=8) == [*[245] * 4, *[40] * 8, *[245] * 4]
    assert drawn_line("cross", "blue", "small", "white", row=5) == [*[245] * 6, 155, 40, 40, 155, *[245] * 6]
