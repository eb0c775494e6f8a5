"""Prints what a training step on packed rows takes: tokens a second, share of the hardware's products, peak memory.

    python benchmarks/speed/training.py [--lengths 4096 16384] [--layers 28] [--attention sdpa flex_attention]
        [--output FILE]

A step is forward and backward of one row with gradient checkpointing, without an optimizer: documents of a caption and
an image each, one after the other, kept apart by positions that restart, as packed mixtures have them. On a CPU the
small size of `decoding.py` by default, on a GPU arm-7b's layers in bfloat16; pictures are codes. FLOPs are those that
the model needs, three times the forward pass: products of the decoder, of the head's rows that can follow, and of
causal attention within documents; what checkpointing computes again does not count. They are divided by what one large
matrix product reached in the same run. Memory is what steps take beyond the weights.
"""

import argparse
import statistics
import sys

import torch
import transformers
from heads import peak_memory
from measuring import card, device, now, product_rate, random_model
from peers import SIZES, arm, config_of

from transformers_arm.configuration_arm import ArmConfig
from transformers_arm.evaluation.results import write_result

GPU = torch.cuda.is_available()
IMPLEMENTATIONS = ("sdpa", "flex_attention", "flash_attention_2", "eager")


def packed_row(config: ArmConfig, length: int, words: int, grid: tuple[int, int]) -> dict[str, torch.LongTensor]:
    """Ids, labels and positions [1, length] of documents of `words` ids and an image; the last one is cut off."""
    ids, positions, begins = [], [], []
    while len(ids) < length:
        codes = torch.randint(config.visual_token_offset, config.vocab_size, (grid[0] * grid[1],)).tolist()
        document = torch.randint(0, config.shape_token_offset, (words,)).tolist()
        document += [*config.image_opening(*grid), *codes, config.vision_end_token_id]
        begins.append(len(ids))
        ids += document
        positions += range(len(document))
    row = {"input_ids": torch.tensor([ids[:length]]), "position_ids": torch.tensor([positions[:length]])}
    row["labels"] = row["input_ids"].clone()
    row["labels"][:, begins] = -100  # nothing before a document tells how it begins
    return {name: part.to(device()) for name, part in row.items()}


def model_flops(config: ArmConfig, matrices: int, row: dict[str, torch.LongTensor]) -> int:
    """Of a forward and a backward pass over a row; `matrices` is the number of the decoder's weights in products."""
    ids, labels, positions = row["input_ids"][0], row["labels"][0], row["position_ids"][0]
    follows, due = config.image_token_follows(ids[:-1]), labels[1:]
    images = int((follows & (due >= config.visual_token_offset)).sum())
    words = int((~follows & (due >= 0) & (due < config.visual_token_offset)).sum())
    head = images * config.vq_config.codebook_size + words * config.visual_token_offset
    queries = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    attention = config.num_hidden_layers * queries * int((positions + 1).sum())  # of each token, with those before it
    return 3 * (2 * len(ids) * matrices + 2 * config.hidden_size * head + 4 * attention)


def measure(model: torch.nn.Module, row: dict[str, torch.LongTensor], steps: int) -> dict[str, float]:
    """Seconds of a step (the median), and GiB at its peak beyond the weights."""
    model.zero_grad(set_to_none=True)
    before, seconds = peak_memory(reset=True), []
    for _ in range(1 + steps):  # the first is a warm-up
        model.zero_grad(set_to_none=True)
        start = now()
        model(**row, use_cache=False).loss.backward()
        seconds.append(now() - start)
    return {"seconds": statistics.median(seconds[1:]), "gib": (peak_memory() - before) / 2**30}


def of_step(model, attention: str, length: int, arguments, rate: float) -> dict:
    """A row of the table: what was measured, or why nothing was."""
    row = packed_row(model.config, length, arguments.words, tuple(arguments.grid))
    matrices = sum(weight.numel() for weight in model.model.layers.parameters() if weight.ndim == 2)
    flops = model_flops(model.config, matrices, row)
    found = {"attention": attention, "tokens": length, "model_flops": flops}
    try:
        model.set_attn_implementation({"": attention, "vq_config": "sdpa"})
        found |= measure(model, row, arguments.steps)
    except Exception as error:  # one that is not installed, or does not fit, leaves the others
        return found | {"error": f"{type(error).__name__}: {error}"}
    speed = {"tokens_a_second": length / found["seconds"], "flops_share": flops / found["seconds"] / rate}
    return found | speed


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="arm-7b" if GPU else "small")
    parser.add_argument("--layers", type=int, help="of the backbone (default: the size's)")
    parser.add_argument("--hidden", type=int, help="width; the size's unless it is only a try")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384] if GPU else [256, 1024])
    implementations = ["sdpa", "flex_attention"] if GPU else ["sdpa"]
    parser.add_argument("--attention", nargs="+", choices=IMPLEMENTATIONS, default=implementations)
    parser.add_argument("--words", type=int, default=64 if GPU else 16, help="text tokens of a document")
    parser.add_argument("--grid", type=int, nargs=2, default=[32, 32] if GPU else [8, 8], help="of a document's image")
    parser.add_argument("--steps", type=int, default=3, help="steps measured, after one of warm-up")
    parser.add_argument("--threads", type=int, default=None if GPU else 1, help="of the CPU")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if GPU else torch.float32
    config = config_of(arguments.size, layers=arguments.layers, hidden=arguments.hidden)
    model = random_model(lambda: arm(config), dtype).train()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()  # its newer name
    rate, rows = product_rate(dtype), []
    fields = vars(arguments) | {"layers": config.num_hidden_layers, "hidden": config.hidden_size, "card": card()}
    fields |= {"dtype": str(dtype).removeprefix("torch."), "product_flops_a_second": rate, "rows": rows}
    fields |= {"torch": torch.__version__, "transformers": transformers.__version__}
    print(f"{config.num_hidden_layers} layers, {config.hidden_size} wide; a large product: {rate / 1e12:.2f} TFLOP/s")
    print("| attention | tokens a row | s a step | tokens/s | of the products | GiB |\n|---|---|---|---|---|---|")
    for length in arguments.lengths:  # outside, so that what is cut off leaves rows to compare
        for attention in arguments.attention:
            rows.append(row := of_step(model, attention, length, arguments, rate))
            if "error" in row:
                print(f"| {attention} | {length} | {row['error'].splitlines()[0]} | | | |", flush=True)
            else:
                speed, share = row["tokens_a_second"], row["flops_share"]
                figures = f"{row['seconds']:.3f} | {speed:,.0f} | {share:.1%} | {row['gib']:.2f}"
                print(f"| {attention} | {length} | {figures} |", flush=True)
            if arguments.output:  # what was measured stays, should the next row be cut off
                write_result(arguments.output, **fields)
    if any("error" in row for row in rows):
        sys.exit("Some rows were not measured.")
