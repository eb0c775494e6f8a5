"""ARM: text as its Qwen2 reads it, each position over its own rows only, and a visual tokenizer that never changes."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    DynamicCache,
    Qwen2ForCausalLM,
)

import transformers_arm  # noqa: F401 - registers ARM with the Auto classes
from transformers_arm.configuration_arm import ArmConfig, ArmVQConfig
from transformers_arm.loss_arm import RoutedLinear
from transformers_arm.modeling_arm import ArmForCausalLM, ArmModel
from transformers_arm.modeling_arm_vq import ArmVQModel

TINY_VQ = {"fsq_levels": [2] * 4, "vision_config": {"hidden_size": 8, "num_attention_heads": 1}}


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def backbones(request, tiny_arm_backbones, tmp_path_factory):
    """Keywords of `from_backbones`; Qwen2 with and without an embedding of its own for the head."""
    if not request.param:
        return tiny_arm_backbones
    tied = Qwen2ForCausalLM.from_pretrained(tiny_arm_backbones["text"], tie_word_embeddings=True)
    tied.tie_weights()
    folder = tmp_path_factory.mktemp("tied")
    tied.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_arm_backbones["text"]).save_pretrained(folder)
    return tiny_arm_backbones | {"text": str(folder)}


def assemble(backbones, **kwargs):
    torch.manual_seed(0)
    return ArmForCausalLM.from_backbones(**backbones, **kwargs).eval()


@pytest.fixture(scope="module")
def both(backbones):
    """An ARM with tied or untied embeddings. Treat it as read-only."""
    return assemble(backbones)


@pytest.fixture(scope="module")
def shared(tiny_arm_backbones):
    """An ARM. Treat it as read-only."""
    return assemble(tiny_arm_backbones)


@pytest.fixture
def model(shared):
    """An ARM to be changed."""
    return copy.deepcopy(shared)


def opening(config, height, width):
    return [
        config.vision_start_token_id,
        config.shape_token_offset + height - 1,
        config.width_token_offset + width - 1,
    ]


def text(count, seed=0):
    return torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def picture(config, height=2, width=3, seed=0):
    codes = torch.randint(0, 1024, (height * width,), generator=torch.Generator().manual_seed(seed))
    return [
        *opening(config, height, width),
        *(codes + config.visual_token_offset).tolist(),
        config.vision_end_token_id,
    ]


def mixed(config, seed=0):
    """Text, a picture, text, another picture and text: [1, 32]."""
    parts = text(5, seed) + picture(config, 2, 3, seed) + text(4, seed + 1) + picture(config, 3, 1, seed + 1)
    return torch.tensor([parts + text(6, seed + 2)])


def can_follow(config, token):
    """The rows that can follow a token, as the paper says it."""
    shape = config.width_token_offset <= token < config.width_token_offset + 128
    if shape or token >= config.visual_token_offset:
        return range(config.visual_token_offset, config.vocab_size)
    return range(config.visual_token_offset)


def pixels(count, height=32, width=48, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def logits_of(model, input_ids, **kwargs):
    with torch.no_grad():
        return model(input_ids, **kwargs).logits


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


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
def test_all_parts_are_of_the_dtype_asked_for(tiny_arm_backbones, dtype):
    model = assemble(tiny_arm_backbones, dtype=dtype)
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {dtype}


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


@pytest.mark.parametrize("keep", [1, 3, 0, torch.tensor([0, 8, 12]), torch.tensor([31])], ids=str)
def test_logits_can_be_kept_for_some_positions(shared, keep):
    ids = mixed(shared.config)
    places = keep if isinstance(keep, torch.Tensor) else torch.arange(ids.shape[1])[-keep:]
    kept = logits_of(shared, ids, logits_to_keep=keep)
    assert_close(kept, logits_of(shared, ids)[:, places])
    with_loss = shared(ids, labels=ids, logits_to_keep=keep)
    assert_close(with_loss.logits, kept)
    assert_close(with_loss.loss, shared(ids, labels=ids).loss)


# --- the loss --------------------------------------------------------------------------------------------------------


def batch_with_labels(config):
    """Two sequences of text and pictures, and labels: the first's prompt carries none."""
    ids = torch.cat([mixed(config, seed) for seed in (0, 7)])
    labels = ids.clone()
    labels[0, :9] = -100
    return ids, labels


