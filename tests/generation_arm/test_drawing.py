"""Images come as plain generate draws them, alone or in batches; guidance, masks and seeds do as they say."""

import pytest
import torch
from generation_requests import (
    CODES,
    GREEDY,
    PLAIN,
    assert_follows,
    draw,
    image_part,
    left_padded,
    opened,
    opening_bias,
    pictures,
    prompts,
    seed,
    with_pictures,
)

from transformers_arm.sampling_arm import guided_logits


def warped(logits, temperature=1.0, top_k=0, top_p=1.0):
    """Probabilities [..., V], written once more: temperature, the k likeliest, then the nucleus of what is left."""
    probabilities = (logits.double() / temperature).softmax(-1)
    ordered, order = probabilities.sort(-1, descending=True)
    if top_k:
        ordered[..., top_k:] = 0
    ordered = ordered / ordered.sum(-1, keepdim=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return probabilities / probabilities.sum(-1, keepdim=True)


def next_image_logits(model, input_ids):
    """Uncached logits [B, codes] after sequences [B, T]."""
    with torch.no_grad():
        return model(input_ids, use_cache=False).logits[:, -1, model.config.visual_token_offset :]


# --- the image loop is plain generate --------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, 1), (3, 4), (1, 9), (9, 1)])
def test_greedy_images_are_those_of_plain_generate(shared, grid):
    input_ids = prompts(3)
    count = grid[0] * grid[1]
    plain = shared.generate(
        opened(shared.config, input_ids, *grid), generation_mode="interleaved", max_new_tokens=count + 1, **GREEDY
    )
    image = draw(shared, input_ids, grid, **GREEDY)
    assert torch.equal(image, plain) and torch.equal(image[:, :6], input_ids)
    assert image.shape == (3, 6 + 3 + count + 1)
    assert count == 1 or len(image_part(shared, image, grid).unique()) > 2


@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 0.6}, {"temperature": 1.7, "top_k": 5}, {"top_p": 0.7}, {"top_k": 9, "top_p": 0.8}],
    ids=str,
)
def test_sampled_images_follow_the_distribution_as_do_those_of_plain_generate(shared, sampling):
    input_ids, samples = prompts(1), 1500
    start = opened(shared.config, input_ids, 1, 2)
    first = warped(next_image_logits(shared, start), **sampling)[0]
    both = torch.cat([start.expand(CODES, -1), shared.config.visual_token_offset + torch.arange(CODES)[:, None]], 1)
    joint = first[:, None] * warped(next_image_logits(shared, both), **sampling)
    images = draw(shared, input_ids, (1, 2), num_return_sequences=samples, **sampling)
    plain = shared.generate(
        start.expand(samples, -1),
        generation_mode="interleaved",
        max_new_tokens=3,
        do_sample=True,
        **{"top_k": 0, **sampling},
    )
    for sequences in (images, plain):
        codes = image_part(shared, sequences, (1, 2)).flatten(1)
        counts = torch.bincount(codes[:, 0] * CODES + codes[:, 1], minlength=CODES**2)
        assert_follows(counts, joint.flatten())


def test_top_k_beyond_the_codebook_keeps_every_code(shared):
    several = draw(shared, prompts(1), top_k=10 * CODES, generator=seed(1), num_return_sequences=4)
    assert torch.equal(several, draw(shared, prompts(1), top_k=0, generator=seed(1), num_return_sequences=4))


# --- padding, batches, guidance --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["text", "interleaved"])
def test_a_left_padded_batch_writes_what_single_prompts_do(shared, mode):
    rows = [prompts(1, length, seed=length)[0].tolist() for length in (3, 9, 5)]
    ids, mask = left_padded(rows)
    arguments = {"generation_mode": mode, "max_new_tokens": 25, **GREEDY}
    arguments |= {} if mode == "text" else opening_bias(shared)
    together = shared.generate(ids, attention_mask=mask, **arguments)[:, ids.shape[1] :]
    for row, written in zip(rows, together, strict=True):
        assert torch.equal(shared.generate(torch.tensor([row]), **arguments)[0, len(row) :], written)


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_a_left_padded_batch_draws_what_single_prompts_do(shared, branches):
    lengths = {"input_ids": (3, 9, 5), "negative_prompt_ids": (2, 2, 4), "image_prompt_ids": (7, 4, 12)}
    names = list(lengths)[:branches]
    rows = {name: [prompts(1, n, seed=n)[0].tolist() for n in lengths[name]] for name in names}
    masks = {"input_ids": "attention_mask"} | {
        name: name.replace("_ids", "_attention_mask") for name in ("negative_prompt_ids", "image_prompt_ids")
    }
    batch = {}
    for name in names:
        batch[name], batch[masks[name]] = left_padded(rows[name])
    scales = {} if branches == 1 else {"guidance_scale": 2.0, "image_guidance_scale": 1.5}
    together = draw(shared, grid=(3, 3), **batch, **scales, **GREEDY)
    images = image_part(shared, together, (3, 3))
    assert torch.equal(together[:, :9], batch["input_ids"])
    for index in range(3):
        alone = {name: torch.tensor([rows[name][index]]) for name in names}
        assert torch.equal(
            image_part(shared, draw(shared, grid=(3, 3), **alone, **scales, **GREEDY), (3, 3))[0], images[index]
        )


