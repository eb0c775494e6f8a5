"""Prints whether an ARM draws the plain loop's tokens where it runs: greedily, in fp32, with trained weights.

    python benchmarks/speed/same_tokens.py [--model checkpoints/arm-tiny] [--compile] [--output FILE]

Guidance over two and three branches and none, prompts of several lengths, several pictures a prompt, a mask. Exits
with 1 where any token differs.
"""

import argparse
import sys
from pathlib import Path

import torch
from measuring import card, device
from plain_loop import plain_loop
from transformers import CompileConfig

from transformers_arm.evaluation.results import write_result
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.processing_arm import ArmProcessor
from transformers_arm.worlds.shapes.draw import render_scene
from transformers_arm.worlds.shapes.items import editing_pairs

PROMPTS = ["a blue square", "a red circle left of a green triangle", "a cross", ""]
BRANCHES = ("", "image_prompt", "negative_prompt")
ROOT = Path(__file__).parents[2]


def branches_of(model: ArmForCausalLM, inputs: dict, several: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids, with their pictures' tokens, and mask of each branch, repeated for several pictures a prompt."""
    branches = []
    for name in BRANCHES:
        ids = inputs.get(f"{name}_ids" if name else "input_ids")
        if ids is None:
            continue
        if "pixel_values" in inputs and name != "negative_prompt":
            ids = model.model.fill_image_tokens(ids, inputs["pixel_values"])
        mask = inputs[f"{name}_attention_mask" if name else "attention_mask"]
        branches.append(tuple(part.repeat_interleave(several, 0) for part in (ids, mask)))
    return branches


def drawn(model: ArmForCausalLM, inputs: dict, grid: tuple[int, int], **settings) -> torch.LongTensor:
    """Codes [B, H*W] by `generate`."""
    sequences = model.generate(**inputs, generation_mode="image", image_grid=grid, **settings)
    return sequences[:, -grid[0] * grid[1] - 1 : -1] - model.config.visual_token_offset


def cases(model: ArmForCausalLM, processor: ArmProcessor) -> dict[str, tuple]:
    """By name: inputs, grid, settings of both ways, pictures a prompt, mask."""
    drawing = processor.image_generation_inputs(PROMPTS).to(model.device)
    alone = processor.image_generation_inputs(PROMPTS[:1]).to(model.device)
    pairs = editing_pairs(3, seed=0)
    pictures = [render_scene(pair.source, 48, 48) for pair in pairs]
    editing = processor.image_generation_inputs([pair.instruction for pair in pairs], pictures).to(model.device)
    mask = torch.zeros(3, 3, 3, dtype=torch.bool, device=model.device)
    mask[:, 1:] = True
    guided, both = {"guidance_scale": 1.5}, {"guidance_scale": 1.5, "image_guidance_scale": 1.25}
    return {
        "without guidance": (alone, (3, 3), {"guidance_scale": 1.0}, 1, None),
        "guidance": (alone, (3, 3), guided, 1, None),
        "prompts of several lengths": (drawing, (3, 3), guided, 1, None),
        "three pictures a prompt": (drawing, (3, 3), guided, 3, None),
        "another grid": (drawing, (2, 5), guided, 1, None),
        "a long grid": (drawing, (8, 8), guided, 1, None),
        "editing, three branches": (editing, (3, 3), both, 1, None),
        "editing, two pictures each": (editing, (3, 3), both, 2, None),
        "editing, a mask": (editing, (3, 3), both, 1, mask),
    }


def compare(model: ArmForCausalLM, case: tuple, **changed) -> dict[str, int]:
    """How many tokens a case has, how many of them differ, and how many different ones there are."""
    inputs, grid, settings, several, mask = case
    settings = settings | {"do_sample": False}
    several_a_prompt = {"num_return_sequences": several} if several > 1 else {}
    masked = {} if mask is None else {"edit_mask": mask}
    ours = drawn(model, inputs, grid, **settings, **several_a_prompt, **masked, **changed)
    branches = branches_of(model, inputs, several)
    if settings["guidance_scale"] == 1 and settings.get("image_guidance_scale", 1) == 1:
        branches = branches[:1]
    theirs = plain_loop(model, branches, grid, **settings)
    if mask is not None:
        source = model.model.get_image_tokens(inputs["pixel_values"]).flatten(1) - model.config.visual_token_offset
        theirs = torch.where(mask.flatten(1), theirs, source)
    return {"tokens": ours.numel(), "differ": int((ours != theirs).sum()), "kinds": len(theirs.unique())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "checkpoints" / "arm-tiny"), help="ARM folder")
    parser.add_argument("--compile", action="store_true", help="compiled as well")
    parser.add_argument("--output", help="JSON file to write")
    arguments = parser.parse_args()
    model = ArmForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval().to(device())
    processor, found = ArmProcessor.from_pretrained(arguments.model), {}
    print("| case | tokens | differ |\n|---|---|---|")
    for compiled in (False, True) if arguments.compile else (False,):
        for name, case in cases(model, processor).items():
            name += ", compiled" if compiled else ""
            found[name] = compare(model, case, **({"compile_config": CompileConfig()} if compiled else {}))
            print(f"| {name} | {found[name]['tokens']} | {found[name]['differ']} |", flush=True)
    if arguments.output:
        write_result(arguments.output, **vars(arguments), card=card(), torch=torch.__version__, cases=found)
    if any(each["differ"] for each in found.values()):
        sys.exit("Some tokens differ from the plain loop's.")
