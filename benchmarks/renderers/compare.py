"""Prints what renderers make of the same tokens, and whether they make the same: held-out scenes of the drawn world.

    python benchmarks/renderers/compare.py pixels=checkpoints/arm-tiny/detokenizer \
        FLUX.2=runs/renderers/flux2/detokenizer Sana=runs/renderers/sana/detokenizer \
        --output benchmarks/results/renderers.json --picture docs/renderers.png

Codes are those of a model's tokenizer. Against the scenes: PSNR and read-back for each number of steps and each
guidance, the weakest group of scenes beside the mean; and what a renderer's VAE alone gives back, which it cannot
surpass. Against each other, with the most steps and the first guidance: the share of scenes that two renderers'
pictures read alike, and the PSNR between them. `--output` gets JSON, `--picture` the first scenes and below them what
each renderer drew.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from transformers_arm.data.collators import to_pixel_values
from transformers_arm.detokenizer_arm_latent import ArmLatentDetokenizer
from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.evaluation.sheets import picture_sheet
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.metrics.arm_fidelity.arm_fidelity import psnr
from transformers_arm.training.renderer import LatentTraining
from transformers_arm.worlds.shapes.metrics.arm_reconstruction.arm_reconstruction import reads_back
from transformers_arm.worlds.shapes.pictures import ShapesDataset
from transformers_arm.worlds.shapes.reader import read_scene, reading_equals
from transformers_arm.worlds.shapes.scene import Scene

SHOWN, SHOWN_SIDE = 6, 96  # scenes on the picture, and px of each


def in_batches(make: Callable[..., list], what: str, inputs: torch.Tensor, size: int = 100) -> list[Image.Image]:
    """What `make` makes of some inputs at a time; it gets a generator of the batch's own."""
    made = []
    for number, batch in enumerate(tqdm(inputs.split(size), desc=what, leave=False)):
        made += make(batch, generator=torch.Generator().manual_seed(EVALUATION_SEED + number))
    return made


def scores_of(pictures: Sequence[Image.Image], sources: Sequence[np.ndarray], scenes: Sequence[Scene]) -> dict:
    """Mean PSNR and read-back (0..1); and which scenes, of so many objects on such a background, read back least."""
    groups = defaultdict(list)
    for picture, scene in zip(pictures, scenes, strict=True):
        groups[f"{len(scene.objects)} on {scene.background}"].append(reading_equals(read_scene(picture), scene))
    shares = {name: float(np.mean(hits)) for name, hits in sorted(groups.items())}
    weakest = min(shares, key=shares.get)
    return {
        "psnr": float(np.mean([psnr(*pair) for pair in zip(pictures, sources, strict=True)])),
        "read_back": float(np.mean(sum(groups.values(), []))),
        "weakest": weakest,
        "weakest_read_back": shares[weakest],
        "groups": shares,
    }


