"""Prints what tokenizers keep of photographs that none was trained on, beside JPEG with as many bytes.

    python benchmarks/quality/photographs.py prepare runs/photographs/crops
    python trainers/tokenizer.py --config arm_tiny/photographs
    python benchmarks/quality/photographs.py measure binary=runs/photographs/binary --crops runs/photographs/crops \
        --output benchmarks/results/photographs.json --picture docs/photographs.png

`prepare` writes crops to train on, `measure` scores what trainers/tokenizer.py made of them; a run's pixel transformer
renders its tokens in one step. Prints tables. `--output` gets JSON, and `--picture` the middles of the photographs and
below them what comes back, from the first run and from JPEG with all bytes counted.

JPEG may take the bytes of a picture's tokens, each of whole bits. Of all files that fit, the nearest to the picture in
PSNR counts: scaled down by any of `SCALES` (Lanczos, and back up bicubically), of any quality from 1 to 95, with 4:2:0
subsampling, gray where the picture is, with Huffman tables made for it. Once all bytes of a file count, and once only
those of its coded coefficients, as if its tables and size were known, as a tokenizer's weights are.
"""

import argparse
import io
import math
import sys
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from photograph_crops import HELD_OUT, read_photograph, write_crops
from PIL import Image

from transformers_arm.data.input_files import find_sources
from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.evaluation.sheets import sheet
from transformers_arm.evaluation.tokenizer import Fidelity, Picture, Tokenizer, dataset_pictures, tokenizer_scores
from transformers_arm.metrics.arm_fidelity.arm_fidelity import fidelity_scores, psnr

SCALES = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 3 / 32, 1 / 16)
QUALITIES = range(1, 96)  # beyond 95 files grow and pictures do not
START_OF_SCAN = 0xDA  # the marker of the last segment before the coded coefficients
SHOWN_SIDE = 192  # px of each photograph on the picture
JPEG, JPEG_WITHOUT_HEADERS = "JPEG, all bytes count", "JPEG, headers free"
USAGE = {"codebook_usage": 4, "code_perplexity": 0}  # scores of codes, and the digits that are printed


class Jpeg(NamedTuple):
    """What a JPEG shows, its PSNR, the bytes of it that count, and how it was made."""

    picture: Image.Image
    psnr: float
    size: int
    scale: float
    quality: int


def header_size(content: bytes) -> int:
    """The bytes of a JPEG with one scan that are not its coded coefficients."""
    at = 2  # behind the marker that starts the file
    while True:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        at += 2 + length
        if marker == START_OF_SCAN:
            return at + 2  # and the marker that ends it


