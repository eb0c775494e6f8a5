"""The second judge: a small ResNet that has learnt from originals alone what pictures of people and hands show.

It says concept, tone, gender and style, and shares nothing with the search for the nearest original, which rewards
ask. Whatever learns from one verdict may learn to please it: a gain that this judge does not see is none. Knows
nothing about what draws.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import ResNetConfig, ResNetForImageClassification

from ...data.collators import to_pixel_values
from ...whole_files import whole_file
from ..worn import worn
from .edits import Edit
from .pictures import Drawn
from .scores import SCORED, Originals
from .splits import SPLITS
from .traits import is_people, word_of
from .variations import moved

JUDGE_FILE = Path("runs/emoji/judge.safetensors")
STEPS, BATCH, SEED = 1000, 64, 0
ZOOM, SHIFT = (0.94, 1.06), 2.0  # px; what is drawn stands about where the original does
JUDGE = "judge_"
"""Before the names of its scores."""
Labels = dict[str, list[str]]
Reading = dict[str, str]


class Judge:
    """Reads pictures 64x64.

    Args:
        labels: what there is to say of each of `SCORED`.
    """

    def __init__(self, labels: Labels):
        self.labels = labels
        self.counts = [len(labels[trait]) for trait in SCORED]
        names = [f"{trait}: {word}" for trait in SCORED for word in labels[trait]]
        self.network = ResNetForImageClassification(
            ResNetConfig(
                embedding_size=32,
                hidden_sizes=[32, 64, 128, 256],
                depths=[1, 1, 1, 1],
                layer_type="basic",
                id2label=dict(enumerate(names)),
            )
        )

    def logits(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """RGB in -1..1, float32 [B, 3, 64, 64] -> of each of `SCORED` [B, its labels]."""
        return self.network(pixel_values).logits.split(self.counts, 1)

    @torch.inference_mode()
    def read(self, images: Sequence) -> list[Reading]:
        """What pictures, RGB or uint8 [64, 64, 3], show: a word of each of `SCORED`."""
        self.network.eval()
        pixels, readings = [np.asarray(image) for image in images], []
        for start in range(0, len(pixels), BATCH):
            found = [each.argmax(1).tolist() for each in self.logits(to_pixel_values(pixels[start : start + BATCH]))]
            readings += [
                {trait: self.labels[trait][place] for trait, place in zip(SCORED, places, strict=True)}
                for places in zip(*found, strict=True)
            ]
        return readings


class Judges(NamedTuple):
    """Both that say what pictures show: the search among originals, and a second judge, if there is one, whose scores
    of people and hands stand beside, under the same names with `JUDGE` before them.
    """

    originals: Originals
    second: Judge | None = None

    def picture_scores(self, images: Sequence, wanted: Sequence[Drawn]) -> list[dict[str, bool]]:
        """`Originals.picture_scores` of each picture. `right` by the second judge: all of `SCORED` are."""
        found = self.originals.nearest(images)
        scores = [self.originals.picture_scores(*pair) for pair in zip(found, wanted, strict=True)]
        for row, each, hits in self._second(images, wanted):
            scores[row] |= {f"{JUDGE}right": all(hits.values())}
            scores[row] |= {JUDGE + trait: hits[trait] for trait in self.originals.scored(each)}
        return scores

    def edit_scores(self, images: Sequence, asked: Sequence[Edit]) -> list[dict[str, bool]]:
        """`Originals.edit_scores` of each picture; of these `target`, `attribute` and `kept` by the second judge, as
        far as `SCORED` tell.
        """
        found = self.originals.nearest(images)
        scores = [self.originals.edit_scores(*pair) for pair in zip(found, asked, strict=True)]
        for row, _, hits in self._second(images, [edit.target for edit in asked]):
            edit = asked[row]
            changed, kept = (all(hits.get(trait, True) for trait in traits) for traits in (edit.changes, edit.keeps))
            told = {"target": all(hits.values()), "attribute": changed, "kept": kept}
            scores[row] |= {JUDGE + name: hit for name, hit in told.items()}
        return scores

    def _second(self, images: Sequence, wanted: Sequence[Drawn]) -> Iterator[tuple[int, Drawn, dict[str, bool]]]:
        """Of each picture of which the second judge says something its place, what was wanted, and which of `SCORED`
        are as in that, or in a twin of it.
        """
        rows = [row for row, each in enumerate(wanted) if self.second and is_people(each)]
        readings = self.second.read([images[row] for row in rows]) if rows else []
        for row, read in zip(rows, readings, strict=True):
            each = wanted[row]
            yield row, each, {trait: self.originals.called(each, trait, read[trait]) for trait in SCORED}


def labels_of(drawn: Sequence[Drawn]) -> Labels:
    """What there is to say of each of `SCORED`, of pictures."""
    return {trait: sorted({word_of(each, trait) for each in drawn}) for trait in SCORED}


def train_judge(drawn: Sequence[Drawn], steps: int = STEPS, *, seed: int = SEED) -> Judge:
    """Trains a judge from scratch on pictures, moved and worn; four minutes on one core by default.

    The same arguments give the same weights on the same machine. The state of torch's global generator stays as it is.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(labels_of(drawn))
    targets = torch.tensor([[judge.labels[trait].index(word_of(each, trait)) for trait in SCORED] for each in drawn])
    network = judge.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.1)
    for _ in tqdm(range(steps), desc="training the second judge", leave=False):
        places = rng.choices(range(len(drawn)), k=BATCH)
        pictures = [moved(drawn[place].image, rng, zoom=ZOOM, shift=SHIFT) for place in places]
        found = judge.logits(worn(to_pixel_values(pictures), generator))
        loss = sum(cross_entropy(each, due) for each, due in zip(found, targets[places].T, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge


def load_or_train(
    file: str | Path = JUDGE_FILE,
    *,
    originals: Originals,
    of: Sequence[str] = SPLITS,
    steps: int = STEPS,
    seed: int = SEED,
) -> Judge:
    """The judge kept in `file` (safetensors) if it has learnt from people and hands of these splits for so many steps
    with this seed, else a new one, which is then kept there.
    """
    file, drawn = Path(file), [each for each in originals.drawn if is_people(each) and each.split in of]
    learnt = {"pictures": len(drawn), "of": list(of), "steps": steps, "seed": seed, "labels": labels_of(drawn)}
    if file.is_file():
        with safe_open(file, framework="pt") as kept:
            same = (kept.metadata() or {}).get("learnt") == json.dumps(learnt)
        if same:
            judge = Judge(learnt["labels"])
            judge.network.load_state_dict(load_file(file))
            return judge
    judge = train_judge(drawn, steps, seed=seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as aside:
        save_file(judge.network.state_dict(), aside, metadata={"learnt": json.dumps(learnt)})
    return judge
