"""Similarities are transformers' own, whatever the batch; a trained SigLIP rewards the right caption."""

import shutil
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Qwen2ForCausalLM,
    SiglipImageProcessor,
    SiglipModel,
)

from transformers_arm.rewards.similarity import ImageTextSimilarity
from transformers_arm.worlds.shapes import caption_is_true
from transformers_arm.worlds.shapes.pictures import ShapesDataset

TRAINED_SIGLIP = Path(__file__).parents[2] / "checkpoints" / "arm-tiny" / "backbones" / "siglip"
LONG = "a red circle and a blue square and a green cross and a yellow triangle " * 20
TEXTS = ["a red circle", "a small blue square at the top-left on a gray background", "three crosses", LONG, "a cross"]


def pictures(count: int) -> list[Image.Image]:
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (40 + index, 56, 3), np.uint8)) for index in range(count)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> dict[str, str]:
    """An untrained CLIPModel's folder, `model`, with its processor, and the two as PickScore has them: `bare`, without
    a processor, and `processor`."""
    folder = tmp_path_factory.mktemp("clip")
    characters = [*string.ascii_lowercase, "-"]
    tokens = [*characters, *(character + "</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 77, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = {"image_size": 48, "patch_size": 16}
        model = CLIPModel(
            CLIPConfig(text_config=size | text | ends, vision_config=size | vision, projection_dim=24)
        ).eval()
    sides = {"height": 48, "width": 48}
    processor = CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=sides), tokenizer)
    for saved, names in ((model, ("model", "bare")), (processor, ("model", "processor"))):
        for name in names:
            saved.save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("model", "bare", "processor")}


@pytest.fixture(scope="module")
def siglip(tiny_backbones, tmp_path_factory) -> str:
    """The untrained SigLIP's folder with SigLIP's own image processor."""
    folder = tmp_path_factory.mktemp("siglip") / "model"
    shutil.copytree(tiny_backbones["vision"], folder)
    SiglipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    return str(folder)


def call(reward, prompts, images, task=None, **columns):
    task = task or ["text_to_image"] * len(prompts)
    ids, sources = [[0]] * len(prompts), [[]] * len(prompts)
    return reward(prompts=prompts, images=images, source_images=sources, completion_ids=ids, task=task, **columns)


@torch.no_grad()
def full_forward(model, folder: str, images, texts, **text_settings) -> np.ndarray:
    """`logits_per_image` of each picture with its text."""
    inputs = AutoProcessor.from_pretrained(folder)(
        text=texts, images=images, return_tensors="pt", truncation=True, **text_settings
    )
    return model(**inputs).logits_per_image.diagonal().numpy()


def test_clip_s_values_are_those_of_its_full_forward(clip):
    model = CLIPModel.from_pretrained(clip["model"]).eval()
    expected = full_forward(model, clip["model"], pictures(5), TEXTS, padding=True, max_length=77)
    scaled = call(ImageTextSimilarity(clip["model"], scaled=True, device="cpu"), TEXTS, pictures(5))
    np.testing.assert_allclose(scaled, expected, atol=1e-5)
    cosines = call(ImageTextSimilarity(clip["model"], device="cpu"), TEXTS, pictures(5))
    np.testing.assert_allclose(cosines, expected / model.logit_scale.exp().item(), atol=1e-5)
    assert len({round(value, 4) for value in cosines}) == 5 and all(isinstance(value, float) for value in cosines)


@pytest.mark.parametrize("image_processor", ["its own", "ARM's"])
def test_siglip_s_values_are_those_of_its_full_forward(siglip, tiny_backbones, image_processor):
    folder = siglip if image_processor == "its own" else tiny_backbones["vision"]
    model = SiglipModel.from_pretrained(folder).eval()
    padding = {"padding": "max_length", "max_length": 32, "return_attention_mask": False}
    images = [image.resize((48, 48)) for image in pictures(5)]  # ARM's processor keeps proportions
    expected = full_forward(model, folder, images, TEXTS, **padding) - model.logit_bias.item()
    shouted = [text.upper() for text in TEXTS]  # SigLIP was trained on lower case
    scaled = call(ImageTextSimilarity(folder, scaled=True, device="cpu"), shouted, images)
    np.testing.assert_allclose(scaled, expected, atol=1e-5)


def test_batch_size_changes_no_value(clip, siglip):
    for folder in (clip["model"], siglip):
        whole, single = (ImageTextSimilarity(folder, batch_size=size, device="cpu") for size in (16, 1))
        np.testing.assert_allclose(
            call(whole, TEXTS, pictures(5)), call(single, TEXTS, pictures(5)), atol=1e-6, rtol=1e-5
        )