def flat_losses(model, ids, labels):
    """Cross-entropies over the whole vocabulary where impossible rows are masked, and whether each is an image's."""
    config = model.config
    flat = nn.functional.linear(model.model(ids).last_hidden_state, model.lm_head.weight)
    losses, images = [], []
    for row, tokens, wanted in zip(flat, ids.tolist(), labels.tolist(), strict=True):
        for place, label in enumerate(wanted[1:]):
            possible = can_follow(config, tokens[place])
            if label in possible:  # neither -100 nor forced
                mask = torch.full_like(row[place], float("-inf"))
                mask[list(possible)] = 0.0
                losses.append(nn.functional.cross_entropy(row[place] + mask, torch.tensor(label)))
                images.append(label >= config.visual_token_offset)
    return torch.stack(losses), torch.tensor(images)


def test_the_routed_loss_is_a_masked_softmax_over_the_flat_vocabulary_and_so_is_its_gradient(backbones):
    model = assemble(backbones)
    ids, labels = batch_with_labels(model.config)
    expected, images = flat_losses(model, ids, labels)
    assert 0 < images.sum() < len(images)
    output = model(ids, labels=labels)
    assert_close(output.loss, expected.mean())
    assert_close(output.losses["text"], expected[~images].mean().detach())
    assert_close(output.losses["image"], expected[images].mean().detach())
    assert not any(value.requires_grad for value in output.losses.values())

    expected.mean().backward()
    theirs = gradients(model)
    model.zero_grad()
    output.loss.backward()
    ours = gradients(model)
    assert ours.keys() == theirs.keys() == {name for name, _ in model.named_parameters() if "vq_model" not in name}
    assert all((value - theirs[name]).abs().max() < 1e-6 for name, value in ours.items())
    assert all(value.abs().max() > 1e-4 for value in ours.values())


def test_a_loss_made_of_many_chunks_is_the_same_and_so_is_its_gradient(shared, monkeypatch):
    ids, labels = batch_with_labels(shared.config)
    results = []
    for logits_at_once in (2**26, 3 * 1024):
        monkeypatch.setattr("transformers_arm.loss_arm.LOGITS_AT_ONCE", logits_at_once)
        model = copy.deepcopy(shared)
        loss = model(ids, labels=labels).loss
        (3 * loss).backward()
        results.append((loss, gradients(model)))
    (whole, expected), (chunked, ours) = results
    assert_close(chunked, whole)
    assert ours.keys() == expected.keys()
    assert all((value - expected[name]).abs().max() < 1e-5 for name, value in ours.items())


def test_the_loss_keeps_no_logits_and_takes_one_backward_pass(model):
    ids, wide, kept = mixed(model.config), (model.config.visual_token_offset, 1024), []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part.shape) or part, lambda part: part):
        loss = model.train()(ids, labels=ids).loss
    assert kept and not any(shape[-1] in wide for shape in kept if len(shape) > 1)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="takes one backward pass"):
        loss.backward()


def test_a_frozen_head_gets_no_gradient(model):
    ids = mixed(model.config)
    model.lm_head.requires_grad_(False)
    model(ids, labels=ids).loss.backward()
    assert model.lm_head.weight.grad is None and model.model.norm.weight.grad.abs().max() > 0


def test_the_label_after_the_last_image_token_is_forced_and_carries_no_loss(shared):
    ids = torch.tensor([picture(shared.config)])
    only_the_end = torch.where(ids == shared.config.vision_end_token_id, ids, -100)
    output = shared(ids, labels=only_the_end)
    assert output.loss.item() == 0.0 and output.losses == {}
    without = torch.where(ids == shared.config.vision_end_token_id, -100, ids)
    assert torch.equal(shared(ids, labels=ids).loss, shared(ids, labels=without).loss)


def test_only_kinds_that_the_labels_hold_are_among_the_losses(shared):
    ids = mixed(shared.config)
    image = ids >= shared.config.visual_token_offset
    assert set(shared(ids, labels=ids).losses) == {"text", "image"}
    assert set(shared(ids, labels=ids.masked_fill(image, -100)).losses) == {"text"}
    assert set(shared(ids, labels=ids.masked_fill(~image, -100)).losses) == {"image"}


def test_labels_without_loss_give_zero_with_gradients(model):
    ids = mixed(model.config)
    loss = model(ids, labels=torch.full_like(ids, -100)).loss
    loss.backward()
    assert loss.item() == 0.0 and all((value == 0).all() for value in gradients(model).values())


