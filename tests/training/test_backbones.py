"""The backbones' folders appear whole, beside the checkpoints of their runs; of a world, and of one's own pictures."""

import json
import logging

import numpy as np
import pytest
import torch
from picture_rows import captioned_folder, drawing
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, SiglipConfig, SiglipModel

from transformers_arm.configuration_arm import MAX_GRID_SIDE
from transformers_arm.data.collators import ImageTextCollator, to_pixel_values
from transformers_arm.training.backbones import (
    BackbonesRecipe,
    DenseSiglip,
    SiglipCallback,
    new_tokenizer,
    train_backbones,
)
from transformers_arm.training.recipe import RecipeError, parse
from transformers_arm.training.trainer import ArmTrainer, training_arguments

SIDES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ONE_STEP = {"max_steps": 1, "save_steps": 1, "use_cpu": True, "report_to": "none", "per_device_train_batch_size": 2}
TOKENIZER = {"tokenizer_documents": 8, "tokenizer_vocab_size": 260}
SIGLIP = {
    **TOKENIZER,
    "pixel_weight": 1.0,
    "evaluation": {"every": 1, "pictures": 4},
    "data": {"world": "shapes", "arguments": {"canvases": [{"height": 48, "width": 48}]}},
    "model": {
        "vision_config": SIDES | {"image_size": 48, "patch_size": 16},
        "text_config": SIDES | {"max_position_embeddings": 32, "projection_size": 16},
    },
}
QWEN2 = {
    **TOKENIZER,
    "data": {"world": "shapes"},
    "model": SIDES | {"vocab_size": 560, "num_key_value_heads": 1, "tie_word_embeddings": False},
}


def train(folder, **settings):
    sections = {
        name: each | {"training": ONE_STEP | settings} for name, each in (("siglip", SIGLIP), ("qwen2", QWEN2))
    }
    train_backbones(BackbonesRecipe(output_dir=str(folder), **sections))


