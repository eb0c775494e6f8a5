"""Requests for images: what is refused is refused before anything is read or drawn, and no step is run for nothing."""

import copy

import pytest
import torch
from generation_requests import PLAIN, image_part, pictures, prompts, seed, with_pictures
from PIL import Image
from transformers import CompileConfig, GenerationConfig

from transformers_arm import ArmProcessor
from transformers_arm.prompts_arm import (
    ImageArguments,
    branches_without_text,
    check_image_request,
    default_grid,
    image_request,
    stack_left_padded,
)
from transformers_arm.sampling_arm import ImageSampling


class Untouched:
    """A streamer that nothing may reach."""

    def put(self, value):
        raise AssertionError("the streamer was touched")

    end = put


@pytest.fixture
def read(few_codes_arm, monkeypatch):
    """Grows with each picture that is encoded."""
    found, get_codes = [], few_codes_arm.vq_model.get_codes
    monkeypatch.setattr(few_codes_arm.vq_model, "get_codes", lambda *args: found.append(1) or get_codes(*args))
    return found


def editing(config):
    """An edit each of two pictures of 2x2: keywords of `generate`."""
    source = with_pictures(config, (2, 2), text=prompts(1, 2)).expand(2, -1)
    return {
        "input_ids": torch.cat([source, prompts(2, 4, seed=2)], 1),
        "image_prompt_ids": source,
        "negative_prompt_ids": prompts(2, 2),
        "pixel_values": pictures((2, 2), (2, 2)),
        "generation_mode": "image",
        "image_grid": (2, 2),
    }


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"image_grid": (0, 2)}, ValueError, "Grid 0x2"),
        ({"num_return_sequences": 0}, ValueError, "num_return_sequences 0"),
        ({"temperature": 0.0}, ValueError, "temperature 0.0"),
        ({"top_p": 2}, ValueError, "top_p 2"),
        ({"guidance_scale": float("nan")}, ValueError, "guidance_scale nan"),
        ({"temprature": 1.0}, TypeError, "takes no temprature"),
        ({"logits_processor": [max]}, TypeError, "takes no logits_processor"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator"),
        ({"generator": [seed(0)]}, ValueError, "Got 1 generators for 2 images"),
        ({"generator": [seed(0)] * 2, "num_return_sequences": 2}, ValueError, "Got 2 generators for 4 images"),
        ({"edit_mask": torch.ones(2, 2, 2)}, ValueError, "edit_mask must be a bool tensor"),
        ({"edit_mask": torch.ones(1, 2, 2).bool()}, ValueError, r"edit_mask \[1, 2, 2\] must be \[2, 2, 2\]"),
        ({"edit_mask": torch.ones(2, 4, 1).bool(), "image_grid": (4, 1)}, ValueError, "has one of grid 4x1"),
        ({"attention_mask": torch.ones(2, 3)}, ValueError, r"attention mask of input_ids \[2, 3\]"),
        (
            {"image_prompt_attention_mask": torch.ones(2, 3)},
            ValueError,
            r"attention mask of image_prompt_ids \[2, 3\]",
        ),
        ({"negative_prompt_attention_mask": torch.ones(1, 2)}, ValueError, "attention mask of negative_prompt_ids"),
        ({"negative_prompt_ids": prompts(3)}, ValueError, r"negative_prompt_ids \[3, 6\] must be \[2, T\]"),
        ({"image_prompt_ids": prompts(1)}, ValueError, r"image_prompt_ids \[1, 6\] must be \[2, T\]"),
        ({"negative_prompt_ids": None}, ValueError, "needs negative_prompt_ids"),
        ({"input_ids": None}, ValueError, "needs input_ids"),
        ({"compile_config": {}}, ValueError, "compile_config must be a transformers.CompileConfig"),
        ({"compile_config": CompileConfig(backend="nope")}, ValueError, "torch has not: Invalid backend: 'nope'"),
        (
            {"compile_config": CompileConfig(mode="fastest")},
            ValueError,
            "torch has not: Unrecognized mode=fastest, .*max-autotune",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_is_refused_is_refused_before_pictures_are_read(few_codes_arm, read, changed, error, message):
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        few_codes_arm.generate(**editing(few_codes_arm.config) | {"streamer": Untouched()} | changed)
    assert not read and torch.equal(torch.get_rng_state(), state)


def test_pictures_are_read_once(few_codes_arm, read):
    mask = torch.tensor([[[True, False], [False, True]]] * 2)
    image = few_codes_arm.generate(**editing(few_codes_arm.config), edit_mask=mask, num_return_sequences=3)
    assert len(read) == 1 and image_part(few_codes_arm, image, (2, 2)).shape == (6, 2, 2)


def test_a_setting_that_images_do_not_have_is_named_whether_the_model_or_the_call_states_it(
    few_codes_arm, monkeypatch
):
    asked = {"generation_mode": "image", "image_grid": (1, 1), **PLAIN}
    with pytest.raises(TypeError, match="generation_mode='image' takes no top_q; it takes do_sample, .*top_p"):
        few_codes_arm.generate(prompts(1), **asked, top_q=1)
    config = copy.deepcopy(few_codes_arm.generation_config)
    monkeypatch.setattr(few_codes_arm, "generation_config", config)
    for section in ("image_generation", "image_editing"):
        setattr(config, section, {"top_q": 1})
        wanted = {"image_prompt_ids": prompts(1)} if section == "image_editing" else {}
        with pytest.raises(ValueError, match=f"{section} of the model's generation_config hold top_q, .* do_sample,"):
            few_codes_arm.generate(prompts(1), **asked, **wanted)
        setattr(config, section, {})
    few_codes_arm.generate(prompts(1), **asked)


def check_way(model, **way):
    arguments = ImageArguments(image_grid=(1, 1), compile_config=CompileConfig(**way))
    check_image_request(model, prompts(1), arguments, ImageSampling(**PLAIN))


def test_ways_of_compiling_that_torch_knows_are_taken(few_codes_arm):
    check_way(few_codes_arm)
    check_way(few_codes_arm, mode="max-autotune")
    check_way(few_codes_arm, backend="eager", mode=None)
    check_way(few_codes_arm, backend=lambda graph, inputs: graph.forward, mode=None)
    check_way(few_codes_arm, mode=None, options={"max_autotune": False})
    with pytest.raises(ValueError, match="compile_config names what torch has not: Unexpected .* fastest"):
        check_way(few_codes_arm, mode=None, options={"fastest": True})


# --- what is prepared ------------------------------------------------------------------------------------------------


def request(model, mask, **arguments):
    """An image of 2x3 whose source stands in the prompt."""
    source = with_pictures(model.config, (2, 3), text=prompts(1, 2))
    tokens = torch.arange(6) + model.config.visual_token_offset
    ids = model.model.place_image_tokens(source, tokens, "they")
    mask = None if mask is None else torch.tensor(mask).view(1, 2, 3).bool()
    arguments = ImageArguments(image_grid=(2, 3), edit_mask=mask, **arguments)
    return image_request(model, ids, arguments, ImageSampling(**PLAIN)), tokens


@pytest.mark.parametrize(
    "mask, steps",
    [(None, 6), ([1] * 6, 6), ([0] * 6, 0), ([1, 0, 0, 0, 0, 0], 1), ([0, 0, 1, 1, 0, 0], 4), ([0] * 5 + [1], 6)],
    ids=str,
)
def test_steps_end_with_the_last_token_that_counts(few_codes_arm, mask, steps):
    asked, tokens = request(few_codes_arm, mask, num_return_sequences=2)
    assert asked.steps == steps and asked.uniform.shape == (2, 6)
    if mask is not None:
        assert torch.equal(asked.kept, tokens.masked_fill(torch.tensor(mask).bool(), -1).expand(2, -1))
    assert request(few_codes_arm, mask, output_scores=True)[0].steps == 6


def test_branches_stand_one_after_the_other_each_opened(few_codes_arm):
    config, ids, nothing, image = few_codes_arm.config, prompts(2, 3), prompts(2, 1, seed=1), prompts(2, 5, seed=2)
    arguments = ImageArguments(image_grid=(2, 3), negative_prompt_ids=nothing, image_prompt_ids=image)
    asked = image_request(few_codes_arm, ids, arguments, ImageSampling())
    expected, mask = stack_left_padded([(part, torch.ones_like(part)) for part in (ids, image, nothing)])
    assert torch.equal(asked.prefix.ids[:, :-3], expected) and torch.equal(asked.prefix.mask[:, :-3], mask)
    assert asked.prefix.ids[:, -3:].tolist() == [list(config.image_opening(2, 3))] * 6 and asked.prefix.branches == 3
    assert (asked.prefix.mask[:, -3:] == 1).all() and torch.equal(asked.prompts, ids)


# --- what a model knows by itself ------------------------------------------------------------------------------------


def shown(config, text, *grids):
    """Text ids, then pictures' placeholders: [1, T]."""
    return with_pictures(config, *grids, text=torch.tensor([text]))


def test_the_empty_prompt_is_what_the_processor_makes_of_no_prompt(few_codes_arm, tiny_arm_backbones):
    processor = ArmProcessor.from_backbones(**tiny_arm_backbones)
    before, after = few_codes_arm.generation_config.empty_prompt_ids
    assert [*before, *after] == processor.image_generation_inputs("x")["negative_prompt_ids"][0].tolist()


def test_branches_without_text_are_those_of_the_processor(few_codes_arm, tiny_arm_backbones):
    processor, config = ArmProcessor.from_backbones(**tiny_arm_backbones), few_codes_arm.config
    empty, picture = few_codes_arm.generation_config.empty_prompt_ids, Image.new("RGB", (48, 32))
    for sources in (None, [picture, [picture, picture]]):
        inputs = processor.image_generation_inputs(["a red circle", "a"], sources)
        branches = branches_without_text(config, inputs["input_ids"], empty)
        wanted = {name: value for name, value in inputs.items() if "prompt" in name}
        assert branches.keys() == wanted.keys()
        for name, value in wanted.items():
            mask = wanted[name.replace("prompt_ids", "prompt_attention_mask")].bool()
            assert torch.equal(branches[name][mask], value[mask]), name


def test_prompts_with_pictures_and_without_are_not_guided_together(few_codes_arm):
    config = few_codes_arm.config
    rows = [shown(config, [11, 12], (1, 2)), shown(config, list(range(11, 20)))]
    ids = torch.cat([torch.nn.functional.pad(row, (9 - row.shape[1], 0), value=11) for row in rows])
    with pytest.raises(ValueError, match="1 of 2 prompts show pictures and the others none"):
        branches_without_text(config, ids, [[11], [12]])


def test_the_grid_is_that_of_the_last_picture_or_the_tokenizers(few_codes_arm):
    config = few_codes_arm.config
    assert default_grid(config, torch.tensor([[11, 12]])) == (3, 3) == config.default_grid
    assert default_grid(config, shown(config, [11], (1, 2), (2, 1))) == (2, 1)
    rows = torch.cat([shown(config, [11], (1, 2)), shown(config, [11], (2, 1))])
    with pytest.raises(ValueError, match="have the grids 1x2, 2x1; state image_grid"):
        default_grid(config, rows)


def test_what_pipelines_say_of_texts_does_not_disturb_an_image(few_codes_arm):
    """transformers 5.17 hands on a configuration with all of its defaults filled in, newer ones `max_new_tokens`."""
    config = copy.deepcopy(few_codes_arm.generation_config)
    filled = GenerationConfig._get_default_generation_params()
    config.update(**{name: value for name, value in filled.items() if getattr(config, name, None) is None})
    given = {"inputs": torch.tensor([[11, 12]]), "generation_mode": "image"}
    wanted, *others = (
        few_codes_arm.generate(**given, **options, generator=torch.Generator().manual_seed(0))
        for options in ({}, {"max_new_tokens": 256}, {"generation_config": config})
    )
    assert wanted.shape == (1, 2 + 3 + 9 + 1) and all(torch.equal(wanted, each) for each in others)
