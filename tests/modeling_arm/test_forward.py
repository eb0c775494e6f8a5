"""An assembled ARM reads text as its Qwen2 does, each position over its own rows only; pictures become codes."""

import shutil

import pytest
import torch
from tiny_arm import (
    assemble,
    assert_close,
    can_follow,
    logits_of,
    mixed,
    picture,
    pixels,
    runs_of,
    text,
    with_placeholders,
)
from torch import nn
from transformers import AutoTokenizer, DynamicCache, Qwen2ForCausalLM

from transformers_arm.loss_arm import RoutedLinear
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.modeling_arm_vq import ArmVQModel

# --- assembling ------------------------------------------------------------------------------------------------------


def test_on_text_an_assembled_model_is_its_qwen2(both, backbones):
    qwen2 = Qwen2ForCausalLM.from_pretrained(backbones["text"]).eval()
    known = len(AutoTokenizer.from_pretrained(backbones["text"]))
    ids = torch.randint(0, known, (3, 40), generator=torch.Generator().manual_seed(0))
    ours, theirs = logits_of(both, ids), logits_of(qwen2, ids)
    assert ours.shape == (3, 40, both.config.vocab_size) and theirs.std() > 0.1
    assert_close(ours[..., :known], theirs[..., :known])
    assert torch.equal(both.model(ids).last_hidden_state, qwen2.model(ids).last_hidden_state)


def test_rows_of_known_tokens_are_taken_over_bit_for_bit_and_all_other_weights_too(both, backbones):
    qwen2 = Qwen2ForCausalLM.from_pretrained(backbones["text"])
    known = len(AutoTokenizer.from_pretrained(backbones["text"]))
    rows = ("model.embed_tokens.weight", "lm_head.weight")
    ours = both.state_dict()
    for name, theirs in qwen2.state_dict().items():
        assert torch.equal(ours[name][:known], theirs[:known]) if name in rows else torch.equal(ours[name], theirs)
    for name, theirs in ArmVQModel.from_pretrained(backbones["vq"]).state_dict().items():
        assert torch.equal(ours[f"model.vq_model.{name}"], theirs)
    assert (both.lm_head.weight is both.model.embed_tokens.weight) == qwen2.config.tie_word_embeddings


def test_new_rows_are_drawn_and_each_is_its_own(shared):
    for rows in (shared.model.embed_tokens.weight, shared.lm_head.weight):
        new = rows[shared.config.shape_token_offset :]
        assert len(new.unique(dim=0)) == len(new) and 0.1 < new.std() < 0.3


def test_the_vocabulary_is_text_rows_then_codes_and_shape_tokens_take_the_free_rows(shared, tiny_arm_backbones):
    config, tokenizer = shared.config, AutoTokenizer.from_pretrained(tiny_arm_backbones["text"])
    assert config.shape_token_offset == len(tokenizer) and config.width_token_offset == len(tokenizer) + 128
    assert config.visual_token_offset == len(tokenizer) + 271 and config.vocab_size == len(tokenizer) + 271 + 1024
    named = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
    ids = (config.vision_start_token_id, config.vision_end_token_id, config.image_token_id)
    assert tuple(tokenizer.convert_tokens_to_ids(named)) == ids
    assert (config.hidden_size, config.num_key_value_heads, config.model_type) == (32, 2, "arm")
    assert type(shared.lm_head) is RoutedLinear and type(shared.vq_model) is ArmVQModel


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_parts_but_the_tokenizer_are_of_the_dtype_asked_for(tiny_arm_backbones, dtype):
    tensors = assemble(tiny_arm_backbones, dtype=dtype).state_dict()
    dtypes = {(".vq_model." in name, value.dtype) for name, value in tensors.items() if value.is_floating_point()}
    assert dtypes == {(False, dtype), (True, torch.float32)}


def test_too_few_free_rows_are_refused(tiny_backbones, tiny_arm_backbones):
    with pytest.raises(ValueError, match="has 8 rows beyond its tokenizer's .* shape tokens need 256"):
        ArmForCausalLM.from_backbones(text=tiny_backbones["captioner"], vq=tiny_arm_backbones["vq"])