def test_the_sum_is_divided_by_the_number_of_items_that_the_trainer_counts(shared):
    ids, labels = batch_with_labels(shared.config)
    carrying = len(flat_losses(shared, ids, labels)[0])
    mean = shared(ids, labels=labels).loss
    for count in (80, torch.tensor(80)):
        assert_close(shared(ids, labels=labels, num_items_in_batch=count).loss, mean * carrying / 80)


def test_labels_may_come_shifted(shared):
    ids, labels = batch_with_labels(shared.config)
    shifted = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    assert torch.equal(shared(ids, shift_labels=shifted).loss, shared(ids, labels=labels).loss)


def test_training_with_labels_returns_no_logits(model):
    ids, labels = batch_with_labels(model.config)
    assert model.train()(ids, labels=labels).logits is None
    assert model(ids).logits is not None
    assert model.eval()(ids, labels=labels).logits is not None


def test_gradient_checkpointing_changes_neither_loss_nor_gradients(model):
    ids, labels = batch_with_labels(model.config)
    model.train()
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.model.layers[0].gradient_checkpointing
        model.zero_grad()
        loss = model(ids, labels=labels).loss
        loss.backward()
        results.append((loss.detach(), gradients(model)))
    (loss, grads), (loss_again, grads_again) = results
    assert_close(loss_again, loss)
    assert grads.keys() == grads_again.keys()
    assert all(torch.allclose(value, grads_again[name], atol=1e-6) for name, value in grads.items())


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


def with_placeholders(config, grids):
    """A row of text and pictures whose tokens are still to be filled in."""
    ids = text(3)
    for number, (height, width) in enumerate(grids):
        ids += opening(config, height, width) + [config.image_token_id] * (height * width)
        ids += [config.vision_end_token_id] + text(2, seed=number)
    return ids


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


# --- the tokenizer inside is frozen ----------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["assembled", "loaded", "base"])
def test_the_visual_tokenizer_is_frozen_and_stays_in_evaluation_mode(tiny_arm_backbones, origin, tmp_path):
    model = assemble(tiny_arm_backbones)
    if origin != "assembled":
        model.save_pretrained(tmp_path)
        model = (ArmForCausalLM if origin == "loaded" else ArmModel).from_pretrained(tmp_path)
    vq_model = model.vq_model
    codes = vq_model.encode(pixels(2)).codes
    for when in (None, True, False, True):
        if when is not None:
            model.train(when)
            assert model.training == when
        assert not any(module.training for module in vq_model.modules())
        assert not any(parameter.requires_grad for parameter in vq_model.parameters())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "vq_model" not in name}
    before = {name: value.clone() for name, value in vq_model.state_dict().items()}
    assert torch.equal(vq_model.encode(pixels(2)).codes, codes)
    model(torch.tensor([with_placeholders(model.config, [(2, 3)])]), pixel_values=pixels(1))[0].sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in vq_model.state_dict().items())


# --- saving and loading ----------------------------------------------------------------------------------------------


def assert_same_weights(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "loading",
    [{}, {"device_map": {"": "cpu"}}, {"device_map": "auto"}, {"dtype": torch.float32}],
    ids=["plain", "one device", "auto", "dtype"],
)
@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "50KB"}], ids=["whole", "sharded"])
def test_saving_and_loading_changes_nothing(both, tmp_path, saving, loading):
    both.save_pretrained(tmp_path, **saving)
    assert (tmp_path / "model.safetensors.index.json").exists() == bool(saving)
    loaded = ArmForCausalLM.from_pretrained(tmp_path, **loading)
    assert_same_weights(loaded, both)
    assert type(loaded.lm_head) is RoutedLinear and not loaded.training
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == both.config.tie_word_embeddings
    ids, images = torch.tensor([with_placeholders(both.config, [(2, 3)])]), pixels(1)
    assert torch.equal(logits_of(loaded, ids, pixel_values=images), logits_of(both, ids, pixel_values=images))


@pytest.mark.parametrize(
    ("loader", "kind"),
    [
        (AutoModel, ArmModel),
        (ArmModel, ArmModel),
        (AutoModelForCausalLM, ArmForCausalLM),
        (AutoModelForImageTextToText, ArmForCausalLM),
        (AutoModelForMultimodalLM, ArmForCausalLM),
    ],
)
def test_auto_classes_load_the_right_class_whole(both, loader, kind, tmp_path):
    both.save_pretrained(tmp_path)
    loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is kind and not info["missing_keys"] and not info["mismatched_keys"]
    assert type(loader.from_pretrained(tmp_path)) is kind
    assert_same_weights(loaded, both.model if kind is ArmModel else both)
    assert type(AutoConfig.from_pretrained(tmp_path)) is ArmConfig


