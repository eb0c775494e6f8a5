"""Saving and loading changes nothing, what does not fit is refused, and no token gets out."""

import copy
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_arm import assert_close, assert_same_weights, logits_of, mixed, pixels, with_placeholders
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    Qwen2ForCausalLM,
)

import transformers_arm  # noqa: F401 - registers ARM with the Auto classes
from transformers_arm.configuration_arm import ArmConfig, ArmVQConfig
from transformers_arm.loss_arm import RoutedLinear
from transformers_arm.modeling_arm import ArmForCausalLM, ArmModel
from transformers_arm.modeling_arm_vq import ArmVQModel

TINY_VQ = {"fsq_levels": [2] * 4, "vision_config": {"hidden_size": 8, "num_attention_heads": 1}}


# --- saving and loading ----------------------------------------------------------------------------------------------


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
    found = logits_of(loaded, ids.to(loaded.device), pixel_values=images)
    assert torch.equal(found.cpu(), logits_of(both, ids, pixel_values=images))


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
        (
            {"vision_start_token_id": 484},
            r"vision_start_token_id 484 must be a text row, 0\.\.483, and none of the sha",
        ),
        ({"vision_end_token_id": 300}, r"vision_end_token_id 300 must be .* tokens' 228\.\.483; choose another shape"),
        ({"image_token_id": -1}, "image_token_id -1 must be a text row"),
    ],
)
def test_a_vocabulary_that_does_not_add_up_is_refused(fields, message):
    fitting = {"vocab_size": 500, "visual_token_offset": 484, "shape_token_offset": 228, "vq_config": TINY_VQ}
    fitting |= {"vision_start_token_id": 1, "vision_end_token_id": 2, "image_token_id": 3}
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


# --- the Hub's token -------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", [ArmForCausalLM, ArmVQModel, Qwen2ForCausalLM])
def test_pickled_weights_are_never_read(kind, tiny_arm_backbones, arm_folder, tmp_path):
    """ARM, its tokenizer, and the checkpoint that an ARM starts from."""
    source = {
        ArmForCausalLM: arm_folder,
        ArmVQModel: tiny_arm_backbones["vq"],
        Qwen2ForCausalLM: tiny_arm_backbones["text"],
    }
    folder = shutil.copytree(source[kind], tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(kind.from_pretrained(source[kind]).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        if kind is Qwen2ForCausalLM:
            ArmForCausalLM.from_backbones(text=str(folder), vq=tiny_arm_backbones["vq"])
        else:
            kind.from_pretrained(folder)
