"""The tokenizer's training: towers are taken over exactly, each loss is its formula, only learners get gradients."""

import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForPreTraining,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipConfig,
    SiglipModel,
)

from transformers_arm import ArmVQConfig, ArmVQForPreTraining, ArmVQModel
from transformers_arm import modeling_arm_vq_pretraining as pretraining
from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.modeling_arm_vq_pretraining import decorrelation_loss, sigmoid_loss
from transformers_arm.worlds.shapes.pictures import Canvas, ShapesDataset

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
    assert tiny_backbones["captioner"] not in model.config.to_json_string(use_diff=False)  # no paths of this disk


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


@pytest.fixture(scope="module")
def other_backbones(tmp_path_factory):
    """Backbones in other formats: shards of bfloat16; a text tower wider than its embeddings; a head of its own."""
    folder = tmp_path_factory.mktemp("other_backbones")
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = size | {"hidden_size": 64, "vocab_size": 400, "max_position_embeddings": 32, "projection_size": 32}
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        siglip = SiglipModel(
            SiglipConfig(vision_config=size | {"image_size": 64, "patch_size": 16}, text_config=text | ids)
        )
        qwen2 = Qwen2ForCausalLM(Qwen2Config(**size, **ids, num_key_value_heads=1, vocab_size=400))
    for model, name in ((siglip, "vision"), (qwen2, "captioner")):
        model.to(torch.bfloat16).save_pretrained(folder / name, max_shard_size="30KB")
        assert len(list((folder / name).glob("model-*-of-*.safetensors"))) > 2
    return {name: str(folder / name) for name in ("vision", "captioner")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_of_any_dtype_are_taken_over(other_backbones, batch, dtype):
    model = new_model(other_backbones, dtype=dtype)
    siglip = SiglipModel.from_pretrained(other_backbones["vision"]).state_dict()
    captioner = Qwen2ForCausalLM.from_pretrained(other_backbones["captioner"]).state_dict()
    theirs = {name.replace("vision_model.head.", "pooling_head."): value for name, value in siglip.items()}
    theirs = {name.replace("vision_model.", "vq_model.vision_model."): value for name, value in theirs.items()}
    theirs |= {f"captioner.{name}": value for name, value in captioner.items()}
    ours = model.state_dict()
    assert len(theirs) > 90 and {value.dtype for value in theirs.values()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    for name, value in theirs.items():
        assert torch.equal(ours[name], value.to(dtype)), name
    assert model.captioner.lm_head.weight is not model.captioner.model.embed_tokens.weight
    assert all(part.isfinite() for part in run(model, batch).losses.values())


def test_the_text_tower_may_be_another_siglip_s(tiny_backbones, other_backbones):
    model = new_model(tiny_backbones | {"text": other_backbones["vision"]})
    siglip = SiglipModel.from_pretrained(other_backbones["vision"], dtype=torch.float32)
    for name, value in siglip.text_model.state_dict().items():
        assert torch.equal(model.text_model.state_dict()[name], value), name
    assert torch.equal(model.logit_scale, siglip.logit_scale) and model.logit_bias.item() != -3.0
    head = SiglipModel.from_pretrained(tiny_backbones["vision"]).vision_model.head.state_dict()
    assert all(torch.equal(value, head[name]) for name, value in model.pooling_head.state_dict().items())


def test_one_backbone_at_a_time_is_in_memory(tiny_backbones, monkeypatch):
    read, living = pretraining.read_backbone, []

    def watched(kind, path):
        assert not any(tensor() is not None for tensor in living), kind
        tensors = read(kind, path)
        living.extend(weakref.ref(tensor.untyped_storage()) for tensor in tensors.values())
        return tensors

    monkeypatch.setattr(pretraining, "read_backbone", watched)
    new_model(tiny_backbones)
    assert len(living) > 60 and not any(tensor() is not None for tensor in living)


def test_towers_whose_embeddings_differ_in_size_are_refused(tiny_backbones, tmp_path):
    siglip = SiglipModel.from_pretrained(tiny_backbones["vision"])
    siglip.config.text_config.projection_size = 24
    siglip.config.save_pretrained(tmp_path)
    message = f"Text embeddings of {tmp_path} have 24 numbers, picture embeddings of .*vision 32; take both towers"
    with pytest.raises(ValueError, match=message):
        new_model(tiny_backbones | {"text": str(tmp_path)})


def test_a_picture_of_no_whole_number_of_patches_is_refused(tiny_backbones, tmp_path):
    config = SiglipModel.from_pretrained(tiny_backbones["vision"]).config
    config.vision_config.image_size, config.vision_config.patch_size = 384, 14
    config.save_pretrained(tmp_path)
    message = "pictures of 384 px, which are no whole number of patches of 14 px; take one such as google/"
    with pytest.raises(ValueError, match=message):
        new_model(tiny_backbones | {"vision": str(tmp_path)})


def test_a_backbone_that_lacks_tensors_is_refused(tiny_backbones, tmp_path):
    SiglipModel.from_pretrained(tiny_backbones["vision"]).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["text_model.head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 of the tensors of SiglipModel: text_model.head.weight"):
        new_model(tiny_backbones | {"text": str(tmp_path)})


def test_the_caption_loss_needs_a_captioner(tiny_backbones):
    with pytest.raises(ValueError, match="caption_loss_weight of 1.0 needs a captioner; name a Qwen2ForCausalLM"):
        new_model({"vision": tiny_backbones["vision"]})


@pytest.mark.parametrize(
    ("swapped", "message"),
    [
        ({"vision": "captioner"}, "captioner holds a 'qwen2' model where a 'siglip' one is needed"),
        ({"text": "captioner"}, "captioner holds a 'qwen2' model where a 'siglip' one is needed"),
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
    with pytest.raises(ValueError, match=f"needs config.{missing}.*from_backbones.*_loss_weight to 0"):
        ArmVQForPreTraining(config)


# What only one loss needs, by the beginnings of parameter names.
NEEDED_BY = {
    "caption": ("captioner.", "caption_connector."),
    "pixel": ("pixel_transformer.",),
    "sigmoid": ("text_model.", "pooling_head.", "logit_"),
}


@pytest.mark.parametrize("name", NEEDED_BY)
def test_what_only_a_loss_of_weight_0_needs_is_neither_read_nor_built(
    tiny_backbones, model, batch, name, tmp_path, monkeypatch
):
    """Neither from backbones nor from a checkpoint that has it; what is left trains, is saved and loaded."""
    read, kinds = pretraining.read_backbone, []
    monkeypatch.setattr(
        pretraining, "read_backbone", lambda kind, path: (kinds.append(kind.__name__), read(kind, path))[1]
    )
    backbones = dict(tiny_backbones)
    if name == "caption":
        del backbones["captioner"]
    without = {f"{name}_loss_weight": 0.0}
    lean = new_model(backbones, **without)
    unneeded = {"caption": {"Qwen2ForCausalLM"}, "sigmoid": {"SiglipModel"}}.get(name, set())
    assert set(kinds) == {"SiglipVisionModel", "SiglipModel", "Qwen2ForCausalLM"} - unneeded
    theirs = {key: value for key, value in model.state_dict().items() if not key.startswith(NEEDED_BY[name])}
    assert lean.state_dict().keys() == theirs.keys() and len(theirs) < len(model.state_dict())

    model.save_pretrained(tmp_path / "all")
    loaded, info = ArmVQForPreTraining.from_pretrained(tmp_path / "all", **without, output_loading_info=True)
    assert not any(info[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(value, theirs[key]) for key, value in loaded.state_dict().items())
    loaded.save_pretrained(tmp_path / "lean")
    again = ArmVQForPreTraining.from_pretrained(tmp_path / "lean").train()
    inputs = {key: batch[key] for key in batch if key != {"caption": "caption_ids", "sigmoid": "input_ids"}.get(name)}
    output = run(again, inputs)
    assert set(output.losses) == set(LOSSES) - {name} and output.loss.requires_grad


def test_a_loss_that_the_checkpoint_was_not_trained_with_is_refused(tiny_backbones, tmp_path):
    new_model(tiny_backbones, pixel_loss_weight=0.0).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks .* of the tensors of ArmVQForPreTraining: pixel_transformer"):
        ArmVQForPreTraining.from_pretrained(tmp_path, pixel_loss_weight=5.0)


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
    layers = set(model.captioner.model.layers)  # in training they checkpoint gradients, and do nothing else
    for part in (model.vq_model.vision_model, model.text_model, model.pooling_head, model.captioner):
        assert not any(module.training for module in set(part.modules()) - layers)
    assert model.vq_model.channel_norm.training and model.pixel_transformer.training
    assert all(layer.training for layer in layers)
    assert not any(layer.training for layer in model.eval().captioner.model.layers)


def test_a_captioner_s_dropout_stays_off(tiny_backbones, batch, tmp_path):
    captioner = Qwen2ForCausalLM.from_pretrained(tiny_backbones["captioner"])
    captioner.config.attention_dropout = 0.5
    captioner.save_pretrained(tmp_path)
    model = new_model(tiny_backbones | {"captioner": str(tmp_path)})
    z_q = torch.randn(4, 3, 4, 32)
    expected = model.eval().caption_loss(z_q, batch["caption_ids"])
    assert model.captioner.model.layers[0].self_attn.attention_dropout == 0.5
    assert torch.equal(model.train().caption_loss(z_q, batch["caption_ids"]), expected)


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


# --- precision and memory --------------------------------------------------------------------------------------------


def losses_and_gradients(model, batch):
    output = run(model, batch)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_loss_and_no_gradient(tiny_backbones, batch, use_reentrant):
    model = new_model(tiny_backbones)
    expected, gradients = losses_and_gradients(model, batch)
    model = new_model(tiny_backbones)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    calls = dict.fromkeys(
        ["vq_model.down_blocks.layers.0.mlp", "vq_model.up_blocks.layers.0.mlp", "pixel_transformer.blocks.0.ff"]
        + ["captioner.model.layers.0.mlp", "vq_model.vision_model.encoder.layers.0.mlp"],
        0,
    )
    for name in calls:
        model.get_submodule(name).register_forward_hook(
            lambda *args, name=name: calls.update({name: calls[name] + 1}), always_call=True
        )
    found, checkpointed = losses_and_gradients(model, batch)
    assert calls.pop("vq_model.vision_model.encoder.layers.0.mlp") == 1  # it has no gradients
    assert set(calls.values()) == {2}  # forward, and again in the backward pass
    torch.testing.assert_close(found.losses, expected.losses)
    assert checkpointed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


@pytest.mark.parametrize("mode", ["autocast", "weights"])
def test_bfloat16_gives_about_the_losses_and_gradients_of_fp32(tiny_backbones, batch, mode):
    expected, gradients = losses_and_gradients(new_model(tiny_backbones), batch)
    model = new_model(tiny_backbones, dtype=torch.bfloat16 if mode == "weights" else torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        found, rounded = losses_and_gradients(model, batch)
    assert (found.codes == expected.codes).float().mean() > 0.9  # a bit may flip where a channel is nearly 0
    for name, value in expected.losses.items():
        assert found.losses[name].item() == pytest.approx(value.item(), rel=0.01), name
        assert found.losses[name].dtype == torch.float32
    assert rounded.keys() == gradients.keys()
    for part in ("vq_model.down", "vq_model.up", "caption_connector", "pixel_transformer", "logit"):
        names = [name for name in gradients if name.startswith(part)]
        ours, theirs = (torch.cat([each[name].float().flatten() for name in names]) for each in (rounded, gradients))
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99, part
        assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.05), part


# --- several processes -----------------------------------------------------------------------------------------------

TWO_PROCESSES = """
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from transformers_arm import ArmVQForPreTraining

dist.init_process_group("gloo")
folder, rank = sys.argv[1], dist.get_rank()
expected = torch.load(f"{folder}/expected.pt")
model = ArmVQForPreTraining.from_pretrained(folder, dtype=torch.float32).train()
model.vq_model.channel_norm.eval()  # whose statistics are each process's own
parallel = DistributedDataParallel(model)
batch = {name: value.chunk(2)[rank] for name, value in expected["batch"].items()}
output = parallel(**batch)
output.loss.backward()
loss = output.loss.detach().clone()
dist.all_reduce(loss)
torch.testing.assert_close(loss / 2, expected["loss"], atol=1e-4, rtol=0)
assert (output.loss - expected["loss"]).abs() > 1e-3  # it takes both
found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
assert found.keys() == expected["gradients"].keys() and "logit_scale" in found
for name, gradient in expected["gradients"].items():
    torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4, msg=name)

batch = {name: value[3 * rank : 3 + rank] for name, value in expected["batch"].items()}  # 3 and 1: no process hangs
assert parallel(**batch).loss.isfinite()
local = model.eval()(**batch)  # evaluation needs no other process
assert local.loss.isfinite()
dist.destroy_process_group()
"""


def test_two_processes_give_the_sigmoid_loss_and_gradients_of_one_with_both_batches(tiny_backbones, batch, tmp_path):
    model = new_model(tiny_backbones, caption_loss_weight=0, pixel_loss_weight=0, decorrelation_loss_weight=0)
    model.save_pretrained(tmp_path)
    model.vq_model.channel_norm.eval()
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids")}
    output, gradients = losses_and_gradients(model, inputs)
    assert set(output.losses) == {"sigmoid", "feature"}
    torch.save({"batch": inputs, "loss": output.loss.detach(), "gradients": gradients}, tmp_path / "expected.pt")
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(tmp_path / "two.py"), str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


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
