"""Prints what writing text takes with ARM, beside stock Qwen2 on the same decoder: seconds of `generate`, in turn.

    python benchmarks/speed/text.py [--device cuda] [--size arm-7b] [--batch 1] [--tokens 64] [--output FILE]

Random weights, made on the device, in arm-7b's vocabulary: 152,064 text rows, and 65,536 of images that stock Qwen2
does not have. Both share the decoder and the text rows themselves. Each pair times the one and then the other, the
next pair the other way round; the ratio is the median over pairs of ARM's seconds to Qwen2's. Time on a CPU is the
process's own, so that other jobs are not measured.
"""

import argparse
import statistics

import torch
from heads import FIELDS, now, small_depth
from measuring import random_model
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from transformers_arm.evaluation.results import write_result
from transformers_arm.modeling_arm import ArmForCausalLM

SIZES = {
    "tiny": {"layers": 1, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4},
    "small": {"layers": 4, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4},
    "0.5b": {  # Qwen2.5-0.5B's
        **{"layers": 24, "hidden_size": 896, "intermediate_size": 4864},
        **{"num_attention_heads": 14, "num_key_value_heads": 2},
    },
    "arm-7b": {"layers": 28},
}
WAYS = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "top_k": 0, "top_p": 1.0},
    "top-k 50": {"do_sample": True, "top_k": 50, "top_p": 1.0},
}


def qwen2_of(arm: ArmForCausalLM) -> Qwen2ForCausalLM:
    """Stock Qwen2 whose decoder is ARM's own, and whose rows are ARM's text rows."""
    config = Qwen2Config(**{name: getattr(arm.config, name) for name in FIELDS} | {"vocab_size": text_rows(arm)})
    with torch.device("meta"):
        qwen2 = Qwen2ForCausalLM(config)
    for name in ("layers", "norm", "rotary_emb"):
        setattr(qwen2.model, name, getattr(arm.model, name))
    for ours, theirs in ((arm.model.embed_tokens, qwen2.model.embed_tokens), (arm.lm_head, qwen2.lm_head)):
        theirs.weight = nn.Parameter(ours.weight.detach()[: text_rows(arm)])
    return qwen2.eval()


def text_rows(arm: ArmForCausalLM) -> int:
    return arm.config.visual_token_offset


def seconds(model: nn.Module, ids: torch.LongTensor, tokens: int, settings: dict) -> float:
    torch.manual_seed(0)
    start = now()
    written = model.generate(ids, max_new_tokens=tokens, eos_token_id=None, pad_token_id=0, **settings)
    took = now() - start
    if written.shape[1] != ids.shape[1] + tokens:
        raise RuntimeError(f"{type(model).__name__} wrote {written.shape[1] - ids.shape[1]} tokens, not {tokens}")
    return took


def measure(models: dict[str, nn.Module], ids: torch.LongTensor, tokens: int, pairs: int, settings: dict) -> dict:
    """Seconds of each model and pair, their medians as tokens a second, and the median ratio of ARM to Qwen2."""
    found = {name: [] for name in models}
    for pair in range(-1, pairs):  # the first is a warm-up
        for name in sorted(models, reverse=pair % 2 == 1):
            took = seconds(models[name], ids, tokens, settings)
            if pair >= 0:
                found[name].append(took)
    speeds = {name: len(ids) * tokens / statistics.median(each) for name, each in found.items()}
    ratios = [ours / theirs for ours, theirs in zip(found["arm"], found["qwen2"], strict=True)]
    return {"seconds": found, "tokens_per_second": speeds, "ratio": statistics.median(ratios)}


def main(arguments: argparse.Namespace) -> None:
    cuda = arguments.device.startswith("cuda")
    size = arguments.size or ("arm-7b" if cuda else "small")
    dtype = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(0)
    config = small_depth(**SIZES[size])
    arm = random_model(lambda: ArmForCausalLM(config), dtype, arguments.device)
    models = {"arm": arm, "qwen2": qwen2_of(arm)}
    ids = torch.randint(1000, 100_000, (arguments.batch, arguments.prompt), device=arguments.device)
    rows = {}
    print(f"| {size}, {arguments.batch} x {arguments.tokens} tokens | ARM, tokens/s | Qwen2, tokens/s | ARM takes |")
    print("|---|---|---|---|")
    for way in arguments.ways:
        settings = WAYS[way] | ({"cache_implementation": arguments.cache} if arguments.cache else {})
        rows[way] = measure(models, ids, arguments.tokens, arguments.pairs, settings)
        speeds = rows[way]["tokens_per_second"]
        print(f"| {way} | {speeds['arm']:.1f} | {speeds['qwen2']:.1f} | {rows[way]['ratio']:.3f}x |", flush=True)
    if arguments.output:
        fields = vars(arguments) | {"size": size, "dtype": str(dtype), "threads": torch.get_num_threads()}
        write_result(arguments.output, **fields, rows=rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, help="arm-7b in bfloat16 on GPUs, small in fp32 elsewhere")
    parser.add_argument("--batch", type=int, default=1, help="prompts")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="written to each prompt")
    parser.add_argument("--pairs", type=int, default=7, help="measured, after one of warm-up")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of choosing a token")
    parser.add_argument("--cache", choices=["static"], help="static: on GPUs transformers compiles the step")
    parser.add_argument("--output", help="JSON file to write")
    main(parser.parse_args())
