"""Folders that do not load and files that nobody should be handed are refused before anything is sent."""

import json
import pickle
import shutil

import pytest
import torch
from push_folders import edit_json, refused, write_card
from safetensors.torch import load_file, save_file

from transformers_arm.hub.push import push

# What does not load


def without_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_another_tensor(folder):
    tensors = {**load_file(folder / "model.safetensors"), "extra": torch.zeros(1)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_another_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def cut_off(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def with_a_detokenizer_of_another_size(folder):
    edit_json(folder / "detokenizer" / "transformer" / "config.json", num_layers=3)


def with_a_foreign_component(folder):
    edit_json(folder / "detokenizer" / "model_index.json", scheduler=["os", "system"])


def with_a_pipeline_as_component(folder):
    edit_json(folder / "detokenizer" / "model_index.json", scheduler=["diffusers", "DiffusionPipeline"])


def without_a_component(folder):
    shutil.rmtree(folder / "detokenizer" / "transformer")
    edit_json(folder / "detokenizer" / "model_index.json", transformer=[None, None])


def with_a_component_from_elsewhere(folder):
    shutil.move(folder / "detokenizer" / "scheduler", folder.parent / "scheduler")
    index = json.loads((folder / "detokenizer" / "model_index.json").read_text())
    index["../../scheduler"] = index.pop("scheduler")
    (folder / "detokenizer" / "model_index.json").write_text(json.dumps(index))


def with_an_index_of_other_files(folder):
    index = {"weight_map": {"a": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def with_weights_twice(folder):
    shutil.copyfile(folder / "model.safetensors", folder / "model_ema.safetensors")


def with_renamed_weights(*parts):
    def spoil(folder):
        file = next(folder.joinpath(*parts).glob("*.safetensors"))
        file.rename(file.with_stem("ema"))

    return spoil


def with_a_renamed_index(folder):
    shutil.move(folder / "model.safetensors", folder / "weights.safetensors")
    places = dict.fromkeys(load_file(folder / "weights.safetensors"), "weights.safetensors")
    (folder / "weights.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def with_weights_whole_and_listed(folder):
    places = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def with_weights_of_nothing(folder):
    (folder / "more").mkdir()
    save_file({"a": torch.zeros(1)}, folder / "more" / "a.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_a_tensor, "The weights in .* lack 1 tensors, model.norm.weight first"),
        (with_another_tensor, "have beyond the model 1 tensors, extra first"),
        (with_another_shape, "have in other shapes 1 tensors, model.norm.weight first"),
        (cut_off, "model.safetensors is no whole safetensors file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "does not load: .*no file named model.safetensors"),
        (with_an_index_of_other_files, "index.json is not the index of the .safetensors files beside it"),
        (with_weights_twice, "holds model.safetensors, model_ema.safetensors and no index; keep one of them"),
        (with_renamed_weights(), "holds ema.safetensors, but its loader looks for model.safetensors"),
        (with_renamed_weights("detokenizer", "transformer"), "looks for diffusion_pytorch_model.safetensors; rename"),
        (
            with_renamed_weights("vq_model"),
            "vq_model holds ema.safetensors, but its loader looks for model.safetensors",
        ),
        (with_a_renamed_index, "weights.safetensors.index.json, but its loader looks for model.safetensors.index"),
        (with_weights_whole_and_listed, "holds model.safetensors and model.safetensors.index.json; keep one"),
        (with_weights_of_nothing, "more/a.safetensors belongs to no model"),
        (lambda folder: edit_json(folder / "config.json", architectures=["ArmModels"]), "does not load: .*ArmModels"),
        (lambda folder: (folder / "vq_model" / "model.safetensors").unlink(), "vq_model does not load"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON"),
        (lambda folder: edit_json(folder / "config.json", model_type="qwen2"), "is no ARM .config.json says .*qwen2"),
        (lambda folder: (folder / "config.json").unlink(), "is no ARM .config.json says model_type None"),
        (lambda folder: (folder / "processor_config.json").unlink(), "lacks processor_config.json"),
        (lambda folder: (folder / "generation_config.json").unlink(), "lacks generation_config.json"),
        (lambda folder: shutil.rmtree(folder / "detokenizer"), "lacks detokenizer/model_index.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "processor_config.json does not load"),
        (lambda folder: (folder / "generation_config.json").write_text("no"), "generation_config.json is no JSON"),
        (lambda folder: edit_json(folder / "generation_config.json", pad_token_id="a"), "does not load"),
        (with_a_detokenizer_of_another_size, "weights in .*transformer have beyond the model"),
        (with_a_foreign_component, "takes scheduler from 'os', which is none of"),
        (with_a_pipeline_as_component, "scheduler does not load: DiffusionPipeline is a pipeline"),
        (without_a_component, "components scheduler in .* are not those of ArmPixelDetokenizer: see transformer"),
        (with_a_component_from_elsewhere, "not those of ArmPixelDetokenizer: see ../../scheduler, scheduler"),
        (lambda folder: (folder / "detokenizer" / "model_index.json").write_text("[]"), "index.json does not load"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is no ARM .config.json says model_type None"),
        (lambda folder: shutil.rmtree(folder / "detokenizer" / "scheduler"), "scheduler does not load"),
        (shutil.rmtree, "There is no folder"),
    ],
)
def test_what_does_not_load_is_refused_and_nothing_is_sent(owner, folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        push(folder, "owner/arm")
    assert not owner.requests


def test_what_takes_no_reading_of_weights_is_told_first(folder):
    cut_off(folder)
    write_card(folder, "It is right in 0.875 of all cases.")
    refused(folder, "1 figures in .*README.md are not backed by a result file")
    write_card(folder, base_model="Qwen/Qwen2.5-3B")
    refused(folder, "built from Qwen/Qwen2.5-3B .*under qwen-research")


# What nobody should be handed


def test_a_pickle_called_safetensors_is_refused(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}, protocol=2) + bytes(20))
    refused(folder, "model.safetensors is no whole safetensors file")


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "elsewhere.md").write_text("private")
    (folder / "notes.md").symlink_to(tmp_path / "elsewhere.md")
    refused(folder, "notes.md links to .*elsewhere.md; put what it points to in its place")


def test_a_link_to_a_folder_is_refused(folder):
    (folder / "again").symlink_to(folder / "vq_model")
    refused(folder, "again links to .*vq_model")


def test_a_link_to_nothing_is_refused(folder):
    (folder / "notes.md").symlink_to(folder / "gone.md")
    refused(folder, "notes.md links to .*gone.md; put what it points to in its place")


def test_a_file_beyond_the_hubs_limit_is_refused(folder):
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(51 * 10**9)  # a hole: it takes no space
    refused(folder, r'model.safetensors has 51.0 GB, the Hub takes 50 GB a file; .*max_shard_size="5GB"')
