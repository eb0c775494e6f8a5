"""Each loss is its formula, and their sum is weighted."""

import numpy as np
import pytest
import torch
from vq_pretraining import LOSSES, new_model, run

from transformers_arm import ArmVQConfig
from transformers_arm.modeling_arm_vq_pretraining import decorrelation_loss


def test_the_caption_loss_is_the_cross_entropy_of_each_caption_read_alone(model, batch):
    output = run(model, batch)
    total, count = 0.0, 0
    for z_q, caption in zip(output.z_q, batch["caption_ids"], strict=True):
        caption = caption[caption != -100]  # alone, so without padding
        prefix = model.caption_connector(z_q.flatten(0, 1))
        embedded = torch.cat([prefix, model.captioner.model.embed_tokens(caption)])[None]
        logits = model.captioner(inputs_embeds=embedded).logits[0].double().detach().numpy()
        for place, token in enumerate(caption.tolist()):
            row = logits[len(prefix) - 1 + place]
            total += np.log(np.exp(row - row.max()).sum()) + row.max() - row[token]
            count += 1
    assert output.losses["caption"].item() == pytest.approx(total / count, abs=1e-5)


def test_the_captioner_reads_only_its_share_of_the_batch(model, batch, monkeypatch):
    monkeypatch.setattr(model.config, "caption_share", 0.5)
    half = run(model, batch).losses["caption"]
    z_q = run(model, batch).z_q
    assert half.item() == pytest.approx(model.caption_loss(z_q[:2], batch["caption_ids"][:2]).item())
    monkeypatch.setattr(model.config, "caption_share", 0.01)  # never nothing
    one = run(model, batch).losses["caption"]
    assert one.item() == pytest.approx(model.caption_loss(z_q[:1], batch["caption_ids"][:1]).item())


def test_the_sigmoid_loss_is_a_sum_over_all_pairs(model, batch):
    output = run(model, batch)
    with torch.no_grad():
        image = model.pooling_head(output.z_q.flatten(1, 2)).double().numpy()
        text = model.text_model(input_ids=batch["input_ids"]).pooler_output.double().numpy()
    total = 0.0
    for i in range(4):
        for j in range(4):
            similarity = image[i] @ text[j] / (np.linalg.norm(image[i]) * np.linalg.norm(text[j]))
            logit = np.exp(2.0) * similarity - 3.0
            total += np.log1p(np.exp(-logit if i == j else logit))
    assert output.losses["sigmoid"].item() == pytest.approx(total / 4, abs=1e-5)


def test_the_feature_loss_is_the_mean_cosine_distance(model, batch):
    output = run(model, batch)
    z_q = output.z_q.double().detach().numpy().reshape(-1, 32)
    features = model.vq_model.encode(batch["pixel_values"]).features.double().numpy().reshape(-1, 32)
    cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(z_q, features, strict=True)]
    assert output.losses["feature"].item() == pytest.approx(1 - np.mean(cosines), abs=1e-5)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("regression_share", [0.0, 0.5])
def test_the_pixel_loss_is_the_squared_error_of_the_clean_picture_over_sigma(
    model, batch, regression_share, seed, monkeypatch
):
    monkeypatch.setattr(model.config, "pixel_regression_share", regression_share)
    output = run(model, batch, seed)
    torch.manual_seed(seed)
    sigma, regression, _ = torch.rand(4), torch.rand(4), torch.rand(4)
    noise, clean = torch.randn(4, 3, 48, 64), batch["pixel_values"]
    sigma[regression < regression_share] = 1.0
    total = 0.0
    for i in range(4):  # one by one
        noisy = (1 - sigma[i]) * clean[i] + sigma[i] * noise[i]
        z_q = output.z_q[i : i + 1]
        with torch.no_grad():
            velocity = model.pixel_transformer(noisy[None], sigma[i : i + 1], z_q)[0]
        divisor = max(sigma[i].item(), 0.05)
        predicted = noisy - divisor * velocity
        total += ((predicted - clean[i]) / divisor).square().double().mean().item()
    assert output.losses["pixel"].item() == pytest.approx(total / 4, rel=1e-5)