def test_guidance_of_one_is_no_guidance(shared):
    input_ids, grid = prompts(2), (3, 3)
    plain = draw(shared, input_ids, grid, **GREEDY)
    others = {"negative_prompt_ids": prompts(2, 3, seed=5)}
    assert torch.equal(plain, draw(shared, input_ids, grid, **others, **GREEDY))
    others |= {"image_prompt_ids": prompts(2, 4, seed=6)}
    assert torch.equal(plain, draw(shared, input_ids, grid, **others, **GREEDY))
    guided = draw(shared, input_ids, grid, **others, **GREEDY, guidance_scale=3.0)
    assert not torch.equal(plain, guided)


def test_scales_of_one_take_the_condition_alone_also_when_branches_are_computed():
    logits = torch.randn(3, 4, 8)
    torch.testing.assert_close(guided_logits(logits, 1.0, 1.0), logits[0])
    torch.testing.assert_close(guided_logits(logits[[0, 2]], 1.0), logits[0])
    assert torch.equal(guided_logits(logits[:1], 3.0, 2.0), logits[0])


def test_the_formulas_of_guidance():
    condition, image, nothing = torch.randn(3, 4, 8)
    torch.testing.assert_close(
        guided_logits(torch.stack([condition, nothing]), 1.5), nothing + 1.5 * (condition - nothing)
    )
    torch.testing.assert_close(
        guided_logits(torch.stack([condition, image, nothing]), 1.5, 1.25),
        nothing + 1.25 * (image - nothing) + 1.5 * (condition - image),
    )


def test_each_step_of_text_to_image_guides_by_uncached_logits_of_two_sequences(shared):
    grid = (3, 4)
    sequences = [prompts(1, 7, seed=1), prompts(1, 3, seed=2)]
    image = draw(shared, sequences[0], grid, negative_prompt_ids=sequences[1], guidance_scale=2.5, **GREEDY)
    sequences = [opened(shared.config, ids, *grid) for ids in sequences]
    for token in image_part(shared, image, grid).flatten():
        condition, nothing = (next_image_logits(shared, ids) for ids in sequences)
        assert (nothing + 2.5 * (condition - nothing)).argmax() == token
        sequences = [torch.cat([ids, token.view(1, 1) + shared.config.visual_token_offset], 1) for ids in sequences]


def editing_inputs(config):
    """Two pictures of different sizes, an edit of the second: keywords of `generate`."""
    grids = ((2, 3), (3, 2))
    source = with_pictures(config, *grids, text=prompts(1, 2, seed=1))
    return {
        "input_ids": torch.cat([source, prompts(1, 5, seed=2)], 1),
        "image_prompt_ids": source,
        "negative_prompt_ids": prompts(1, 2, seed=1),
        "pixel_values": pictures(*grids),
    }


def test_each_step_of_editing_guides_by_uncached_logits_of_three_sequences(shared):
    grid, inputs = (3, 2), editing_inputs(shared.config)
    image = draw(shared, grid=grid, **inputs, guidance_scale=1.5, image_guidance_scale=1.25, **GREEDY)
    codes = torch.cat([shared.vq_model.encode(picture[None]).codes.flatten() for picture in inputs["pixel_values"]])
    sequences = []
    for name in ("input_ids", "image_prompt_ids", "negative_prompt_ids"):
        ids = inputs[name].clone()
        if name != "negative_prompt_ids":
            ids[ids == shared.config.image_token_id] = codes + shared.config.visual_token_offset
        sequences.append(opened(shared.config, ids, *grid))
    assert torch.equal(image[:, : sequences[0].shape[1]], sequences[0])
    likeliest = []
    for token in image_part(shared, image, grid).flatten():
        both, picture, nothing = (next_image_logits(shared, ids) for ids in sequences)
        assert (nothing + 1.25 * (picture - nothing) + 1.5 * (both - picture)).argmax() == token
        likeliest.append(both.argmax())
        sequences = [torch.cat([ids, token.view(1, 1) + shared.config.visual_token_offset], 1) for ids in sequences]
    assert likeliest != image_part(shared, image, grid).flatten().tolist()


