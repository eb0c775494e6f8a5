"""What a step of training takes of memory, by arithmetic over the real shapes of an ARM: nothing is allocated.

Knows nothing about what lies outside of tensors (CUDA's context, fragmentation) nor about frozen pictures' encoding.

**Activations.** What a decoder layer keeps for the backward pass, in bytes a token, after Korthikanti et al. (arXiv
2205.05198, section 4.1) for Qwen2's layer instead of GPT's: RMSNorm in fp32, grouped-query attention whose scores are
never stored (FlashAttention, arXiv 2205.14135), SwiGLU, no dropout. With b bytes a number, h wide, queries q and keys
k wide, n heads, an MLP f wide:

    2 norms      2 (4h + 4 + bh)          input in fp32, reciprocal root, normalized
    attention    b (h + 2q + 2k) + 4n     input, query, output, key, value; log-sum-exp in fp32
    MLP          b (h + 4f)               input, gate, its SiLU, up, product

Frozen weights need no inputs, but each of the seven LoRA adapters of rank r does, and in bfloat16 (under autocast,
beside adapters in fp32) each makes a copy of its own: the norms keep 2 (4h + 4), attention b (2q + 2k) + 4n, the MLP
3bf, and the adapters b (5h + q + f + 7r). Sequences are packed and have no mask; the mask of a padded one takes T^2
bytes more.

**The layer at work** in the backward pass makes gradients: bf a token at most, and 6f where LoRA casts to fp32. With
gradient checkpointing a layer keeps its input alone, bh, and all of the above is there for the layer at work.

**Logits** are those of one chunk of positions (`LOGITS_AT_ONCE`), twice in fp32, and beside them the head's gradient,
which is made in the forward pass and added to what earlier micro-batches left. They are gone when the first layer is
at work, so that the larger of both counts.

**Sharding** over N GPUs is ZeRO's (arXiv 1910.02054): stage 2 divides gradients and optimizer by N, stage 3 and FSDP
weights as well, of which two layers and all that is outside of layers are whole at a time, with their gradients. This
part is arithmetic only: it was not measured.

**Rollouts** of reinforcement learning keep keys and values of every token of the pictures that are drawn at once, b
(2k) bytes a layer and token, and choose codes from logits in three copies in fp32 and one in fp64. They come beside
weights, gradients and optimizer, and where all weights are trained beside the frozen reference, which has as many
bytes as the weights; activations are gone by then. Rollouts want whole weights: stage 2 is the most that is sharded.
"""

import re
from collections import Counter
from dataclasses import dataclass
from math import ceil

import torch
from peft import get_peft_model
from torch import nn

from ..configuration_arm import ArmConfig
from ..loss_arm import LOGITS_AT_ONCE
from ..modeling_arm import ArmForCausalLM
from .adapters import lora_config

ROLLOUT_PARTS = ("held", "reference", "cache", "choosing")
PARTS = ("weights", "gradients", "optimizer", "activations", "layer at work", "logits")
DRAWN_AT_ONCE = (8, 32, 128)  # pictures, of a table's rows
PROMPT_TOKENS = 256  # before a picture that is drawn, of a table
MIN_8_BIT_SIZE = 4096  # of bitsandbytes: smaller tensors have fp32 states


@dataclass(frozen=True)
class Setup:
    """One way to train an ARM with AdamW.

    Args:
        name: for the table.
        dtype: of weights, gradients and activations.
        lora: keywords of `lora_config`; None trains all weights.
        four_bit: whether the decoder's linear layers are `quantization`'s.
        eight_bit: whether the optimizer is `adamw_bnb_8bit`, which keeps embeddings in fp32.
        master: whether the optimizer keeps weights and states in fp32, as DeepSpeed and FSDP do.
        stage: of ZeRO: 2, or 3 for FSDP too; 0 shards nothing.
    """

    name: str
    dtype: torch.dtype = torch.bfloat16
    lora: dict | None = None
    four_bit: bool = False
    eight_bit: bool = False
    master: bool = False
    stage: int = 0