def best_jpeg(picture: Image.Image, limit: int, *, headers: bool = True) -> Jpeg:
    """The JPEG nearest to a picture in PSNR, of those this file's first lines describe.

    Args:
        picture: RGB.
        limit: most bytes.
        headers: whether those of the headers count.

    Raises:
        ValueError: none is so small.
    """
    gray = len({channel.tobytes() for channel in picture.split()}) == 1
    source, best, smallest = picture.convert("L") if gray else picture, None, math.inf
    for scale in SCALES:
        small = source.resize([max(1, round(scale * side)) for side in picture.size], Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            file = io.BytesIO()
            small.save(file, "jpeg", quality=quality, optimize=True, **({} if gray else {"subsampling": "4:2:0"}))
            content = file.getvalue()
            size = len(content) - (0 if headers else header_size(content))
            smallest = min(size, smallest)
            if size <= limit:
                shown = Image.open(file).convert("RGB").resize(picture.size, Image.Resampling.BICUBIC)
                found = Jpeg(shown, psnr(shown, picture), size, scale, quality)
                best = found if best is None else max(best, found, key=lambda each: each.psnr)
    if best is None:
        raise ValueError(f"No JPEG of {picture.width}x{picture.height} px has {limit} bytes; allow {smallest}.")
    return best


def run(argument: str) -> tuple[str, Path]:
    """`name=folder` of the command line.

    Raises:
        argparse.ArgumentTypeError: it is not of this form, or no training of a tokenizer has ended there.
    """
    name, _, folder = argument.partition("=")
    if not (name and folder and (Path(folder) / "vq_model" / "config.json").is_file()):
        raise argparse.ArgumentTypeError(
            f"{argument!r} is no NAME=FOLDER that trainers/tokenizer.py wrote; e.g. binary=runs/photographs/binary."
        )
    return name, Path(folder)


def token_bits(tokenizer: Tokenizer) -> int:
    """Whole bits of a token."""
    return math.ceil(math.log2(tokenizer.model.config.codebook_size))


def each_photograph(originals: list[Image.Image], returned: list[Image.Image]) -> dict[str, dict]:
    """PSNR and SSIM of each held-out photograph, by its name."""
    pairs = zip(HELD_OUT, originals, returned, strict=True)
    return {photograph.name: fidelity_scores([back], [picture]) for photograph, picture, back in pairs}


def measure_run(tokenizer: Tokenizer, crops: list[Picture], seed: int) -> tuple[dict, list, list]:
    """Its scores on the held-out photographs, with the use of its codebook on crops; the photographs as its image
    processor sizes them, and what comes back.
    """
    originals, returned = [], []

    def keep(*pair: list[Image.Image]) -> None:
        originals.extend(pair[0])
        returned.extend(pair[1])

    pictures = [Picture(read_photograph(photograph)) for photograph in HELD_OUT]
    # One by one, for pictures of a batch are shown by their size.
    found = tokenizer_scores(tokenizer, pictures, batch_size=1, seed=seed, on_batch=keep)
    config = tokenizer.model.config
    scores = {"fsq_levels": config.fsq_levels, "fsq_activation": config.fsq_activation}
    scores |= {name: value for name, value in found.items() if not name.startswith("skipped")}
    if crops:
        used = tokenizer_scores(Tokenizer(tokenizer.model, tokenizer.image_processor), crops)
        scores["crops"] = {name: used[name] for name in ("pictures", "tokens_per_picture", *USAGE)}
    return scores | {"each": each_photograph(originals, returned)}, originals, returned


def measure_jpeg(originals: list[Image.Image], limits: list[int], *, headers: bool) -> tuple[dict, list[Image.Image]]:
    """Scores of the best JPEG of each picture within so many bytes, and what they show."""
    found = [best_jpeg(*each, headers=headers) for each in zip(originals, limits, strict=True)]
    fidelity, returned = Fidelity(), [jpeg.picture for jpeg in found]
    for pair in zip(originals, returned, strict=True):
        fidelity.add(*([picture] for picture in pair))
    pixels = sum(picture.width * picture.height for picture in originals)
    rows = each_photograph(originals, returned)
    for row, limit, jpeg in zip(rows.values(), limits, found, strict=True):
        row |= {"limit": limit, "bytes": jpeg.size, "scale": jpeg.scale, "quality": jpeg.quality}
    bits_per_pixel = 8 * sum(jpeg.size for jpeg in found) / pixels
    return {"pictures": len(found), "bits_per_pixel": bits_per_pixel, **fidelity.scores(), "each": rows}, returned


def measure(runs: dict[str, Path], crops: list[Picture], seed: int) -> tuple[dict[str, dict], list[list[Image.Image]]]:
    """Scores of all runs and of JPEG, by name, and of each photograph what is shown: itself, the first run, JPEG.

    Raises:
        ValueError: tokens of different numbers of bits, or on patches of different sizes.
    """
    tokenizers = {name: Tokenizer.from_training(folder, steps=1) for name, folder in runs.items()}
    rules = {(token_bits(each), each.image_processor.patch_size) for each in tokenizers.values()}
    if len(rules) > 1:
        raise ValueError(f"Runs differ in (bits, pixels a side) of a token: {sorted(rules)}; measure them one by one.")
    ((bits, patch_size),) = rules
    scores, shown = {}, None
    for name, tokenizer in tokenizers.items():
        scores[name], *pictures = measure_run(tokenizer, crops, seed)
        shown = shown or pictures
    originals, returned = shown
    limits = [picture.width * picture.height // patch_size**2 * bits // 8 for picture in originals]
    scores[JPEG], jpegs = measure_jpeg(originals, limits, headers=True)
    scores[JPEG_WITHOUT_HEADERS], _ = measure_jpeg(originals, limits, headers=False)
    return scores, [list(each) for each in zip(originals, returned, jpegs, strict=True)]


def print_tables(scores: dict[str, dict]) -> None:
    held_out = [photograph.name for photograph in HELD_OUT]
    print(f"| {len(held_out)} held-out photographs | bits per pixel | PSNR, dB | SSIM | codebook usage | perplexity |")
    print("|---" * 6 + "|")
    for name, row in scores.items():
        usage = [f"{row[score]:.{digits}f}" if score in row else "" for score, digits in USAGE.items()]
        cells = [name, f"{row['bits_per_pixel']:.4f}", f"{row['psnr']:.2f}", f"{row['ssim']:.3f}", *usage]
        print(f"| {' | '.join(cells)} |")
    print(f"\n| PSNR, dB | {' | '.join(held_out)} |")
    print("|---" * (len(held_out) + 1) + "|")
    for name, row in scores.items():
        print(f"| {name} | {' | '.join(format(each['psnr'], '.2f') for each in row['each'].values())} |")
    trained = {name: row["crops"] for name, row in scores.items() if "crops" in row}
    if trained:
        print("\n| crops that it was trained on | tokens | codebook usage | perplexity |\n|---|---|---|---|")
    for name, row in trained.items():
        tokens = round(row["pictures"] * row["tokens_per_picture"])
        print(f"| {name} | {tokens} | {row['codebook_usage']:.4f} | {row['code_perplexity']:.0f} |")


def middle(picture: Image.Image) -> Image.Image:
    """Its middle, at most `SHOWN_SIDE` px a side, at its own scale."""
    left, top = (max(0, side - SHOWN_SIDE) // 2 for side in picture.size)
    return picture.crop((left, top, picture.width - left, picture.height - top))


def report(arguments: argparse.Namespace) -> None:
    """Measures, prints, and writes what was asked for."""
    sources = find_sources(arguments.crops, None, "train") if arguments.crops else []
    crops = list(islice(dataset_pictures(sources), arguments.items))
    scores, shown = measure(dict(arguments.runs), crops, arguments.seed)
    print_tables(scores)
    if arguments.output:
        write_result(arguments.output, seed=arguments.seed, scores=scores)
    if arguments.picture:
        page = sheet([[middle(picture) for picture in column] for column in shown])
        page.quantize().save(arguments.picture, optimize=True)  # 256 colors make a small file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="write crops to train on")
    command.add_argument("folder", type=Path, help="where they go")
    command.add_argument("--count", type=int, default=6000, help="of crops (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("measure", help="score trained tokenizers, and JPEG")
    command.add_argument("runs", type=run, nargs="+", help="NAME=FOLDER of trainers/tokenizer.py; the first is shown")
    command.add_argument("--crops", help="folder that `prepare` wrote, on which the codebook's use is counted as well")
    command.add_argument("--items", type=int, default=2000, help="crops to read (default: %(default)s)")
    command.add_argument("--seed", type=int, default=EVALUATION_SEED)
    command.add_argument("--output", type=Path, help="JSON file to write")
    command.add_argument("--picture", type=Path, help="PNG file to write")
    arguments = parser.parse_args()

    try:
        if arguments.command == "prepare":
            write_crops(arguments.folder, arguments.count, seed=arguments.seed)
        else:
            report(arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"photographs.py: {error}")
