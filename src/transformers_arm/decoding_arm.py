"""The decoding engine: prompts are read once, then token after token is drawn by steps that are all alike.

A step goes through Qwen2's layers itself, without what only prompts and training need: queries stand in groups by the
head of keys and values that they share, so that nothing is expanded; keys and values have their places from the start;
nothing waits for the host. On a GPU the step is recorded as a CUDA graph and replayed, and compiled before, if asked
for. A model whose layers are not Qwen2's own, or are on several devices, draws by its own forward. Knows nothing about
prompts, pictures and grammars.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import pad, rms_norm, scaled_dot_product_attention
from transformers import CompileConfig, DynamicCache
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2DecoderLayer, Qwen2MLP, Qwen2RMSNorm
from transformers.utils import logging

from .sampling_arm import ImageSampling

logger = logging.get_logger(__name__)

COMPILED_PLACES = 256  # what compiled steps have a multiple of: one compilation serves many lengths
COMPILED_SHAPES = 64  # before torch gives up; by default 8
SPREAD_HEADS = 64  # rows times heads of keys and values
NOT_COMPILED = set()  # ways of compiling that have failed
RECORDED_STEPS = 16  # fewer are not worth recording, which takes the time of a few


@dataclass
class Prefix:
    """What stands before the first token that is drawn.

    Args:
        ids: [branches * prompts, T], branch after branch, padded on the left.
        mask: of the same shape, 0 where ids are padding.
        branches: of guidance; they are drawn for in common.
        copies: how many times each prompt is drawn for.
    """

    ids: torch.LongTensor
    mask: torch.Tensor
    branches: int = 1
    copies: int = 1


class OwnForward:
    """Reads by the decoder's own forward, whatever it is made of and wherever its parts are.

    Args:
        decoder: a `Qwen2Model`, or whatever was made of one.

    `hidden_states` [rows, hidden_size] are those after the last token.
    """

    def __init__(self, decoder: nn.Module, prefix: Prefix):
        self.decoder, self.cache = decoder, DynamicCache(config=decoder.config)
        self.mask = prefix.mask if (prefix.mask == 0).any() else None
        # Stated: paddings count, so that all rows have the same.
        self.positions = torch.arange(prefix.ids.shape[1], device=prefix.ids.device)[None]
        self.hidden_states = self.read(prefix.ids)

    def read(self, ids: torch.LongTensor) -> torch.Tensor:
        return self.decoder(
            ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]

    def copied(self, copies: int) -> "OwnForward":
        """This, with each row so many times."""
        if copies > 1:
            self.cache.batch_repeat_interleave(copies)
            self.hidden_states = self.hidden_states.repeat_interleave(copies, 0)
            self.mask = None if self.mask is None else self.mask.repeat_interleave(copies, 0)
        return self

    def step(self, tokens: torch.LongTensor) -> torch.Tensor:
        """Tokens [rows] -> hidden states after them."""
        self.positions = self.positions[:, -1:] + 1
        self.mask = None if self.mask is None else pad(self.mask, (0, 1), value=1)
        self.hidden_states = self.read(tokens[:, None])
        return self.hidden_states


class ShortSteps:
    """Steps of one token a row through Qwen2's layers; see this file.

    Args:
        own: what has read the prompts; its cache is used up.
        copies: how many times each row goes on.
        count: steps there is room for.
        fixed: whether a step goes over all places, those to come masked, so that its shapes never change; or over
            those that are written.
        multiple: what the number of places is rounded up to.
    """

    def __init__(self, own: OwnForward, copies: int, count: int, *, fixed: bool, multiple: int = 1):
        device, self.fixed = own.hidden_states.device, fixed
        self.length = own.positions.shape[1]
        self.parts = own.decoder.embed_tokens, parts_of(own.decoder.layers), norm_of(own.decoder.norm)
        self.places = -(-(self.length + count) // multiple) * multiple
        self.keys, self.values = [], []
        for layer in own.cache.layers:
            for places, read in ((self.keys, layer.keys), (self.values, layer.values)):
                rows, heads, length, dim = read.shape
                room = read.new_zeros(rows * copies, heads, self.places, dim)
                room.view(rows, copies, heads, self.places, dim)[..., :length, :] = read[:, None]
                places.append(room)
            layer.keys = layer.values = None
        self.position = torch.tensor([self.length], device=device)
        self.columns = torch.arange(self.places, device=device)
        cos, sin = own.decoder.rotary_emb(own.hidden_states, self.columns[None])
        first, second = sin[0].chunk(2, -1)
        self.cos, self.sin = cos[0], torch.cat([-first, second], -1)
        self.written = None
        if own.mask is not None:
            mask = own.mask.bool().repeat_interleave(copies, 0)
            self.written = pad(mask, (0, self.places - self.length), value=True)[:, None, None]

    def step(self, tokens: torch.LongTensor, through: Callable | None = None) -> torch.Tensor:
        """Tokens [rows] -> hidden states after them, by `through_layers`, compiled or not."""
        if self.fixed:
            places, seen = self.places, (self.columns <= self.position)[None, None, None]
            seen = seen if self.written is None else seen & self.written
            # Added to what is attended to: of a mask of bools each layer would make this.
            mask = torch.zeros_like(seen, dtype=self.cos.dtype).masked_fill(~seen, -torch.inf)
        else:
            self.length += 1
            places, mask = self.length, None if self.written is None else self.written[..., : self.length]
        hidden_states = (through or through_layers)(
            *self.parts, tokens, self.position, places, self.keys, self.values, self.cos, self.sin, mask
        )
        self.position.add_(1)
        return hidden_states


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
            together([layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj], join),
            layer.self_attn.scaling,
            linear_of(layer.self_attn.o_proj),
            norm_of(layer.post_attention_layernorm),
            together([layer.mlp.gate_proj, layer.mlp.up_proj], join),
            layer.mlp.act_fn,
            linear_of(layer.mlp.down_proj),
        )
        for layer in layers
    ]


def may_join(layers: Iterable[Qwen2DecoderLayer]) -> bool:
    """Whether there is room on a GPU for copies of weights, by which one product takes the place of several.

    They are made anew for each draw, in the time of a step, and save a tenth of each. A CPU gains nothing.
    """
    weights = [p for layer in layers for name, p in layer.named_parameters() if "o_proj" not in name]
    weights = [weight for weight in weights if weight.ndim == 2]
    device = weights[0].device
    return device.type == "cuda" and sum(each.nbytes for each in weights) < torch.cuda.mem_get_info(device)[0] / 2


def linear_of(linear: nn.Module) -> Callable:
    """A linear layer as a function; what stands in its place, such as an adapter, as it is."""
    return (
        partial(torch.nn.functional.linear, weight=linear.weight, bias=linear.bias)
        if is_only(linear, nn.Linear)
        else linear
    )


def together(linears: list[nn.Module], join: bool) -> Callable:
    """Linear layers as one function; by one product if they are joined."""
    if not join or not all(is_only(each, nn.Linear) for each in linears):
        functions = [linear_of(each) for each in linears]
        return lambda states: [function(states) for function in functions]
    sizes = [each.out_features for each in linears]
    weight, biases = torch.cat([each.weight for each in linears]), [each.bias for each in linears]
    bias = None if any(each is None for each in biases) else torch.cat(biases)
    return lambda states: torch.nn.functional.linear(states, weight, bias).split(sizes, -1)


def norm_of(module: Qwen2RMSNorm) -> Callable:
    return partial(norm, weight=module.weight, epsilon=module.variance_epsilon)


def norm(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMS norm; torch's own takes four times as long for few rows on a CPU."""
    if states.device.type != "cpu":
        return rms_norm(states, weight.shape, weight, epsilon)
    wide = states.float()
    squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square()
    return (wide * torch.rsqrt(squares / len(weight) + epsilon)).to(states.dtype) * weight


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
        mask: [rows or 1, 1, 1, places], what is added where, or where is attended to; None is everywhere.

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
        query = query.view(rows, heads, -1, dim) * layer.scaling
        attended = attend(query, layer_keys[:, :, :places], layer_values[:, :, :places], mask)
        states = states + layer.o_proj(attended.reshape(rows, -1))
        gate, up = layer.gated(layer.mlp_norm(states))
        states = states + layer.down_proj(layer.act_fn(gate) * up)
    return last_norm(states)


