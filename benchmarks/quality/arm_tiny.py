"""Prints arm-tiny's scores on held-out items as JSON, by both readers; the figures of its card and of the README.

python benchmarks/quality/arm_tiny.py [--checkpoint checkpoints/arm-tiny] [--items 500] [--output FILE]

Trains the second reader if it is not there. Means stand before their weakest cells. Sizes that the model does not know
are scored, too.
"""

import argparse
import json
from pathlib import Path

from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.worlds.shapes.evaluation import OTHER_CANVASES, all_scores
from transformers_arm.worlds.shapes.second_reader import both_readers

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-tiny"))
    parser.add_argument("--items", type=int, default=500, help="held-out items a row")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--output", type=Path, help="JSON file to write as well")
    arguments = parser.parse_args()
    settings = {"count": arguments.items, "seed": arguments.seed}
    scores = all_scores(arguments.checkpoint, readers=both_readers(), canvases=OTHER_CANVASES, **settings)
    print(json.dumps(scores, indent=2))
    if arguments.output:
        told = {"checkpoint": arguments.checkpoint, "items": arguments.items, "seed": arguments.seed}
        write_result(arguments.output, **told, scores=scores)
