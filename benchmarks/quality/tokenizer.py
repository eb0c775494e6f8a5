"""Prints what any tokenizer keeps of any pictures: their meaning, their pixels, and what of its codebook it uses.

    python benchmarks/quality/tokenizer.py --tokenizer my_tokenizer --detokenizer my_detokenizer \
        --dataset my_pictures --size 512 512 --keep-aspect-ratio --items 5000 --output results/my_tokenizer.json
    python benchmarks/quality/tokenizer.py --tokenizer checkpoints/arm-tiny \
        --detokenizer checkpoints/arm-tiny/detokenizer --siglip checkpoints/arm-tiny/backbones/siglip --world

Without a detokenizer there are no PSNR, SSIM and rFID, without a SigLIP there is no zero-shot accuracy, and without an
Inception network (StyleGAN's TorchScript file inception-2015-12-05.pt) there is no rFID. Zero-shot asks for the class
where class names are known, and else for the caption among others. Prints a table; `--output` gets JSON, and beside it
a sheet of originals above their reconstructions.
"""

import argparse
import sys
from pathlib import Path

import torch

from transformers_arm.data.input_files import find_sources
from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.evaluation.sheets import sheet
from transformers_arm.evaluation.tokenizer import (
    COLUMNS,
    RENAME,
    Tokenizer,
    class_names,
    dataset_pictures,
    tokenizer_scores,
)
from transformers_arm.worlds.shapes.evaluation import world_pictures

WORLD_ITEMS = 500
ROWS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "rfid": "rFID of {pictures} pictures (few make it too high)",
    "zero_shot": "zero-shot accuracy of z_q",
    "siglip_zero_shot": "zero-shot accuracy of the frozen SigLIP",
    "zero_shot_pictures": "pictures with zero-shot",
    "zero_shot_candidates": "texts that each chose from, at least",
    "codebook_usage": "codebook usage",
    "code_perplexity": "code perplexity",
    "codebook_size": "codebook size",
    "tokens_per_picture": "tokens a picture",
    "bits_per_pixel": "bits per pixel",
}


def renaming(pairs: list[str]) -> dict[str, str]:
    """THEIRS=OURS pairs before the default names."""
    given = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if len(given) < len(pairs) or set(given.values()) - set(COLUMNS):
        raise ValueError(f"--rename {' '.join(pairs)} must say their name and one of {', '.join(COLUMNS)}: jpg=image.")
    return given | RENAME | given


def measure(arguments: argparse.Namespace) -> tuple[dict, list]:
    """The scores, and the first originals with their reconstructions."""
    sizing = {"keep_aspect_ratio": True} if arguments.keep_aspect_ratio else {}
    if arguments.size:
        sizing["size"] = dict(zip(("height", "width"), arguments.size, strict=True))
    names, rename = None, renaming(arguments.rename)
    if arguments.class_names:
        names = arguments.class_names.read_text(encoding="utf-8").splitlines()
    if arguments.world:
        arguments.items = WORLD_ITEMS if arguments.items is None else arguments.items
        pictures = world_pictures(arguments.items, seed=arguments.seed)
    else:
        sources = find_sources(arguments.dataset, arguments.config, arguments.split)
        pictures, names = dataset_pictures(sources, rename), names or class_names(sources[0], rename)
    tokenizer = Tokenizer.from_parts(arguments.tokenizer, arguments.detokenizer, device=arguments.device, **sizing)
    shown = []
    scores = tokenizer_scores(
        tokenizer,
        pictures,
        count=arguments.items,
        batch_size=arguments.batch_size,
        siglip=arguments.siglip,
        class_names=names,
        candidates=arguments.candidates,
        inception=arguments.inception,
        seed=arguments.seed,
        on_batch=lambda *pair: shown.extend(zip(*pair, strict=True)) if len(shown) < arguments.shown else None,
    )
    return scores, shown[: arguments.shown]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="folder or Hub id of an ArmVQModel, or of an ARM")
    parser.add_argument("--detokenizer", help="folder or Hub id of an ArmPixelDetokenizer")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="folder, Hub id, or parquet or tar files")
    source.add_argument("--world", action="store_true", help="the embedded world's held-out scenes")
    parser.add_argument("--config", help="which configuration of a Hub dataset")
    parser.add_argument("--split", default="train", help="(default: %(default)s)")
    parser.add_argument("--rename", nargs="+", default=[], metavar="THEIRS=OURS", help="columns, e.g. photo=image")
    parser.add_argument("--items", type=int, help="pictures to measure (default: all; of the world 500)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="px (default: the tokenizer's)")
    parser.add_argument("--keep-aspect-ratio", action="store_true", help="the size bounds the area of each picture")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures at once (default: %(default)s)")
    parser.add_argument("--siglip", help="folder or Hub id of the SiglipModel that the tokenizer was made from")
    parser.add_argument("--class-names", type=Path, help="text file, a class a line (default: the dataset's own)")
    parser.add_argument("--candidates", type=int, default=100, help="captions to choose from (default: %(default)s)")
    parser.add_argument("--inception", help="file of the Inception network; TorchScript, load one you trust")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="(default: cuda where there is one, else cpu)")
    parser.add_argument("--output", type=Path, help="JSON file to write; the sheet is named like it, with .png")
    parser.add_argument("--shown", type=int, default=8, help="pictures on the sheet (default: %(default)s)")
    arguments = parser.parse_args()

    try:
        scores, shown = measure(arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"tokenizer.py: {error}")
    print(f"| {scores['pictures']} pictures, {scores['skipped']} skipped | |")
    print("|---|---|")
    for name, row in ROWS.items():
        if name in scores:
            print(f"| {row.format(**scores)} | {scores[name]:.{4 if isinstance(scores[name], float) else 9}g} |")
    for example in scores["skipped_examples"]:
        print(f"skipped: {example['file']}: {example['problem']}")
    if arguments.output:
        asked = {name: value for name, value in vars(arguments).items() if name not in ("items", "seed", "output")}
        measured = {"seed": arguments.seed, "items": scores["pictures"]}
        write_result(arguments.output, **measured, options=asked, scores=scores)
        if shown:
            sheet([list(pair) for pair in shown]).save(arguments.output.with_suffix(".png"))