def setups(rank: int = 16) -> list[Setup]:
    """The rows of the table; `rank` is LoRA's."""
    return [
        Setup("full, fp32", dtype=torch.float32),
        Setup("full, bf16"),
        Setup("full, bf16, 8-bit AdamW", eight_bit=True),
        Setup("full, bf16, fp32 master", master=True),
        Setup("the same, ZeRO-2", master=True, stage=2),
        Setup("the same, ZeRO-3 or FSDP", master=True, stage=3),
        Setup("LoRA", lora={"r": rank}),
        Setup("LoRA, visual rows", lora={"r": rank, "visual_rows": True}),
        Setup("QLoRA", lora={"r": rank}, four_bit=True),
        Setup("QLoRA, visual rows", lora={"r": rank, "visual_rows": True}, four_bit=True),
    ]


def shapes(config: ArmConfig, setup: Setup) -> nn.Module:
    """The model that a setup trains, on the meta device."""
    with torch.device("meta"):
        model = ArmForCausalLM._from_config(config, dtype=setup.dtype)
        return model if setup.lora is None else get_peft_model(model, lora_config(model, **setup.lora))


def parameter_counts(config: ArmConfig) -> dict[str, int]:
    """Parameters of `embedding`, `layers`, `norm`, `head` (none if tied) and of the frozen `tokenizer`."""
    groups = {"embed_tokens": "embedding", "layers": "layers", "norm": "norm", "vq_model": "tokenizer"}
    counts = Counter(dict.fromkeys(["embedding", "layers", "norm", "head", "tokenizer"], 0))
    for name, parameter in shapes(config, Setup("counted")).named_parameters():
        counts[groups.get(name.split(".")[1], "head")] += parameter.numel()
    return dict(counts)


def _is_in_a_layer(name: str) -> bool:
    return bool(re.search(r"(^|\.)model\.layers\.\d+\.", name))  # the tokenizer's are encoder.layers


def _is_decoder_linear(name: str) -> bool:
    return _is_in_a_layer(name) and name.endswith(("_proj.weight", "_proj.base_layer.weight"))


def _weight_bytes(name: str, tensor: torch.Tensor, setup: Setup) -> int:
    if not (setup.four_bit and _is_decoder_linear(name)):
        return tensor.nbytes
    blocks = ceil(tensor.numel() / 64)  # each with a scale of 8 bits, 256 of which have one of 32
    return tensor.numel() // 2 + blocks + 4 * ceil(blocks / 256) + 4 * (16 + 256 + 1)  # and two tables, and an offset


def _optimizer_bytes(name: str, parameter: torch.Tensor, setup: Setup) -> int:
    count = parameter.numel()
    if setup.eight_bit:
        if count < MIN_8_BIT_SIZE or name.endswith("embed_tokens.weight"):
            return 8 * count
        return 2 * count + 8 * ceil(count / 256)  # and a scale of 32 bits for each 256
    return (12 if setup.master else 2 * parameter.element_size()) * count + 4  # and the number of steps


def layer_bytes(config: ArmConfig, setup: Setup) -> int:
    """What a decoder layer keeps of a token for the backward pass; the formula is this module's."""
    size, wide, heads = setup.dtype.itemsize, config.hidden_size, config.num_attention_heads
    query, key = wide, wide // heads * config.num_key_value_heads
    if setup.lora is None:
        inputs = 4 * wide  # of both norms' weights, of query, key and value, of gate and up
    else:  # in fp32 nothing is cast, and adapters share what they read
        inputs = 7 * setup.lora["r"] + (2 * wide if size == 4 else 5 * wide + query)
    norms, attention = 2 * (4 * wide + 4), size * (2 * query + 2 * key) + 4 * heads
    return norms + attention + size * (4 * config.intermediate_size + inputs)


