"""Drawing: the exact formula of the signed distances, cells, order and canvases."""

import numpy as np
import pytest

from transformers_arm.worlds.shapes.draw import draw_scene, render_scene, signed_distance
from transformers_arm.worlds.shapes.scene import BACKGROUNDS, COLORS, SHAPES, Scene, SceneObject


def scene_of(*objects, background="white") -> Scene:
    return Scene(tuple(SceneObject(*item) for item in objects), background)


def drawn_by_formula(scene: Scene, height: int, width: int) -> np.ndarray:
    """The specification, pixel by pixel over the whole canvas, without windows or caches."""
    y, x = np.mgrid[:height, :width] + 0.5
    canvas = np.ones((height, width, 3)) * BACKGROUNDS[scene.background]
    for item in scene.objects:
        radius = {"small": 0.25, "large": 0.3875}[item.size] * min(height, width) / 3
        dx = x - ((item.column + 0.5) * width / 3 + item.jitter[0])
        dy = y - ((item.row + 0.5) * height / 3 + item.jitter[1])
        covered = np.clip(0.5 - signed_distance(item.shape, dx, dy, radius), 0, 1)[..., None]
        canvas = covered * COLORS[item.color] + (1 - covered) * canvas
    return canvas


@pytest.mark.parametrize(("height", "width"), [(48, 48), (64, 64), (32, 96), (192, 40), (33, 47)])
@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_follow_the_formula_on_every_canvas(shape, height, width):
    scene = scene_of((shape, "red", "large", "top-left", (1, -2)), (shape, "cyan", "small", "bottom-right"))
    difference = render_scene(scene, height, width) - drawn_by_formula(scene, height, width)
    assert np.abs(difference).max() <= 0.51  # rounding to 8 bits


def test_distances_are_those_of_the_specification():
    x, y = np.array([3.0]), np.array([-2.0])
    assert signed_distance("circle", x, y, 4.0)[0] == pytest.approx(np.sqrt(13) - 4)
    assert signed_distance("square", x, y, 4.0)[0] == pytest.approx(3 - 3.52)
    assert signed_distance("triangle", x, y, 4.0)[0] == pytest.approx(max(-2 - 3.2, 0.894 * 3 - 0.447 * 2))
    assert signed_distance("cross", x, y, 4.0)[0] == pytest.approx(min(3 - 1.44, 2 - 1.44))


def test_default_canvas_is_48_px_rgb_with_flat_colors():
    picture = draw_scene(scene_of(("square", "green", "large", "center"), background="black"))
    assert picture.size == (48, 48) and picture.mode == "RGB"
    assert picture.getpixel((24, 24)) == COLORS["green"] and picture.getpixel((0, 0)) == (16, 16, 16)


@pytest.mark.parametrize(("height", "width", "words"), [(31, 48, "height 31"), (48, 193, "width 193")])
def test_canvases_outside_the_bounds_are_refused(height, width, words):
    with pytest.raises(ValueError, match=f"{words} is outside 32..192"):
        render_scene(scene_of(("circle", "red", "small", "top")), height, width)


def test_drawing_twice_gives_the_same_bytes():
    scene = scene_of(("cross", "blue", "small", "left", (2, 2)), background="gray")
    assert np.array_equal(render_scene(scene, 64, 64), render_scene(scene, 64, 64))
