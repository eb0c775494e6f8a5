"""Prints arm-tiny's scores on held-out scenes as JSON; the figures of its card and of the README.

python benchmarks/quality/arm_tiny.py [--checkpoint checkpoints/arm-tiny] [--scenes 500] [--seed 20261123]
"""

import argparse
import json
from pathlib import Path

from transformers_arm.evaluation import EVALUATION_SEED, tiny_scores

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-tiny"))
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    arguments = parser.parse_args()
    scores = tiny_scores(arguments.checkpoint, count=arguments.scenes, seed=arguments.seed)
    print(json.dumps(scores, indent=2))
