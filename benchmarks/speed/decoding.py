"""Prints how fast image tokens are drawn, beside what the hardware allows, the plainest loop, Janus and Emu3.

    OMP_NUM_THREADS=1 python benchmarks/speed/decoding.py [--size small] [--batches 1 4 16] [--grid 8 8]
        [--output FILE] [--plot FILE]

One process, one backbone with random weights, one sampling (guidance over two branches, top-k), in turns; medians. On
a CPU the small size by default, on a GPU arm-7b in bfloat16:

- ours: `generate(generation_mode="image")`; with --compile also with a `CompileConfig`
- plain loop: `plain_loop.py` on the same model
- Janus, Emu3: transformers' own, over the same backbone, by their own `generate`, not compiled (`disable_compile`)
- products: the decoder's matrices and the visual rows of the head times the inputs of a step and nothing else, on a
  GPU as a CUDA graph
- bandwidth: the bytes of those weights over the bandwidth of a large copy (read and written), measured in this run

A share of products or bandwidth is 1 where nothing else takes time; neither counts the cache of keys and values.
"""

import argparse
import statistics
import sys
from functools import partial

import torch
import transformers
from measuring import alternating, card, copy_bandwidth, products, random_model
from peers import SIZES, arm, config_of, draw_arm, draw_emu3, draw_janus, emu3, janus, prompts
from PIL import Image, ImageDraw
from plain_loop import plain_loop
from transformers import CompileConfig

from transformers_arm.evaluation.results import write_result

PEERS = ("plain", "janus", "emu3")
NAMES = {"plain": "plain loop", "janus": "Janus", "emu3": "Emu3"}
GPU = torch.cuda.is_available()


