"""Captions: the head multiplies their positions alone, and pictures without one make no loss and no gradient NaN."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from vq_pretraining import LOSSES, new_model, run


def gradients(model):
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def of_all_positions(self, z_q, caption_ids):
    """The caption loss, with logits of every position of the pictures too."""
    prefix = self.caption_connector(z_q.flatten(1, 2))
    embedded = self.captioner.get_input_embeddings()(caption_ids.clamp(min=0))
    labels = torch.cat([caption_ids.new_full(prefix.shape[:2], -100), caption_ids], 1)
    return self.captioner(inputs_embeds=torch.cat([prefix, embedded], 1), labels=labels, use_cache=False).loss


@pytest.mark.parametrize("length", [1, None], ids=["one token", "whole"])
def test_the_head_multiplies_captions_alone_with_the_same_loss_and_gradients(
    tiny_backbones, batch, monkeypatch, length
):
    batch = {**batch, "caption_ids": batch["caption_ids"][:, :length]}
    model, seen = new_model(tiny_backbones), []
    model.captioner.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    output = run(model, batch)
    output.loss.backward()
    found = gradients(model)
    assert [tuple(each[:2]) for each in seen] == [tuple(batch["caption_ids"].shape)]
    monkeypatch.setattr(type(model), "caption_loss", of_all_positions)
    model = new_model(tiny_backbones)
    expected = run(model, batch)
    expected.loss.backward()
    torch.testing.assert_close(output.losses, expected.losses)
    assert found.keys() == gradients(model).keys()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_of_long_pictures_most_of_the_head_s_products_are_saved(tiny_backbones, batch):
    model, z_q = new_model(tiny_backbones), torch.randn(4, 32, 32, 32)
    counts = []
    for loss in (model.caption_loss, of_all_positions.__get__(model)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            loss(z_q, batch["caption_ids"])
        (head,) = (sum(each.values()) for name, each in counter.flop_counts.items() if name.endswith("lm_head"))
        counts.append(head)
    length = batch["caption_ids"].shape[1]
    assert counts[1] / counts[0] == pytest.approx((1024 + length) / length)


def without(batch, pictures):
    """The batch with -100 for the captions of some pictures."""
    changed = {name: batch[name].clone() for name in ("input_ids", "caption_ids")}
    for ids in changed.values():
        ids[pictures] = -100
    return {**batch, **changed}


@pytest.mark.parametrize("kind", ["none given", "of no token", "of padding"])
def test_a_batch_without_captions_has_its_other_losses_and_zeros_for_gradients_of_these(tiny_backbones, batch, kind):
    given = {"pixel_values": batch["pixel_values"]}
    given |= {"of no token": {"caption_ids": torch.zeros(4, 0, dtype=torch.long)}}.get(kind, {})
    given = without(batch, slice(None)) if kind == "of padding" else given
    model = new_model(tiny_backbones)
    output = run(model, given)
    assert set(output.losses) == set(LOSSES) - {"caption", "sigmoid"}
    weights = {name: getattr(model.config, f"{name}_loss_weight") for name in output.losses}
    expected = sum(weight * output.losses[name] for name, weight in weights.items())
    assert output.loss.isfinite() and output.loss.item() == pytest.approx(expected.item())
    output.loss.backward()
    found = gradients(model)
    assert found.keys() == {name for name, value in model.named_parameters() if value.requires_grad}
    assert all(gradient.isfinite().all() for gradient in found.values())
    for name in ("caption_connector.weight", "logit_scale", "logit_bias"):
        assert not found[name].any()
    assert found["vq_model.down_projection.weight"].any()


def test_of_a_mixed_batch_the_captions_there_are_count_by_their_share(tiny_backbones, batch):
    model = new_model(tiny_backbones).eval()  # a norm in training would see all pictures
    mixed = run(model, without(batch, [1]))
    some = [0, 2, 3]
    alone = run(model, {name: value[some] for name, value in batch.items()})
    for name in ("caption", "sigmoid"):
        torch.testing.assert_close(mixed.losses[name], alone.losses[name])
    shares = {"caption": 0.75, "sigmoid": 0.75}
    weights = {name: getattr(model.config, f"{name}_loss_weight") * shares.get(name, 1) for name in LOSSES}
    expected = sum(weights[name] * value.item() for name, value in mixed.losses.items())
    assert mixed.loss.item() == pytest.approx(expected, rel=1e-6)


def test_parts_of_a_step_add_up_to_its_pictures_mean(tiny_backbones, batch):
    off = dict.fromkeys((f"{name}_loss_weight" for name in ("sigmoid", "pixel", "decorrelation", "context")), 0.0)
    model = new_model(tiny_backbones, **off).eval()
    length = (batch["caption_ids"] != -100).sum(1).min()
    batch = {**without(batch, [3]), "caption_ids": without(batch, [3])["caption_ids"][:, :length]}
    whole = model(**batch).loss
    parts = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 3), slice(3, 4))]
    for total in (4, torch.tensor(4)):
        losses = [model(**part, num_items_in_batch=total).loss for part in parts]
        torch.testing.assert_close(sum(losses), whole)
