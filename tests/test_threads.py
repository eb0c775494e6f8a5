"""Processor, renderer, model and pipelines may be used from many threads: each call gives what it gives alone."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from processor_inputs import PLACEHOLDER, drawing, user

from transformers_arm import ArmPipeline
from transformers_arm.data.conversations import ConversationCollator

THREADS = 4
TEXTS = ["a dot", f"{'a red circle above ' * 20}a blue square", "hi <|im_end|> " * 20, "", "what color is the circle?"]


@pytest.fixture(autouse=True)
def many_switches():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def pipe(arm_folder):
    pipe = ArmPipeline.from_pretrained(arm_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plain(result):
    """What can be compared: arrays, tensors and pictures as lists."""
    if isinstance(result, (list, tuple)):
        return [plain(each) for each in result]
    if hasattr(result, "items"):
        return {name: plain(value) for name, value in result.items()}
    return result if isinstance(result, (str, int)) else np.asarray(result).tolist()


def assert_same_on_threads(function, calls, among=lambda number: None):
    """`function(i)` of 5 kinds gives, `calls` times on threads, what it gives alone; `among` runs between them."""
    alone = [plain(function(number)) for number in range(5)]
    with ThreadPoolExecutor(THREADS) as pool:
        futures = []
        for number in range(calls):
            futures.append(pool.submit(function, number % 5))
            pool.submit(among, number % 5)
        wrong = [number for number, each in enumerate(futures) if plain(each.result()) != alone[number % 5]]
    assert not wrong, f"{len(wrong)} of {calls} calls gave something else"


def seeded(number):
    return torch.Generator().manual_seed(number)


# --- processor -------------------------------------------------------------------------------------------------------


def chat(processor, number):
    parts = [TEXTS[number], drawing(number)] if number % 2 else [TEXTS[number]]
    return processor.apply_chat_template(user(*parts), tokenize=True, return_dict=True, add_generation_prompt=True)


def chats(processor, number):
    conversations = [user(TEXTS[number]), user("short")]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
    return processor.apply_chat_template(conversations, **options)


def request(processor, number):
    images = [drawing(0), drawing(1)] if number % 2 else None
    return processor.image_generation_inputs([TEXTS[number], "short"], images)


def trusted(processor, number):
    """Each kind of call has settings of its own."""
    padding = ({}, {"padding": True}, {"padding": "max_length", "max_length": 300}, {"split_special_tokens": True})
    arguments = ({"truncation": True, "max_length": 3}, *padding)[number]
    return processor(text=[TEXTS[number], "short"], text_kwargs=arguments)


def pictures(processor, number):
    return processor([drawing(number)], f"{TEXTS[number]}{PLACEHOLDER}")


def all_of_them(processor, number):
    return (chat, chats, request, trusted, pictures)[number](processor, number)


@pytest.mark.parametrize("kind", [chat, chats, request, trusted, all_of_them])
def test_ids_are_the_same(draw, kind):
    assert_same_on_threads(lambda number: kind(draw.processor, number), calls=150)


def test_ids_are_the_same_while_others_switch_the_tokenizer(draw):
    processor, tokenizer = draw.processor, draw.processor.tokenizer

    def other(number):
        return tokenizer(["a", "b c <|im_end|>"], padding=True, split_special_tokens=number % 2, truncation=True)

    assert_same_on_threads(lambda number: all_of_them(processor, number), calls=100, among=other)


def test_what_training_encodes_is_the_same_while_others_switch_the_tokenizer(draw):
    tokenizer = draw.processor.tokenizer
    collator = ConversationCollator(tokenizer, None, draw.model.config)

    def encode(number):
        collator.encode_short.cache_clear()
        return collator.encode(user(TEXTS[number], "and more"), iter([]))

    def other(number):
        return tokenizer(["a", "b c"], padding="max_length", max_length=200, split_special_tokens=number % 2)

    assert_same_on_threads(encode, calls=150, among=other)


# --- what draws ------------------------------------------------------------------------------------------------------


def test_a_renderer_gives_the_same_pictures(draw):
    z_q = draw.model.vq_model.decode_codes(torch.arange(4).view(1, 2, 2))

    def render(number):
        steps = {"num_inference_steps": number + 1, "guidance_scale": 1 + number % 2}
        return draw.detokenizer(z_q, generator=seeded(number), output_type="np", **steps).images

    assert_same_on_threads(render, calls=15)


def test_text_to_image_gives_the_same_pictures(draw):
    def picture(number):
        return draw(TEXTS[number], image_grid=(1, 2), generator=seeded(number), num_inference_steps=1 + number)

    assert_same_on_threads(picture, calls=10)


def test_image_editing_gives_the_same_pictures(edit):
    def edited(number):
        mask = np.eye(48, dtype=bool) if number % 2 else None
        return edit(drawing(number), TEXTS[number], mask, image_grid=(2, 2), generator=seeded(number))

    assert_same_on_threads(edited, calls=10)


def test_questions_get_the_same_answers(draw):
    model, processor = draw.model, draw.processor

    def answer(number):
        inputs = processor.apply_chat_template(
            user(TEXTS[number], drawing(number)),
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        return model.generate(**inputs, max_new_tokens=3 + number, do_sample=False)

    assert_same_on_threads(answer, calls=10)


def test_the_pipeline_of_diffusers_gives_the_same_pictures(pipe):
    def picture(number):
        image = drawing(number) if number % 2 else None
        arguments = {"height": 32, "width": 32, "num_inference_steps": 1 + number, "generator": seeded(number)}
        return pipe(TEXTS[number], image, **arguments).images

    assert_same_on_threads(picture, calls=10)
