"""What is written is valid whatever the weights: whole images within any budget, and text that opens none."""

import pytest
import torch
from generation_requests import (
    CODES,
    EOS,
    GREEDY,
    PAD,
    Prefers,
    assert_follows,
    draw,
    image_part,
    left_padded,
    opened,
    opening_bias,
    parse,
    prompts,
)
from transformers import GenerationConfig


def force(model, token, strength=20.0):
    """Makes the first hidden feature a constant, and the head so that text positions prefer this row by it."""
    with torch.no_grad():
        model.model.norm.weight[0] = 0
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[token, 0] = strength
    constant = torch.eye(model.config.hidden_size)[0]
    model.model.norm.register_forward_hook(lambda module, args, output: output + constant)
    return model


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