def test_a_tokenizer_without_vision_tokens_is_refused(tiny_arm_backbones, tmp_path):
    folder = shutil.copytree(tiny_arm_backbones["text"], tmp_path / "text")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(content.replace("<|vision_end|>", "<|other|>"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks <\|vision_end\|>; use a Qwen2.5 tokenizer"):
        ArmForCausalLM.from_backbones(text=str(folder), vq=tiny_arm_backbones["vq"])


# --- the routed head -------------------------------------------------------------------------------------------------


def test_each_position_has_logits_for_the_rows_that_can_follow_and_no_others(shared):
    config, ids = shared.config, mixed(shared.config)
    logits = logits_of(shared, ids)[0]
    flat = nn.functional.linear(shared.model(ids).last_hidden_state, shared.lm_head.weight)[0]
    for token, row, full in zip(ids[0].tolist(), logits, flat, strict=True):
        possible = torch.zeros(config.vocab_size, dtype=torch.bool)
        possible[list(can_follow(config, token))] = True
        assert_close(row[possible], full[possible])
        assert (row[~possible] == row[~possible][0]).all() and row[~possible][0] <= -1e9


def test_image_tokens_follow_widths_and_image_tokens_only(shared):
    config = shared.config
    widths = [config.width_token_offset, config.width_token_offset + 127]
    visual = [config.visual_token_offset, config.vocab_size - 1]
    heights = [config.shape_token_offset, config.shape_token_offset + 127]
    free = [config.width_token_offset + 128, config.visual_token_offset - 1]
    special = [config.vision_start_token_id, config.vision_end_token_id, config.image_token_id]
    assert shared.image_token_follows(torch.tensor([widths + visual])).all()
    assert not shared.image_token_follows(torch.tensor([heights + free + special + text(20)])).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_impossible_rows_are_finite_and_never_drawn_at_any_temperature(model, dtype):
    model.to(dtype)
    ids = mixed(model.config)
    logits = logits_of(model, ids)
    image = model.image_token_follows(ids)
    assert logits.dtype == dtype
    for temperature in (0.01, 0.5, 1.0, 2.0):
        scaled = logits / temperature
        assert scaled.isfinite().all()
        log_probs = scaled.log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        assert entropy.isfinite().all()
        probs = scaled.float().softmax(-1)
        assert (probs[image][:, : model.config.visual_token_offset] == 0).all()
        assert (probs[~image][:, model.config.visual_token_offset :] == 0).all()


def test_positions_given_as_embeddings_are_text(shared):
    ids = torch.tensor([text(9)])
    embedded = shared.get_input_embeddings()(ids)
    assert_close(logits_of(shared, None, inputs_embeds=embedded), logits_of(shared, ids))


@pytest.mark.parametrize("keep", [1, 0, torch.tensor([0, 8])], ids=str)
def test_where_text_is_known_to_follow_logits_are_the_same_and_no_id_is_looked_at(shared, keep, monkeypatch):
    ids = torch.tensor([text(9), text(9, seed=1)])
    expected, with_loss = logits_of(shared, ids, logits_to_keep=keep), shared(ids, labels=ids)
    known = shared(ids, labels=ids, text_follows=True)
    assert torch.equal(known.loss, with_loss.loss) and torch.equal(known.logits, with_loss.logits)
    monkeypatch.setattr(ArmForCausalLM, "image_token_follows", None)
    assert torch.equal(logits_of(shared, ids, text_follows=True, logits_to_keep=keep), expected)


@pytest.mark.parametrize("keep", [1, 3, 0, torch.tensor([0, 8, 12]), torch.tensor([31])], ids=str)
def test_logits_can_be_kept_for_some_positions(shared, keep):
    ids = mixed(shared.config)
    places = keep if isinstance(keep, torch.Tensor) else torch.arange(ids.shape[1])[-keep:]
    kept = logits_of(shared, ids, logits_to_keep=keep)
    assert_close(kept, logits_of(shared, ids)[:, places])
    with_loss = shared(ids, labels=ids, logits_to_keep=keep)
    assert_close(with_loss.logits, kept)
    assert_close(with_loss.loss, shared(ids, labels=ids).loss)


# --- batches, caches, attention --------------------------------------------------------------------------------------


def test_left_padding_changes_nothing(shared):
    long, short = mixed(shared.config)[0].tolist(), text(3) + picture(shared.config, 1, 2) + text(2)
    padding = len(long) - len(short)
    ids = torch.tensor([long, [shared.config.pad_token_id] * padding + short])
    mask = torch.ones_like(ids)
    mask[1, :padding] = 0
    together = logits_of(shared, ids, attention_mask=mask)
    assert_close(together[:1], logits_of(shared, torch.tensor([long])), atol=1e-4)
    assert_close(together[1:, padding:], logits_of(shared, torch.tensor([short])), atol=1e-4)
    labels = ids.masked_fill(mask == 0, -100)
    labels[1, padding] = -100  # nothing stands before it when alone
    alone = [shared(torch.tensor([row]), labels=torch.tensor([row]), num_items_in_batch=1) for row in (long, short)]
    together = shared(ids, attention_mask=mask, labels=labels, num_items_in_batch=1)
    assert_close(together.loss, alone[0].loss + alone[1].loss, atol=1e-3)


@pytest.mark.parametrize("prompt", [1, 7, 20])
def test_a_cache_changes_nothing_step_by_step_through_pictures(shared, prompt):
    ids = mixed(shared.config)
    expected = logits_of(shared, ids, use_cache=False)
    cache = DynamicCache(config=shared.config)
    steps = [ids[:, :prompt], *ids[:, prompt:].split(1, dim=1)]
    logits = [logits_of(shared, step, past_key_values=cache, use_cache=True) for step in steps]
    assert_close(torch.cat(logits, 1), expected, atol=1e-4)
    assert cache.get_seq_length() == ids.shape[1]


def test_sdpa_equals_eager(model, tmp_path):
    model.save_pretrained(tmp_path)
    ids, picture_of_it = mixed(model.config), pixels(1)
    results = []
    for implementation in ("sdpa", "eager"):
        loaded = ArmForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation)
        assert loaded.config._attn_implementation == implementation
        results.append((logits_of(loaded, ids), loaded.vq_model.encode(picture_of_it)))
    (logits, encoded), (eager_logits, eager_encoded) = results
    assert_close(logits, eager_logits)
    assert torch.equal(encoded.codes, eager_encoded.codes)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_placeholders_become_the_codes_of_stacked_pictures(shared):
    config, images = shared.config, pixels(4)
    ids = torch.tensor([with_placeholders(config, [(2, 3), (2, 3)])] * 2)
    filled = shared.model.fill_image_tokens(ids, images)
    places = ids == config.image_token_id
    assert torch.equal(filled[places], (shared.vq_model.encode(images).codes + config.visual_token_offset).flatten())
    assert torch.equal(filled[~places], ids[~places]) and len(filled[places].unique()) > 12
    expected = shared(filled, labels=filled)
    for output in (
        shared(ids, pixel_values=images, labels=filled),
        shared(ids, pixel_values=list(images), labels=filled),
        shared(ids, pixel_values=images, labels=ids),
    ):
        assert torch.equal(output.logits, expected.logits) and torch.equal(output.loss, expected.loss)
    assert torch.equal(shared.model(ids, pixel_values=images)[0], shared.model(filled)[0])


def test_for_placeholders_nothing_behind_the_quantizer_runs(model):
    ids, images = torch.tensor([with_placeholders(model.config, [(2, 3), (2, 3)])] * 2), pixels(4)
    expected = model.vq_model.encode(images).codes + model.config.visual_token_offset
    behind, tower = runs_of(model.vq_model.up_blocks), runs_of(model.vq_model.down_blocks)
    for given in (images, list(images)):
        assert all(map(torch.equal, model.model.get_image_tokens(given), expected))
        model(ids, pixel_values=given)
        model.generate(ids, pixel_values=given, max_new_tokens=1)
    assert behind == [] and tower == [4] * 6


def test_placeholders_become_the_codes_of_pictures_of_mixed_sizes(shared):
    config = shared.config
    images = [pixels(1, 32, 48)[0], pixels(1, 48, 16)[0], pixels(1, 16, 16)[0]]
    ids = torch.tensor([with_placeholders(config, [(2, 3), (3, 1), (1, 1)])])
    filled = shared.model.fill_image_tokens(ids, images)
    codes = torch.cat([shared.vq_model.encode(image[None]).codes.flatten() for image in images])
    assert torch.equal(filled[ids == config.image_token_id], codes + config.visual_token_offset)
    assert_close(logits_of(shared, ids, pixel_values=images), logits_of(shared, filled))


def test_of_a_list_pictures_of_one_size_are_encoded_together_and_as_each_alone(shared, monkeypatch):
    sizes = [(32, 48), (48, 16), (32, 48), (16, 16), (48, 16), (32, 48)]
    images = [pixels(1, *size, seed=seed)[0] for seed, size in enumerate(sizes)]
    ids = torch.tensor([with_placeholders(shared.config, [(h // 16, w // 16) for h, w in sizes])])
    alone = torch.cat([shared.vq_model.encode(image[None]).codes.flatten() for image in images])
    batches, forward = [], shared.vq_model.forward
    monkeypatch.setattr(
        shared.vq_model, "forward", lambda pixels, **kwargs: batches.append(len(pixels)) or forward(pixels, **kwargs)
    )
    filled = shared.model.fill_image_tokens(ids, images)
    assert torch.equal(filled[ids == shared.config.image_token_id], alone + shared.config.visual_token_offset)
    assert batches == [3, 2, 1]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pixels(1), "1 pictures give 6 image tokens, but input_ids hold 12 placeholders"),
        (pixels(3), "3 pictures give 18 image tokens, but input_ids hold 12 placeholders"),
        ([pixels(1, 16, 16)[0]], "1 pictures give 1 image tokens, but input_ids hold 12 placeholders"),
    ],
)
def test_pictures_that_do_not_fit_the_placeholders_are_refused(shared, images, message):
    ids = torch.tensor([with_placeholders(shared.config, [(2, 3), (2, 3)])])
    with pytest.raises(ValueError, match=message):
        shared(ids, pixel_values=images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_model_takes_fp32_pictures(model, dtype):
    model.to(dtype)
    ids = torch.tensor([with_placeholders(model.config, [(2, 3)])])
    output = model(ids, pixel_values=pixels(1), labels=ids)
    assert output.logits.dtype == dtype and output.logits.isfinite().all() and output.loss.isfinite()
