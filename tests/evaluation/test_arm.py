"""An ARM as evaluations ask it: in order, at the size asked for, as the pipelines would."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.tokenizer import Tokenizer

TINY = Path(__file__).parents[2] / "checkpoints" / "arm-tiny"


@pytest.fixture(scope="module")
def arm(arm_folder):
    return Arm.from_pretrained(arm_folder)


def sources(count, width=48, height=48):
    shape = (count, height, width, 3)
    return list(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def test_an_arm_draws_at_the_size(arm):
    drawn = arm.draw(("a cross", "a circle"), height=32, width=64, seed=1)
    assert [picture.size for picture in drawn] == [(64, 32)] * 2
    again, other = arm.draw(("a cross",), seed=1), arm.draw(("a cross",), seed=2)
    assert again[0].tobytes() == arm.draw(("a cross",), seed=1)[0].tobytes() != other[0].tobytes()


def test_its_tokenizer_gives_back_what_the_shipped_one_does(arm, arm_folder):
    codes, pictures = arm.tokenizer.reconstruct(sources(2), seed=1)
    known, shipped = Tokenizer.from_pretrained(arm_folder).reconstruct(sources(2), seed=1)
    assert (codes == known).all() and [each.tobytes() for each in pictures] == [each.tobytes() for each in shipped]


def test_an_arm_edits_in_order(arm):
    edited = arm.edit(sources(1) + sources(1, 100, 80), ("x", "y"), height=64, width=64, seed=1, guidance_scale=1.0)
    assert [picture.size for picture in edited] == [(48, 48), (100, 80)]


@pytest.mark.parametrize("question_first", [False, True])
def test_an_arm_answers_as_transformers_pipeline_does(arm, arm_folder, question_first):
    prompts = ["what color is the circle?", "how many?", "<|im_end|>"]
    answers = arm.answer(sources(3), prompts, question_first=question_first)
    ask = pipeline("image-text-to-text", model=arm_folder, device="cpu", dtype=torch.float32)
    for image, prompt, answer in zip(sources(3), prompts, answers, strict=True):
        content = [{"type": "image", "image": Image.fromarray(image)}, {"type": "text", "text": prompt}]
        chat = [{"role": "user", "content": content[::-1] if question_first else content}]
        (expected,) = ask(text=chat, return_full_text=False, generate_kwargs={"do_sample": False})
        assert answer == expected["generated_text"]


def test_an_arm_says_up_to_which_size_it_knows_pictures(arm, arm_folder):
    assert arm.max_pixels == 48 * 48
    for settings, known in (
        ({"max_pixels": 96 * 96}, 96 * 96),
        ({"max_pixels": 96 * 96, "keep_aspect_ratio": False}, 48 * 48),
    ):
        other = Arm.from_pretrained(arm_folder)
        other.model.generation_config.image_editing = settings
        assert other.max_pixels == known


def test_an_arm_free_to_choose_opens_pictures_as_the_interleaved_pipeline_does():
    tiny = Arm.from_pretrained(TINY)
    prompts = ["a red circle at the top", "how many circles are there?", "a large blue square and a small red cross"]
    assert tiny.opened_sizes(prompts) == [(48, 48), None, (48, 48)]
    told = [tiny.tell(prompt, max_new_tokens=40)[0] for prompt in prompts]
    assert [getattr(part, "size", None) for part in told] == [(48, 48), None, (48, 48)]


def test_an_untrained_arm_tells_something(arm):
    assert all(isinstance(part, (str, Image.Image)) for part in arm.tell("tell a story", max_new_tokens=120))
