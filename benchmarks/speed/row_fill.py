"""Prints how full the tokenizer's rows of pictures are, and what waits for them, on simulated sizes of web pictures.

    python benchmarks/speed/row_fill.py [--pictures 40000] [--sigma 0.35 0.5 0.7] [--output FILE]

One stream draws pictures whose aspect is log-normal about 1 and whose sides have a geometric mean of 200 to 4,000 px,
evenly in the logarithm, and makes rows of the budget of `arm_7b/tokenizer`: each at the size that the image processor
gives it, waiting as float32 for 1,024 draws, which is how rows were made before there were buckets; and in buckets, as
that recipe states. Only sizes are simulated, the rows are those of training.
"""

import argparse
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from transformers_arm.data.aspect_buckets import AspectBuckets
from transformers_arm.data.image_text import BUCKETS, LOOKAHEAD, WAITING_ROWS, Captioned, of_one_size
from transformers_arm.evaluation.results import write_result
from transformers_arm.image_processing_arm import ArmImageProcessor, size_with_aspect_ratio

SIDE, PIXEL_BUDGET = 512, 64 * 512 * 512


def web_sizes(sigma: float, seed: int = 0) -> Iterator[tuple[int, int]]:
    """(height, width), endlessly."""
    rng = random.Random(seed)
    while True:
        side, aspect = 200 * 20 ** rng.random(), math.exp(rng.gauss(0, sigma))
        yield round(side * math.sqrt(aspect)), round(side / math.sqrt(aspect))


def drawing(sizes: Callable[[], Iterator[tuple[int, int]]], sized: Callable) -> Callable:
    """What draws pictures without pixels: `sized` makes of a size that of the picture, or a ValueError."""

    def draw(state):
        for height, width in sizes():
            try:
                yield (
                    "web",
                    Captioned(torch.empty(3, *sized(height, width), dtype=torch.uint8, device="meta"), ""),
                    state,
                )
            except ValueError:
                continue

    return draw


def measured(draw: Callable, count: int, lookahead: int, waiting_rows: int, bytes_a_pixel: int) -> dict[str, float]:
    """Of the rows that so many pictures make: how full they are, pictures in each, sizes, and the most that waits."""
    pictures, pixels, rows, sizes, taken = 0, 0, 0, set(), [0, 0]

    def counting(state):
        for name, sample, after in draw(state):
            taken[0] += sample.pixels[0].numel()
            yield name, sample, after

    for row, _ in of_one_size(counting, PIXEL_BUDGET, lookahead, waiting_rows):
        taken[1] = max(taken[1], taken[0] - pixels)  # before the row left
        size = row[0][1].pixels.shape[1:]
        pictures, pixels, rows = pictures + len(row), pixels + len(row) * size.numel(), rows + 1
        sizes.add(tuple(size))
        if pictures >= count:
            break
    waiting = taken[1] * bytes_a_pixel / 1e9
    return {
        "row_fill": pixels / (rows * PIXEL_BUDGET),
        "pictures_a_row": pictures / rows,
        "sizes": len(sizes),
        "waiting_gb": waiting,
    }


def before_and_after(sigma: float, count: int) -> dict[str, dict[str, float]]:
    def at_its_size(height, width):
        return size_with_aspect_ratio(height, width, 16, SIDE**2)

    def in_bucket(height, width):
        return buckets.size_of(*buckets.kept(height, width))

    buckets = AspectBuckets(ArmImageProcessor(size={"height": SIDE, "width": SIDE}), BUCKETS)
    before, after = (drawing(lambda: web_sizes(sigma), sized) for sized in (at_its_size, in_bucket))
    return {
        "own sizes": measured(before, count, 1024, 10**6, 12),  # float32 in three channels
        "buckets": measured(after, count, LOOKAHEAD, WAITING_ROWS, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=40_000, help="how many")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.35, 0.5, 0.7], help="of the aspect's logarithm")
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    arguments = parser.parse_args()
    result = {str(sigma): before_and_after(sigma, arguments.pictures) for sigma in arguments.sigma}
    print("| sigma | pictures | row fill | pictures a row | sizes | most that waits, GB |")
    print("|---|---|---|---|---|---|")
    for sigma, rows in result.items():
        for name, row in rows.items():
            fill, pictures, sizes, waiting = row.values()
            print(f"| {sigma} | {name} | {fill:.2f} | {pictures:.0f} | {sizes} | {waiting:.2f} |")
    if arguments.output:
        write_result(arguments.output, pictures=arguments.pictures, rows=result)


if __name__ == "__main__":
    main()
