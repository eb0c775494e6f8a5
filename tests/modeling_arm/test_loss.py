"""The loss is a masked softmax over the flat vocabulary, whatever the chunks, the labels and the precision."""

import copy

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from tiny_arm import assemble, assert_close, can_follow, logits_of, mixed, picture
from torch import nn

# --- the loss --------------------------------------------------------------------------------------------------------


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


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


def test_training_with_labels_returns_no_logits_unless_it_is_asked_for_them(model):
    ids, labels = batch_with_labels(model.config)
    assert model.train()(ids, labels=labels).logits is None
    assert model(ids).logits is not None
    asked = model(ids, labels=labels, skip_logits=False)
    assert torch.equal(asked.logits, model(ids).logits) and torch.equal(asked.loss, model(ids, labels=labels).loss)
    assert model.eval()(ids, labels=labels).logits is not None
    without = model(ids, labels=labels, skip_logits=True)
    assert without.logits is None and without.loss.isfinite()


def test_scores_are_asked_for_by_their_own_name_and_come_alone(shared):
    ids, labels = batch_with_labels(shared.config)
    scored, plain = shared(ids, labels=labels, scoring_temperature=1.0), shared(ids, labels=labels)
    assert {"loss", "logits", "losses"}.isdisjoint(scored.keys()) and {"log_probs", "entropies"} <= set(scored.keys())
    assert {"log_probs", "entropies", "token_losses"}.isdisjoint(plain.keys())
    with pytest.raises(ValueError, match="scoring_temperature is for scores of labels; pass labels"):
        shared(ids, scoring_temperature=1.0)


def test_the_loss_of_each_label_comes_when_it_is_asked_for(shared):
    ids, labels = batch_with_labels(shared.config)
    output = shared(ids, labels=labels, output_token_losses=True)
    expected, _ = flat_losses(shared, ids, labels)
    found = output.token_losses
    assert found.shape == ids.shape and not found.requires_grad and found.dtype == torch.float32
    assert_close(found[~found.isnan()], expected.detach())  # in their order
    assert_close(found.nanmean(), output.loss.detach())
    scores = shared(ids, labels=labels, scoring_temperature=1.0).log_probs
    assert_close(-found[:, :-1].nan_to_num(), scores.detach())
    assert torch.equal(output.loss, shared(ids, labels=labels).loss)


# --- embeddings in place of ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["labels", "shift_labels", "scores"])
def test_labels_of_image_tokens_need_the_ids(shared, how):
    """Without them, routing is not known, and their loss would be lost."""
    ids = mixed(shared.config)
    embeddings = shared.get_input_embeddings()(ids)
    asked = {how: ids} if how != "scores" else {"labels": ids, "scoring_temperature": 1.0}
    with pytest.raises(ValueError, match=r"labels are image tokens .* lost. Pass input_ids in place of inputs_embeds"):
        shared(inputs_embeds=embeddings, **asked)


def test_labels_of_text_have_their_loss_with_embeddings_as_with_ids(shared):
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    embeddings = shared.get_input_embeddings()(ids)
    assert torch.equal(shared(inputs_embeds=embeddings, labels=ids).loss, shared(ids, labels=ids).loss)
    picture_before = mixed(shared.config)  # its labels carry no loss, as those of a prompt
    labels = picture_before.masked_fill(picture_before >= shared.config.visual_token_offset, -100)
    labels[picture_before == shared.config.vision_end_token_id] = -100
    embeddings = shared.get_input_embeddings()(picture_before)
    assert_close(shared(inputs_embeds=embeddings, labels=labels).loss, shared(picture_before, labels=labels).loss)


def test_prompt_tuning_learns_text_and_is_refused_for_pictures(model):
    adapted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    adapted(input_ids=ids, labels=ids).loss.backward()
    assert any(parameter.grad.abs().max() > 0 for parameter in adapted.parameters() if parameter.requires_grad)
    ids = mixed(model.config)
    with pytest.raises(ValueError, match="prompt tuning, which makes these, cannot: take LoRA"):
        adapted(input_ids=ids, labels=ids)


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


# --- precision -------------------------------------------------------------------------------------------------------


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
