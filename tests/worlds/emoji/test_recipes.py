"""arm-emoji's recipes, in their order, at toy size: each stage takes what the one before it wrote."""

import numpy as np
import pytest
from tiny_renderers import write_base

from transformers_arm import cli
from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.tokenizer import Tokenizer

FEW = ["training.max_steps=1", "training.save_steps=1", "training.warmup_steps=0", "training.use_cpu=true"]
FEW += ["training.per_device_train_batch_size=4", "training.report_to=tensorboard"]
SMALL = ["hidden_size=32", "intermediate_size=32", "num_hidden_layers=1", "num_attention_heads=2"]


def within(section, *settings):
    return [f"{section}.{each}" for each in settings]


def train_all(runs):
    """One step of each stage."""
    words, rendered = ["tokenizer_documents=100", "tokenizer_vocab_size=290"], f"{runs}/detokenizer/detokenizer"
    on_the_way = [f"evaluation.detokenizer={rendered}", "evaluation.every=1", "evaluation.count=2"]
    stages = {
        "backbones": [
            *within("siglip", *FEW, *words),
            *within("siglip.model.vision_config", *SMALL),
            *within("siglip.model.text_config", *SMALL, "projection_size=32", "max_position_embeddings=48"),
            *within("qwen2", *FEW, *words),
            *within("qwen2.model", *SMALL, "num_key_value_heads=1"),
        ],
        "tokenizer": [
            *(*FEW, f"backbones.vision={runs}/backbones/siglip", "evaluation.pictures=4", "evaluation.every=1"),
            *within("model", "pixel_num_layers=1", "pixel_hidden_size=32", "pixel_num_heads=2"),
        ],
        "tokenizer_context": [
            *(*FEW, f"backbones.vision={runs}/backbones/siglip", f"start_from={runs}/tokenizer/pretraining"),
            "evaluation.pictures=4",
        ],
        "detokenizer": [*FEW, f"pretraining={runs}/tokenizer_context/pretraining", "evaluation.pictures=4"],
        "detokenizer_flux": [
            *(*FEW, f"vq_model={runs}/tokenizer_context/vq_model", f"base={runs}/base", "evaluation.pictures=4"),
            *("connector.latent_size=16", f"cache.folder={runs}/latents", "cache.pictures=8"),
        ],
        "pretrain": [
            *(*FEW, *on_the_way, f"detokenizer={rendered}"),
            *within("backbones", f"text={runs}/backbones/qwen2", f"vq={runs}/tokenizer_context/vq_model"),
        ],
        "sft": [*FEW, *on_the_way, f"detokenizer={rendered}", f"start_from={runs}/pretrain/model"],
    }
    (runs / "base").mkdir()
    write_base("flux", runs / "base")
    for recipe, settings in stages.items():
        stage = "renderer" if recipe == "detokenizer_flux" else recipe.partition("_")[0]
        command = ["train", stage, "--config", f"arm_emoji/{recipe}", f"output_dir={runs}/{recipe}", *settings]
        assert cli.main(command) == 0, recipe


@pytest.fixture(scope="module")
def runs(emoji_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train_all(folder)
    return folder


@pytest.mark.parametrize("renderer", ["detokenizer", "detokenizer_flux"])
def test_a_tokenizer_gives_emoji_back(runs, renderer):
    tokenizer = Tokenizer.from_parts(runs / "tokenizer_context" / "vq_model", runs / renderer / "detokenizer")
    codes, (picture,) = tokenizer.reconstruct([np.zeros((64, 64, 3), np.uint8)])
    assert codes.shape == (1, 8, 8) and codes.max() < 1024 and picture.size == (64, 64)


def test_a_model_draws_as_its_recipe_says(runs):
    arm = Arm.from_pretrained(runs / "sft" / "model")
    (picture,) = arm.draw(["a cook"], height=64, width=64)
    assert picture.size == (64, 64)
    assert arm.model.generation_config.image_generation["temperature"] == 0.3
