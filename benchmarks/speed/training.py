"""Prints what training on packed rows takes: tokens a second, shares of what the hardware could do, memory, waiting.

    python benchmarks/speed/training.py [--lengths 4096 16384] [--layers 28] [--attention sdpa flex_attention]
        [--peak-tflops 989] [--workers 2] [--output FILE]

A step is forward and backward of one row with gradient checkpointing, without an optimizer. Rows come as a training
has them: a packed mixture of captions and the codes of pictures, random ones, filled up to one length. On a CPU the
small size of `decoding.py` by default, on a GPU arm-7b's layers in bfloat16.

Tokens are those of documents, and FLOPs those that the model needs for them (`training.work`): what checkpointing
computes again does not count. They are divided by what one large matrix product reached in the same run, and by the
peak of the card, if it is known or stated. Memory is what steps take beyond the weights; waiting is the share of the
time from the end of a step until the next row is on the device.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
import transformers
from datasets import Dataset, Features, List, Value
from heads import peak_memory
from measuring import card, device, now, product_rate, random_model
from peers import SIZES, arm, config_of

from transformers_arm.configuration_arm import ArmConfig
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.packing import PackedMixture
from transformers_arm.evaluation.results import write_result
from transformers_arm.processing_arm import ArmProcessor
from transformers_arm.training.work import peak_flops, work_of

GPU = torch.cuda.is_available()
IMPLEMENTATIONS = ("sdpa", "flex_attention", "flash_attention_2", "flash_attention_4", "eager")
TEXT = Path(__file__).parents[2] / "checkpoints" / "arm-tiny"  # whose tokenizer writes the captions
WORDS = ("red", "green", "blue", "small", "large", "circle", "square", "triangle", "left", "right", "above", "below")
CODES = {"codes": List(Value("uint16")), "height": Value("uint8"), "width": Value("uint8")}
DOCUMENTS = 256  # that rows are packed from, again and again


def mixture_of(config: ArmConfig, length: int, words: int, grid: tuple[int, int], workers: int) -> PackedMixture:
    """Rows of `length` ids: captions of about `words` words, up to half of them more or fewer, and a picture each."""
    rng, (height, width) = Random(0), grid
    rows = {"prompt": [], "image": []}
    for _ in range(DOCUMENTS):
        count = rng.randint(max(words // 2, 1), words + words // 2)
        codes = [rng.randrange(config.vq_config.codebook_size) for _ in range(height * width)]
        rows["prompt"].append(" ".join(rng.choices(WORDS, k=count)))
        rows["image"].append({"codes": codes, "height": height, "width": width})
    source = Source(Dataset.from_dict(rows, Features({"prompt": Value("string"), "image": CODES})))
    mixture, processor = (
        Mixture({"drawn": source}, seed=0, streams=max(workers, 1)),
        ArmProcessor.from_pretrained(TEXT),
    )
    return PackedMixture(mixture, processor, config, token_budget=length, fill_rows=True)


def batches_of(data: PackedMixture, workers: int) -> Iterator[tuple[dict, float]]:
    """Batches on the device, and the seconds that each was waited for."""
    clock = time.perf_counter if workers else now  # what workers do is no time of this process
    loader, names = iter(data.loader(num_workers=workers)), ("input_ids", "labels", "position_ids", "sources")
    while True:
        start = clock()
        batch = data.consume(next(loader))
        batch = {name: batch[name].to(device()) for name in names}
        yield batch, clock() - start


def measure(model: torch.nn.Module, batches: Iterator[tuple[dict, float]], steps: int) -> dict[str, float]:
    """Of a step: seconds (the median), tokens and FLOPs (means), GiB at the peak beyond the weights; and waiting."""
    model.zero_grad(set_to_none=True)
    before, seconds, waited, found = peak_memory(reset=True), [], [], []
    for _ in range(1 + steps):  # the first is a warm-up
        batch, waiting = next(batches)
        found.append(work_of(model, batch))
        del batch["sources"]
        model.zero_grad(set_to_none=True)
        start = now()
        model(**batch, use_cache=False).loss.backward()
        seconds.append(now() - start)
        waited.append(waiting)
    seconds, waited, found = seconds[1:], waited[1:], found[1:]
    return {
        "seconds": statistics.median(seconds),
        "document_tokens": statistics.mean(each.tokens for each in found),
        "model_flops": statistics.mean(each.flops for each in found),
        "waiting_share": sum(waited) / (sum(waited) + sum(seconds)),
        "gib": (peak_memory() - before) / 2**30,
    }


def of_step(model, attention: str, length: int, arguments, rate: float, peak: float | None) -> dict:
    """A row of the table: what was measured, or why nothing was."""
    found = {"attention": attention, "tokens": length}
    try:
        model.set_attn_implementation(attention)
        if model.config._attn_implementation == "sdpa" != attention:
            raise ValueError(f"{attention} does not train here: sdpa took its place.")
        data = mixture_of(model.config, length, arguments.words, tuple(arguments.grid), arguments.workers)
        found |= measure(model, batches_of(data, arguments.workers), arguments.steps)
    except Exception as error:  # one that is not installed, or does not fit, leaves the others
        return found | {"error": f"{type(error).__name__}: {error}"}
    reached = found["model_flops"] / found["seconds"]
    shares = {"flops_share": reached / rate, "peak_share": None if peak is None else reached / peak}
    return found | {"tokens_a_second": found["document_tokens"] / found["seconds"], **shares}


def line(row: dict) -> str:
    """A row of the table as it is printed."""
    if "error" in row:
        return f"| {row['attention']} | {row['tokens']} | {row['error'].splitlines()[0]} | | | | | |"
    peak = "-" if row["peak_share"] is None else f"{row['peak_share']:.1%}"
    figures = f"{row['seconds']:.3f} | {row['tokens_a_second']:,.0f} | {row['flops_share']:.1%} | {peak}"
    return f"| {row['attention']} | {row['tokens']} | {figures} | {row['waiting_share']:.1%} | {row['gib']:.2f} |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="arm-7b" if GPU else "small")
    parser.add_argument("--layers", type=int, help="of the backbone (default: the size's)")
    parser.add_argument("--hidden", type=int, help="width; the size's unless it is only a try")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384] if GPU else [256, 1024])
    implementations = ["sdpa", "flex_attention"] if GPU else ["sdpa"]
    parser.add_argument("--attention", nargs="+", choices=IMPLEMENTATIONS, default=implementations)
    parser.add_argument("--words", type=int, default=64 if GPU else 16, help="of a document's caption, about")
    parser.add_argument("--grid", type=int, nargs=2, default=[32, 32] if GPU else [8, 8], help="of a document's image")
    parser.add_argument("--steps", type=int, default=3, help="steps measured, after one of warm-up")
    parser.add_argument("--workers", type=int, default=2 if GPU else 0, help="processes that make rows (0: this one)")
    parser.add_argument("--peak-tflops", type=float, help="of the hardware (default: that of a GPU that is known)")
    parser.add_argument("--threads", type=int, default=None if GPU else 1, help="of the CPU")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if GPU else torch.float32
    config = config_of(arguments.size, layers=arguments.layers, hidden=arguments.hidden)
    model = random_model(lambda: arm(config), dtype).train()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()  # its newer name
    rate, peak, rows = product_rate(dtype), peak_flops(torch.device(device()), arguments.peak_tflops), []
    fields = vars(arguments) | {"layers": config.num_hidden_layers, "hidden": config.hidden_size, "card": card()}
    fields |= {"dtype": str(dtype).removeprefix("torch."), "product_flops_a_second": rate, "rows": rows}
    fields |= {"peak_tflops": peak and peak / 1e12}
    fields |= {"torch": torch.__version__, "transformers": transformers.__version__}
    print(f"{config.num_hidden_layers} layers, {config.hidden_size} wide; a large product: {rate / 1e12:.2f} TFLOP/s")
    print("| attention | tokens a row | s a step | tokens/s | of the products | of the peak | waiting | GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for length in arguments.lengths:  # outside, so that what is cut off leaves rows to compare
        for attention in arguments.attention:
            rows.append(of_step(model, attention, length, arguments, rate, peak))
            print(line(rows[-1]), flush=True)
            if arguments.output:  # what was measured stays, should the next row be cut off
                write_result(arguments.output, **fields)
    if any("error" in row for row in rows):
        sys.exit("Some rows were not measured.")


if __name__ == "__main__":
    main()
