"""The pages of drawn shapes mark what the reader finds right, and what it finds wrong."""

from types import SimpleNamespace

import pytest
from marked_tiles import marks
from PIL import Image

from transformers_arm.evaluation.arm import Arm
from transformers_arm.worlds.shapes.demo import draw_answers, draw_edits, draw_prompts
from transformers_arm.worlds.shapes.draw import render_scene
from transformers_arm.worlds.shapes.evaluation import editing_pairs, question_pairs

SIDE = 4 * 48


def test_edits_that_reach_their_target_are_ticked_and_sources_left_alone_crossed():
    targets = [Image.fromarray(render_scene(pair.target)) for pair in editing_pairs(6, seed=3)]
    half = SimpleNamespace(edit=lambda sources, instructions, *, seed: [*targets[:4], *sources[4:]])
    assert marks(draw_edits(half, seed=3), SIDE) == (4, 2)


def test_answers_are_ticked_as_they_are_right():
    due = [asked.answer for _, asked in question_pairs(6, seed=3)]
    half = SimpleNamespace(answer=lambda pictures, questions: [f" {due[0]}\n", *due[1:3], "nothing", "", "a cross"])
    assert marks(draw_answers(half, seed=3), SIDE) == (3, 3)


@pytest.mark.parametrize("folder", ["checkpoints/arm-tiny", "untrained"])
def test_what_a_model_draws_of_prompts_is_ticked_if_it_has_learned_to(folder, arm_folder):
    arm = Arm.from_pretrained(arm_folder if folder == "untrained" else folder)
    right, wrong = marks(draw_prompts(arm), SIDE)
    assert right + wrong == 12 and (right >= 9 if folder == "checkpoints/arm-tiny" else wrong == 12)
