"""Prints arm-tiny's scores on held-out items as JSON; the figures of its card and of the README.

python benchmarks/quality/arm_tiny.py [--checkpoint checkpoints/arm-tiny] [--items 500] [--seed 20261123]
"""

import argparse
import json
from pathlib import Path

from transformers_arm.evaluation import EVALUATION_SEED, tiny_scores
from transformers_arm.evaluation_multimodal import Arm, multimodal_scores

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-tiny"))
    parser.add_argument("--items", type=int, default=500, help="held-out items a row")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    arguments = parser.parse_args()
    settings = {"count": arguments.items, "seed": arguments.seed}
    scores = tiny_scores(arguments.checkpoint, **settings)
    scores |= multimodal_scores(Arm.from_pretrained(arguments.checkpoint), **settings)
    print(json.dumps(scores, indent=2))