def test_each_stage_ends_in_a_folder_of_its_own_beside_its_checkpoints(tmp_path):
    for _ in range(2):  # the second time there is nothing left to train
        train(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["qwen2", "run", "siglip"]
        for name in ("siglip", "qwen2"):
            assert AutoModel.from_pretrained(tmp_path / name).config.model_type == name
            assert len(AutoTokenizer.from_pretrained(tmp_path / name)) < 304
            assert [path.name for path in (tmp_path / "run" / name).glob("checkpoint-*")] == ["checkpoint-1"]
            assert not any(path.is_dir() for path in (tmp_path / name).iterdir())
    assert (tmp_path / "siglip" / "preprocessor_config.json").is_file()
    assert {"eval_psnr", "eval_image_to_text", "eval_read_back"} <= history(tmp_path / "run" / "siglip").keys()


def history(folder):
    (file,) = folder.glob("checkpoint-1/trainer_state.json")
    return {name: value for log in json.loads(file.read_text())["log_history"] for name, value in log.items()}


def test_what_does_not_arrive_is_told_when_all_is_saved(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    settings = {"push_to_hub": True, "hub_token": hub.token, "hub_always_push": True}
    name = "org/backbones-that-arrive"
    train(tmp_path / "whole", hub_model_id=name, **settings)
    for stage in ("siglip", "qwen2"):
        saved = (tmp_path / "whole" / stage / "model.safetensors").read_bytes()
        assert hub.read(name, f"{stage}/model.safetensors") == saved
    name = "org/backbones-that-do-not-arrive"
    with hub.failing("POST", f"{name}/commit/", status=403, times=9):
        with pytest.raises(
            OSError, match="(?s)All is trained and saved, but not all has arrived at the Hub. .*siglip"
        ):
            train(tmp_path / "lost", hub_model_id=name, **settings)
    assert (tmp_path / "lost" / "siglip" / "model.safetensors").is_file()


# --- of one's own ----------------------------------------------------------------------------------------------------


CAPTIONS = ["A Cat", "ein Hund \N{DOG FACE}", "une maison, rouge", "猫", '"a cat"', "кот"] * 2


def own_recipe(folder, output, *, siglip=None, qwen2=None, stages=("siglip", "qwen2")):
    sources = {"own": {"dataset": {"path": "imagefolder", "data_dir": folder}}}
    every = {"validation": {"rows": 3, "every": 1}}
    sections = {
        "siglip": SIGLIP
        | {"training": ONE_STEP | {"per_device_train_batch_size": 1}, "evaluation": {"every": 1}, **every}
        | {"data": {"pixel_budget": 4 * 48 * 48, "streams": 1, "sources": sources}, **(siglip or {})},
        "qwen2": QWEN2
        | {"training": ONE_STEP, "model": SIDES | {"num_key_value_heads": 1}, **every}
        | {"data": {"streams": 2, "sources": sources}, **(qwen2 or {})},
    }
    stated = {name: sections[name] for name in stages}
    return parse(BackbonesRecipe, {"output_dir": str(output), "stages": list(stages), **stated}, "recipe")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """What a folder of twelve pictures with captions in several languages became: the output's folder."""
    folder = tmp_path_factory.mktemp("own")
    train_backbones(own_recipe(captioned_folder(folder / "my_pictures", CAPTIONS), folder / "out"))
    return folder / "out"


def test_a_folder_of_captioned_pictures_is_all_they_need(own):
    siglip, qwen2 = (AutoModel.from_pretrained(own / name) for name in ("siglip", "qwen2"))
    tokenizers = {name: AutoTokenizer.from_pretrained(own / name) for name in ("siglip", "qwen2")}
    for caption in CAPTIONS:
        for name, tokenizer in tokenizers.items():
            read = caption.lower() if name == "siglip" else caption
            assert tokenizer.decode(tokenizer(read).input_ids) == read
    assert siglip.config.text_config.vocab_size == len(tokenizers["siglip"])
    assert qwen2.config.vocab_size == len(tokenizers["qwen2"]) + 2 * MAX_GRID_SIDE  # rows for shape tokens
    assert AutoImageProcessor.from_pretrained(own / "siglip").size == {"height": 48, "width": 48}


def test_held_out_pairs_are_told_of_while_they_train(own):
    found = history(own / "run" / "siglip")
    assert found["eval_own_loss_pixel"] > 0 and found["eval_own_loss_sigmoid"] > 0 and 0 < found["eval_psnr"] < 50
    for name in ("eval_retrieval", "eval_image_to_text", "eval_text_to_image"):
        assert found[name] in (0, 0.3333, 0.6667, 1), name
    sheet = Image.open(own / "run" / "siglip" / "reconstructions" / "step-0000001.png")
    assert sheet.size == (3 * 48, 2 * 48)
    assert history(own / "run" / "qwen2")["eval_own_loss"] > 0


def test_siglip_s_tokenizer_learns_what_siglip_reads(tmp_path):
    folder = captioned_folder(tmp_path / "own", ["LIGHTHOUSE"] * 8)
    settings = {"tokenizer_vocab_size": 300, "validation": None, "evaluation": None}
    train_backbones(own_recipe(folder, tmp_path / "out", siglip=settings, stages=["siglip"]))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "siglip")
    assert len(tokenizer("lighthouse").input_ids) == 1 and len(tokenizer) < 256 + 44  # no more merges than there are


def test_captions_that_the_text_tower_cuts_are_told(tmp_path, caplog):
    captions = ["a cat", "a dog", "a very long caption " * 20, "a house"]
    folder = captioned_folder(tmp_path / "own", captions)
    with caplog.at_level(logging.WARNING):
        settings = {"validation": None, "evaluation": None}
        train_backbones(own_recipe(folder, tmp_path / "out", siglip=settings, stages=["siglip"]))
    assert "1 of 4 captions are longer than the text tower's 32 tokens" in caplog.text


def test_a_vocabulary_without_room_for_shape_tokens_is_refused(tmp_path):
    folder, model = captioned_folder(tmp_path / "own", CAPTIONS), {**QWEN2["model"], "vocab_size": 400}
    tokens = len(new_tokenizer([], 260))  # 256 bytes and the special ones; these captions have merges for 4 more
    message = rf"vocab_size 400 leaves {400 - tokens - 4} rows after the tokenizer's {tokens + 4} tokens.* need 256"
    with pytest.raises(ValueError, match=rf"{message}. State {tokens + 260} or more, or leave it out"):
        train_backbones(own_recipe(folder, tmp_path / "out", qwen2={"model": model}, stages=["qwen2"]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"siglip": {"validation": None}}, "siglip.evaluation: it looks at held-out pictures of the sources"),
        ({"siglip": {"tokenizer_vocab_size": 255}}, "siglip.tokenizer_vocab_size: 255 does not fit"),
        ({"qwen2": {"tokenizer_documents": 0}}, "qwen2.tokenizer_documents: 0 does not fit"),
        ({"qwen2": {"data": {"streams": 2}}}, "qwen2.data.sources: it is missing"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(tmp_path, change, problem):
    with pytest.raises(RecipeError, match=problem):
        own_recipe("my_pictures", tmp_path, **change)


@pytest.fixture
def siglip():
    torch.manual_seed(0)
    model = DenseSiglip(SiglipConfig(**SIGLIP["model"]), pixel_weight=2.0).eval()
    model.pixel_head.weight.data.normal_(std=0.5)
    return model


def test_a_siglip_weighs_short_rows_by_their_pictures_and_sees_what_it_embeds(siglip):
    pixels, input_ids = torch.rand(3, 3, 48, 64) * 2 - 1, torch.ones(3, 4, dtype=torch.long)
    outputs = siglip(input_ids=input_ids, pixel_values=pixels)
    assert outputs["loss_counts"] == {"all": 3, "sigmoid": 3, "pixel": 3}
    share = siglip(input_ids=input_ids, pixel_values=pixels, num_items_in_batch=12)["loss"]
    assert share.item() == pytest.approx(outputs["loss"].item() / 4)
    seen, embeddings = siglip.seen(pixels)
    assert (seen - pixels).square().mean().item() == pytest.approx(outputs["losses"]["pixel"].item(), rel=1e-5)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))


