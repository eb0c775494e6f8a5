"""One token a row through Qwen2's layers, without what only prompts and training need.

Queries stand in groups by the head of keys and values that they share, so that nothing is expanded; keys and values
have their places from the start; on a GPU, products that go together are one. Knows nothing about which tokens come.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2DecoderLayer, Qwen2MLP, Qwen2RMSNorm
from transformers.utils.generic import is_flash_attention_requested

SPREAD_HEADS = 64  # rows times heads of keys and values; see `attend`


class LayerParts(NamedTuple):
    """What a step takes of a layer: linear layers and norms as functions of states [rows, n].

    `attention` gives queries, keys and values, `gated` gate and up.
    """

    input_norm: Callable
    attention: Callable
    scaling: float
    o_proj: Callable
    mlp_norm: Callable
    gated: Callable
    act_fn: Callable
    down_proj: Callable


def parts_of(layers: Iterable[Qwen2DecoderLayer]) -> list[LayerParts]:
    join = may_join(layers)
    return [
        LayerParts(
            norm_of(layer.input_layernorm),
            together(query_key_value(layer), join),
            layer.self_attn.scaling,
            linear_of(layer.self_attn.o_proj),
            norm_of(layer.post_attention_layernorm),
            together(gate_up(layer), join),
            layer.mlp.act_fn,
            linear_of(layer.mlp.down_proj),
        )
        for layer in layers
    ]


def may_join(layers: Iterable[Qwen2DecoderLayer]) -> bool:
    """Whether there is room on a GPU for copies of weights, by which one product takes the place of several.

    They are made anew for each draw, in the time of a step, and save a tenth of each. A CPU gains nothing.
    """
    device = next(iter(layers)).input_layernorm.weight.device
    if device.type != "cuda":
        return False
    sets = [each for layer in layers for each in (query_key_value(layer), gate_up(layer))]
    size = sum(each.weight.nbytes for linears in sets for each in linears if is_only(each, nn.Linear))
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's, and free all the same
    return size < (torch.cuda.mem_get_info(device)[0] + idle) / 2


def query_key_value(layer: Qwen2DecoderLayer) -> list[nn.Module]:
    return [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]


def gate_up(layer: Qwen2DecoderLayer) -> list[nn.Module]:
    return [layer.mlp.gate_proj, layer.mlp.up_proj]


def linear_of(module: nn.Module) -> Callable:
    """A linear layer as a function; what stands in its place, such as an adapter, as it is."""
    return partial(linear, weight=module.weight, bias=module.bias) if is_only(module, nn.Linear) else module


def together(linears: list[nn.Module], join: bool) -> Callable:
    """Linear layers as one function; by one product if they are joined."""
    if not join or not all(is_only(each, nn.Linear) for each in linears):
        functions = [linear_of(each) for each in linears]
        return lambda states: [function(states) for function in functions]
    sizes = [each.out_features for each in linears]
    weight, biases = torch.cat([each.weight for each in linears]), [each.bias for each in linears]
    bias = None if any(each is None for each in biases) else torch.cat(biases)
    return lambda states: linear(states, weight, bias).split(sizes, -1)


def norm_of(module: Qwen2RMSNorm) -> Callable:
    """A norm as a function: torch's own, but on a CPU, where that is ten operations for five."""
    weight, epsilon = module.weight, module.variance_epsilon
    if weight.device.type != "cpu":
        return partial(rms_norm, normalized_shape=weight.shape, weight=weight, eps=epsilon)
    return partial(norm, weight=weight, epsilon=torch.tensor(epsilon))