def attend(query, keys, values, mask: torch.Tensor | None) -> torch.Tensor:
    """Scaled queries [rows, heads of keys and values, group, head_dim] -> what they attend to, of the same shape.

    On a GPU one kernel goes over the places of a row and head: where those are few, most of it would stand idle, and
    two products and a softmax spread over the places.
    """
    if query.is_cuda and query.shape[0] * query.shape[1] <= SPREAD_HEADS:
        weights = (query @ keys.mT + mask).softmax(-1, dtype=torch.float32)
        return weights.to(values.dtype) @ values
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)


def rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions of heads [rows, heads, head_dim]; cos and sin as in `through_layers`, of one position."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)


def takes_short_steps(decoder: nn.Module) -> bool:
    """Whether `through_layers` computes what the decoder's own forward does.

    Layers must be Qwen2's own, with nothing around them; what is put in place of their linear layers (adapters,
    quantized weights) is called as it is.
    """
    config, parts = decoder.config, [(decoder.norm, Qwen2RMSNorm)]
    for layer in decoder.layers:
        parts.append((layer, Qwen2DecoderLayer))
        if type(layer) is Qwen2DecoderLayer:
            parts += [(layer.self_attn, Qwen2Attention), (layer.mlp, Qwen2MLP)]
            parts += [(layer.input_layernorm, Qwen2RMSNorm), (layer.post_attention_layernorm, Qwen2RMSNorm)]
    devices = {str(parameter.device) for parameter in decoder.layers.parameters()}
    return (
        config._attn_implementation == "sdpa"
        and set(config.layer_types) == {"full_attention"}
        and config.rope_parameters["rope_type"] in ("default", "linear", "yarn", "llama3")  # others tell lengths apart
        and len(devices) == 1
        and "meta" not in devices
        and all(is_only(*part) for part in parts)
    )