def test_pickscore_layout_takes_its_processor_from_elsewhere(clip):
    expected = call(ImageTextSimilarity(clip["model"], scaled=True, device="cpu"), TEXTS, pictures(5))
    processor, model = CLIPProcessor.from_pretrained(clip["processor"]), CLIPModel.from_pretrained(clip["bare"])
    for source, taken in ((clip["bare"], clip["processor"]), (clip["bare"], processor), (model, processor)):
        reward = ImageTextSimilarity(source, taken, scaled=True, device="cpu")
        np.testing.assert_allclose(call(reward, TEXTS, pictures(5)), expected, atol=1e-6)
    assert reward.__name__ == "similarity_bare"


def test_the_model_is_frozen_and_keeps_no_graph(clip):
    model = CLIPModel.from_pretrained(clip["model"]).train()
    reward = ImageTextSimilarity(model, clip["model"], device="cpu")
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert not reward.similarity(pictures(1), TEXTS[:1]).requires_grad


def test_lower_precision_gives_float32_similarities(clip):
    half = ImageTextSimilarity(clip["model"], dtype=torch.bfloat16, device="cpu")
    assert half.model.dtype == torch.bfloat16
    assert half.similarity(pictures(2), TEXTS[:2]).dtype == torch.float32
    exact = call(ImageTextSimilarity(clip["model"], device="cpu"), TEXTS, pictures(5))
    np.testing.assert_allclose(call(half, TEXTS, pictures(5)), exact, atol=0.05)


def test_editing_is_judged_only_by_a_description_of_the_wanted_picture(clip):
    reward = ImageTextSimilarity(clip["model"], device="cpu")
    prompts, images = ["a red circle", "make the red circle blue", "remove the circle"], pictures(3)
    task = ["text_to_image", "editing", "editing"]
    alone = call(reward, prompts[:1], images[:1])[0]
    assert call(reward, prompts, images, task) == [pytest.approx(alone, abs=1e-6), None, None]
    wanted = [None, "a blue circle", None]
    found = call(reward, prompts, images, task, target_prompt=wanted, other_column=[1, 2, 3])
    described = call(reward, ["a blue circle"], images[1:2])[0]
    assert found == [pytest.approx(alone, abs=1e-6), pytest.approx(described, abs=1e-6), None]
    renamed = ImageTextSimilarity(clip["model"], device="cpu", text_column="caption")
    assert call(renamed, prompts, images, task, caption=wanted)[1] == pytest.approx(described, abs=1e-6)
    assert call(reward, prompts[1:], images[1:], task[1:]) == [None, None]  # nothing to judge, nothing run


def test_a_trained_siglip_scores_the_right_caption_above_wrong_ones():
    count = 100
    data = ShapesDataset(count, batch_size=count, seed=12, split="test")
    images = [Image.fromarray(data[index]["image"]) for index in range(count)]
    captions = [data[index]["caption"] for index in range(count)]
    scenes = [data.scene(index)[0] for index in range(count)]
    reward = ImageTextSimilarity(TRAINED_SIGLIP, device="cpu", batch_size=50)
    right, wins = call(reward, captions, images), []
    for shift in (1, 2, 3):
        other = [captions[(index + shift) % count] for index in range(count)]
        wrong = call(reward, other, images)
        wins += [
            right[index] > wrong[index] for index in range(count) if not caption_is_true(other[index], scenes[index])
        ]
    assert len(wins) > 250 and np.mean(wins) > 0.95


def test_errors_say_what_is_missing_and_what_to_pass(clip, tiny_backbones, tmp_path):
    with pytest.raises(ValueError, match=r"no image processor with a tokenizer in .*bare; pass processor="):
        ImageTextSimilarity(clip["bare"])
    with pytest.raises(ValueError, match=r"There is no processor; pass processor="):
        ImageTextSimilarity(CLIPModel.from_pretrained(clip["bare"]))
    tokenizer_only = tmp_path / "tokenizer"
    CLIPProcessor.from_pretrained(clip["processor"]).tokenizer.save_pretrained(tokenizer_only)
    with pytest.raises(ValueError, match=r"no image processor with a tokenizer in .*tokenizer; pass processor="):
        ImageTextSimilarity(clip["bare"], str(tokenizer_only))
    language_model = Qwen2ForCausalLM.from_pretrained(tiny_backbones["captioner"])
    with pytest.raises(ValueError, match="Qwen2ForCausalLM has no get_image_features and no get_text_features"):
        ImageTextSimilarity(language_model)
    with pytest.raises(ValueError, match="batch_size 0 is below 1"):
        ImageTextSimilarity(clip["model"], batch_size=0)


def test_pickled_weights_are_refused(clip, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(clip["model"], folder)
    (folder / "model.safetensors").unlink()
    torch.save(CLIPModel.from_pretrained(clip["model"]).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        ImageTextSimilarity(folder)


def test_trl_logs_each_model_under_its_own_name(clip, siglip):
    utils = pytest.importorskip("trl.trainer.utils")
    rewards = (ImageTextSimilarity(clip["model"]), ImageTextSimilarity(clip["bare"], clip["processor"]))
    names = [utils.get_callable_name(reward) for reward in rewards]
    assert names == ["similarity_model", "similarity_bare"]
    assert not any(utils.is_async_callable(reward) for reward in rewards)
