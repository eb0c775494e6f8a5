"""What the tokenizer keeps of emoji: pictures found again among all, in parts, and what codes of likes have in common.

It is the ceiling of all that a model draws. Knows no language model.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tqdm.auto import tqdm

from ...data.collators import to_pixel_values
from ...evaluation.code_noise import code_noise
from ...evaluation.intervals import Interval, mean_interval, mean_intervals
from ...evaluation.tokenizer import Tokenizer
from ...metrics.arm_codebook.arm_codebook import code_counts, usage_scores
from ...metrics.arm_fidelity.arm_fidelity import psnr
from .edits import Edit, edits
from .pictures import Drawn
from .scores import Originals
from .splits import HELD_OUT, TRAIN
from .traits import part_of

BATCH = 100
IN_ORDER = (TRAIN, *HELD_OUT)
ALIKE = ("tone", "gender")  # kinds of edits whose two pictures should share codes
Cells = dict[str, dict[str, Interval]]


def sample_of_each_split(drawn: Iterable[Drawn], count: int, *, seed: int) -> list[Drawn]:
    """At most `count` pictures of each of `IN_ORDER`."""
    of = defaultdict(list)
    for each in drawn:
        of[each.split].append(each)
    rng = random.Random(f"{seed}/sample of each split")
    return [each for split in IN_ORDER for each in rng.sample(of[split], min(count, len(of[split])))]


def all_codes(tokenizer: Tokenizer, drawn: Sequence[Drawn]) -> np.ndarray:
    """Codes [N, h, w] of pictures."""
    batches = tqdm(range(0, len(drawn), BATCH), desc="encoding", leave=False)
    images = ([each.image for each in drawn[start : start + BATCH]] for start in batches)
    return np.concatenate(
        [tokenizer.model.get_codes(to_pixel_values(each).to(tokenizer.model.device)).cpu().numpy() for each in images]
    )


def rebuilt(tokenizer: Tokenizer, drawn: Sequence[Drawn], *, seed: int) -> list[np.ndarray]:
    """What comes back of pictures, uint8 [64, 64, 3] each."""
    returned = []
    for start in tqdm(range(0, len(drawn), BATCH), desc="reconstructing", leave=False):
        _, pictures = tokenizer.reconstruct([each.image for each in drawn[start : start + BATCH]], seed=seed + start)
        returned += [np.asarray(picture) for picture in pictures]
    return returned


def _kept(originals: Originals, wanted: Sequence[Drawn], returned: Sequence[np.ndarray]) -> list[dict[str, float]]:
    return [
        {"psnr": psnr(picture, each.image), **originals.picture_scores(found, each)}
        for each, picture, found in zip(wanted, returned, originals.nearest(returned), strict=True)
    ]


def retrieval_cells(originals: Originals, wanted: Sequence[Drawn], returned: Sequence[np.ndarray]) -> Cells:
    """Means of `Originals.picture_scores` and PSNR, by split and then by split and part: "tone", "tone people", ...

    Pictures of one concept hang together in the intervals.
    """
    of = defaultdict(list)
    for each, scores in zip(wanted, _kept(originals, wanted, returned), strict=True):
        for cell in (each.split, f"{each.split} {part_of(each)}"):
            of[cell].append((scores, each.emoji.concept))
    in_order = sorted(of, key=lambda cell: (IN_ORDER.index(cell.partition(" ")[0]), cell))
    return {cell: mean_intervals(*zip(*of[cell], strict=True)) for cell in in_order}


def weakest(cells: Cells, score: str = "right") -> tuple[str, float]:
    """Of the cells of a split and a part the one with the lowest mean of a score, and the mean of all these cells."""
    means = {cell: scores[score].mean for cell, scores in cells.items() if " " in cell}
    return min(means, key=means.get), sum(means.values()) / len(means)


def _ends(edit: Edit) -> tuple[Drawn, Drawn]:
    return edit.source, edit.target


def code_scores(codes: np.ndarray, drawn: Sequence[Drawn], codebook_size: int) -> dict[str, float | Interval]:
    """How codes are used, and what pairs share of them.

    Args:
        codes: [N, h, w], of `drawn`.

    Returns:
        `codes_used`, `codes_used_once`, `code_perplexity`, `code_noise`; of pairs that differ in tone or gender alone
        the share of positions with the same code, `tone_codes_shared`, `gender_codes_shared`, and with `_unseen`
        behind the name of concepts that are held out.
    """
    counts = code_counts(codes, codebook_size)
    scores = {
        "codes_used": int((counts > 0).sum()),
        "codes_used_once": int((counts == 1).sum()),
        "code_perplexity": usage_scores(counts)["code_perplexity"],
        "code_noise": code_noise([each.image for each in drawn], codes),
    }
    place = {id(each): number for number, each in enumerate(drawn)}
    for kind in ALIKE:
        pairs = list(edits(drawn, kind))
        for name, of in (("", pairs), ("_unseen", [edit for edit in pairs if edit.split == "unseen"])):
            if of:
                first, second = (
                    codes[[place[id(each)] for each in ends]] for ends in zip(*map(_ends, of), strict=True)
                )
                shared = (first == second).mean((1, 2))
                concepts = [edit.target.emoji.concept for edit in of]
                scores[f"{kind}_codes_shared{name}"] = mean_interval(shared, concepts)
    return scores


def tokenizer_scores(
    tokenizer: Tokenizer, originals: Originals, *, count: int, seed: int
) -> tuple[Cells, Mapping[str, float | Interval]]:
    """`retrieval_cells` of at most `count` pictures a split, and `code_scores` of all pictures."""
    wanted = sample_of_each_split(originals.drawn, count, seed=seed)
    cells = retrieval_cells(originals, wanted, rebuilt(tokenizer, wanted, seed=seed))
    codes = all_codes(tokenizer, originals.drawn)
    return cells, code_scores(codes, originals.drawn, tokenizer.model.config.codebook_size)


def as_json(scores: Mapping) -> dict:
    """Scores with their intervals as dicts."""
    kinds = {Interval: Interval._asdict, dict: as_json}
    return {name: kinds.get(type(value), lambda same: same)(value) for name, value in scores.items()}
