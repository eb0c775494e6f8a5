"""Prints how a model of the embedded world tells stories, with guidance and without, and how near previews are.

    python benchmarks/quality/interleaved.py [--checkpoint checkpoints/arm-tiny] [--items 100] [--output FILE]

Asked for are stories of held-out scenes: a picture of the scene, an edit of it in words, and the picture after it. The
previews are those of the same scenes' captions: PSNR of the rows that were drawn, against the final picture.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from transformers import pipeline

from transformers_arm.evaluation.results import EVALUATION_SEED, write_result
from transformers_arm.worlds.shapes.captions import shuffled_caption
from transformers_arm.worlds.shapes.edits import apply_edit
from transformers_arm.worlds.shapes.reader import read_scene, reading_equals
from transformers_arm.worlds.shapes.scene import Scene, sample_scene
from transformers_arm.worlds.shapes.tasks import STORY

UNGUIDED = {"guidance_scale": 1.0, "image_guidance_scale": 1.0}


def story_scores(tell, scenes: list[Scene], captions: list[str], seed: int, **options) -> dict[str, float]:
    """Shares of the stories in 0..1: of the taught form; whose first picture is the scene; and of those two pictures
    after it, that are what the words before make of the scene (words that say what cannot be done count as wrong).
    """
    whole = first = edits = 0
    for number, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
        generator = torch.Generator().manual_seed(seed + number)
        parts = tell(STORY + caption, max_new_tokens=200, generator=generator, **options)
        if [part["type"] for part in parts] != ["image", "text", "image", "text", "image"]:
            continue
        whole += 1
        first += reading_equals(read_scene(parts[0]["image"]), scene)
        for told, shown in (parts[1:3], parts[3:5]):
            try:
                scene = apply_edit(scene, told["text"])
            except ValueError:
                break
            edits += reading_equals(read_scene(shown["image"]), scene)
    count = len(scenes)
    return {"form": whole / count, "first_picture": first / count, "edits": edits / (2 * count)}


def preview_scores(draw, captions: list[str], seed: int) -> dict[str, float]:
    """By rows drawn: PSNR in dB of those rows of all previews."""
    seen: dict[int, dict] = {}

    def keep(number: int, rows: int, picture) -> None:
        seen.setdefault(rows, {})[number] = np.asarray(picture, float)

    drawn = draw(captions, batch_size=25, generator=torch.Generator().manual_seed(seed), preview=keep)
    scores = {}
    for rows, pictures in seen.items():
        height = 16 * rows
        errors = [((pictures[n] - np.asarray(each, float))[:height] ** 2).mean() for n, each in enumerate(drawn)]
        scores[str(rows)] = float(10 * np.log10(255**2 / np.mean(errors)))
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/arm-tiny"))
    parser.add_argument("--items", type=int, default=100, help="held-out scenes")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    rng, folder, seed = random.Random(arguments.seed), str(arguments.checkpoint), arguments.seed
    scenes = [sample_scene(rng, split="test", held_out_pairs=False) for _ in range(arguments.items)]
    captions = [shuffled_caption(rng, scene) for scene in scenes]
    tell = pipeline("interleaved", model=folder)
    scores = {
        "guided": story_scores(tell, scenes, captions, seed),
        "unguided": story_scores(tell, scenes, captions, seed, **UNGUIDED),
    }
    previews = preview_scores(pipeline("text-to-image", model=folder), captions, seed)
    print(f"| {len(scenes)} stories | {' | '.join(scores)} |")
    print(f"|---|{'---|' * len(scores)}")
    for name in scores["guided"]:
        print(f"| {name.replace('_', ' ')} | {' | '.join(f'{row[name]:.3f}' for row in scores.values())} |")
    print("previews:", ", ".join(f"{rows} rows {value:.1f} dB" for rows, value in previews.items()))
    if arguments.output:
        settings = {"checkpoint": arguments.checkpoint, "items": len(scenes), "seed": seed}
        write_result(arguments.output, **settings, scores=scores, previews=previews)
