"""What generation refuses: values out of bounds, arguments of other modes, pictures without placeholders."""

import pytest
import torch
from generation_requests import PLAIN, Prefers, draw, pictures, prompts, with_pictures
from transformers import GenerationConfig


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"generation_mode": "picture"}, "Unknown generation_mode 'picture'; use one of text, image, interleaved"),
        ({"generation_mode": None}, "Unknown generation_mode None"),
        ({"image_grid": (0, 3)}, r"Grid 0x3 .*1\.\.128"),
        ({"image_grid": (129, 1)}, r"Grid 129x1 .*1\.\.128"),
        ({"image_grid": (2.0, 3)}, r"Grid 2.0x3 .* whole numbers"),
        ({"image_grid": (2, 3, 4)}, r"needs image_grid=\(H, W\), in tokens, not \(2, 3, 4\)"),
        ({"image_grid": 4}, "in tokens, not 4"),
        ({"image_grid": True}, "in tokens, not True"),
        ({"image_grid": "12"}, "Grid 1x2 .* whole numbers"),
        (
            {"image_guidance_scale": 1.25, "image_prompt_ids": prompts(2)},
            "image_guidance_scale 1.25 needs negative_prompt_ids",
        ),
        (
            {"guidance_scale": 2, "negative_prompt_ids": prompts(3)},
            r"negative_prompt_ids \[3, 6\] must be \[2, T\]: one prompt for each",
        ),
        (
            {"guidance_scale": 2, "negative_prompt_ids": prompts(2), "image_prompt_ids": prompts(1)},
            r"image_prompt_ids \[1, 6\] must be \[2, T\]",
        ),
        (
            {"guidance_scale": 2, "negative_prompt_ids": prompts(2)[0]},
            r"negative_prompt_ids \[6\] must be \[2, T\]",
        ),
        ({"attention_mask": torch.ones(2, 4)}, r"attention mask of input_ids \[2, 4\] must be \[2, 6\]"),
        ({"input_ids": torch.zeros(2, 0, dtype=int)}, r"input_ids .* at least one prompt and one token"),
        ({"input_ids": torch.zeros(0, 3, dtype=int)}, r"input_ids .* at least one"),
        ({"input_ids": None}, "needs input_ids"),
        ({"input_ids": None, "pixel_values": pictures((1, 1))}, "needs input_ids"),
        ({"temperature": 0}, "temperature 0 must be a finite number above 0; do_sample=False"),
        ({"temperature": -1.0}, "temperature -1.0 must be a finite number above 0"),
        ({"temperature": float("nan")}, "temperature nan must be a finite number above 0"),
        ({"temperature": float("inf")}, "temperature inf must be a finite number above 0"),
        (
            {"guidance_scale": -1, "negative_prompt_ids": prompts(2)},
            "guidance_scale -1 must be a finite number, 0 or more; 1 turns",
        ),
        ({"image_guidance_scale": -0.5}, "image_guidance_scale -0.5 must be a finite number, 0 or more"),
        ({"guidance_scale": float("nan")}, "guidance_scale nan must be a finite number"),
        ({"top_p": 0}, r"top_p 0 must be above 0 and at most 1"),
        ({"top_p": 1.5}, r"top_p 1.5 must be above 0 and at most 1"),
        ({"top_k": -1}, "top_k -1 must be a whole number, 0"),
        ({"top_k": 2.5}, "top_k 2.5 must be a whole number"),
        ({"num_return_sequences": 0}, "num_return_sequences 0 must be a whole number, 1 or more"),
        ({"num_return_sequences": 1.5}, "num_return_sequences 1.5 must be a whole number"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value),
)
def test_image_mode_refuses_values_out_of_bounds(shared, arguments, message):
    good = {"input_ids": prompts(2), "generation_mode": "image", "image_grid": (2, 2), **PLAIN}
    with pytest.raises(ValueError, match=message):
        shared.generate(**good | arguments)


