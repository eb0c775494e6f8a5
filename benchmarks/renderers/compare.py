"""Prints what renderers make of the same tokens, and whether they make the same: held-out pictures of a world.

    python benchmarks/renderers/compare.py pixels=checkpoints/arm-tiny/detokenizer \
        FLUX.2=runs/renderers/flux2/detokenizer Sana=runs/renderers/sana/detokenizer \
        --output benchmarks/results/renderers.json --picture docs/renderers.png
    python benchmarks/renderers/compare.py --world emoji pixels=checkpoints/arm-emoji/detokenizer \
        FLUX.1=runs/renderers/flux_emoji/detokenizer --steps --guidance

Codes are those of a model's tokenizer. Against the originals: PSNR and the share that is right, which is a scene that
reads back or an emoji found again among all, for each number of steps and each guidance, the weakest group beside the
mean; and what a renderer's VAE alone gives back, which it cannot surpass. Against each other, with the most steps and
the first guidance: the share of pictures that two renderers show alike, and the PSNR between them. `--output` gets
JSON, `--picture` some originals and below them what each renderer drew, ticked where it is right and else crossed.
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
from transformers_arm.evaluation.sheets import marked, picture_sheet
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.metrics.arm_fidelity.arm_fidelity import psnr
from transformers_arm.training.renderer import LatentTraining
from transformers_arm.worlds.emoji.scores import read_originals
from transformers_arm.worlds.emoji.tokenizer_scores import as_json, retrieval_cells, sample_of_each_split, weakest
from transformers_arm.worlds.shapes.metrics.arm_reconstruction.arm_reconstruction import reads_back
from transformers_arm.worlds.shapes.pictures import ShapesDataset
from transformers_arm.worlds.shapes.reader import read_scene, reading_equals

SHOWN_SIDE = 96  # px of originals on the picture
Pictures = Sequence[Image.Image | np.ndarray]


class Scenes:
    """Held-out scenes of the drawn world: right is a picture that reads as its scene does."""

    checkpoint, right, alike, shown = "checkpoints/arm-tiny", "read_back", "read_alike", 6

    def __init__(self, count: int, seed: int):
        data = ShapesDataset(count, batch_size=count, seed=seed, split="test")
        self.scenes = [data.scene(index)[0] for index in range(count)]
        self.images = [data[index]["image"] for index in range(count)]

    def are_right(self, pictures: Pictures) -> list[bool]:
        return [reading_equals(read_scene(each), scene) for each, scene in zip(pictures, self.scenes, strict=True)]

    def are_alike(self, pictures: Pictures, others: Pictures) -> list[bool]:
        return [reads_back(*pair) for pair in zip(pictures, others, strict=True)]

    def scores(self, pictures: Pictures) -> dict:
        """Means, and which scenes, of so many objects on such a background, read back least."""
        groups = defaultdict(list)
        for scene, right in zip(self.scenes, self.are_right(pictures), strict=True):
            groups[f"{len(scene.objects)} on {scene.background}"].append(right)
        shares = {name: float(np.mean(hits)) for name, hits in sorted(groups.items())}
        low = min(shares, key=shares.get)
        return {
            "psnr": mean_psnr(pictures, self.images),
            "read_back": float(np.mean(sum(groups.values(), []))),
            "weakest": low,
            "weakest_read_back": shares[low],
            "groups": shares,
        }


class Emoji:
    """Emoji of each split, of which only `unseen` is unseen: right is a picture whose nearest original is its own.

    Args:
        count: of each split, at most.
    """

    checkpoint, right, alike, shown = "checkpoints/arm-emoji", "right", "found_alike", 10

    def __init__(self, count: int, seed: int):
        self.originals = read_originals()
        self.drawn = sample_of_each_split(self.originals.drawn, count, seed=seed)
        self.images = [each.image for each in self.drawn]

    def found(self, pictures: Pictures) -> list[int]:
        return [each.twins for each in self.originals.nearest(pictures)]

    def are_right(self, pictures: Pictures) -> list[bool]:
        return [found == each.twins for found, each in zip(self.found(pictures), self.drawn, strict=True)]

    def are_alike(self, pictures: Pictures, others: Pictures) -> list[bool]:
        return [one == other for one, other in zip(self.found(pictures), self.found(others), strict=True)]

    def scores(self, pictures: Pictures) -> dict:
        """Those of a tokenizer, of each split and part; their means, each cell of a split and a part alike."""
        cells = retrieval_cells(self.originals, self.drawn, pictures)
        (_, mean), (low, right) = weakest(cells, "psnr"), weakest(cells)
        at_low = cells[low]["right"].mean
        return {"psnr": mean, "right": right, "weakest": low, "weakest_right": at_low, "cells": as_json(cells)}


WORLDS = {"shapes": Scenes, "emoji": Emoji}


def in_batches(make: Callable[..., list], what: str, inputs: torch.Tensor, size: int = 100) -> list[Image.Image]:
    """What `make` makes of some inputs at a time; it gets a generator of the batch's own."""
    made = []
    for number, batch in enumerate(tqdm(inputs.split(size), desc=what, leave=False)):
        made += make(batch, generator=torch.Generator().manual_seed(EVALUATION_SEED + number))
    return made