def agreement(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> dict[str, float]:
    """Share of the pairs that show the same objects on the same background, and any; the mean PSNR between them."""
    pairs = list(zip(pictures, others, strict=True))
    return {
        "read_alike": float(np.mean([reads_back(*pair) for pair in pairs])),
        "psnr": float(np.mean([psnr(*pair) for pair in pairs])),
    }


def by_vae(tokenizer: Tokenizer, pixel_values: torch.Tensor) -> list[Image.Image]:
    """What a renderer's VAE gives back of pictures."""
    renderer = tokenizer.detokenizer
    training = LatentTraining(renderer, tokenizer.model)

    @torch.no_grad()
    def make(batch: torch.Tensor, generator) -> list[Image.Image]:
        latents, _ = training.encode(batch)
        return tokenizer.image_processor.postprocess(renderer.decode(latents, *batch.shape[-2:]).clamp(-1, 1))

    return in_batches(make, "VAE", pixel_values)


def measure(tokenizer: Tokenizer, name: str, sources: Sequence[np.ndarray], arguments: argparse.Namespace) -> dict:
    """Pictures by `vae` (where there is one) and by (steps, guidance)."""
    pixel_values = to_pixel_values(sources)
    codes = torch.cat([tokenizer.model.get_codes(batch) for batch in pixel_values.split(100)])
    drawn = {}
    if isinstance(tokenizer.detokenizer, ArmLatentDetokenizer):
        drawn["vae"] = by_vae(tokenizer, pixel_values)
    for guidance in arguments.guidance:
        for steps in arguments.steps:

            def make(batch: torch.Tensor, generator, settings=(steps, guidance)) -> list[Image.Image]:
                return tokenizer.detokenizer(None, batch, *settings, generator=generator).images

            drawn[steps, guidance] = in_batches(make, f"{name}, {steps} steps, guidance {guidance:g}", codes)
    return drawn


def named_folder(argument: str) -> tuple[str, Path]:
    """`name=folder` of the command line.

    Raises:
        argparse.ArgumentTypeError: it is not of this form, or no renderer lies there.
    """
    name, _, folder = argument.partition("=")
    if not (name and folder and (Path(folder) / "model_index.json").is_file()):
        raise argparse.ArgumentTypeError(
            f"{argument!r} is no NAME=FOLDER of a renderer; e.g. pixels=checkpoints/arm-tiny/detokenizer."
        )
    return name, Path(folder)


def print_tables(scores: dict, agreements: dict) -> None:
    cells = "| {} | {} | {:.1f} | {:.3f} | {:.3f} ({}) |"
    print("| renderer | steps, guidance | PSNR, dB | read-back | weakest group |\n|---|---|---|---|---|")
    for name, rows in scores.items():
        for how, row in rows.items():
            weakest = (row["weakest_read_back"], row["weakest"])
            print(cells.format(name, how, row["psnr"], row["read_back"], *weakest))
    print("\n| two renderers | read alike | PSNR between them, dB |\n|---|---|---|")
    for pair, row in agreements.items():
        print(f"| {pair} | {row['read_alike']:.3f} | {row['psnr']:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("renderers", nargs="+", type=named_folder, metavar="NAME=FOLDER")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-tiny"), help="whose tokenizer it is")
    parser.add_argument("--items", type=int, default=500, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 28], help="(default: 4 8 28)")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5], help="(default: 1 1.5)")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED, help="of the scenes")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--picture", type=Path, help="picture to write")
    arguments = parser.parse_args()

    data = ShapesDataset(arguments.items, batch_size=arguments.items, seed=arguments.seed, split="test")
    scenes = [data.scene(index)[0] for index in range(arguments.items)]
    sources = [data[index]["image"] for index in range(arguments.items)]
    compared, scores, chosen = (max(arguments.steps), arguments.guidance[0]), {}, {}
    rows = {"scenes": [Image.fromarray(each) for each in sources[:SHOWN]]}
    for name, folder in arguments.renderers:
        drawn = measure(Tokenizer.from_parts(arguments.checkpoint, folder), name, sources, arguments)
        names = {how: "its VAE alone" if how == "vae" else "{}, {:g}".format(*how) for how in drawn}
        scores[name] = {names[how]: scores_of(pictures, sources, scenes) for how, pictures in drawn.items()}
        chosen[name] = drawn[compared]
        if "vae" in drawn:
            rows[f"VAE of {name}, without tokens"] = drawn["vae"][:SHOWN]
        rows[name] = chosen[name][:SHOWN]
    pairs = list(combinations(chosen, 2))
    agreements = {f"{one}, {other}": agreement(chosen[one], chosen[other]) for one, other in pairs}
    print_tables(scores, agreements)
    if arguments.output:
        given = {"renderers": dict(arguments.renderers), "checkpoint": arguments.checkpoint}
        settings = {"seed": arguments.seed, "items": arguments.items, **given, "compared": list(compared)}
        write_result(arguments.output, **settings, scores=scores, agreement=agreements)
    if arguments.picture:
        shown = [[each.resize((SHOWN_SIDE,) * 2, Image.Resampling.NEAREST) for each in row] for row in rows.values()]
        picture_sheet(shown, list(rows)).quantize(64).save(arguments.picture, optimize=True)