def step_memory(
    config: ArmConfig, setup: Setup, *, tokens: int, checkpointing: bool = False, gpus: int = 1
) -> dict[str, int]:
    """Bytes of each of `PARTS` on one GPU, each at its largest, and their `total` at the largest moment.

    Args:
        tokens: of one micro-batch on one GPU.
        checkpointing: of gradients, layer by layer.
        gpus: what a sharded setup divides by.

    Raises:
        ValueError: tokens or gpus below 1.
    """
    if tokens < 1 or gpus < 1:
        raise ValueError(f"{tokens} tokens on {gpus} GPUs cannot be trained on; both must be 1 or more.")
    model = shapes(config, setup)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = {name: _weight_bytes(name, tensor, setup) for name, tensor in tensors.items()}
    gradients = {name: parameter.nbytes for name, parameter in trained.items()}
    parts = {
        "weights": sum(weights.values()),
        "gradients": sum(gradients.values()),
        "optimizer": sum(_optimizer_bytes(name, parameter, setup) for name, parameter in trained.items()),
        "activations": tokens * _activation_bytes(config, setup, checkpointing),
        "layer at work": tokens * _working_bytes(config, setup, checkpointing),
        "logits": _logits_bytes(config, setup, tokens),
    }
    if setup.stage >= 2 and gpus > 1:
        parts["optimizer"] = ceil(parts["optimizer"] / gpus)
        parts["gradients"] = ceil(parts["gradients"] / gpus)
    if setup.stage == 3 and gpus > 1:
        parts["weights"] = ceil(parts["weights"] / gpus) + _whole_at_a_time(weights, config)
        parts["gradients"] += _whole_at_a_time(gradients, config)
    held = sum(parts[name] for name in PARTS[:4])
    return {**parts, "total": held + max(parts["layer at work"], parts["logits"])}


def rollout_memory(
    config: ArmConfig, setup: Setup, *, pictures: int, tokens: int, prompt: int = PROMPT_TOKENS, gpus: int = 1
) -> dict[str, int]:
    """Bytes on one GPU while pictures are drawn: of what training holds, of `ROLLOUT_PARTS`, and their `total`.

    Args:
        pictures: that are drawn at once.
        tokens: of each, before which `prompt` stand.
        gpus: what a sharded setup divides by.

    Raises:
        ValueError: pictures, tokens, prompt or gpus below 1, or a setup whose weights are not whole.
    """
    if min(pictures, tokens, prompt) < 1:
        raise ValueError(
            f"{pictures} pictures of {tokens} tokens after {prompt} cannot be drawn; all must be 1 or more."
        )
    parts = _held(config, setup, gpus) | _drawing(config, setup, pictures, tokens, prompt)
    return {**parts, "total": sum(parts.values())}


def _held(config: ArmConfig, setup: Setup, gpus: int) -> dict[str, int]:
    """What lies there while pictures are drawn, of whatever number and size."""
    if setup.stage == 3:
        raise ValueError(
            f"Rollouts want whole weights on each GPU, and {setup.name} shards them; take ZeRO-2 or LoRA."
        )
    step = step_memory(config, setup, tokens=1, gpus=gpus)
    reference = step["weights"] if setup.lora is None else 0  # adapters are taken off instead
    return {"held": sum(step[name] for name in PARTS[:3]), "reference": reference}


def _drawing(config: ArmConfig, setup: Setup, pictures: int, tokens: int, prompt: int) -> dict[str, int]:
    """What drawing pictures adds."""
    keys = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    places = pictures * (prompt + tokens)
    return {
        "cache": places * config.num_hidden_layers * 2 * keys * setup.dtype.itemsize,
        "choosing": pictures * config.vq_config.codebook_size * (3 * 4 + 8),
    }


def _whole_at_a_time(sizes: dict[str, int], config: ArmConfig) -> int:
    inside = sum(size for name, size in sizes.items() if _is_in_a_layer(name))
    return sum(sizes.values()) - inside + 2 * inside // config.num_hidden_layers


