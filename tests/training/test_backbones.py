"""The backbones' folders appear whole, beside the checkpoints of their runs, and what does not arrive is told."""

import pytest
from transformers import AutoModel, AutoTokenizer

from transformers_arm.training.backbones import BackbonesRecipe, train_backbones

SIDES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ONE_STEP = {"max_steps": 1, "save_steps": 1, "use_cpu": True, "report_to": "none", "per_device_train_batch_size": 2}
TOKENIZER = {"tokenizer_documents": 8, "tokenizer_vocab_size": 260}
SIGLIP = {
    **TOKENIZER,
    "pixel_weight": 1.0,
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