def edited_checkpoint(model, folder, edit):
    """Saves a model and lets `edit` change its tensors on disk."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.mlp.up_proj.weight",
        "lm_head.weight",
        "model.vq_model.up_norm.bias",
        "model.embed_tokens.weight",
    ],
)
@pytest.mark.parametrize("loader", [ArmForCausalLM, AutoModelForCausalLM])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(shared, tmp_path, name, loader):
    folder = edited_checkpoint(shared, tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(
        ValueError, match=f"lacks 1 of the tensors of ArmForCausalLM: {name}. Copy the checkpoint again"
    ):
        loader.from_pretrained(folder)
    loaded, info = loader.from_pretrained(folder, output_loading_info=True)  # who asks is told and judges for himself
    assert info["missing_keys"] == {name} and type(loaded) is ArmForCausalLM


def test_many_missing_tensors_are_counted(shared, tmp_path):
    def drop(tensors):
        for name in [name for name in tensors if "vq_model" in name]:
            del tensors[name]

    count = len([name for name in shared.state_dict() if "vq_model" in name])
    with pytest.raises(ValueError, match=f"lacks {count} of the tensors of ArmModel: .* and {count - 5} more"):
        ArmModel.from_pretrained(edited_checkpoint(shared, tmp_path, drop))


@pytest.mark.parametrize("name", ["up_norm.bias", "channel_norm.running_mean"])
def test_a_visual_tokenizer_that_lacks_a_tensor_is_refused(shared, tmp_path, name):
    folder = edited_checkpoint(shared.vq_model, tmp_path, lambda tensors: tensors.pop(name))
    for loader in (ArmVQModel, AutoModel):
        with pytest.raises(ValueError, match=f"lacks 1 of the tensors of ArmVQModel: {name}"):
            loader.from_pretrained(folder)


def test_tensors_of_another_size_are_refused_unless_asked_for(shared, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    folder = edited_checkpoint(shared, tmp_path, lambda tensors: tensors.update({name: torch.zeros(3, 32)}))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        ArmForCausalLM.from_pretrained(folder)
    loaded = ArmForCausalLM.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert loaded.get_parameter(name).shape == shared.get_parameter(name).shape


def test_weights_can_be_brought_as_a_state_dict(shared):
    part = {"lm_head.weight": shared.lm_head.weight}
    model = ArmForCausalLM.from_pretrained(None, config=shared.config, state_dict=part)
    assert torch.equal(model.lm_head.weight, shared.lm_head.weight)


# --- the vocabulary's size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [-1, 1, 64])
def test_the_vocabulary_cannot_be_resized(model, change):
    size = model.config.vocab_size
    with pytest.raises(ValueError, match=f"from {size} to {size + change} rows.*15 text rows are free"):
        model.resize_token_embeddings(size + change)
    assert type(model.lm_head) is RoutedLinear and model.config.vocab_size == size == len(model.lm_head.weight)


@pytest.mark.parametrize("arguments", [(), (None,), "same"])
def test_the_same_size_is_no_change(model, arguments):
    arguments = (model.config.vocab_size,) if arguments == "same" else arguments
    before = copy.deepcopy(model)
    assert model.resize_token_embeddings(*arguments) is model.get_input_embeddings()
    assert type(model.lm_head) is RoutedLinear
    assert_same_weights(model, before)


# --- configuration ---------------------------------------------------------------------------------------------------


def test_the_default_configuration_has_the_paper_s_size():
    with torch.device("meta"):
        model = ArmForCausalLM(ArmConfig())
    decoder = sum(p.numel() for name, p in model.named_parameters() if "vq_model" not in name)
    assert decoder == 8_085_378_560
    assert model.config.vocab_size - model.config.visual_token_offset == 65_536
    assert model.config.width_token_offset + 128 <= model.config.visual_token_offset


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 501}, r"vocab_size 501 must be visual_token_offset 484 \+ the codebook's 16 codes"),
        ({"shape_token_offset": 229}, r"Shape tokens 229\.\.484 do not fit the 484 text rows; choose a smaller"),
    ],
)
def test_a_vocabulary_that_does_not_add_up_is_refused(fields, message):
    fitting = {"vocab_size": 500, "visual_token_offset": 484, "shape_token_offset": 228, "vq_config": TINY_VQ}
    assert ArmConfig(**fitting).width_token_offset == 356
    with pytest.raises(ValueError, match=message):
        ArmConfig(**(fitting | fields))


def test_the_configuration_survives_saving(shared, tmp_path):
    shared.config.save_pretrained(tmp_path)
    for loader in (ArmConfig, AutoConfig):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is ArmConfig and type(loaded.vq_config) is ArmVQConfig
        assert loaded.to_dict() | {"_name_or_path": ""} == shared.config.to_dict() | {"_name_or_path": ""}
        assert loaded.vq_config.codebook_size == 1024
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["vq_config"]["fsq_levels"] == [2] * 10 and saved["model_type"] == "arm"


# --- adapters --------------------------------------------------------------------------------------------------------


def with_lora(model, targets):
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))


def train_steps(model, config, steps=3):
    """Some steps on a picture and text, as the Trainer makes them."""
    ids = torch.tensor([with_placeholders(config, [(2, 3)])])
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, pixel_values=pixels(1), labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def adapted_modules(model):
    return [name.removeprefix("base_model.model.") for name, m in model.named_modules() if hasattr(m, "lora_A")]


def test_lora_targets_are_all_linear_layers_of_the_decoder(model):
    layers = [f"model.layers.{i}." for i in range(2)]
    parts = [*(f"self_attn.{n}_proj" for n in "qkvo"), *(f"mlp.{n}_proj" for n in ("gate", "up", "down"))]
    expected = sorted(layer + part for layer in layers for part in parts)
    assert sorted(adapted_modules(with_lora(model, ArmForCausalLM.LORA_TARGETS))) == expected


def test_adapters_can_be_switched_off_saved_and_merged(model, shared, tmp_path):
    ids = mixed(model.config)
    adapted = train_steps(with_lora(model, model.LORA_TARGETS), shared.config)
    on = logits_of(adapted, ids)
    with adapted.disable_adapter():
        assert torch.equal(logits_of(adapted, ids), logits_of(shared, ids))
    assert (on - logits_of(shared, ids)).abs().max() > 1e-2

    adapted.save_pretrained(tmp_path)
    assert {
        name.split(".lora")[0].split(".", 2)[2] for name in load_file(tmp_path / "adapter_model.safetensors")
    } == set(adapted_modules(adapted))
    loaded = PeftModel.from_pretrained(copy.deepcopy(shared), tmp_path).eval()
    assert_close(logits_of(loaded, ids), on)

    shared.save_pretrained(tmp_path / "base")
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path)
    assert_close(logits_of(ArmForCausalLM.from_pretrained(tmp_path), ids), on)

    merged = adapted.merge_and_unload()
    assert type(merged) is ArmForCausalLM and merged.state_dict().keys() == shared.state_dict().keys()
    assert_close(logits_of(merged, ids), on, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    assert_close(logits_of(ArmForCausalLM.from_pretrained(tmp_path / "merged"), ids), on, atol=1e-4)


@pytest.mark.parametrize("targets", [ArmForCausalLM.LORA_TARGETS, ["q_proj", "v_proj"], "all-linear"], ids=str)
def test_training_adapters_leaves_the_visual_tokenizer_as_it_is(model, shared, targets):
    """Also where bare names put adapters into it: nothing trains them, and untrained ones change nothing."""
    images = pixels(8)
    adapted = train_steps(with_lora(model, targets), shared.config)
    vq_model = adapted.get_base_model().vq_model
    expected = shared.vq_model.encode(images)
    assert torch.equal(vq_model.encode(images).codes, expected.codes)
    assert torch.equal(vq_model.encode(images).z_q, expected.z_q)
    assert not any(parameter.requires_grad for parameter in vq_model.parameters())
    assert all((p == 0).all() for name, p in vq_model.named_parameters() if "lora_B" in name)
    assert any((p != 0).any() for name, p in adapted.named_parameters() if "lora_B" in name)
    merged = adapted.merge_and_unload()
    assert_same_weights(merged.vq_model, shared.vq_model)


# --- trainers that do not know ARM -----------------------------------------------------------------------------------


@pytest.fixture
def trl(tiny_arm_backbones, tmp_path):
    """Constructors of TRL's trainers, with all they need but the model; `subclass_of` makes them."""
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    quick = {
        **{"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True},
        **{"per_device_train_batch_size": 2},
    }
    pair = {"prompt": ["a", "b"], "chosen": ["c", "d"], "rejected": ["e", "f"]}
    trainers = {
        "sft": (SFTTrainer, {"args": SFTConfig(**quick), "train_dataset": {"text": ["a circle", "a square"]}}),
        "dpo": (DPOTrainer, {"args": DPOConfig(**quick), "train_dataset": pair}),
        "grpo": (
            GRPOTrainer,
            {
                "args": GRPOConfig(**quick, num_generations=2),
                "train_dataset": {"prompt": ["a", "b"]},
                "reward_funcs": lambda completions, **kwargs: [0.0] * len(completions),
            },
        ),
    }
    tokenizer = AutoTokenizer.from_pretrained(tiny_arm_backbones["text"])

    def construct(name, model, tags=None, **kwargs):
        trainer_class, arguments = trainers[name]
        if tags is not None:
            trainer_class = type("Ours", (trainer_class,), {"_tag_names": tags})
        arguments = arguments | {"train_dataset": Dataset.from_dict(arguments["train_dataset"])}
        return trainer_class(model=model, processing_class=tokenizer, **arguments, **kwargs)

    return construct


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("sft", "ArmSFTTrainer"),
        ("dpo", r"ArmTrainer \(trainers/sft.py\)"),
        ("grpo", "ArmGRPOTrainer"),
    ],
)
@pytest.mark.parametrize("given_as", ["model", "folder", "adapted"])
def test_stock_trl_trainers_are_refused_as_they_are_made(trl, shared, tmp_path, name, ours, given_as):
    model, arguments = copy.deepcopy(shared), {}
    if given_as == "folder" or name == "dpo":  # whose reference model is loaded by its name
        shared.save_pretrained(tmp_path / "model")
        model = str(tmp_path / "model")
    if given_as == "adapted":
        arguments["peft_config"] = LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, task_type="CAUSAL_LM")
    with pytest.raises(TypeError, match=f"softmax over all .* rows of ARM's head.*use transformers_arm's {ours}"):
        trl(name, model, **arguments)