def norm(states: torch.Tensor, weight: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    wide = states.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = torch.addcmul(epsilon, length, length, value=1 / len(weight)).rsqrt_()
    return (wide * scale).to(states.dtype).mul_(weight)


def through_layers(
    embed: nn.Module,
    layers: list[LayerParts],
    last_norm: Callable,
    tokens: torch.LongTensor,
    position: torch.LongTensor,
    places: int,
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """One token a row through all layers of a decoder for which `takes_short_steps`.

    Args:
        tokens: [rows]; position: [1], where they stand.
        places: how many are attended to, the token's own and those before it, or with a mask more.
        keys, values: of each layer [rows, heads of keys and values, all places, head_dim]; written at `position`.
        cos, sin: [all places, head_dim] of the rotary positions; the first half of the sine has its sign changed.
        mask: [rows or 1, 1, 1, places], added to the scores of attention; on a CPU bools, where is attended to, or
            None for everywhere.

    Returns:
        [rows, hidden_size], normed.
    """
    states = embed(tokens)
    cos, sin = cos.index_select(0, position), sin.index_select(0, position)
    for layer, layer_keys, layer_values in zip(layers, keys, values, strict=True):
        rows, heads, _, dim = layer_keys.shape
        query, key, value = layer.attention(layer.input_norm(states))
        query, key = rotated(query.view(rows, -1, dim), cos, sin), rotated(key.view(rows, -1, dim), cos, sin)
        layer_keys.index_copy_(2, position, key[:, :, None])
        layer_values.index_copy_(2, position, value.view(rows, heads, 1, dim))
        query, seen = query.view(rows, heads, -1, dim), (layer_keys[:, :, :places], layer_values[:, :, :places])
        states = states + layer.o_proj(attend(query, *seen, mask, layer.scaling).reshape(rows, -1))
        gate, up = layer.gated(layer.mlp_norm(states))
        states = states + layer.down_proj(layer.act_fn(gate).mul_(up))
    return last_norm(states)


def attend(query, keys, values, mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """Queries [rows, heads of keys and values, group, head_dim] -> what they attend to, of the same shape.

    On a GPU one kernel goes over the places of a row and head: where those are few, most of it would stand idle.
    """
    if query.is_cuda and query.shape[0] * query.shape[1] <= SPREAD_HEADS:
        return attend_spread(query, keys, values, mask, scaling)
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)


def attend_spread(query, keys, values, mask: torch.Tensor, scaling: float) -> torch.Tensor:
    """`attend` by two products and a softmax, which spread over the places.

    Scores are in fp32, as in a kernel: Qwen2's biases make large ones.
    """
    wide = {} if query.dtype == torch.float32 else {"out_dtype": torch.float32}
    scores = torch.bmm(query.flatten(0, 1), keys.flatten(0, 1).mT, **wide).unflatten(0, query.shape[:2])
    return torch.add(mask, scores, alpha=scaling).softmax(-1).to(values.dtype) @ values


def rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions of heads [rows, heads, head_dim]; cos and sin as in `through_layers`, of one position."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)


def takes_short_steps(decoder: nn.Module) -> bool:
    """Whether `through_layers` computes what the decoder's own forward does.

    Layers must be Qwen2's own, with nothing around them; what is put in place of their linear layers (adapters,
    quantized weights) is called as it is.
    """
    config, parts = decoder.config, [(decoder, type(decoder)), (decoder.norm, Qwen2RMSNorm)]
    for layer in decoder.layers:
        parts.append((layer, Qwen2DecoderLayer))
        if type(layer) is Qwen2DecoderLayer:
            parts += [(layer.self_attn, Qwen2Attention), (layer.mlp, Qwen2MLP)]
            parts += [(layer.input_layernorm, Qwen2RMSNorm), (layer.post_attention_layernorm, Qwen2RMSNorm)]
    devices = {str(parameter.device) for parameter in decoder.layers.parameters()}
    return (
        computes_as_sdpa(config._attn_implementation)
        and len(decoder.layers) == config.num_hidden_layers
        and set(config.layer_types) == {"full_attention"}
        and config.rope_parameters["rope_type"] in ("default", "linear", "yarn", "llama3")  # others tell lengths apart
        and len(devices) == 1
        and "meta" not in devices
        and all(is_only(*part) for part in parts)
    )


def computes_as_sdpa(attention: str) -> bool:
    """Whether an attention is sdpa's in other kernels, so that prompts read with it go on with sdpa's.

    Those of training are made for long rows: flex attention would compile anew as a row of one token grows. Who takes
    eager attention wants it for what it shows.
    """
    return attention in ("sdpa", "flex_attention") or is_flash_attention_requested(
        requested_attention_implementation=attention
    )


def is_only(module: nn.Module, kind: type) -> bool:
    """Whether a module is of this class, no other made of it, and nothing is put around its forward."""
    everywhere = nn.modules.module
    hooks = [*everywhere._global_forward_hooks.values(), *everywhere._global_forward_pre_hooks.values()]
    hooks += [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    # transformers' own stay on once outputs were asked for, and are idle otherwise.
    hooks = [each for each in hooks if getattr(each, "__module__", "") != "transformers.utils.output_capturing"]
    return type(module) is kind and not hooks and "forward" not in vars(module)
