"""What a recipe of conversations trains with: its attention, rows that are compiled for once, and its renderer."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from flex_on_cpu import flex_on_cpu
from picture_rows import captioned_folder
from PIL import Image
from torch._dynamo.utils import counters
from transformers import TrainerCallback, pipeline

from transformers_arm.detokenizer_arm_pixel import ArmPixelDetokenizer
from transformers_arm.pixel_transformer_arm import ArmPixelTransformer
from transformers_arm.training.conversations import (
    ConversationsRecipe,
    attention_of,
    new_trainer,
    train_on_conversations,
)

PACKED = {
    "sources": {
        task: {"world": "shapes", "arguments": {"mixture": {task: 1.0}}}
        for task in ("text", "image_to_text", "text_to_image")
    },
    "token_budget": 192,
    "streams": 1,
}
WORLD = {"world": "shapes", "arguments": {"mixture": {"text": 1.0}}}


@pytest.fixture
def recipe_of(tiny_arm_backbones, tmp_path):
    """A recipe with these data, fields of training and others."""

    def make(data, training=None, **fields):
        training = {"max_steps": 8, "use_cpu": True, "report_to": "none", "disable_tqdm": True} | (training or {})
        training |= {"per_device_train_batch_size": 1, "save_strategy": "no"}
        parts = {"output_dir": str(tmp_path), "backbones": tiny_arm_backbones, "data": data, "training": training}
        return ConversationsRecipe.model_validate(parts | fields)

    return make


@pytest.mark.parametrize(
    ("data", "device", "fields", "expected"),
    [
        (PACKED, "cuda", {}, "flex_attention"),
        (PACKED, "cpu", {}, None),
        (PACKED, "mps", {}, None),
        (WORLD, "cuda", {}, None),
        (PACKED, "cuda", {"attn_implementation": "flash_attention_2"}, "flash_attention_2"),
        (WORLD, "cpu", {"attn_implementation": {"vq_config": "eager"}}, {"vq_config": "eager"}),
    ],
)
def test_packed_rows_take_flex_attention_on_a_gpu_unless_the_recipe_states_another(
    recipe_of, data, device, fields, expected
):
    assert attention_of(recipe_of(data, **fields), torch.device(device)) == expected


@pytest.mark.parametrize(
    ("fields", "attention", "filled", "padded"),
    [
        ({}, "sdpa", False, True),
        ({"attn_implementation": "eager"}, "eager", False, True),
        ({"attn_implementation": "flex_attention"}, "flex_attention", True, False),
        ({"training": {"torch_compile": True}}, "sdpa", True, False),
        ({"training": {"torch_compile": True}, "data": PACKED | {"fill_rows": False}}, "sdpa", False, False),
        ({"data": PACKED | {"fill_rows": True}}, "sdpa", True, False),
        ({"data": PACKED | {"padded": False, "fill_rows": None}}, "sdpa", False, False),
    ],
    ids=str,
)
def test_rows_are_filled_where_something_is_compiled_for_their_length_and_padded_elsewhere_on_a_cpu(
    recipe_of, fields, attention, filled, padded
):
    with flex_on_cpu():
        trainer, _ = new_trainer(recipe_of(**{"data": PACKED, **fields}))
    assert trainer.model.config._attn_implementation == attention
    assert (trainer.train_dataset.fill_rows, trainer.train_dataset.padded) == (filled, padded)


def test_an_attention_that_there_is_not_is_named(recipe_of):
    with pytest.raises(ValueError, match="ArmForCausalLM cannot take attn_implementation='flexattention'"):
        new_trainer(recipe_of(PACKED, attn_implementation="flexattention"))


class Graphs(TrainerCallback):
    """How many graphs torch.compile has made by the end of each step, and how many functions it has looked at."""

    def __init__(self):
        self.made = []

    def on_step_end(self, args, state, control, **kwargs):
        self.made.append((counters["stats"]["unique_graphs"], counters["frames"]["total"]))


@pytest.mark.parametrize("filled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_rows_of_one_length_are_compiled_for_once(recipe_of, filled):
    """However many documents and pictures they hold."""
    torch._dynamo.reset()
    counters.clear()
    compiled = {"torch_compile": True, "torch_compile_backend": "eager"}
    trainer, _ = new_trainer(recipe_of(PACKED | {"fill_rows": filled}, compiled))
    trainer.add_callback(graphs := Graphs())
    trainer.train()
    torch._dynamo.reset()
    assert len(graphs.made) == 8 and graphs.made[0][0] == 1
    assert (graphs.made[-1][0] == 1) == filled
    # The fifth row is the first with another number of pictures, for which one function is looked at again.
    assert graphs.made[4:] == [graphs.made[4]] * 4
    assert not filled or graphs.made[4][1] == graphs.made[0][1] + 1


def test_a_model_of_own_pictures_is_saved_with_the_renderer_that_the_recipe_names(recipe_of, tmp_path):
    transformer = ArmPixelTransformer(condition_size=32, hidden_size=32, num_layers=1, num_attention_heads=2)
    renderer = ArmPixelDetokenizer(transformer, FlowMatchEulerDiscreteScheduler(), default_steps=1)
    renderer.save_pretrained(tmp_path / "renderer")
    folder = captioned_folder(tmp_path / "own", [f"picture {number}" for number in range(8)])
    drawing = {"dataset": {"path": "imagefolder", "data_dir": folder}}
    naming = {**drawing, "rename": {"prompt": "answer"}, "fill": {"prompt": "What is it?"}}
    data = {"sources": {"drawing": drawing, "naming": naming}, "token_budget": 64, "streams": 1}
    asked = [{"prompt": "picture 3"}, {"question": "What is it?", "image": f"{folder}/00.png"}]
    looks = {"validation": {"rows": 2, "every": 2}, "samples": {"every": 2, "rows": asked, "max_new_tokens": 4}}
    recipe = recipe_of(data, {"max_steps": 2}, detokenizer=str(tmp_path / "renderer"), **looks)
    train_on_conversations(recipe)
    assert Image.open(tmp_path / "requests" / "step-0000002.png").width == 384
    further = recipe_of(data, {"max_steps": 1}, backbones=None, start_from=str(tmp_path / "model"))
    train_on_conversations(further.model_copy(update={"output_dir": str(tmp_path / "further")}))
    for model in (tmp_path / "model", tmp_path / "further" / "model"):  # the latter has it from where it started
        assert pipeline("text-to-image", model=str(model))("picture 3").size == (48, 48)
