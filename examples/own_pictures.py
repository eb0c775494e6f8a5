"""Makes an ARM of a folder of your own pictures, from nothing: every stage, from backbones to fine-tuning, on a CPU.

    python examples/own_pictures.py my_pictures my_run --trial   # two steps a stage: does all fit?
    python examples/own_pictures.py my_pictures my_run

The folder has a metadata.csv of `file_name` and `prompt`, the caption. The stages are the shipped recipes `own/...`;
docs/own-pictures.md goes through them one by one. Interrupted, the same command goes on. At the end
`my_run/runs/own/sft/model` is a complete ARM folder, which draws a caption, edits and names what it drew.
"""

import argparse
import json
import os
from pathlib import Path

from transformers import pipeline

import transformers_arm  # noqa: F401  registers the pipelines
from transformers_arm.data.folders import load_files
from transformers_arm.training.stages import train_stage

SOURCES = {
    "backbones": ("siglip.data.sources.pictures", "qwen2.data.sources.captions"),
    "tokenizer": ("data.sources.pictures",),
    "detokenizer": ("data.sources.pictures",),
    "pretrain": ("data.sources.drawing", "data.sources.naming"),
    "sft": ("data.sources.drawing", "data.sources.naming"),
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("pictures", type=Path, help="folder of pictures with a metadata.csv or metadata.jsonl")
parser.add_argument("output", type=Path, help="folder to work in")
parser.add_argument("--held-out", type=int, default=32, help="pictures that are never trained on (default: 32)")
parser.add_argument("--trial", action="store_true", help="train each stage for two steps only")
options = parser.parse_args()

pictures = options.pictures.resolve()
folder = json.dumps(str(pictures), ensure_ascii=False)  # quoted, for values are YAML
caption = load_files("imagefolder", data_dir=str(pictures))["prompt"][0]
options.output.mkdir(parents=True, exist_ok=True)
os.chdir(options.output)
for stage, sources in SOURCES.items():
    parts = ("siglip.", "qwen2.") if stage == "backbones" else ("",)
    changed = [f"{source}.dataset.data_dir={folder}" for source in sources]
    changed += [f"{part}validation.rows={options.held_out}" for part in parts]
    if options.trial:
        changed += [f"{part}training.{each}" for part in parts for each in ("max_steps=2", "warmup_steps=0")]
    train_stage(stage, f"own/{stage}", changed)

model = str(Path("runs/own/sft/model").resolve())
drawn = pipeline("text-to-image", model=model)(caption)
edited = pipeline("image-editing", model=model)({"image": drawn, "prompt": caption})
asked = [{"type": "image", "image": drawn}, {"type": "text", "text": "What is it?"}]
named = pipeline("image-text-to-text", model=model)(text=[{"role": "user", "content": asked}], return_full_text=False)
drawn.save("drawn.png")
edited.save("edited.png")
print(f"{model} drew {caption!r}: drawn.png; edited it: edited.png; and says of it: {named[0]['generated_text']!r}")