# --- masks keep tokens of the source ---------------------------------------------------------------------------------


def masked_inputs(config, batch=1):
    """Edits of a 3x3 picture each, and a mask each of half of its cells: keywords of `generate`."""
    source = with_pictures(config, (3, 3), text=prompts(1, 2)).expand(batch, -1)
    return {
        "input_ids": torch.cat([source, prompts(batch, 5, seed=2)], 1),
        "image_prompt_ids": source,
        "negative_prompt_ids": prompts(1, 2).expand(batch, -1),
        "pixel_values": torch.rand(batch, 3, 48, 48, generator=seed(3)) * 2 - 1,
        "edit_mask": torch.rand(batch, 3, 3, generator=seed(4)) < 0.5,
    }


def source_codes(model, inputs):
    return model.vq_model.encode(inputs["pixel_values"]).codes


GUIDED = {"guidance_scale": 1.5, "image_guidance_scale": 1.25}


@pytest.mark.parametrize("sampling", [GREEDY, {}], ids=["greedy", "sampled"])
def test_masked_edits_are_the_sources_tokens_outside_the_mask_and_the_edits_within(shared, sampling):
    inputs = masked_inputs(shared.config, batch=2)
    unmasked = {name: value for name, value in inputs.items() if name != "edit_mask"}
    masked, plain = (
        image_part(shared, draw(shared, grid=(3, 3), **given, **GUIDED, **sampling, generator=seed(0)), (3, 3))
        for given in (inputs, unmasked)
    )
    mask, source = inputs["edit_mask"], source_codes(shared, inputs)
    assert torch.equal(masked, torch.where(mask, plain, source))
    assert (plain != source)[mask].any() and (plain != source)[~mask].any()


def test_a_mask_of_everything_is_no_mask_and_one_of_nothing_gives_the_source(shared):
    inputs = masked_inputs(shared.config, batch=2)
    mask = inputs.pop("edit_mask")
    plain = draw(shared, grid=(3, 3), **inputs, generator=seed(0))
    assert torch.equal(draw(shared, grid=(3, 3), **inputs, edit_mask=mask | True, generator=seed(0)), plain)
    kept = draw(shared, grid=(3, 3), **inputs, edit_mask=mask & False, generator=seed(0))
    assert torch.equal(image_part(shared, kept, (3, 3)), source_codes(shared, inputs)) and not torch.equal(kept, plain)


