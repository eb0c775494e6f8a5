"""The decoding engine: prompts are read once, then token after token is drawn by steps that are all alike.

Steps are short ones (`short_steps_arm`); nothing in them waits for the host. On a GPU a step is recorded as a CUDA
graph and replayed, and compiled before, if asked for. A model whose layers are not Qwen2's own, or are on several
devices, draws by its own forward. Knows nothing about prompts, pictures and grammars.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Lock
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import CompileConfig, DynamicCache
from transformers.utils import logging

from .sampling_arm import ImageSampling
from .short_steps_arm import norm_of, parts_of, takes_short_steps, through_layers

logger = logging.get_logger(__name__)

ALIGNED_PLACES = 16  # what kernels of attention like a multiple of
COMPILED_PLACES = 256  # what compiled steps have a multiple of: one compilation serves many lengths
COMPILED_SHAPES = 64  # before torch gives up; by default 8
COMPILING, RECORDING, WAYS = Lock(), Lock(), {}
KNOWN = {"torch", "transformers", "peft"}  # packages of modules; see `has_known_parts`
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

    def distinct(self) -> tuple[torch.LongTensor, torch.Tensor, torch.LongTensor]:
        """Ids and mask of rows of which none is another, and of all rows, copies included, which of these they are.

        What is drawn without a condition is commonly the same for all prompts.
        """
        rows = torch.cat([self.ids, self.mask.to(self.ids)], 1)
        rows, place = rows.unique(dim=0, return_inverse=True)
        return *rows.chunk(2, 1), place.repeat_interleave(self.copies)


class OwnForward:
    """Reads by the decoder's own forward, whatever it is made of and wherever its parts are.

    Args:
        decoder: a `Qwen2Model`, or whatever was made of one.
        ids, mask: as of `Prefix`.

    `hidden_states` [rows, hidden_size] are those after the last token.
    """

    def __init__(self, decoder: nn.Module, ids: torch.LongTensor, mask: torch.Tensor):
        self.decoder, self.cache = decoder, DynamicCache(config=decoder.config)
        self.mask = mask if (mask == 0).any() else None
        # Stated: paddings count, so that all rows have the same.
        self.positions = torch.arange(ids.shape[1], device=ids.device)[None]
        self.hidden_states = self.read(ids)

    def read(self, ids: torch.LongTensor) -> torch.Tensor:
        states = self.decoder(
            ids, attention_mask=self.mask, position_ids=self.positions, past_key_values=self.cache, use_cache=True
        ).last_hidden_state
        return states[:, -1].clone()  # by itself: the others need not stay

    def going_on(self, rows: torch.LongTensor) -> "OwnForward":
        """This, with those of its rows [n]."""
        rows = rows.cpu()  # from where they index whatever device a layer is on
        self.cache.batch_select_indices(rows)
        self.hidden_states = self.hidden_states[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        return self

    def step(self, tokens: torch.LongTensor) -> torch.Tensor:
        """Tokens [rows] -> hidden states after them."""
        self.positions = self.positions[:, -1:] + 1
        self.mask = None if self.mask is None else pad(self.mask, (0, 1), value=1)
        self.hidden_states = self.read(tokens[:, None])
        return self.hidden_states


class ShortSteps:
    """Steps of one token a row through Qwen2's layers, by `through_layers`: its keys, values and positions.

    Args:
        own: what has read the prompts; its cache is used up.
        rows: which of its rows go on [rows].
        count: steps there is room for.
        fixed: whether a step goes over all places, those to come masked, so that its shapes never change; or over
            those that are written.
        multiple: what the number of places is rounded up to.
        through: `through_layers`, or what it was compiled to.
    """

    def __init__(
        self, own: OwnForward, rows: torch.LongTensor, count: int, *, fixed: bool, multiple: int = 1, through=None
    ):
        device, self.fixed, self.through = own.hidden_states.device, fixed, through or through_layers
        self.length, rows = own.positions.shape[1], rows.to(device)
        self.places = -(-(self.length + count) // multiple) * multiple
        self.keys, self.values = [], []
        for layer in own.cache.layers:
            for places, read in ((self.keys, layer.keys), (self.values, layer.values)):
                _, heads, length, dim = read.shape
                room = read.new_zeros(len(rows), heads, self.places, dim)
                room[:, :, :length] = read[rows]
                places.append(room)
            layer.keys = layer.values = None
        # After the places, which must have room before copies of weights have.
        self.parts = own.decoder.embed_tokens, parts_of(own.decoder.layers), norm_of(own.decoder.norm)
        self.position = torch.tensor([self.length], device=device)
        self.columns = torch.arange(self.places, device=device)
        cos, sin = own.decoder.rotary_emb(own.hidden_states, self.columns[None])
        first, second = sin[0].chunk(2, -1)
        self.cos, self.sin = cos[0], torch.cat([-first, second], -1)
        self.written = None
        if own.mask is not None:
            mask = own.mask.bool()[rows]
            self.written = pad(mask, (0, self.places - self.length), value=True)[:, None, None]

    def step(self, tokens: torch.LongTensor) -> torch.Tensor:
        """Tokens [rows] -> hidden states after them."""
        if self.fixed:
            places, seen = self.places, (self.columns <= self.position)[None, None, None]
            seen = seen if self.written is None else seen & self.written
            # Added to what is attended to: of a mask of bools each layer would make this.
            mask = torch.zeros_like(seen, dtype=self.cos.dtype).masked_fill(~seen, -torch.inf)
        else:
            self.length += 1
            places, mask = self.length, None if self.written is None else self.written[..., : self.length]
        hidden_states = self.through(
            *self.parts, tokens, self.position, places, self.keys, self.values, self.cos, self.sin, mask
        )
        self.position.add_(1)
        return hidden_states


class CompiledLayers:
    """`through_layers` under `torch.compile`; as it is, after a warning, for a model with which that fails.

    Graphs that the mode would record are left out: steps are recorded whole.
    """

    def __init__(self, backend: str | Callable, mode: str | None, options: dict | None):
        mode = {"reduce-overhead": None, "max-autotune": "max-autotune-no-cudagraphs"}.get(mode, mode)
        chosen = {"options": {**options, "triton.cudagraphs": False}} if options else {"mode": mode}
        self.compiled = torch.compile(through_layers, backend=backend, fullgraph=True, dynamic=False, **chosen)
        self.failed = WeakSet()  # embeddings of models

    def __call__(self, embed: nn.Module, *arguments) -> torch.Tensor:
        if embed not in self.failed:
            try:
                # One thread at a time: what another is compiling cannot be called.
                with COMPILING, torch._dynamo.config.patch(recompile_limit=COMPILED_SHAPES):
                    return self.compiled(embed, *arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                    raise
                self.failed.add(embed)
                logger.warning(f"The decoding step could not be compiled and runs as it is, slower: {error}")
        return through_layers(embed, *arguments)


def compiled_layers(config: CompileConfig) -> CompiledLayers:
    """One for each way of compiling: what is compiled is found again, and what failed is not tried again.

    Raises:
        Exception: of torch, for a backend, mode or options that it does not know.
    """
    way = repr((config.backend, config.mode, sorted((config.options or {}).items(), key=repr)))
    if way not in WAYS:
        WAYS[way] = CompiledLayers(config.backend, config.mode, config.options)
    return WAYS[way]


class Drawing:
    """Steps that draw codes: what is recorded and replayed on a GPU.

    Args:
        steps: `OwnForward` or `ShortSteps`.
        head: hidden states [rows, hidden_size] -> logits [rows, codes].
        sampling: how codes are chosen.
        uniform: [sequences, count], what they are chosen by.
        branches: of guidance; rows are branch after branch.
        offset: id of the token of code 0.
    """

    def __init__(self, steps, head, sampling: ImageSampling, uniform, branches: int, offset: int):
        self.steps, self.head, self.sampling, self.uniform = steps, head, sampling, uniform
        self.branches, self.offset = branches, offset
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
        return self.choose(self.steps.step(self.tokens))


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
    ids, mask, rows = prefix.distinct()
    own, count = OwnForward(decoder, ids, mask), uniform.shape[1]
    uniform = uniform.to(own.hidden_states.device)
    hidden_states = own.hidden_states[rows.to(uniform.device)]
    short, on_gpu = takes_short_steps(decoder), uniform.device.type == "cuda"
    if not short:
        steps = own.going_on(rows)
    elif compile_config is None:
        steps = ShortSteps(own, rows, count, fixed=on_gpu, multiple=ALIGNED_PLACES)
    else:
        through = compiled_layers(compile_config)
        steps = ShortSteps(own, rows, count, fixed=True, multiple=COMPILED_PLACES, through=through)
    del own
    drawing = Drawing(steps, head, sampling, uniform, prefix.branches, offset)
    yield drawing.choose(hidden_states)
    step, known = drawing.step, short and has_known_parts(decoder.layers)
    for number in range(1, count):
        with torch.inference_mode() if known else nullcontext():
            if number == 2 and known and on_gpu and count >= RECORDED_STEPS:
                step = recorded(step, uniform.device)
            drawn = step()
        yield drawn


def has_known_parts(module: nn.Module) -> bool:
    """Whether all parts are of libraries that neither wait for the host nor keep what they make in a forward pass.

    Quantizers do either.
    """
    return {type(part).__module__.split(".")[0] for part in module.modules()} <= KNOWN


def recorded(step: Callable, device: torch.device) -> Callable:
    """A step that was taken before, as a CUDA graph: a call replays it, and its results are overwritten by the next.

    As it is, after a warning, where that fails. One is recorded at a time, as CUDA asks, and no other thread may wait
    for the whole device meanwhile.
    """
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with RECORDING, torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = step()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        torch.cuda.set_stream(before)  # torch leaves the one it recorded on
        logger.warning_once(f"The decoding step could not be recorded and runs as it is, slower: {error}")
        return step

    def replay():
        graph.replay()
        return results

    return replay
