"""Prints what training arm-tiny on a CPU takes a document: packed or padded, with freed memory handed back or kept.

    python benchmarks/speed/layouts.py [--budgets 256 512 1024] [--steps 12] [--threads 1] [--output FILE]

A step is forward, backward and optimizer on rows of a mixture as a training draws them, captions, questions, edits and
texts of the drawn world. The same rows are trained on in both layouts (`PackedCollator`, `PaddedCollator`). All is
measured twice in one process, before and behind `keep_freed_memory`: page faults are those of memory that glibc had
handed back to the kernel in the meantime.
"""

import argparse
import resource
import statistics
import time
from itertools import islice
from pathlib import Path

import torch

from transformers_arm import ArmForCausalLM, ArmProcessor
from transformers_arm.data.packing import PackedMixture
from transformers_arm.evaluation.results import write_result
from transformers_arm.training.process import keep_freed_memory

TINY = Path(__file__).parents[2] / "checkpoints" / "arm-tiny"
TASKS = {"text": 0.1, "image_to_text": 0.3, "text_to_image": 0.3, "editing": 0.3}
LAYOUTS = ("packed", "padded")


def batches_of(model: ArmForCausalLM, folder: str, budget: int, layout: str, steps: int) -> list[tuple[dict, int]]:
    """Batches of one row each, and how many documents each holds."""
    sources = {"drawn": {"world": "shapes", "arguments": {"mixture": TASKS}}}
    settings = {"seed": 0, "streams": 1, "sources": sources, "token_budget": budget, "padded": layout == "padded"}
    data = PackedMixture.from_recipe(ArmProcessor.from_pretrained(folder), model.config, **settings)
    batches = []
    for batch in islice(data.loader(), steps):
        data.consume(batch)
        del batch["source_names"], batch["sources"]
        count = len(batch["input_ids"]) if layout == "padded" else int((batch["position_ids"] == 0).sum())
        batches.append((batch, count))
    return batches


def step(model: ArmForCausalLM, optimizer: torch.optim.Optimizer, batch: dict) -> tuple[float, float, float]:
    """CPU seconds, page faults and loss of a step."""
    faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    seconds, after = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return seconds, after - faults, float(loss.detach())


def measure(model: ArmForCausalLM, optimizer: torch.optim.Optimizer, batches: dict[str, list]) -> dict[str, dict]:
    """Of the batches of both layouts, in turns, after the first two: CPU milliseconds a document (the median over the
    batches), page faults a step and loss (means).
    """
    found = {layout: [] for layout in batches}
    for both in zip(*batches.values(), strict=True):
        for layout, (batch, documents) in zip(batches, both, strict=True):
            seconds, faults, loss = step(model, optimizer, batch)
            found[layout].append((1000 * seconds / documents, faults, loss))
    kinds = {"ms": statistics.median, "faults": statistics.mean, "loss": statistics.mean}
    return {
        layout: {
            name: kind(values) for (name, kind), values in zip(kinds.items(), zip(*each[2:], strict=True), strict=True)
        }
        for layout, each in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(TINY), help="folder of an ARM")
    parser.add_argument("--budgets", type=int, nargs="+", default=[256, 512, 1024], help="tokens a row")
    parser.add_argument("--steps", type=int, default=12, help="of which two are no more than a start")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, rows = ArmForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).train(), []
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.0)
    batches = {
        budget: {layout: batches_of(model, arguments.model, budget, layout, arguments.steps) for layout in LAYOUTS}
        for budget in arguments.budgets
    }
    print("| freed memory | tokens a row | documents a row | layout | ms a document | page faults a step |")
    print("|---|---|---|---|---|---|")
    for memory in ("handed back", "kept"):
        if memory == "kept" and not keep_freed_memory():
            print("Freed memory is not kept: this is no glibc, or the environment says what it does.")
            break
        for budget, both in batches.items():
            for layout, found in measure(model, optimizer, both).items():
                documents = statistics.mean(count for _, count in both[layout])
                rows.append({"memory": memory, "tokens": budget, "documents": documents, "layout": layout, **found})
                figures = f"{documents:.1f} | {layout} | {found['ms']:.2f} | {found['faults']:.0f}"
                print(f"| {memory} | {budget} | {figures} |", flush=True)
    if arguments.output:
        write_result(
            arguments.output, steps=arguments.steps, threads=arguments.threads, rows=rows, torch=torch.__version__
        )


if __name__ == "__main__":
    main()
