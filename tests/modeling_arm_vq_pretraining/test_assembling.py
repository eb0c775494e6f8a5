"""Towers are taken over exactly, what no loss needs is left out, and saving changes nothing."""

import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForPreTraining, Qwen2Config, Qwen2ForCausalLM, SiglipConfig, SiglipModel
from vq_pretraining import LOSSES, SMALL, new_model, run

from transformers_arm import ArmVQConfig, ArmVQForPreTraining, ArmVQModel
from transformers_arm import modeling_arm_vq_pretraining as pretraining
from transformers_arm.modeling_arm_vq_pretraining import sigmoid_loss

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