def test_a_trl_subclass_that_knows_arm_says_so_by_its_tags(trl, model):
    trainer = trl("grpo", model, tags=["trl", "grpo", "arm"])
    assert {"trl", "grpo", "arm"} <= set(trainer.model.model_tags)


def test_other_tags_are_taken(model):
    model.add_model_tags("image-editing")
    model.add_model_tags(["arm", "custom"])
    assert model.model_tags == ["image-editing", "arm", "custom"]
    with pytest.raises(TypeError):
        model.add_model_tags("trl")


def test_no_part_of_the_package_needs_trl_to_load_a_model():
    sources = Path(transformers_arm.__file__).parent.glob("modeling_*.py")
    assert all("import trl" not in path.read_text() and "from trl" not in path.read_text() for path in sources)


def test_copies_and_pickles_of_a_model_hold_no_token(model):
    model.hub_options = {"revision": "abc", "token": "hf_secret"}
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.hub_options == {"revision": "abc"}
        assert_close(logits_of(again, mixed(model.config)), logits_of(model, mixed(model.config)))
    assert b"hf_secret" not in pickle.dumps(model)
    assert model.hub_options["token"] == "hf_secret"


def test_a_token_that_must_not_be_sent_is_not_sent(monkeypatch):
    asked = []
    monkeypatch.setattr("transformers_arm.loading_arm.cached_file", lambda *args, **hub: asked.append(hub))
    with pytest.raises(OSError):
        ArmForCausalLM.from_pretrained("someone/nothing", token=False, local_files_only=True)
    assert asked[0]["token"] is False


def test_autocast_gives_logits_losses_and_text(shared):
    ids = mixed(shared.config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = shared(ids, labels=ids)
        shared.generate(ids[:, :3], max_new_tokens=2)
        shared.generate(ids[:, :3], generation_mode="image", image_grid=(1, 2), guidance_scale=1)
    assert_close(output.logits, logits_of(shared, ids), atol=0.3)
    assert output.loss.isfinite()


def test_large_hidden_states_leave_the_fp16_loss_finite(model):
    hidden = torch.full((4, 400, model.config.hidden_size), 60.0, dtype=torch.float16)
    model.half()
    image_follows = torch.zeros(4, 400, dtype=torch.bool)
    loss, _ = model.routed_loss(hidden, image_follows, torch.zeros(4, 400, dtype=torch.long))
    assert loss.isfinite()