def test_retrieval_is_among_different_captions_and_all_pictures(siglip, tmp_path):
    tokenizer = new_tokenizer(CAPTIONS, 280)
    captions = ["a cat", "a dog", "a cat", "a house", "a dog", "a mouse"]
    samples = [
        {"image": np.asarray(drawing(48, 48 + 16 * (seed % 2), seed)), "caption": caption}
        for seed, caption in enumerate(captions)
    ]
    trainer = ArmTrainer(siglip, training_arguments({"use_cpu": True, "report_to": "none"}, output_dir=str(tmp_path)))
    collator = ImageTextCollator(tokenizer, 32)
    pictures, scores = SiglipCallback(trainer, samples, collator).reconstructed(siglip)
    assert [each.shape for each in pictures] == [sample["image"].shape for sample in samples]
    different = ["a cat", "a dog", "a house", "a mouse"]
    input_ids = collator.ids(different)["input_ids"]
    inputs = [{"pixel_values": to_pixel_values([sample["image"]]), "input_ids": input_ids} for sample in samples]
    logits = [SiglipModel.forward(siglip, **each, interpolate_pos_encoding=True).logits_per_image for each in inputs]
    logits = torch.cat(logits)
    right = [different[number] == caption for number, caption in zip(logits.argmax(1), captions, strict=True)]
    assert scores["image_to_text"] == pytest.approx(sum(right) / 6)
    right = [captions[number] == caption for number, caption in zip(logits.argmax(0), different, strict=True)]
    assert scores["text_to_image"] == pytest.approx(sum(right) / 4)