def is_only(module: nn.Module, kind: type) -> bool:
    """Whether a module is of this class, no other made of it, and nothing is put around its forward."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    # transformers' own stay on once outputs were asked for, and are idle otherwise.
    hooks = [each for each in hooks if getattr(each, "__module__", "") != "transformers.utils.output_capturing"]
    return type(module) is kind and not hooks and "forward" not in vars(module)


@lru_cache
def compiled_layers(backend, mode: str | None, options: tuple | None) -> Callable:
    """`through_layers` under `torch.compile`; whatever graphs it would record, steps are recorded whole."""
    mode = {"reduce-overhead": None, "max-autotune": "max-autotune-no-cudagraphs"}.get(mode, mode)
    chosen = {"options": dict(options)} if options else {"mode": mode}
    compiled = torch.compile(through_layers, backend=backend, fullgraph=True, dynamic=False, **chosen)

    def run(*arguments):
        with torch._dynamo.config.patch(recompile_limit=COMPILED_SHAPES):
            return compiled(*arguments)

    return run


class Drawing:
    """Steps that draw codes: what is recorded and replayed on a GPU.

    Args:
        steps: `OwnForward` or `ShortSteps`.
        head: hidden states [rows, hidden_size] -> logits [rows, codes].
        sampling: how codes are chosen.
        uniform: [sequences, count], what they are chosen by.
        branches: of guidance; rows are branch after branch.
        offset: id of the token of code 0.
        through: of `ShortSteps.step`.
    """

    def __init__(self, steps, head, sampling: ImageSampling, uniform, branches: int, offset: int, through=None):
        self.steps, self.head, self.sampling, self.uniform = steps, head, sampling, uniform
        self.branches, self.offset, self.through = branches, offset, through
        self.drawn = torch.zeros(1, dtype=torch.long, device=uniform.device)  # codes of each sequence so far
        self.tokens = None

    def choose(self, hidden_states: torch.Tensor) -> tuple[torch.LongTensor, torch.Tensor]:
        """Hidden states [rows, hidden_size] -> codes [sequences], and scores [sequences, codes]."""
        logits = self.head(hidden_states)
        scores = self.sampling.scores(logits.view(self.branches, -1, logits.shape[-1]))
        codes = self.sampling.choose(scores, self.uniform.index_select(1, self.drawn))
        tokens = codes.clamp(max=logits.shape[-1] - 1).repeat(self.branches) + self.offset
        self.tokens = tokens if self.tokens is None else self.tokens.copy_(tokens)
        self.drawn.add_(1)
        return codes, scores

    def step(self) -> tuple[torch.LongTensor, torch.Tensor]:
        arguments = () if self.through is None else (self.through,)
        return self.choose(self.steps.step(self.tokens, *arguments))

    def recorded(self) -> Callable:
        """The step as a CUDA graph: a call replays it, and its results are overwritten by the next."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.uniform.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = self.step()

        def replay():
            graph.replay()
            return results

        return replay