@pytest.mark.parametrize("scales", [PLAIN, GUIDED], ids=["plain", "guided"])
def test_masked_draws_do_not_depend_on_what_else_is_in_the_batch(shared, scales):
    inputs = masked_inputs(shared.config, batch=3)
    inputs["edit_mask"][1] = True
    generators = [seed(number) for number in range(6)]
    together = draw(shared, grid=(3, 3), **inputs, **scales, num_return_sequences=2, generator=generators)
    assert len(together.unique(dim=0)) == 6
    for index, image in enumerate(together):
        alone = {name: value[index // 2][None] for name, value in inputs.items()}
        assert torch.equal(draw(shared, grid=(3, 3), **alone, **scales, generator=seed(index))[0], image)
    unmasked = {name: value for name, value in inputs.items() if name != "edit_mask"}
    generators = [seed(number) for number in range(6)]
    unmasked = draw(shared, grid=(3, 3), **unmasked, **scales, num_return_sequences=2, generator=generators)
    assert torch.equal(unmasked[2:4], together[2:4])


def test_the_last_picture_of_a_prompt_is_the_source_also_where_tokens_stand_in_the_prompt(shared):
    grids = ((3, 2), (3, 2))
    ids = torch.cat([with_pictures(shared.config, *grids, text=prompts(1, 2)), prompts(1, 3)], 1)
    mask = torch.zeros(1, 3, 2, dtype=bool)
    kept = draw(shared, ids, (3, 2), pixel_values=pictures(*grids), edit_mask=mask)
    filled = shared.model.fill_image_tokens(ids, pictures(*grids))
    assert torch.equal(draw(shared, filled, (3, 2), edit_mask=mask), kept)
    both = [shared.vq_model.encode(torch.rand(1, 3, 48, 32, generator=seed(n)) * 2 - 1).codes for n in (5, 6)]
    assert not torch.equal(*both)
    filled = shared.model.place_image_tokens(
        ids, torch.cat([codes.flatten() for codes in both]) + shared.config.visual_token_offset, "they"
    )
    assert torch.equal(image_part(shared, draw(shared, filled, (3, 2), edit_mask=mask), (3, 2)), both[1])


@pytest.mark.parametrize(
    "mask, message",
    [
        (torch.ones(2, 3, 3), r"edit_mask must be a bool tensor \[2, 3, 3\], not torch.float32; True is where"),
        ([[[True] * 3] * 3] * 2, r"edit_mask must be a bool tensor \[2, 3, 3\], not list"),
        (torch.ones(2, 9, dtype=bool), r"edit_mask \[2, 9\] must be \[2, 3, 3\]"),
        (torch.ones(1, 3, 3, dtype=bool), r"edit_mask \[1, 3, 3\] must be \[2, 3, 3\]"),
    ],
    ids=["float", "list", "flat", "one"],
)
def test_masks_of_other_kinds_and_shapes_are_refused(shared, mask, message):
    with pytest.raises(ValueError, match=message):
        draw(shared, grid=(3, 3), **masked_inputs(shared.config, batch=2) | {"edit_mask": mask})


def test_a_mask_needs_a_picture_of_its_grid_in_every_prompt(shared):
    mask, message = torch.ones(2, 2, 3, dtype=bool), "not every prompt of input_ids has one of grid 2x3"
    with pytest.raises(ValueError, match=message):
        draw(shared, prompts(2), (2, 3), edit_mask=mask)
    ids = with_pictures(shared.config, (3, 2), text=prompts(2, 2)[:1]).expand(2, -1)
    with pytest.raises(ValueError, match=message):
        draw(shared, ids, (2, 3), edit_mask=mask, pixel_values=pictures((3, 2), (3, 2)))
    rows = [with_pictures(shared.config, (2, 3), text=prompts(1, 2))[0].tolist(), prompts(1)[0].tolist()]
    ids, attention_mask = left_padded(rows)
    with pytest.raises(ValueError, match=message):
        draw(shared, ids, (2, 3), edit_mask=mask, attention_mask=attention_mask, pixel_values=pictures((2, 3)))


def test_pictures_of_one_size_may_come_stacked(shared):
    inputs = editing_inputs(shared.config)
    for name in ("input_ids", "image_prompt_ids"):
        inputs[name] = with_pictures(shared.config, (2, 3), (2, 3), text=prompts(1, 3))
    both = pictures((2, 3), (2, 3))
    draws = [
        draw(shared, grid=(2, 2), **inputs | {"pixel_values": each}, **GREEDY) for each in (both, torch.stack(both))
    ]
    assert torch.equal(*draws)


def test_text_mode_reads_pictures_too(shared):
    inputs = editing_inputs(shared.config)
    ids = shared.model.fill_image_tokens(inputs["input_ids"], inputs["pixel_values"])
    pictured = shared.generate(inputs["input_ids"], pixel_values=inputs["pixel_values"], max_new_tokens=6, **GREEDY)
    assert torch.equal(pictured, shared.generate(ids, max_new_tokens=6, **GREEDY))


# --- seeds and numbers of images -------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_image(shared):
    first, again, other = (draw(shared, prompts(2), (4, 4), generator=seed(number)) for number in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(5)
    unseeded = draw(shared, prompts(2), (4, 4))
    torch.manual_seed(5)
    assert torch.equal(unseeded, draw(shared, prompts(2), (4, 4)))


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_generator_an_image_makes_it_independent_of_its_batch(shared, kind):
    ids, scales = prompts(3), {"guidance_scale": 1.5, "image_guidance_scale": 1.5}
    negative = prompts(3, 2, seed=9)
    together = draw(
        shared,
        ids,
        (3, 3),
        negative_prompt_ids=negative,
        num_return_sequences=2,
        generator=kind(seed(number) for number in range(6)),
        **scales,
    )
    assert len(together.unique(dim=0)) == 6
    for index, image in enumerate(together):
        prompt, nothing = ids[index // 2][None], negative[index // 2][None]
        for generator in (seed(index), [seed(index)]):
            alone = draw(shared, prompt, (3, 3), negative_prompt_ids=nothing, generator=generator, **scales)
            assert torch.equal(alone[0], image)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_generators_must_be_as_many_as_images(shared, count):
    with pytest.raises(ValueError, match=f"Got {count} generators for 4 images; give one for all or one an image"):
        draw(shared, prompts(2), num_return_sequences=2, generator=[seed(0)] * count)


def test_images_of_a_prompt_stand_next_to_each_other(shared):
    ids = prompts(2)
    greedy = draw(shared, ids, num_return_sequences=3, **GREEDY)
    assert torch.equal(greedy, draw(shared, ids, **GREEDY).repeat_interleave(3, 0))
    sampled = draw(shared, ids, (4, 4), num_return_sequences=3)
    assert torch.equal(sampled[:, :6], ids.repeat_interleave(3, 0)) and len(sampled.unique(dim=0)) == 6