def mean_psnr(pictures: Pictures, others: Pictures) -> float:
    return float(np.mean([psnr(*pair) for pair in zip(pictures, others, strict=True)]))


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
    """Pictures by `vae` (where there is one) and by (steps, guidance), those of the first guidance first."""
    pixel_values = to_pixel_values(sources)
    codes = torch.cat([tokenizer.model.get_codes(batch) for batch in pixel_values.split(100)])
    drawn, own = {}, tokenizer.detokenizer.config
    if isinstance(tokenizer.detokenizer, ArmLatentDetokenizer):
        drawn["vae"] = by_vae(tokenizer, pixel_values)
    for guidance in arguments.guidance or [own.default_guidance_scale]:
        for steps in arguments.steps or [own.default_steps]:

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


def print_tables(world: Scenes | Emoji, scores: dict, agreements: dict) -> None:
    cells = "| {} | {} | {:.1f} | {:.3f} | {:.3f} ({}) |"
    print(f"| renderer | steps, guidance | PSNR, dB | {world.right} | weakest group |\n|---|---|---|---|---|")
    for name, rows in scores.items():
        for how, row in rows.items():
            low = (row[f"weakest_{world.right}"], row["weakest"])
            print(cells.format(name, how, row["psnr"], row[world.right], *low))
    print(f"\n| two renderers | {world.alike} | PSNR between them, dB |\n|---|---|---|")
    for pair, row in agreements.items():
        print(f"| {pair} | {row[world.alike]:.3f} | {row['psnr']:.1f} |")


def page(world: Scenes | Emoji, rows: dict[str, Pictures]) -> Image.Image:
    """Rows of pictures by what they are, of which a few are shown, evenly from first to last."""
    shown = np.linspace(0, len(world.images) - 1, world.shown).round().astype(int)
    tiles = []
    for pictures in rows.values():
        right = world.are_right(pictures)
        enlarged = [pictures[place].resize((SHOWN_SIDE,) * 2, Image.Resampling.NEAREST) for place in shown]
        tiles.append([marked(each, right[place]) for each, place in zip(enlarged, shown, strict=True)])
    return picture_sheet(tiles, list(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("renderers", nargs="+", type=named_folder, metavar="NAME=FOLDER")
    parser.add_argument("--world", choices=WORLDS, default="shapes", help="(default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="whose tokenizer it is (default: the world's)")
    parser.add_argument(
        "--items", type=int, default=500, help="held-out scenes, or emoji a split at most (default: %(default)s)"
    )
    own = "; without a number each renderer's own"
    parser.add_argument("--steps", type=int, nargs="*", default=[4, 8, 28], help=f"(default: 4 8 28{own})")
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 1.5], help=f"(default: 1 1.5{own})")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED, help="of the pictures")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--picture", type=Path, help="picture to write")
    arguments = parser.parse_args()

    world = WORLDS[arguments.world](arguments.items, arguments.seed)
    checkpoint = arguments.checkpoint or Path(world.checkpoint)
    scores, compared, chosen, rows = {}, {}, {}, {"originals": [Image.fromarray(each) for each in world.images]}
    for name, folder in arguments.renderers:
        drawn = measure(Tokenizer.from_parts(checkpoint, folder), name, world.images, arguments)
        names = {how: "its VAE alone" if how == "vae" else "{}, {:g}".format(*how) for how in drawn}
        scores[name] = {names[how]: world.scores(pictures) for how, pictures in drawn.items()}
        if "vae" in drawn:
            rows[f"VAE of {name}, without tokens"] = drawn.pop("vae")
        _, guidance = next(iter(drawn))
        best = max(how for how in drawn if how[1] == guidance)
        compared[name], chosen[name] = names[best], drawn[best]
        rows[name] = chosen[name]
    agreements = {}
    for one, other in combinations(chosen, 2):
        pair = chosen[one], chosen[other]
        agreements[f"{one}, {other}"] = {world.alike: float(np.mean(world.are_alike(*pair))), "psnr": mean_psnr(*pair)}
    print_tables(world, scores, agreements)
    if arguments.output:
        given = {"world": arguments.world, "renderers": dict(arguments.renderers), "checkpoint": checkpoint}
        settings = {"seed": arguments.seed, "items": arguments.items, **given, "compared": compared}
        write_result(arguments.output, **settings, scores=scores, agreement=agreements)
    if arguments.picture:
        page(world, rows).quantize(64).save(arguments.picture, optimize=True)
