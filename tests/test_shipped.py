"""Every ARM in `checkpoints/` loads and works wherever one may be named: what is added there is tested as it is."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from any_to_any_pipelines import any_to_any_pipeline, chat, draw
from PIL import Image
from push_folders import copied
from scripted_answers import steered
from shipped import SHIPPED_ARMS, name_of
from transformers import pipeline

from transformers_arm import ArmConfig, ArmForCausalLM, ArmImageProcessor, ArmModel, ArmPipeline, ArmProcessor
from transformers_arm.cli import main
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.hub.push import staged
from transformers_arm.hub.remote_code import add_remote_code

pytestmark = pytest.mark.parametrize("folder", SHIPPED_ARMS, ids=name_of)
AUTO_CLASSES = {
    "AutoConfig": ArmConfig,
    "AutoModel": ArmModel,
    **dict.fromkeys(
        ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"), ArmForCausalLM
    ),
    "AutoProcessor": ArmProcessor,
    "AutoImageProcessor": ArmImageProcessor,
}
PROMPT, INSTRUCTION, QUESTION = "a circle", "make it dark", "what is it?"


def size_of(folder):
    """Of its pictures, in px: (width, height)."""
    size = ArmProcessor.from_pretrained(folder).image_processor.size
    return size["width"], size["height"]


def seeded():
    return {"generator": torch.Generator().manual_seed(0)}


def test_auto_classes_and_the_tokenizer_find_their_parts(folder):
    for name, kind in AUTO_CLASSES.items():
        assert isinstance(getattr(transformers, name).from_pretrained(folder), kind), name
    width, height = size_of(folder)
    codes, (picture,) = Tokenizer.from_pretrained(folder).reconstruct([np.zeros((height, width, 3), np.uint8)])
    patch = ArmConfig.from_pretrained(folder).vq_config.patch_size
    assert codes.shape == (1, height // patch, width // patch) and picture.size == (width, height)


def test_pipelines_draw_edit_and_answer_and_diffusers_draws_the_same(folder):
    picture = pipeline("text-to-image", model=str(folder))(PROMPT, **seeded())
    edited = pipeline("image-editing", model=str(folder))(picture, INSTRUCTION, **seeded())
    assert picture.size == edited.size == size_of(folder)
    pipe = ArmPipeline.from_pretrained(folder)
    assert pipe(PROMPT, **seeded()).images[0].tobytes() == picture.tobytes()
    assert pipe(INSTRUCTION, image=picture, **seeded()).images[0].tobytes() == edited.tobytes()
    asked = [{"type": "image", "image": edited}, {"type": "text", "text": QUESTION}]
    ask = pipeline("image-text-to-text", model=str(folder))
    (said,) = ask(text=[{"role": "user", "content": asked}], return_full_text=False)
    assert said["generated_text"].strip()


def test_any_to_any_draws_edits_and_answers(folder):
    pipe = any_to_any_pipeline(folder)
    picture = draw(pipe, chat(PROMPT))[0]["generated_image"]
    edited = draw(pipe, chat(INSTRUCTION, picture))[0]["generated_image"]
    assert picture.size == edited.size == size_of(folder)
    (said,) = pipe(text=chat(QUESTION, edited), return_full_text=False)
    assert said["generated_text"].strip()


def test_answers_have_texts_and_pictures_in_order_and_are_part_of_the_next_chat(folder):
    tell, (width, height) = pipeline("interleaved", model=str(folder)), size_of(folder)
    patch = tell.model.config.vq_config.patch_size
    opened = "<|vision_start|><|h:{}|><|w:{}|><|vision_end|>".format
    text = f"a{opened(height // patch, width // patch)}b{opened(2, 1)}<|im_end|>"
    answer = tell(PROMPT, **steered(tell, text), **seeded())
    assert [part.get("text") for part in answer] == ["a", None, "b", None]
    assert [part["image"].size for part in answer[1::2]] == [(width, height), (patch, 2 * patch)]
    asked = [*chat(PROMPT), {"role": "assistant", "content": answer}, *chat(QUESTION)]
    for part in (*tell(asked, max_new_tokens=100, **seeded()), *tell(PROMPT, max_new_tokens=100, **seeded())):
        assert isinstance(part["image"], Image.Image) if part["type"] == "image" else "<|" not in part["text"]


@pytest.mark.slow
def test_the_command_asks_and_tells_what_training_takes(folder, tmp_path, capsys):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    assert main(["ask", str(tmp_path / "red.png"), QUESTION, "--checkpoint", str(folder)]) == 0
    assert main(["memory", "--config", str(folder)]) == 0
    assert "LoRA" in capsys.readouterr().out


def test_it_is_fit_to_be_pushed(folder, tmp_path):
    with staged(copied(folder, tmp_path / folder.name), f"lab/{folder.name}") as ready:
        assert (ready / "README.md").is_file() and (ready / "modeling_arm.py").is_file()


@pytest.mark.slow
def test_its_remote_code_draws_the_same_without_the_package(folder, tmp_path):
    published = copied(folder, tmp_path / folder.name)
    add_remote_code(published)
    code = f"""
import sys
sys.modules["transformers_arm"] = None
import hashlib, json, torch
from transformers import AutoModelForMultimodalLM, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module as remote_class
folder, trusted = {str(published)!r}, {{"trust_remote_code": True}}
model, processor = (auto.from_pretrained(folder, **trusted) for auto in (AutoModelForMultimodalLM, AutoProcessor))
draw = remote_class("pipeline_arm.ArmTextToImagePipeline", folder)(model, processor=processor)
picture = draw({PROMPT!r}, generator=torch.Generator().manual_seed(0))
print(json.dumps(hashlib.sha256(picture.tobytes()).hexdigest()))
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    ours = pipeline("text-to-image", model=str(folder))(PROMPT, **seeded())
    assert json.loads(ran.stdout.splitlines()[-1]) == hashlib.sha256(ours.tobytes()).hexdigest()