def draw_codes(
    decoder: nn.Module,
    head: Callable[[torch.Tensor], torch.Tensor],
    prefix: Prefix,
    sampling: ImageSampling,
    uniform: torch.Tensor,
    *,
    offset: int,
    compile_config: CompileConfig | None = None,
) -> Iterator[tuple[torch.LongTensor, torch.Tensor]]:
    """Draws codes after prompts, each from those before it.

    Args:
        decoder: a `Qwen2Model`, or whatever was made of one.
        head: its hidden states [rows, hidden_size] -> logits [rows, codes].
        uniform: [sequences, count], numbers in 0..1 that the codes are chosen by; a sequence is a copy of a prompt.
        offset: id of the token of code 0.
        compile_config: compiles the step, once for all that draws as many sequences at about this length; where that
            fails, the step runs as it is, and a warning says why.

    Yields:
        `count` times the codes [sequences] and the scores [sequences, codes] in fp32 that they were chosen by. A code
        that is none (their number) stands where scores are not numbers. On a GPU the next overwrite them.
    """
    own, count = OwnForward(decoder, prefix), uniform.shape[1]
    uniform = uniform.to(own.hidden_states.device)
    on_gpu, through = uniform.device.type == "cuda", None
    hidden_states = own.hidden_states.repeat_interleave(prefix.copies, 0)
    if short := takes_short_steps(decoder):
        fixed, multiple = on_gpu, 1
        if compile_config is not None:
            fixed, multiple, options = True, COMPILED_PLACES, compile_config.options
            way = compile_config.backend, compile_config.mode, tuple(options.items()) if options else None
            through = None if way in NOT_COMPILED else attempted(partial(compiled_layers, *way), "compile")
        steps = ShortSteps(own, prefix.copies, count, fixed=fixed, multiple=multiple)
    else:
        steps = own.copied(prefix.copies)
    del own
    drawing = Drawing(steps, head, sampling, uniform, prefix.branches, offset, through)
    yield drawing.choose(hidden_states)
    step = drawing.step
    for number in range(1, count):
        with torch.inference_mode() if short else nullcontext():  # not where others' modules may keep what they make
            drawn = None
            if number == 1 and through is not None:
                drawn = attempted(step, "compile")
                if drawn is None:
                    drawing.through = NOT_COMPILED.add(way)
            if number == 2 and short and on_gpu and count >= RECORDED_STEPS:
                step = attempted(drawing.recorded, "record") or step
            drawn = drawn or step()
        yield drawn


def attempted(call: Callable, what: str):
    """What a call returns; None, and a warning once, if it fails."""
    try:
        return call()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        logger.warning_once(f"Could not {what} the decoding step, so it runs as it is, slower: {error}")
        return None
