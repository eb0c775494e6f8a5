"""Prints what masks do to edits of the embedded world: exact edits, and what stays as it was, with and without them.

    python benchmarks/quality/masked_editing.py [--checkpoint checkpoints/arm-tiny] [--items 500] [--output FILE]

The edits are those of held-out scenes that change one object (all but new backgrounds); a mask is the cells of the
scene in which that object stands before and after. The seed is that of the items and of the sampling.
"""

import argparse
from pathlib import Path

import numpy as np

from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.worlds.shapes.draw import render_scene
from transformers_arm.worlds.shapes.edits import Edit
from transformers_arm.worlds.shapes.evaluation import DEFAULT_CANVAS
from transformers_arm.worlds.shapes.items import editing_pairs
from transformers_arm.worlds.shapes.metrics.arm_editing.arm_editing import editing_scores
from transformers_arm.worlds.shapes.scene import CELLS

# By name: whether there is a mask, and arguments of the pipeline.
VARIANTS = {"no mask": (False, {}), "mask": (True, {}), "mask, hard edge": (True, {"mask_margin": 0})}


def mask_of(pair: Edit) -> np.ndarray:
    """bool [height, width]: the cells of the objects that only one of the two scenes has."""
    cells = np.zeros((3, 3), bool)
    for item in set(pair.source.objects) ^ set(pair.target.objects):
        cells[divmod(CELLS.index(item.cell), 3)] = True
    return np.kron(cells, np.ones((DEFAULT_CANVAS.height // 3, DEFAULT_CANVAS.width // 3), bool))


def scores_of(arm: Arm, pairs: list[Edit], masked: bool, *, seed: int, **kwargs) -> dict[str, float]:
    """Shares in 0..1: exact edits, by kind too; bytes outside the mask (its margin is), and pictures, that stayed."""
    sources, masks = [render_scene(pair.source) for pair in pairs], [mask_of(pair) for pair in pairs]
    instructions = [pair.instruction for pair in pairs]
    edited = arm.edit(sources, instructions, seed=seed, mask=masks if masked else None, **kwargs)
    scores = editing_scores(edited, [pair.source.to_json() for pair in pairs], instructions)
    kept = [
        (np.asarray(picture) == source)[~mask] for picture, source, mask in zip(edited, sources, masks, strict=True)
    ]
    return {
        **{name: value for name, value in scores.items() if name.endswith("exact")},
        "bytes_kept_outside": float(np.concatenate(kept).mean()),
        "pictures_kept_outside": float(np.mean([bytes_kept.all() for bytes_kept in kept])),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-tiny"))
    parser.add_argument("--items", type=int, default=500, help="held-out items")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    drawn = editing_pairs(-(-arguments.items * 7 // 6), seed=arguments.seed)
    pairs = [pair for pair in drawn if pair.kind != "background"][: arguments.items]
    arm = Arm.from_pretrained(arguments.checkpoint)
    scores = {
        name: scores_of(arm, pairs, masked, seed=arguments.seed, **kwargs)
        for name, (masked, kwargs) in VARIANTS.items()
    }
    print(f"| {len(pairs)} held-out edits | {' | '.join(scores)} |")
    print(f"|---|{'---|' * len(scores)}")
    for name in scores["no mask"]:
        print(f"| {name.replace('_', ' ')} | {' | '.join(f'{row[name]:.3f}' for row in scores.values())} |")
    if arguments.output:
        settings = {"checkpoint": arguments.checkpoint, "items": len(pairs), "seed": arguments.seed}
        write_result(arguments.output, **settings, scores=scores)
