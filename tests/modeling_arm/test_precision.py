"""The frozen tokenizer keeps the precision that its codes are made in, however the model is loaded, cast or run."""

import copy

import pytest
import torch
from transformers import AutoModel, AutoModelForMultimodalLM, BitsAndBytesConfig, pipeline
from transformers.utils import is_bitsandbytes_available

from transformers_arm import ArmForCausalLM, ArmPipeline


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(16, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def codes(arm_folder, pictures):
    return ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32).vq_model.encode(pictures).codes


LOADED = {
    "auto": {"dtype": "auto"},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "bfloat16, mapped": {"dtype": torch.bfloat16, "device_map": "cpu"},
}
QUANTIZED = {
    "4 bits": {"load_in_4bit": True},
    "8 bits": {"load_in_8bit": True},
    "4 bits, other modules left out": {"load_in_4bit": True, "llm_int8_skip_modules": ["lm_head"]},
    "8 bits, in 16 bits": {"load_in_8bit": True, "dtype": torch.bfloat16},
}


def assert_exact(tokenizer, pictures, codes):
    assert {each.dtype for each in tokenizer.parameters()} == {torch.float32}
    assert torch.equal(tokenizer.encode(pictures).codes, codes)


@pytest.mark.parametrize("options", LOADED.values(), ids=LOADED)
@pytest.mark.parametrize("auto_class", [AutoModelForMultimodalLM, AutoModel])
def test_codes_do_not_depend_on_how_the_model_is_loaded(arm_folder, pictures, codes, auto_class, options):
    assert_exact(auto_class.from_pretrained(arm_folder, **options).vq_model, pictures, codes)


@pytest.mark.skipif(not is_bitsandbytes_available(), reason="bitsandbytes is not installed")
@pytest.mark.parametrize("options", QUANTIZED.values(), ids=QUANTIZED)
@pytest.mark.parametrize("auto_class", [AutoModelForMultimodalLM, AutoModel])
def test_codes_do_not_depend_on_how_few_bits_the_decoder_has(arm_folder, pictures, codes, auto_class, options):
    options = dict(options)
    dtype = {"dtype": options.pop("dtype")} if "dtype" in options else {}
    settings = {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": "cpu"}, **dtype}
    model = auto_class.from_pretrained(arm_folder, **settings)
    assert any("bit" in type(module).__name__ for module in model.modules())
    assert_exact(model.vq_model, pictures, codes)


@pytest.mark.parametrize(
    "cast",
    [
        lambda model: model.to(torch.bfloat16),
        lambda model: model.half(),
        lambda model: model.bfloat16(),
        lambda model: model.to("cpu", torch.float16),
        lambda model: copy.deepcopy(model).to(dtype=torch.bfloat16).to(torch.float32),
    ],
    ids=["to", "half", "bfloat16", "to a device as well", "there and back"],
)
def test_codes_survive_casts_of_the_whole_model(arm_folder, pictures, codes, cast):
    model = cast(ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32))
    assert model.vq_model.dtype == torch.float32
    assert torch.equal(model.vq_model.encode(pictures).codes, codes)
    model.generate(torch.tensor([[5, 6, 7]]), generation_mode="image", image_grid=(2, 2), guidance_scale=1)


def test_a_tokenizer_of_its_own_is_cast_as_asked_for(arm_folder):
    model = AutoModel.from_pretrained(arm_folder, subfolder="vq_model", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and model.half().dtype == torch.float16


def test_codes_survive_autocast(arm_folder, pictures, codes):
    model = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model.vq_model.encode(pictures)
        tokens = model.model.get_image_tokens(pictures)
    assert torch.equal(encoded.codes, codes) and encoded.z_q.dtype == torch.float32
    assert torch.equal(tokens - model.config.visual_token_offset, codes)


def test_pipelines_of_other_precisions_read_the_same_tokens(arm_folder):
    edit = pipeline("image-editing", model=arm_folder, dtype=torch.bfloat16, num_inference_steps=1)
    assert edit.model.dtype == torch.bfloat16 and edit.model.vq_model.dtype == torch.float32
    pipe = ArmPipeline.from_pretrained(arm_folder, dtype=torch.float32).to(torch.bfloat16)
    assert pipe.model.dtype == torch.bfloat16 and pipe.model.vq_model.dtype == torch.float32
    assert pipe(prompt="a red circle").images[0].size == (48, 48)
