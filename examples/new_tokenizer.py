"""Puts another visual tokenizer under a trained ARM, whose language model then learns its codes quickly.

    python examples/new_tokenizer.py checkpoints/arm-tiny runs/arm-tiny/tokenizer_detail/vq_model moved --world shapes
    transformers-arm train sft --config arm_tiny/sft start_from=moved

A row of a new code starts as the mean of the rows of those codes that stood at the same patches of pictures: a
world's, or those of a folder. The detokenizer reads the old tokenizer's codes: train one for the new, and name it in
the recipe.
"""

import argparse
import json
from collections.abc import Iterator

import torch

from transformers_arm.data.collators import to_pixel_values
from transformers_arm.data.folders import load_files
from transformers_arm.data.visual_tokenizer import load_tokenizer
from transformers_arm.data.world import find_world
from transformers_arm.image_processing_arm import ArmImageProcessor
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.processing_arm import ArmProcessor
from transformers_arm.sizes.retokenizing import retokenized

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder of the ARM")
parser.add_argument("tokenizer", help="folder of the new tokenizer, a training's vq_model")
parser.add_argument("output", help="folder to write")
parser.add_argument("--world", help="world that draws the pictures")
parser.add_argument("--arguments", type=json.loads, default={}, help="of the world's pictures, as JSON")
parser.add_argument("--folder", help="or a folder of pictures")
parser.add_argument("--pictures", type=int, default=10_000, help="how many at most (default: 10,000)")
options = parser.parse_args()
if (options.world is None) == (options.folder is None):
    parser.error("state either --world or --folder, where pictures come from.")


def batches(image_processor: ArmImageProcessor) -> Iterator[torch.Tensor]:
    """Pictures [B, 3, H, W], 50 of a world at a time, and one of a folder, where each has a size of its own."""
    if options.world:
        drawn = find_world(options.world).pictures(options.pictures, seed=0, batch_size=50, **options.arguments)
        for start in range(0, len(drawn), 50):
            yield to_pixel_values([drawn[number]["image"] for number in range(start, min(start + 50, len(drawn)))])
        return
    rows = load_files("imagefolder", data_dir=options.folder)
    for number in range(min(options.pictures, len(rows))):
        yield image_processor(rows[number]["image"], return_tensors="pt")["pixel_values"]


model = ArmForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
processor = ArmProcessor.from_pretrained(options.model)
vq_model, image_processor = load_tokenizer(options.tokenizer)
retokenized(model, vq_model, batches(image_processor)).save_pretrained(options.output)
ArmProcessor(image_processor, processor.tokenizer, model.config.visual_token_offset).save_pretrained(options.output)
print(options.output)
