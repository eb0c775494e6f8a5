"""Generation: valid images whatever the weights, and text, batches and guidance as the formulas say."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    TextIteratorStreamer,
    TextStreamer,
)

from transformers_arm.configuration_arm import ArmVQConfig
from transformers_arm.generation_arm import IMAGE_GENERATION, guided_logits, sample_tokens, stack_left_padded
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.modeling_arm_vq import ArmVQModel

CODES = 16  # few, so that distributions can be counted
PLAIN = {"guidance_scale": 1, "image_guidance_scale": 1}
GREEDY = {"do_sample": False}
EOS, PAD = 7, 8  # ids of ordinary text rows


@pytest.fixture(scope="module")
def backbones(tiny_arm_backbones, tmp_path_factory):
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    folder = tmp_path_factory.mktemp("vq")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = ArmVQConfig(
            vision_config=vision | {"image_size": 48, "patch_size": 16}, num_projection_layers=1, fsq_levels=[2] * 4
        )
        vq = ArmVQModel(config).train()
        for _ in range(3):  # its batch norm has to see pictures, or codes hardly differ
            vq(torch.rand(4, 3, 48, 48) * 2 - 1)
    vq.save_pretrained(folder)
    return tiny_arm_backbones | {"vq": str(folder)}


@pytest.fixture(scope="module")
def shared(backbones):
    """An untrained ARM with 16 codes. Treat it as read-only."""
    torch.manual_seed(0)
    return ArmForCausalLM.from_backbones(**backbones).eval()


@pytest.fixture
def model(shared):
    """An ARM to be changed."""
    return copy.deepcopy(shared)


@pytest.fixture(scope="module")
def tokenizer(backbones):
    return AutoTokenizer.from_pretrained(backbones["text"])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def prompts(batch=2, length=6, seed=0):
    """Text ids [batch, length]."""
    return torch.randint(10, 256, (batch, length), generator=torch.Generator().manual_seed(seed))


def left_padded(rows):
    """Lists of ids, or tensors -> ids and attention mask [B, T]."""
    ids, masks = stack_left_padded([(torch.tensor([row]), torch.ones(1, len(row), dtype=int)) for row in rows])
    return ids, masks


def opened(config, input_ids, height, width):
    first = config.shape_token_offset - 1
    opening = input_ids.new_tensor([config.vision_start_token_id, first + height, first + 128 + width])
    return torch.cat([input_ids, opening.expand(len(input_ids), 3)], 1)


def seed(number):
    return torch.Generator().manual_seed(number)


def draw(model, input_ids=None, grid=(2, 3), **kwargs):
    """Image mode without guidance unless it is asked for."""
    return model.generate(input_ids=input_ids, generation_mode="image", image_grid=grid, **{**PLAIN, **kwargs})


def image_part(model, sequences, grid):
    """The codes [B, H, W] of sequences that end in an image of this grid."""
    height, width = grid
    config, count = model.config, height * width
    first = config.shape_token_offset - 1
    ends = sequences[:, -count - 4 :]
    opening = torch.tensor([config.vision_start_token_id, first + height, first + 128 + width])
    assert (ends[:, :3] == opening).all() and (ends[:, -1] == config.vision_end_token_id).all()
    codes = ends[:, 3:-1] - config.visual_token_offset
    assert codes.shape[1] == count and codes.min() >= 0 and codes.max() < CODES
    return codes.view(-1, height, width)


def parse(model, written, eos=EOS, pad=PAD):
    """The grids of the images in written ids; fails at whatever is not text and whole images, then padding."""
    config, ids, grids = model.config, written.tolist(), []
    heights, widths = config.shape_token_offset, config.shape_token_offset + 128
    while ids:
        token = ids.pop(0)
        if token == eos:
            assert set(ids) <= {pad}, "a finished row holds padding only"
            break
        if token != config.vision_start_token_id:
            assert 0 <= token < config.visual_token_offset and not heights <= token < widths + 128, token
            assert token not in (config.vision_end_token_id, config.image_token_id), token
            continue
        assert len(ids) >= 2, "a shape is cut off"
        height, width = ids.pop(0) - heights + 1, ids.pop(0) - widths + 1
        assert 1 <= height <= 128 and 1 <= width <= 128
        codes = torch.tensor(ids[: height * width]) - config.visual_token_offset
        assert len(ids) > height * width, f"{height}x{width} is cut off after {len(codes)}"
        assert codes.min() >= 0 and codes.max() < CODES
        assert ids[height * width] == config.vision_end_token_id
        ids = ids[height * width + 1 :]
        grids.append((height, width))
    return grids


def opening_bias(model, strength=8.0):
    """Keywords of `generate` that make images open often."""
    return {"sequence_bias": {(model.config.vision_start_token_id,): strength}}


def force(model, token, strength=20.0):
    """Makes the first hidden feature a constant, and the head so that text positions prefer this row by it."""
    with torch.no_grad():
        model.model.norm.weight[0] = 0
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[token, 0] = strength
    constant = torch.eye(model.config.hidden_size)[0]
    model.model.norm.register_forward_hook(lambda module, args, output: output + constant)
    return model


def assert_follows(counts, probabilities, at_least=1e-4):
    """A chi-square test of counts against probabilities; rows too rare to be tested are put together."""
    expected = probabilities * counts.sum()
    assert (counts[expected == 0] == 0).all(), "what has no probability was drawn"
    often = expected >= 8
    counts = torch.cat([counts[often], counts[~often].sum()[None]]).double()
    expected = torch.cat([expected[often], expected[~often].sum()[None]]).double()
    counts, expected = counts[expected > 0], expected[expected > 0]
    chi_square = ((counts - expected) ** 2 / expected).sum()
    p_value = torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2.0).double(), chi_square / 2)
    assert len(counts) > 3 and p_value > at_least, f"chi-square {chi_square:.1f} over {len(counts)} bins"


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


def with_pictures(config, *grids, text):
    """Text ids, then the placeholders of pictures of these grids: [1, T]."""
    ids = text
    for height, width in grids:
        pad = ids.new_full((1, height * width), config.image_token_id)
        ids = torch.cat([opened(config, ids, height, width), pad, pad[:, :1] * 0 + config.vision_end_token_id], 1)
    return ids


def pictures(*grids):
    return [torch.rand(3, 16 * height, 16 * width, generator=seed(height)) * 2 - 1 for height, width in grids]


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


# --- images are valid whatever the weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grid", [(1, 1), (1, 12), (12, 1), (6, 6)], ids=str)
def test_an_untrained_model_draws_images_of_the_grid_asked_for(model, grid, dtype):
    model, input_ids = model.to(dtype), prompts(2)
    start, count = opened(model.config, input_ids, *grid), grid[0] * grid[1]
    for settings in ({"temperature": 1e-3}, {"temperature": 1e4}, {"top_k": 3, "top_p": 0.1}):
        image = draw(model, input_ids, grid, **settings)
        plain = model.generate(
            start, generation_mode="interleaved", do_sample=True, max_new_tokens=count + 1, **settings
        )
        for sequences in (image, plain):
            codes = image_part(model, sequences, grid)
            assert model.vq_model.decode_codes(codes).isfinite().all()
            assert all(parse(model, row) == [grid] for row in sequences[:, 6:])


def test_temperatures_draw_from_the_likeliest_code_to_all_of_them(shared):
    cold = draw(shared, prompts(1), (1, 8), temperature=1e-3, num_return_sequences=50)
    assert torch.equal(cold, draw(shared, prompts(1), (1, 8), **GREEDY).expand(50, -1))
    hot = image_part(shared, draw(shared, prompts(1), (1, 8), temperature=1e4, num_return_sequences=500), (1, 8))
    assert_follows(torch.bincount(hot.flatten(), minlength=CODES), torch.full((CODES,), 1 / CODES))


def test_every_image_that_the_model_opens_is_finished_within_any_budget(shared):
    input_ids, sizes = prompts(24), set()
    for budget in (*range(1, 17), 23, 31, 47):
        length = {"max_length": 6 + budget} if budget % 2 else {"max_new_tokens": budget}
        torch.manual_seed(budget)
        written = shared.generate(
            input_ids, generation_mode="interleaved", do_sample=True, top_k=0, **length, **opening_bias(shared)
        )[:, input_ids.shape[1] :]
        assert written.shape[1] == budget
        grids = [parse(shared, row, eos=None) for row in written]
        sizes.update(size for row in grids for size in row)
        assert any(grids) == (budget >= 5)
    assert len(sizes) > 15 and any(height > 3 for height, _ in sizes) and any(width > 3 for _, width in sizes)


@pytest.mark.parametrize("budget", [5, 6, 7, 9, 12])
def test_every_shape_that_fits_the_budget_can_open_and_no_other(shared, budget):
    written = shared.generate(
        prompts(1).expand(600, -1),
        generation_mode="interleaved",
        do_sample=True,
        temperature=50.0,
        top_k=0,
        max_new_tokens=budget,
        **opening_bias(shared, 1000.0),
    )[:, 6:]
    first = {parse(shared, row, eos=None)[0] for row in written}
    most = budget - 4
    assert first == {(h, w) for h in range(1, most + 1) for w in range(1, most + 1) if h * w <= most}


def test_a_model_whose_head_opens_images_writes_one_after_the_other(model):
    model = force(model, model.config.vision_start_token_id)
    written = model.generate(prompts(6), generation_mode="interleaved", do_sample=True, top_k=0, max_new_tokens=60)[
        :, 6:
    ]
    grids = [parse(model, row, eos=None) for row in written]
    assert max(len(row) for row in grids) >= 2
    assert all(row[0] == model.config.vision_start_token_id for row in written)
    pairs = [(a, b) for row in written.tolist() for a, b in zip(row, row[1:], strict=False)]
    assert (model.config.vision_end_token_id, model.config.vision_start_token_id) in pairs


def test_without_a_bound_of_length_an_image_opens_by_default_within_twenty_tokens(shared):
    written = shared.generate(prompts(8, 30), generation_mode="interleaved", do_sample=True, **opening_bias(shared))
    grids = [parse(shared, row[30:], eos=None) for row in written]
    assert written.shape == (8, 50) and any(grids)


def test_rows_that_finish_are_padded_while_others_are_in_the_middle_of_images(shared):
    bias = {"sequence_bias": {(shared.config.vision_start_token_id,): 7.0, (EOS,): 6.5}}
    written = shared.generate(
        prompts(32),
        generation_mode="interleaved",
        do_sample=True,
        top_k=0,
        max_new_tokens=40,
        eos_token_id=EOS,
        pad_token_id=PAD,
        **bias,
    )[:, 6:]
    grids = [parse(shared, row) for row in written]
    finished = [(row == EOS).any().item() for row in written]
    assert any(finished) and not all(finished) and sum(map(len, grids)) > 20 and any(not row for row in grids)


def test_prompts_in_different_states_continue_each_as_it_must(shared):
    config = shared.config
    text = prompts(1, 4)[0].tolist()
    start = opened(config, prompts(1, 4), 2, 2)[0].tolist()
    token = config.visual_token_offset + 3
    rows = [text, start[:-2], start[:-1], start, start + [token], start + [token] * 4, start + [token] * 4]
    rows[-1] = rows[-1] + [config.vision_end_token_id] + text
    ids, mask = left_padded(rows)
    written = shared.generate(ids, attention_mask=mask, generation_mode="interleaved", max_new_tokens=12, **GREEDY)
    for row, full in zip(rows, written, strict=True):
        parse(shared, torch.tensor(row[4:] + full[ids.shape[1] :].tolist()), eos=None)


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 3.0}], ids=["beams", "sampled beams"])
def test_beam_search_writes_whole_images(shared, sampling):
    found = []
    for budget in (8, 14, 25):
        written = shared.generate(
            prompts(4),
            generation_mode="interleaved",
            num_beams=3,
            num_return_sequences=3,
            max_new_tokens=budget,
            eos_token_id=EOS,
            pad_token_id=PAD,
            **opening_bias(shared),
            **sampling,
        )[:, 6:]
        assert len(written) == 12
        found += [grid for row in written for grid in parse(shared, row)]
    assert len(set(found)) > 1


@pytest.mark.parametrize("beams", [1, 3])
def test_an_opened_prompt_is_drawn_by_beams_too(shared, beams):
    start = opened(shared.config, prompts(2), 2, 3)
    written = shared.generate(start, generation_mode="interleaved", num_beams=beams, max_new_tokens=7, **GREEDY)
    image_part(shared, written, (2, 3))


def test_prompt_lookup_writes_what_plain_greedy_decoding_does(shared):
    config = shared.config
    image = opened(config, prompts(1, 3), 1, 2)[0].tolist() + [config.visual_token_offset] * 2
    ids = torch.tensor([(image + [config.vision_end_token_id]) * 2 + prompts(1, 3)[0].tolist()])
    for mode in ("text", "interleaved"):
        arguments = {"generation_mode": mode, "max_new_tokens": 20, **GREEDY, **opening_bias(shared)}
        plain = shared.generate(ids, **arguments)
        assert torch.equal(plain, shared.generate(ids, prompt_lookup_num_tokens=4, **arguments))


def test_an_image_in_the_prompt_that_states_no_shape_is_closed(shared):
    ids = torch.tensor([[30, shared.config.visual_token_offset + 1]])
    written = shared.generate(ids, max_new_tokens=1)
    assert written[0, -1] == shared.config.vision_end_token_id


# --- text opens no image ---------------------------------------------------------------------------------------------


def image_ids(config):
    shapes = range(config.shape_token_offset, config.shape_token_offset + 256)
    return {config.vision_start_token_id, config.vision_end_token_id, config.image_token_id, *shapes}


class Prefers(LogitsProcessor):
    def __init__(self, tokens):
        self.tokens = list(tokens)

    def __call__(self, input_ids, scores):
        scores[:, self.tokens] += 1000.0
        return scores


@pytest.mark.parametrize(
    "arguments",
    [
        {"do_sample": True, "temperature": 100.0, "top_k": 0},
        {"do_sample": True, "temperature": 100.0, "top_k": 0, "num_return_sequences": 8},
        {"num_beams": 4, "num_return_sequences": 4},
        {"num_beams": 3, "do_sample": True, "temperature": 30.0},
        {"do_sample": True, "top_k": 1, "min_p": 0.1, "typical_p": 0.5},
        {"do_sample": True, "top_p": 0.01, "epsilon_cutoff": 0.5, "eta_cutoff": 0.5},
        {},
        {"guidance_scale": 2.0},
        {"renormalize_logits": True, "remove_invalid_values": True, "repetition_penalty": 1.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("preferred", [False, True], ids=["plain", "preferred"])
def test_text_mode_never_opens_an_image(shared, arguments, preferred):
    config = shared.config
    processors = [Prefers([*image_ids(config), config.visual_token_offset])] if preferred else None
    written = shared.generate(
        prompts(8),
        logits_processor=processors,
        max_new_tokens=25,
        eos_token_id=EOS,
        pad_token_id=PAD,
        **arguments,
    )[:, 6:]
    assert not image_ids(config) & set(written.flatten().tolist())
    assert written.max() < config.visual_token_offset
    assert all(parse(shared, row) == [] for row in written)


def test_a_head_that_only_knows_to_open_images_still_writes_text(model):
    model = force(model, model.config.vision_start_token_id, strength=1e4)
    for arguments in (GREEDY, {"do_sample": True, "top_k": 1}, {"num_beams": 2}):
        parse(model, model.generate(prompts(2), max_new_tokens=8, **arguments)[0, 6:])


@pytest.fixture(scope="module")
def qwen2(shared):
    """The Qwen2 of the text rows."""
    config, state = shared.config, shared.state_dict()
    text = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    qwen2 = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=config.visual_token_offset, **{name: getattr(config, name) for name in text})
    )
    state = {name: tensor for name, tensor in state.items() if "vq_model" not in name}
    rows = ("model.embed_tokens.weight", "lm_head.weight")
    qwen2.load_state_dict(state | {name: state[name][: config.visual_token_offset] for name in rows})
    return qwen2.eval()


@pytest.mark.parametrize(
    "arguments",
    [
        GREEDY,
        {"num_beams": 4, "num_return_sequences": 4},
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("kept_out_by", ["suppress_tokens", "sequence_bias"])
def test_text_is_that_of_its_qwen2_where_that_one_writes_no_image_token(shared, qwen2, arguments, kept_out_by):
    ids, mask = left_padded([prompts(1, length, seed=length)[0].tolist() for length in (4, 7)])
    arguments = {"attention_mask": mask, "max_new_tokens": 12, "eos_token_id": EOS, "pad_token_id": PAD, **arguments}
    forbidden = sorted(image_ids(shared.config))
    if kept_out_by == "suppress_tokens":
        theirs = qwen2.generate(ids, suppress_tokens=forbidden, **arguments)
    else:  # what they lose in both is the same
        arguments["sequence_bias"] = {(token,): -50.0 for token in forbidden}
        theirs = qwen2.generate(ids, **arguments)
    assert not set(forbidden) & set(theirs.flatten().tolist())
    assert torch.equal(shared.generate(ids, **arguments), theirs)


def test_sampled_text_has_the_probabilities_of_its_qwen2(shared, qwen2):
    arguments = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "max_new_tokens": 1}
    arguments |= {"return_dict_in_generate": True, "output_scores": True}
    ours = shared.generate(prompts(3), **arguments).scores[0].softmax(-1)
    theirs = (
        qwen2.generate(prompts(3), suppress_tokens=sorted(image_ids(shared.config)), **arguments).scores[0].softmax(-1)
    )
    torch.testing.assert_close(ours[:, : theirs.shape[1]], theirs)
    assert not ours[:, theirs.shape[1] :].any() and (theirs > 0).sum() > 6


def test_arguments_and_generation_configs_of_text_are_those_of_transformers(shared):
    config = GenerationConfig(max_new_tokens=7, do_sample=False, eos_token_id=None, pad_token_id=PAD)
    ids = prompts(2)
    assert torch.equal(shared.generate(ids, config), shared.generate(ids, max_new_tokens=7, do_sample=False))
    assert shared.generate(ids, generation_config=config).shape == (2, 13)
    assert shared.generate(ids, GenerationConfig(max_length=9)).shape == (2, 9)
    sampled = [shared.generate(ids, GenerationConfig(max_new_tokens=9, do_sample=True)) for _ in range(2)]
    assert not torch.equal(*sampled)
    assert shared.generate(ids).shape == (2, 26)
    assert shared.generate(input_ids=ids, max_new_tokens=3).shape == (2, 9)


@pytest.mark.parametrize("mode", ["text", "interleaved"])
def test_text_continues_embeddings(shared, mode):
    ids = prompts(2)
    embeddings = shared.get_input_embeddings()(ids)
    arguments = {"generation_mode": mode, **GREEDY} | ({} if mode == "text" else opening_bias(shared))
    for length in ({"max_new_tokens": 17}, {"max_length": 23}):
        written = shared.generate(inputs_embeds=embeddings, **arguments, **length)
        assert torch.equal(written, shared.generate(ids, **arguments, **length)[:, 6:])
        assert all(parse(shared, row, eos=None) or mode == "text" for row in written)


def test_text_with_scores_in_a_dictionary(shared):
    output = shared.generate(
        prompts(2), max_new_tokens=4, return_dict_in_generate=True, output_scores=True, output_logits=True
    )
    assert output.sequences.shape == (2, 10) and len(output.scores) == 4
    forbidden = sorted(image_ids(shared.config))
    assert all((scores[:, forbidden] == -torch.inf).all() for scores in output.scores)
    assert all(logits.isfinite().all() for logits in output.logits)


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


def test_sampling_rows_with_a_generator_each_is_sampling_each_row():
    scores = torch.randn(4, 9)
    together = sample_tokens(scores, [seed(number) for number in range(4)])
    assert together.tolist() == [int(sample_tokens(scores[[n]], seed(n))) for n in range(4)]


# --- streams, outputs, configurations --------------------------------------------------------------------------------


class Recorder:
    def __init__(self):
        self.parts, self.ended = [], 0

    def put(self, value):
        assert not self.ended
        self.parts.append(value)

    def end(self):
        self.ended += 1


def test_a_streamer_gets_the_opening_each_row_and_the_closing(shared):
    ids, recorder = prompts(2), Recorder()
    image = draw(
        shared, ids, (3, 4), streamer=recorder, num_return_sequences=2, guidance_scale=2, negative_prompt_ids=ids
    )
    assert [tuple(part.shape) for part in recorder.parts] == [(4, 3), (4, 4), (4, 4), (4, 4), (4, 1)]
    assert recorder.ended == 1 and torch.equal(torch.cat(recorder.parts, 1), image[:, 6:])


def test_transformers_streamers_read_text(shared, tokenizer, capsys):
    ids = prompts(1)
    written = shared.generate(ids, max_new_tokens=6, **GREEDY)
    printed = TextStreamer(tokenizer, skip_prompt=True)
    shared.generate(ids, max_new_tokens=6, streamer=printed, **GREEDY)
    assert capsys.readouterr().out.strip() == tokenizer.decode(written[0, 6:]).strip()
    iterator = TextIteratorStreamer(tokenizer, skip_prompt=True)
    shared.generate(ids, max_new_tokens=6, streamer=iterator, generation_mode="interleaved", **GREEDY)
    assert "".join(iterator)


def test_images_can_come_in_a_dictionary(shared):
    plain = draw(shared, prompts(2), **GREEDY)
    output = draw(shared, prompts(2), return_dict_in_generate=True, **GREEDY)
    assert torch.equal(output.sequences, plain) and torch.equal(output["sequences"], plain)


def test_image_settings_of_the_generation_config_are_saved_loaded_and_used(model, shared, tmp_path):
    ids = prompts(2)
    model.generation_config.image_generation = {"do_sample": False, **PLAIN}
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    assert saved["image_generation"] == {"do_sample": False, **PLAIN}
    loaded = ArmForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.generation_config.image_generation == {"do_sample": False, **PLAIN}
    greedy = draw(shared, ids, (3, 3), **GREEDY)
    arguments = {"generation_mode": "image", "image_grid": (3, 3)}
    assert torch.equal(loaded.generate(ids, **arguments), greedy)
    sampled = loaded.generate(ids, **arguments, do_sample=True, generator=seed(1))
    assert torch.equal(sampled, draw(shared, ids, (3, 3), generator=seed(1))) and not torch.equal(sampled, greedy)
    given = GenerationConfig(image_generation={"do_sample": True, **PLAIN})
    assert torch.equal(loaded.generate(ids, given, **arguments, generator=seed(1)), sampled)
    assert torch.equal(loaded.generate(ids, GenerationConfig(max_new_tokens=3), **arguments), greedy)
    assert loaded.generate(ids, max_new_tokens=2).shape == (2, 8)


def test_edits_are_sampled_as_their_own_settings_say_where_they_differ(model, shared, tmp_path):
    model.generation_config.image_generation = {"do_sample": False, "guidance_scale": 3.0, "image_guidance_scale": 2.0}
    model.generation_config.image_editing = {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
    model.save_pretrained(tmp_path)
    loaded = ArmForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.generation_config.image_editing == {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
    ids, image, nothing = prompts(2), prompts(2, 4, seed=3), prompts(2, 3, seed=4)
    arguments = {"generation_mode": "image", "image_grid": (3, 3), "negative_prompt_ids": nothing}
    plain = draw(shared, ids, (3, 3), **GREEDY)
    assert torch.equal(loaded.generate(ids, **arguments, image_prompt_ids=image), plain)
    guided = draw(shared, ids, (3, 3), **GREEDY | {"guidance_scale": 3.0}, negative_prompt_ids=nothing)
    assert torch.equal(loaded.generate(ids, **arguments), guided) and not torch.equal(guided, plain)
    asked = loaded.generate(ids, **arguments, image_prompt_ids=image, guidance_scale=3.0)
    assert not torch.equal(asked, plain)


def test_unless_told_otherwise_images_are_sampled_as_the_paper_says(shared):
    ids, negative = prompts(2), prompts(2, 3, seed=4)
    image = shared.generate(
        ids, generation_mode="image", image_grid=(3, 3), negative_prompt_ids=negative, generator=seed(1)
    )
    assert (IMAGE_GENERATION["guidance_scale"], IMAGE_GENERATION["image_guidance_scale"]) == (1.5, 1.25)
    assert torch.equal(
        image, draw(shared, ids, (3, 3), negative_prompt_ids=negative, guidance_scale=1.5, generator=seed(1))
    )


# --- adapters and training -------------------------------------------------------------------------------------------


def test_a_model_with_adapters_writes_and_draws_as_it_does_merged(model, shared):
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=ArmForCausalLM.LORA_TARGETS))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.eval()
    calls = [
        {"max_new_tokens": 12},
        {"max_new_tokens": 12, "num_beams": 2},
        {"max_new_tokens": 20, "generation_mode": "interleaved", **opening_bias(shared)},
        {"generation_mode": "image", "image_grid": (3, 3), "guidance_scale": 2, "negative_prompt_ids": prompts(2, 3)},
    ]
    with_adapters = [adapted.generate(input_ids=prompts(2), **GREEDY, **call) for call in calls]
    for result, call in zip(with_adapters, calls, strict=True):
        assert not torch.equal(result, shared.generate(prompts(2), **GREEDY, **call))
    merged = adapted.merge_and_unload()
    for result, call in zip(with_adapters, calls, strict=True):
        assert torch.equal(result, merged.generate(prompts(2), **GREEDY, **call))


CALLS = [
    {"max_new_tokens": 10},
    {"max_new_tokens": 20, "generation_mode": "interleaved"},
    {"generation_mode": "image", "image_grid": (3, 3), **PLAIN},
]


@pytest.mark.parametrize("call", CALLS, ids=["text", "interleaved", "image"])
def test_a_model_in_training_writes_as_in_evaluation_and_trains_on(shared, call):
    expected = shared.generate(prompts(2), **GREEDY, **call)
    model = copy.deepcopy(shared)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.gradient_checkpointing_enable()
    model.train()
    model.model.layers[0].eval()
    training = [module.training for module in model.modules()]
    assert torch.equal(model.generate(prompts(2), **GREEDY, **call), expected)
    assert [module.training for module in model.modules()] == training
    with pytest.raises(ValueError):
        model.generate(prompts(2), generation_mode="image", image_grid=(0, 1))
    assert [module.training for module in model.modules()] == training


@pytest.mark.parametrize("call", CALLS, ids=["text", "interleaved", "image"])
def test_generation_leaves_gradients_as_they_were(shared, call):
    assert torch.is_grad_enabled()
    result = shared.generate(prompts(1), **call)
    assert torch.is_grad_enabled() and not result.requires_grad and not result.is_inference()
    assert all(parameter.grad is None for parameter in shared.parameters())
    with torch.inference_mode():
        shared.generate(prompts(1), **call)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"generation_mode": "picture"}, "Unknown generation_mode 'picture'; use one of text, image, interleaved"),
        ({"generation_mode": None}, "Unknown generation_mode None"),
        ({"image_grid": None}, r"needs image_grid=\(H, W\), in tokens, not None"),
        ({"image_grid": (0, 3)}, r"Grid 0x3 .*1\.\.128"),
        ({"image_grid": (129, 1)}, r"Grid 129x1 .*1\.\.128"),
        ({"image_grid": (2.0, 3)}, r"Grid 2.0x3 .* whole numbers"),
        ({"image_grid": (2, 3, 4)}, r"needs image_grid=\(H, W\), in tokens, not \(2, 3, 4\)"),
        ({"image_grid": 4}, "in tokens, not 4"),
        ({"image_grid": True}, "in tokens, not True"),
        ({"image_grid": "12"}, "Grid 1x2 .* whole numbers"),
        ({"guidance_scale": 1.5}, "guidance_scale 1.5 needs negative_prompt_ids"),
        ({"guidance_scale": 0}, "guidance_scale 0 needs negative_prompt_ids; .*, and guidance_scale=1 does without"),
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


@pytest.mark.parametrize(
    "name, value", [("num_beams", 4), ("max_new_tokens", 3), ("tempreature", 1.0), ("typical_p", 0)]
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
            shared.generate(generation_mode=mode, pixel_values=pictures((1, 1)))


def test_misspelled_arguments_of_text_are_refused(shared):
    with pytest.raises(ValueError, match="max_new_token"):
        shared.generate(prompts(1), max_new_token=3)


@pytest.mark.parametrize("mode", ["text", "interleaved", "image"])
def test_placeholders_without_their_pictures_are_refused(shared, mode):
    ids = with_pictures(shared.config, (2, 2), text=prompts(1))
    with pytest.raises(ValueError, match="placeholders .* but there are no pixel_values"):
        shared.generate(ids, generation_mode=mode)
