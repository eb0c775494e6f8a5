"""Prints what ARM's routed head costs beside an ordinary flat head over all rows: time and peak memory of a step.

    python benchmarks/speed/heads.py [--lengths 256 512 1024] [--layers 1] [--output FILE]

One backbone at arm-7b's width and vocabulary, of few layers, in bfloat16: as ArmForCausalLM with its routed loss, and
as stock Qwen2ForCausalLM with transformers' own loss over all rows. A step is forward and backward of one sequence:
text alone, an image alone, or captions of 51 tokens, each with an image of 16 x 16. The embedding, which both have, is
frozen. Each measurement has a process of its own; memory is the peak of the steps beyond model and data. Time on a CPU
is the process's own, so that other jobs are not measured.
"""

import argparse
import re
import statistics
import time
from multiprocessing import get_context
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.initialization import no_init_weights

from transformers_arm.configuration_arm import ArmConfig
from transformers_arm.evaluation.results import write_result
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.sizes.presets import arm_7b_config

HEADS = ("flat", "routed")
MIXES = {"text": (1, 0, 0), "mixed": (51, 16, 16), "image": (1, 128, 128)}  # text tokens, then a grid, and again
FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
FIELDS += ("num_key_value_heads", "tie_word_embeddings")


def small_depth(layers: int, **fields) -> ArmConfig:
    """arm-7b with few layers, and with a vision tower that takes no part."""
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    vq_config = {"vision_config": vision, "num_projection_layers": 1}
    sizes = {**arm_7b_config().to_dict(), "num_hidden_layers": layers, "layer_types": None, "vq_config": vq_config}
    return ArmConfig(**{**sizes, **fields})


def sequence(config: ArmConfig, mix: str, length: int) -> torch.LongTensor:
    """Random ids [1, length]: some text, an image of a grid, and so on."""
    words, height, width = MIXES[mix]
    ids = []
    while len(ids) < length:
        ids += torch.randint(0, config.shape_token_offset, (words,)).tolist()
        if height:
            codes = torch.randint(config.visual_token_offset, config.vocab_size, (height * width,))
            ids += [*config.image_opening(height, width), *codes.tolist(), config.vision_end_token_id]
    return torch.tensor([ids[:length]])


def peak_memory(reset: bool = False) -> int:
    """Bytes: the most that tensors (of a GPU) or this process (on a CPU, Linux) have held since the last reset."""
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def now() -> float:
    """Seconds: of the wall with a GPU, of this process without."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Repeats some random numbers: nothing depends on the weights, and drawing them all takes longer than a step."""
    block = torch.randn(2**20, dtype=torch.bfloat16) * 0.02
    for parameter in model.parameters():
        for part in parameter.view(-1).split(len(block)):
            part.copy_(block[: len(part)])


def measure(head: str, mix: str, length: int, steps: int, config: ArmConfig) -> dict[str, float]:
    """Seconds of a step (the median) and GiB at its peak, beyond what was held before it."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ids = sequence(config, mix, length).to(device)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device), no_init_weights():
        if head == "routed":
            model = ArmForCausalLM(config)
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**{name: getattr(config, name) for name in FIELDS}))
    fill(model.train())
    model.get_input_embeddings().requires_grad_(False)
    before, seconds = peak_memory(reset=True), []
    for _ in range(1 + steps):  # the first is a warm-up
        model.zero_grad()
        start = now()
        model(ids, labels=ids, use_cache=False).loss.backward()
        seconds.append(now() - start)
    return {"seconds": statistics.median(seconds[1:]), "gib": (peak_memory() - before) / 2**30}


def in_a_process_of_its_own(*arguments) -> dict[str, float]:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024], help="tokens of the sequence")
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=list(MIXES), help="what the sequence holds")
    parser.add_argument("--layers", type=int, default=1, help="of the backbone")
    parser.add_argument("--hidden", type=int, default=3584, help="width; arm-7b's unless it is only a try")
    parser.add_argument("--steps", type=int, default=3, help="steps measured, after one of warm-up")
    parser.add_argument("--output", help="JSON file to write")
    arguments = parser.parse_args()
    config = small_depth(arguments.layers, hidden_size=arguments.hidden)
    rows = []
    print("| sequence | tokens | flat, s | routed, s | faster | flat, GiB | routed, GiB | less |")
    print("|---|---|---|---|---|---|---|---|")
    for mix in arguments.mixes:
        for length in arguments.lengths:
            found = {head: in_a_process_of_its_own(head, mix, length, arguments.steps, config) for head in HEADS}
            ratios = {part: found["flat"][part] / found["routed"][part] for part in ("seconds", "gib")}
            rows.append({"mix": mix, "tokens": length, **found, "ratios": ratios})
            times, memories = ([found[head][part] for head in HEADS] for part in ("seconds", "gib"))
            print(
                f"| {mix} | {length} | {times[0]:.2f} | {times[1]:.2f} | {ratios['seconds']:.2f}x "
                f"| {memories[0]:.2f} | {memories[1]:.2f} | {ratios['gib']:.2f}x |",
                flush=True,
            )
    if arguments.output:
        write_result(arguments.output, **vars(arguments), rows=rows, threads=torch.get_num_threads())
