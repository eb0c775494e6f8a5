"""Another tokenizer under a trained model: rows of codes follow the pictures, everything else stays as it was."""

import copy
import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from transformers_arm import ArmForCausalLM, ArmProcessor, ArmVQConfig, ArmVQModel
from transformers_arm.data.collators import to_pixel_values
from transformers_arm.sizes.retokenizing import codes_together, retokenized
from transformers_arm.worlds.shapes.pictures import ShapesDataset

ROOT = Path(__file__).parents[2]
ARM_TINY = ROOT / "checkpoints" / "arm-tiny"


@pytest.fixture(scope="module")
def arm_tiny():
    return ArmForCausalLM.from_pretrained(ARM_TINY, dtype=torch.float32).eval()


def channels_turned_round(vq_model: ArmVQModel) -> ArmVQModel:
    """The same tokenizer with its channels in the opposite order: the same pictures from other codes."""
    turned = copy.deepcopy(vq_model)
    with torch.no_grad():
        for tensor in (*turned.down_projection.parameters(), turned.channel_norm.running_mean):
            tensor.copy_(tensor.flip(0))
        turned.channel_norm.running_var.copy_(turned.channel_norm.running_var.flip(0))
        turned.up_projection.weight.copy_(turned.up_projection.weight.flip(1))
    return turned


def batches(count: int = 4):
    drawings = ShapesDataset(50 * count, batch_size=50, seed=1)
    for start in range(0, len(drawings), 50):
        yield to_pixel_values([drawings[number]["image"] for number in range(start, start + 50)])


@torch.no_grad()
def test_a_model_reads_and_writes_the_codes_of_another_tokenizer_as_those_of_its_own(arm_tiny):
    turned = channels_turned_round(arm_tiny.vq_model)
    pictures = next(batches())
    moved = retokenized(arm_tiny, turned, batches()).eval()
    processor = ArmProcessor.from_pretrained(ARM_TINY)
    request = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": torch.zeros(3, 48, 48)}]}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = request["input_ids"].expand(len(pictures), -1)
    theirs = arm_tiny.model.fill_image_tokens(ids, pictures)
    ours = moved.model.fill_image_tokens(ids, pictures)
    assert (ours != theirs).any()
    logits, expected = moved(ours).logits, arm_tiny(theirs).logits
    text = arm_tiny.config.visual_token_offset
    assert torch.allclose(logits[..., :text], expected[..., :text], atol=1e-4)
    codes = turned.get_codes(pictures).flatten(), arm_tiny.vq_model.get_codes(pictures).flatten()
    assert torch.allclose(logits[..., text + codes[0]], expected[..., text + codes[1]], atol=1e-4)


def test_codes_that_no_picture_has_get_rows_as_new_ones_do_and_none_is_left_at_nought(arm_tiny):
    larger = ArmVQConfig.from_dict({**arm_tiny.config.vq_config.to_dict(), "fsq_levels": [2] * 12})
    moved = retokenized(arm_tiny, ArmVQModel(larger).eval(), batches(1))
    rows = moved.get_input_embeddings().weight[arm_tiny.config.visual_token_offset :]
    assert len(rows) == 4096 and moved.config.vocab_size == len(moved.get_output_embeddings().weight)
    assert (rows.norm(dim=1) > 0).all()
    assert moved.generation_config.to_dict() == arm_tiny.generation_config.to_dict()


def test_what_cannot_be_compared_is_refused(arm_tiny):
    other = arm_tiny.config.vq_config.to_dict()
    other["vision_config"] = {**other["vision_config"], "patch_size": 8}
    with pytest.raises(ValueError, match="patches have 8 px and the old one's 16"):
        codes_together(arm_tiny.vq_model, ArmVQModel(ArmVQConfig.from_dict(other)), batches(1))
    with pytest.raises(ValueError, match="no pictures"):
        codes_together(arm_tiny.vq_model, arm_tiny.vq_model, [])


def test_the_example_writes_a_folder_that_draws(monkeypatch, tmp_path, capsys):
    arguments = [str(ARM_TINY), str(ARM_TINY / "vq_model"), str(tmp_path / "moved"), "--world", "shapes"]
    monkeypatch.setattr(sys, "argv", ["example", *arguments, "--pictures", "200"])
    runpy.run_path(str(ROOT / "examples" / "new_tokenizer.py"))
    assert capsys.readouterr().out.strip() == str(tmp_path / "moved")
    assert ArmForCausalLM.from_pretrained(tmp_path / "moved").config.vq_config.name_or_path == ""
    answer = pipeline("image-text-to-text", model=str(tmp_path / "moved"))
    assert answer(text="hello", max_new_tokens=2)
    monkeypatch.setattr(sys, "argv", ["example", *arguments[:3]])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "examples" / "new_tokenizer.py"))
    assert "state either --world or --folder" in capsys.readouterr().err