def test_the_decorrelation_loss_is_the_squared_covariance_of_different_channels(model, batch):
    output = run(model, batch)
    channels = model.vq_model.train()(batch["pixel_values"]).channels.double().detach().numpy().reshape(-1, 6)
    covariance = np.cov(channels, rowvar=False)
    expected = sum(covariance[i, j] ** 2 for i in range(6) for j in range(6) if i != j) / 6
    assert output.losses["decorrelation"].item() == pytest.approx(expected, rel=1e-4)


def test_independent_channels_cost_nothing_and_copies_do():
    channels = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert decorrelation_loss(channels).item() == 0
    copies = channels[:, :1].expand(-1, 2)
    assert decorrelation_loss(copies).item() == pytest.approx((4 / 3) ** 2)


def test_the_context_loss_is_what_values_of_half_of_the_patches_change_by_among_those_of_the_next_picture(
    tiny_backbones, batch, monkeypatch
):
    model, pixels = new_model(tiny_backbones).eval(), batch["pixel_values"]
    drawn, values_of = torch.rand(4, 3, 4), lambda pixels: model.vq_model.quantizer(model.vq_model(pixels).channels)[0]
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: drawn.reshape(*shape))
    with torch.no_grad():
        before = values_of(pixels)
        found = model.context_loss(pixels, model.vq_model(pixels).channels)
        changes = []
        for i in range(4):
            mixed = pixels[(i + 1) % 4].clone()
            for row, column in (drawn[i] < 0.5).nonzero().tolist():
                place = (slice(None), slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16))
                mixed[place] = pixels[i][place]
            after = values_of(mixed[None])[0]
            changes += (after - before[i])[drawn[i] < 0.5].square().flatten().tolist()
    assert found.item() == pytest.approx(np.mean(changes), rel=1e-4) and found > 0


def test_the_context_loss_of_a_picture_alone_is_nothing(model, batch):
    evaluated = model.vq_model.eval()
    alone = batch["pixel_values"][:1]
    assert model.context_loss(alone, evaluated(alone).channels).item() == 0
    model.train()


def test_the_loss_is_the_weighted_sum_of_its_parts(tiny_backbones, batch):
    weights = dict(zip(LOSSES, (0.3, 50.0, 0.7, 2.0, 0.1, 0.2), strict=True))
    model = new_model(tiny_backbones, **{f"{name}_loss_weight": value for name, value in weights.items()})
    output = run(model, batch)
    assert set(output.losses) == set(LOSSES) and all(part.ndim == 0 for part in output.losses.values())
    expected = sum(weights[name] * part.item() for name, part in output.losses.items())
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)
    assert output.codes.shape == (4, 3, 4) and output.z_q.shape == (4, 3, 4, 32)


def test_the_default_weights_are_the_paper_s():
    config = ArmVQConfig()
    assert [getattr(config, f"{name}_loss_weight") for name in LOSSES] == [1, 5, 5, 1, 0, 0]
    assert (config.pixel_regression_share, config.caption_share) == (0, 1)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_weight_0_is_not_computed(model, batch, name, monkeypatch):
    unused = {
        "caption": (model.captioner, "forward"),
        "pixel": (model.pixel_transformer, "forward"),
        "sigmoid": (model.text_model, "forward"),
    }
    needs = {"caption": "caption_ids", "sigmoid": "input_ids"}
    monkeypatch.setattr(model.config, f"{name}_loss_weight", 0.0)
    if name in unused:
        monkeypatch.setattr(*unused[name], lambda *args, **kwargs: pytest.fail(f"computed for {name}"))
    output = run(model, {key: value for key, value in batch.items() if key != needs.get(name)})
    assert set(output.losses) == set(LOSSES) - {name}
