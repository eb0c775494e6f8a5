"""Prints how well the second reader reads, and how often both readers agree, as JSON. Trains it if it is not there.

python benchmarks/quality/second_reader.py [--checkpoint checkpoints/arm-tiny] [--items 1000] [--seed 20261123]
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from transformers_arm.evaluation.results import EVALUATION_SEED
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.worlds.shapes.pictures import ShapesDataset
from transformers_arm.worlds.shapes.reader import read_scene, reading_equals
from transformers_arm.worlds.shapes.second_reader import READER_FILE, READER_SEED, load_or_train

NOISE = 0.05  # on the 0..1 scale


def noisy(images, seed: int):
    rng = np.random.default_rng(seed)
    return [
        (image + rng.normal(0, 255 * NOISE, image.shape)).clip(0, 255).round().astype(np.uint8) for image in images
    ]


def shares(classifier, images, scenes) -> dict[str, float]:
    """Shares (0..1) of pictures each reader reads entirely right, and of those both read alike."""
    second, template = classifier.read(images), [read_scene(image) for image in images]
    return {
        "second_reader": np.mean([reading_equals(*pair) for pair in zip(second, scenes, strict=True)]),
        "template_reader": np.mean([reading_equals(*pair) for pair in zip(template, scenes, strict=True)]),
        "agreement": np.mean([reading_equals(*pair) for pair in zip(second, template, strict=True)]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-tiny"))
    parser.add_argument("--reader", type=Path, default=READER_FILE, help="where its weights are kept")
    parser.add_argument("--reader-seed", type=int, default=READER_SEED)
    parser.add_argument("--items", type=int, default=1000, help="test scenes")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    arguments = parser.parse_args()
    start = time.perf_counter()
    classifier = load_or_train(arguments.reader, seed=arguments.reader_seed)
    seconds = time.perf_counter() - start
    data = ShapesDataset(arguments.items, batch_size=arguments.items, seed=arguments.seed, split="test")
    scenes = [data.scene(index)[0] for index in range(arguments.items)]
    drawn = [data[index]["image"] for index in range(arguments.items)]
    _, reconstructions = Tokenizer.from_pretrained(arguments.checkpoint).reconstruct(drawn, seed=arguments.seed)
    scores = {
        "drawn": shares(classifier, drawn, scenes),
        f"noise_{NOISE}": shares(classifier, noisy(drawn, arguments.seed), scenes),
        "reconstructions": shares(classifier, reconstructions, scenes),
        "items": arguments.items,
        "seed": arguments.seed,
        "reader_seed": arguments.reader_seed,
        "seconds_to_load_or_train": round(seconds, 1),
    }
    print(json.dumps(scores, indent=2))
