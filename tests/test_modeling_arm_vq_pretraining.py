"""The tokenizer's training: towers are taken over exactly, each loss is its formula, only learners get gradients."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForPreTraining, AutoTokenizer, Qwen2ForCausalLM, SiglipModel

from transformers_arm import ArmVQConfig, ArmVQForPreTraining, ArmVQModel
from transformers_arm.data.shapes import Canvas, ImageTextCollator, ShapesDataset
from transformers_arm.modeling_arm_vq_pretraining import decorrelation_loss, sigmoid_loss

SMALL = {
    "num_projection_layers": 1,
    "fsq_levels": [2] * 6,
    "pixel_num_layers": 1,
    "pixel_hidden_size": 32,
    "pixel_num_heads": 2,
    "decorrelation_loss_weight": 0.1,
}
LOSSES = ["caption", "pixel", "sigmoid", "feature", "decorrelation"]
FROZEN = ("vq_model.vision_model.", "text_model.", "pooling_head.", "captioner.", "pixel_transformer.null_condition")


@pytest.fixture(scope="module")
def model(tiny_backbones):
    """Shared: tests that change it make their own."""
    return new_model(tiny_backbones)


@pytest.fixture(scope="module")
def batch(tiny_backbones):
    """Four pictures of 48x64 with captions of different lengths."""
    data = ShapesDataset(4, batch_size=4, seed=0, canvases=[Canvas(48, 64)])
    tokenizers = [AutoTokenizer.from_pretrained(tiny_backbones[name]) for name in ("vision", "captioner")]
    batch = ImageTextCollator(tokenizers[0], 32, tokenizers[1])([data[index] for index in range(4)])
    assert (batch["caption_ids"] == -100).any()
    return batch


def new_model(backbones, seed=0, **config):
    torch.manual_seed(seed)
    return ArmVQForPreTraining.from_backbones(**backbones, **(SMALL | config)).train()


def run(model, batch, seed=0):
    """The output under one state of randomness; a batch norm in training mode moves by it."""
    torch.manual_seed(seed)
    return model(**batch)


# --- assembling ------------------------------------------------------------------------------------------------------


def test_the_backbones_are_taken_over_bit_by_bit(model, tiny_backbones):
    siglip = SiglipModel.from_pretrained(tiny_backbones["vision"])
    captioner = Qwen2ForCausalLM.from_pretrained(tiny_backbones["captioner"])
    vision = siglip.vision_model.state_dict()
    pairs = [
        ({n: v for n, v in vision.items() if not n.startswith("head.")}, model.vq_model.vision_model.state_dict()),
        ({n[5:]: v for n, v in vision.items() if n.startswith("head.")}, model.pooling_head.state_dict()),
        (siglip.text_model.state_dict(), model.text_model.state_dict()),
        (captioner.state_dict(), model.captioner.state_dict()),
    ]
    for theirs, ours in pairs:
        assert theirs and theirs.keys() == ours.keys()
        assert all(torch.equal(value, ours[name]) for name, value in theirs.items())
    assert model.logit_scale.item() == 2.0 and model.logit_bias.item() == -3.0


def test_embeddings_are_siglip_s_own(model, tiny_backbones, batch):
    """The pooling head reads SigLIP features as SigLIP does, so that `z_q` can stand in their place."""
    siglip = SiglipModel.from_pretrained(tiny_backbones["vision"]).eval()
    with torch.no_grad():
        expected = siglip(batch["input_ids"], batch["pixel_values"], return_loss=True, interpolate_pos_encoding=True)
        image_embeds = model.image_embeds(model.vq_model.encode(batch["pixel_values"]).features)
        text_embeds = model.text_embeds(batch["input_ids"])
    torch.testing.assert_close(image_embeds, expected.image_embeds)
    torch.testing.assert_close(text_embeds, expected.text_embeds)
    loss = sigmoid_loss(image_embeds, text_embeds, model.logit_scale, model.logit_bias)
    torch.testing.assert_close(loss, expected.loss)


@pytest.mark.parametrize(
    ("swapped", "message"),
    [
        ({"vision": "captioner"}, "captioner holds a 'qwen2' model where a 'siglip' one is needed"),
        ({"captioner": "vision"}, "vision holds a 'siglip' model where a 'qwen2' one is needed"),
    ],
)
def test_a_folder_with_another_model_is_refused(tiny_backbones, swapped, message):
    folders = tiny_backbones | {name: tiny_backbones[other] for name, other in swapped.items()}
    with pytest.raises(ValueError, match=message):
        ArmVQForPreTraining.from_backbones(**folders, **SMALL)


@pytest.mark.parametrize("missing", ["text_config", "captioner_config"])
def test_a_config_without_the_training_only_parts_is_refused(model, missing):
    config = ArmVQConfig(**(model.config.to_dict() | {missing: None}))
    with pytest.raises(ValueError, match=f"needs config.{missing}.*from_backbones"):
        ArmVQForPreTraining(config)


# --- the losses, each against its own formula ------------------------------------------------------------------------


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


def test_the_loss_is_the_weighted_sum_of_its_parts(tiny_backbones, batch):
    weights = dict(zip(LOSSES, (0.3, 50.0, 0.7, 2.0, 0.1), strict=True))
    model = new_model(tiny_backbones, **{f"{name}_loss_weight": value for name, value in weights.items()})
    output = run(model, batch)
    assert set(output.losses) == set(LOSSES) and all(part.ndim == 0 for part in output.losses.values())
    expected = sum(weights[name] * part.item() for name, part in output.losses.items())
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)
    assert output.codes.shape == (4, 3, 4) and output.z_q.shape == (4, 3, 4, 32)


def test_the_default_weights_are_the_paper_s():
    config = ArmVQConfig()
    assert [getattr(config, f"{name}_loss_weight") for name in LOSSES] == [1, 5, 5, 1, 0]
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


# --- what learns -----------------------------------------------------------------------------------------------------


def gradients_of(model, batch, seeds):
    """Largest absolute gradient of each parameter over several steps, None where none came."""
    model.zero_grad()
    for seed in range(seeds):
        run(model, batch, seed).loss.backward()
    return {name: None if p.grad is None else p.grad.abs().max().item() for name, p in model.named_parameters()}


@pytest.mark.parametrize("origin", ["assembled", "loaded"])
def test_gradients_reach_all_that_learns_and_nothing_frozen(tiny_backbones, batch, origin, tmp_path):
    model = new_model(tiny_backbones)
    if origin == "loaded":
        model.save_pretrained(tmp_path)
        model = ArmVQForPreTraining.from_pretrained(tmp_path).train()
    found = gradients_of(model, batch, seeds=3)
    frozen = {name for name in found if name.startswith(FROZEN)}
    learning = found.keys() - frozen
    assert {name for name, value in found.items() if value is None} == frozen
    # A constant added to all keys, or before a batch norm, changes nothing: their gradients are zero but for rounding.
    without_effect = {name for name in learning if name.endswith((".k_proj.bias", ".to_k.bias"))}
    without_effect |= {"vq_model.down_projection.bias", "vq_model.down_norm.bias"}
    assert without_effect <= learning
    assert {name for name in learning - without_effect if not found[name] > 1e-7} == set()
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == learning


def test_frozen_parts_stay_in_evaluation_mode(model):
    model.train()
    for part in (model.vq_model.vision_model, model.text_model, model.pooling_head, model.captioner):
        assert not any(module.training for module in part.modules())
    assert model.vq_model.channel_norm.training and model.pixel_transformer.training


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_alone_teaches_the_layers_before_the_quantizer(tiny_backbones, batch, name):
    weights = {f"{other}_loss_weight": float(other == name) for other in LOSSES}
    found = gradients_of(new_model(tiny_backbones, **weights), batch, seeds=1)
    assert found["vq_model.down_projection.weight"] > 0
    assert found["vq_model.down_blocks.layers.0.self_attn.v_proj.weight"] > 0


def test_a_few_steps_lower_the_loss(tiny_backbones, batch):
    model = new_model(tiny_backbones)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(25):
        output = run(model, batch, seed=step % 2)
        losses.append(output.loss.item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


# --- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [ArmVQForPreTraining, AutoModelForPreTraining])
def test_saving_and_loading_keeps_the_loss(tiny_backbones, batch, loader, tmp_path):
    model = new_model(tiny_backbones)
    run(model, batch).loss.backward()  # moves the batch norm
    model.eval().save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is ArmVQForPreTraining and not loaded.training
    before, after = run(model, batch, seed=3), run(loaded, batch, seed=3)
    assert torch.equal(before.codes, after.codes) and torch.equal(before.loss, after.loss)
    assert loaded.captioner.lm_head.weight is loaded.captioner.model.embed_tokens.weight  # tied, as in Qwen2.5-0.5B


def test_the_tokenizer_alone_loads_from_the_training_model_s_folder(tiny_backbones, batch, tmp_path):
    model = new_model(tiny_backbones).eval()
    model.save_pretrained(tmp_path)
    tokenizer = ArmVQModel.from_pretrained(tmp_path)
    assert torch.equal(tokenizer.encode(batch["pixel_values"]).z_q, model.vq_model.encode(batch["pixel_values"]).z_q)