def _activation_bytes(config: ArmConfig, setup: Setup, checkpointing: bool) -> int:
    size, wide, layers = setup.dtype.itemsize, config.hidden_size, config.num_hidden_layers
    # The last norm, sines and cosines, and what the loss reads and its gradient.
    outside = 4 * wide + 4 + size * wide + 2 * size * wide // config.num_attention_heads + 2 * size * wide
    return outside + layers * (size * wide if checkpointing else layer_bytes(config, setup))


def _working_bytes(config: ArmConfig, setup: Setup, checkpointing: bool) -> int:
    size = setup.dtype.itemsize if setup.lora is None else 6 if setup.dtype.itemsize < 4 else 4
    return size * config.intermediate_size + (layer_bytes(config, setup) if checkpointing else 0)


def _logits_bytes(config: ArmConfig, setup: Setup, tokens: int) -> int:
    table = config.vocab_size * config.hidden_size * setup.dtype.itemsize
    visual_rows = setup.lora is not None and setup.lora.get("visual_rows", False)
    tables = 1 if setup.lora is None else 2 * visual_rows  # PEFT puts trained rows into a copy of the table
    return 8 * min(LOGITS_AT_ONCE, tokens * config.visual_token_offset) + tables * table


def memory_table(
    config: ArmConfig, *, tokens: int, gpus: int = 8, rank: int = 16, picture_tokens: int | None = None
) -> str:
    """Parameter counts, and GiB of each setup with and without gradient checkpointing, in Markdown.

    Args:
        picture_tokens: adds what rollouts of pictures of so many tokens take, of the setups that they can have.
    """
    counts = parameter_counts(config)
    language = sum(counts.values()) - counts["tokenizer"]
    groups = ", ".join(f"{name} {count:,}" for name, count in counts.items() if name != "tokenizer")
    lines = [
        f"{language:,} parameters ({groups}) and {counts['tokenizer']:,} of the frozen tokenizer",
        f"GiB on one GPU, {tokens:,} tokens a micro-batch; ZeRO and FSDP over {gpus} GPUs; LoRA of rank {rank}",
        "",
        f"| setup | checkpointing | {' | '.join(PARTS)} | total |",
        "|---|---|" + "---|" * (len(PARTS) + 1),
    ]
    for setup in setups(rank):
        for checkpointing in (False, True):
            parts = step_memory(config, setup, tokens=tokens, checkpointing=checkpointing, gpus=gpus)
            numbers = " | ".join(f"{parts[name] / 2**30:.1f}" for name in (*PARTS, "total"))
            lines.append(f"| {setup.name} | {'yes' if checkpointing else 'no'} | {numbers} |")
    if picture_tokens is not None:
        lines += ["", *_rollout_lines(config, picture_tokens, gpus, rank)]
    return "\n".join(lines)


def _rollout_lines(config: ArmConfig, tokens: int, gpus: int, rank: int) -> list[str]:
    lines = [
        f"GiB on one GPU while pictures of {tokens:,} tokens are drawn; held: weights, gradients and optimizer",
        "",
        f"| setup | pictures at once | {' | '.join(ROLLOUT_PARTS)} | total |",
        "|---|---|" + "---|" * (len(ROLLOUT_PARTS) + 1),
    ]
    for setup in setups(rank):
        if setup.stage != 2 and setup.lora is None:
            continue  # one row for all weights, that of the recipes
        held = _held(config, setup, gpus)
        for pictures in DRAWN_AT_ONCE:
            parts = held | _drawing(config, setup, pictures, tokens, PROMPT_TOKENS)
            numbers = " | ".join(f"{each / 2**30:.1f}" for each in (*parts.values(), sum(parts.values())))
            lines.append(f"| {setup.name.removeprefix('the same, ')} | {pictures} | {numbers} |")
    return lines