@pytest.mark.parametrize("scale", [0, 1.5])
def test_guidance_without_another_branch_is_refused_where_the_model_knows_none(model, scale):
    model.generation_config.empty_prompt_ids = None
    message = f"guidance_scale {scale} needs negative_prompt_ids; .*, and guidance_scale=1 does without"
    with pytest.raises(ValueError, match=message):
        draw(model, prompts(2), guidance_scale=scale)


@pytest.mark.parametrize(
    "name, value", [("num_beams", 4), ("min_new_tokens", 3), ("tempreature", 1.0), ("typical_p", 0)]
)
def test_image_mode_refuses_arguments_that_it_does_not_take(shared, name, value):
    with pytest.raises(TypeError, match=f"generation_mode='image' takes no {name}; it takes do_sample, temperature"):
        draw(shared, prompts(1), **{name: value})


def test_unknown_settings_in_the_generation_config_are_refused(shared):
    with pytest.raises(TypeError, match="takes no num_beams"):
        shared.generate(
            prompts(1), GenerationConfig(image_generation={"num_beams": 2}), generation_mode="image", image_grid=(1, 1)
        )


def test_image_mode_refuses_processors_of_the_flat_vocabulary(shared):
    with pytest.raises(TypeError, match="takes no logits_processor"):
        draw(shared, prompts(1), logits_processor=[Prefers([3])])


@pytest.mark.parametrize("mode", ["text", "interleaved"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"image_grid": (2, 2)},
        {"image_grid": False},
        {"image_guidance_scale": 0},
        {"generator": 0},
        {"image_prompt_ids": prompts(1)},
        {"image_prompt_attention_mask": prompts(1)},
        {"edit_mask": torch.ones(1, 2, 2, dtype=bool)},
    ],
    ids=lambda value: ",".join(value),
)
def test_other_modes_refuse_arguments_of_images(shared, mode, arguments):
    with pytest.raises(
        TypeError, match=f"{next(iter(arguments))} belongs to generation_mode='image', not to '{mode}'"
    ):
        shared.generate(prompts(1), generation_mode=mode, **arguments)


def test_pictures_need_ids_in_every_mode(shared):
    for mode in ("text", "interleaved", "image"):
        with pytest.raises(ValueError, match="needs input_ids"):
            grid = {"image_grid": (1, 1)} if mode == "image" else {}
            shared.generate(generation_mode=mode, pixel_values=pictures((1, 1)), **grid)


def test_misspelled_arguments_of_text_are_refused(shared):
    with pytest.raises(ValueError, match="max_new_token"):
        shared.generate(prompts(1), max_new_token=3)


@pytest.mark.parametrize("mode", ["text", "interleaved", "image"])
def test_placeholders_without_their_pictures_are_refused(shared, mode):
    ids = with_pictures(shared.config, (2, 2), text=prompts(1))
    with pytest.raises(ValueError, match="placeholders .* but there are no pixel_values"):
        shared.generate(ids, generation_mode=mode, **({"image_grid": (1, 1), **PLAIN} if mode == "image" else {}))


@pytest.mark.parametrize("name", ["negative_prompt_ids", "image_prompt_ids"])
def test_placeholders_in_other_branches_without_pictures_are_refused(shared, name):
    branches = {"negative_prompt_ids": prompts(2), "image_prompt_ids": prompts(2, seed=1), **PLAIN}
    branches[name] = branches[name].clone()
    branches[name][0, 2] = shared.config.image_token_id
    with pytest.raises(ValueError, match=f"{name} hold placeholders .* there are no pixel_values for them"):
        shared.generate(prompts(2), generation_mode="image", image_grid=(2, 2), **branches)


def test_placeholders_of_the_unconditional_branch_have_no_pictures_at_all(shared):
    negative = prompts(1)
    negative[0, 2] = shared.config.image_token_id
    ids = with_pictures(shared.config, (1, 1), text=prompts(1))
    with pytest.raises(ValueError, match="negative_prompt_ids hold placeholders"):
        shared.generate(
            ids,
            generation_mode="image",
            image_grid=(2, 2),
            negative_prompt_ids=negative,
            pixel_values=pictures((1, 1)),
        )
