"""One token a row through the layers: whose layers are taken, and that every way of computing gives the same."""

import copy

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from changed_models import hooked, slides
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm

from transformers_arm.short_steps_arm import attend, attend_spread, norm_of, takes_short_steps, together


@pytest.fixture
def model(few_codes_arm):
    """An ARM to be changed."""
    return copy.deepcopy(few_codes_arm)


class Layer(Qwen2DecoderLayer):
    pass


def replaced(model):
    add_hook_to_module(model.model.layers[0].mlp, ModelHook())


def subclassed(model):
    model.model.layers[1].__class__ = Layer


def rope(kind):
    def change(model):
        model.model.config.rope_parameters["rope_type"] = kind

    return change


def to_meta(part):
    return lambda model: model.get_submodule(part).to("meta")


CHANGES = {
    "hook on a layer": hooked,
    "hook on a norm": lambda model: model.model.norm.register_forward_pre_hook(lambda module, args: None),
    "hook in a layer": lambda model: model.model.layers[0].self_attn.register_forward_hook(lambda *args: None),
    "replaced forward": replaced,
    "subclass": subclassed,
    "eager": lambda model: model.set_attn_implementation("eager"),
    "sliding": slides,
    "dynamic": rope("dynamic"),
    "longrope": rope("longrope"),
    "a layer elsewhere": to_meta("model.layers.1"),
    "layers elsewhere": to_meta("model.layers"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_not_qwen2_s_own_takes_no_short_steps(model, change):
    assert takes_short_steps(model.model)
    change(model)
    assert not takes_short_steps(model.model)


@pytest.mark.parametrize("name", ["flex_attention", "flash_attention_2", "flash_attention_4", "someone/flash-kernels"])
def test_attention_that_is_sdpa_s_in_other_kernels_takes_short_steps(model, name):
    model.model.config._attn_implementation_internal = name  # kernels that are not here
    assert takes_short_steps(model.model)


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_positions_that_are_the_same_at_every_length_take_short_steps(model, kind):
    rope(kind)(model)
    assert takes_short_steps(model.model)


@pytest.mark.parametrize("change", ["hook", "forward"])
def test_what_is_around_the_decoder_itself_takes_no_short_steps(model, change):
    if change == "hook":
        model.model.register_forward_hook(lambda module, args, output: output)
    else:
        model.model.forward = model.model.forward
    assert not takes_short_steps(model.model)


def test_more_layers_than_the_configuration_counts_take_no_short_steps(model):
    model.config.num_hidden_layers -= 1
    assert not takes_short_steps(model.model)


def test_a_hook_on_every_module_takes_no_short_steps(model):
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    try:
        assert not takes_short_steps(model.model)
    finally:
        handle.remove()
    assert takes_short_steps(model.model)


def test_attention_spread_over_places_is_attention():
    query, keys, values = torch.randn(3, 2, 4, 8), torch.randn(3, 2, 9, 8), torch.randn(3, 2, 9, 8)
    seen = torch.rand(3, 1, 1, 9) < 0.6
    seen[..., 0] = True
    mask = torch.zeros(3, 1, 1, 9).masked_fill(~seen, -torch.inf)
    expected = attend(query, keys, values, seen, 0.3)
    torch.testing.assert_close(attend(query, keys, values, mask, 0.3), expected)
    torch.testing.assert_close(attend_spread(query, keys, values, mask, 0.3), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_joined_products_are_those_of_each(bias):
    linears, states = [nn.Linear(6, size, bias=bias) for size in (4, 2, 3)], torch.randn(5, 6)
    for joined in (True, False):
        for part, each in zip(together(linears, joined)(states), linears, strict=True):
            torch.testing.assert_close(part, each(states))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_qwen2_s(dtype):
    module, states = Qwen2RMSNorm(16, eps=1e-3).to(dtype), torch.randn(4, 16, dtype=dtype) / 10
    nn.init.normal_(module.weight)
    with torch.no_grad():
        torch.testing.assert_close(norm_of(module)(states), module(states))