def weights_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """What a step multiplies with: the decoder's matrices and the visual rows of the head."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    return [*matrices, model.lm_head.weight[model.config.visual_token_offset :]]


def contestants(arguments, models: dict, batch: int, weights: list[torch.Tensor]) -> dict:
    """A call by name; each draws `batch` pictures, or does a part of that."""
    model, count = models["ours"], arguments.grid[0] * arguments.grid[1]
    ids, nothing, mask = prompts(model.config, batch, arguments.prompt)
    sampling = {"guidance_scale": arguments.guidance, "top_k": arguments.top_k}
    request = (ids, nothing, mask, tuple(arguments.grid))
    calls = {"ours": partial(draw_arm, model, *request, **sampling)}
    if arguments.compile:
        calls["ours, compiled"] = partial(draw_arm, model, *request, **sampling, compile_config=CompileConfig())
    others = {
        "plain": partial(plain_loop, model, [(ids, mask), (nothing, mask)], tuple(arguments.grid), **sampling),
        "janus": partial(draw_janus, models.get("janus"), *request, **sampling),
        "emu3": partial(draw_emu3, models.get("emu3"), *request, **sampling),
    }
    calls |= {NAMES[name]: others[name] for name in PEERS if name not in arguments.without}
    step = products(weights, 2 * batch)
    return calls | {"products": lambda: [step() for _ in range(count)]}


def warm_up(calls: dict, batch: int, count: int) -> dict[str, str]:
    """Calls each once, and holds that every contestant draws as many tokens; takes out those of transformers that
    cannot, and says why.
    """
    errors = {}
    for name in list(calls):
        try:
            drawn = calls[name]()
        except Exception as error:
            if name not in ("Janus", "Emu3"):
                raise
            errors[name] = f"{type(error).__name__}: {error}"
            del calls[name]
            continue
        if name != "products" and (shape := list(drawn.shape)) != [batch, count]:
            raise RuntimeError(f"{name} drew {shape} image tokens, not {[batch, count]}.")
    return errors


def measure(arguments, models: dict, batch: int, bandwidth: float) -> dict:
    """Of each contestant ms a step and image tokens a second; how many times as fast as each ours is."""
    count, weights = arguments.grid[0] * arguments.grid[1], weights_of(models["ours"])
    calls = contestants(arguments, models, batch, weights)
    errors = warm_up(calls, batch, count)
    seconds = alternating(calls, arguments.repeats)
    median = {name: statistics.median(each) for name, each in seconds.items()}
    read = sum(weight.numel() * weight.element_size() for weight in weights)
    median["bandwidth"] = count * read / bandwidth
    ours = [name for name in median if name.startswith("ours")]
    return {
        "batch": batch,
        "milliseconds_a_step": {name: 1000 * each / count for name, each in median.items()},
        "tokens_a_second": {name: batch * count / each for name, each in median.items()},
        "shares": {name: {other: median[other] / median[name] for other in median} for name in ours},
        "seconds": seconds,
        "errors": errors,
        "weights_bytes": read,
    }


def plot(rows: list[dict], file: str) -> None:
    """Bars of tokens a second, a block a batch; the longest of each block spans it."""
    left, wide, high, line = 130, 420, 18, 18
    block = high * max(len(row["tokens_a_second"]) for row in rows) + 2 * line
    page = Image.new("RGB", (left + wide + 110, block * len(rows) + line), "white")
    draw = ImageDraw.Draw(page)
    for number, row in enumerate(rows):
        top = number * block + line // 2
        draw.text((8, top), f"{row['batch']} pictures at a time: image tokens a second", fill="black")
        longest = max(row["tokens_a_second"].values())
        for place, (name, value) in enumerate(row["tokens_a_second"].items()):
            above = top + line + place * high
            color = "#2a6fb0" if name.startswith("ours") else "#b8b8b8"
            draw.text((8, above + 2), name, fill="black")
            draw.rectangle((left, above + 2, left + wide * value / longest, above + high - 3), fill=color)
            draw.text((left + wide * value / longest + 6, above + 2), f"{value:,.0f}", fill="black")
    page.save(file)


def show(row: dict, header: bool) -> None:
    if header:
        over = " | ".join(f"{name}: times as fast" for name in row["shares"])
        print(f"| pictures | | ms a step | image tokens/s | {over} |\n{'|---' * (4 + len(row['shares']))}|")
    for name, speed in row["tokens_a_second"].items():
        over = " | ".join(f"{share[name]:.2f}" for share in row["shares"].values())
        print(
            f"| {row['batch']} | {name} | {row['milliseconds_a_step'][name]:.3f} | {speed:,.0f} | {over} |", flush=True
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="arm-7b" if GPU else "small")
    parser.add_argument("--layers", type=int, help="of the backbone (default: the size's)")
    parser.add_argument("--hidden", type=int, help="width; the size's unless it is only a try")
    parser.add_argument("--codes", type=int, help="a power of two; the size's unless it is only a try")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="pictures at a time")
    parser.add_argument("--grid", type=int, nargs=2, default=[8, 8], help="tokens of a picture, height and width")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prompt")
    parser.add_argument("--guidance", type=float, default=1.5, help="above 1: Janus always draws with two branches")
    parser.add_argument("--top-k", type=int, default=1000)
    parser.add_argument("--without", nargs="*", choices=PEERS, default=[], help="contestants to leave out")
    parser.add_argument("--compile", action="store_true", help="ours compiled as well")
    parser.add_argument("--repeats", type=int, default=3, help="measured, after one of warm-up")
    parser.add_argument("--threads", type=int, default=None if GPU else 1, help="of the CPU")
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("--plot", help="picture to write")
    arguments = parser.parse_args()
    if arguments.guidance <= 1:
        parser.error(f"--guidance {arguments.guidance} must be above 1, or Janus and the others do not do the same.")
    return arguments


if __name__ == "__main__":
    arguments = parse()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = config_of(arguments.size, layers=arguments.layers, hidden=arguments.hidden, codes=arguments.codes)
    count, dtype = arguments.grid[0] * arguments.grid[1], torch.bfloat16 if GPU else torch.float32
    makers = {"ours": lambda: arm(config), "janus": lambda: janus(config, count), "emu3": lambda: emu3(config)}
    models = {name: random_model(make, dtype) for name, make in makers.items() if name not in arguments.without}
    bandwidth, rows = copy_bandwidth(), []
    shape = {"layers": config.num_hidden_layers, "hidden": config.hidden_size, "codes": config.vq_config.codebook_size}
    fields = vars(arguments) | shape | {"dtype": str(dtype).removeprefix("torch."), "card": card(), "rows": rows}
    fields |= {"torch": torch.__version__, "transformers": transformers.__version__, "copy_bytes_a_second": bandwidth}
    for batch in arguments.batches:
        rows.append(measure(arguments, models, batch, bandwidth))
        show(rows[-1], header=len(rows) == 1)
        if arguments.output:  # what was measured stays, should the next batch be cut off
            write_result(arguments.output, **fields)
        if arguments.plot:
            plot(rows, arguments.plot)
    errors = {name: error for row in rows for name, error in row["errors"].items()}
    print(
        f"{bandwidth / 1e9:,.1f} GB/s read and written by a copy; {rows[0]['weights_bytes'] / 1e9:.2f} GB of weights"
    )
    if errors:
        sys.exit("\n".join(f"{name} drew nothing: {error}" for name, error in errors.items()))
