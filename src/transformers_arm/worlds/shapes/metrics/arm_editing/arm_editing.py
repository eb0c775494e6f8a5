"""Scores edited pictures of the embedded world: exact, SC, PQ and O, named as GEdit's."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import datasets
import evaluate

from transformers_arm.worlds.shapes.edits import apply_edit, parse_instruction
from transformers_arm.worlds.shapes.reader import read_scene
from transformers_arm.worlds.shapes.scores import scene_from_json, score_edit

_DESCRIPTION = """\
exact: share of pictures (0..1) that are the target scene, all of it.
sc: 10 * min(instruction done, share of other objects and background kept in every attribute).
pq: 10 * (1 - mean residual of the objects found), 0 if none is found.
o: sqrt(sc * pq) of each picture.
Means are over the pictures of a kind of edit, then over the kinds.
"""
_INPUTS = """
Args:
    predictions: edited pictures (PIL), with sides of 32 to 192 px.
    sources: the scenes before the edits, as `Scene.to_json` writes them.
    instructions: the edits in words.

Returns:
    "exact", "sc", "pq" and "o", and each of them per kind of edit, as in "recolor_exact". Edits whose target has a
    held-out pair are left out of all these and reported apart, as in "composition_exact".
"""
_CITATION = """\
@article{liu2025step1xedit,
  title={Step1X-Edit: A Practical Framework for General Image Editing},
  author={Liu, Shiyu and others},
  journal={arXiv preprint arXiv:2504.17761},
  year={2025}
}
"""
SCORES = ("exact", "sc", "pq", "o")


def _mean_scores(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def editing_scores(
    images: Sequence,
    sources: Sequence[str],
    instructions: Sequence[str],
    read: Callable = read_scene,
    cells: Sequence[Sequence[str]] | None = None,
) -> dict[str, float]:
    """Means of exact, SC, PQ and O, by what `read` says a picture shows, per kind of edit and over the kinds; see the
    metric's inputs. `cells` are names of what each edit counts for besides, as its kind; means over kinds leave them
    out.

    Raises:
        ValueError: a source that is no scene, an instruction that cannot be applied to it or changes nothing, or a
            picture with a side outside 32..192 px.
    """
    kinds, others = defaultdict(list), defaultdict(list)
    cells = cells or [()] * len(images)
    for image, text, instruction, more in zip(images, sources, instructions, cells, strict=True):
        source = scene_from_json(text)
        kind, _ = parse_instruction(instruction)
        score = score_edit(source, instruction, image, read)
        row = (score.exact, score.consistency, score.quality, score.overall)
        if apply_edit(source, instruction).has_held_out_pair:
            others["composition"].append(row)
            continue
        kinds[kind].append(row)
        for cell in more:
            others[cell].append(row)
    means = {group: _mean_scores(rows) for group, rows in {**kinds, **others}.items()}
    scores = dict(zip(SCORES, _mean_scores([means[kind] for kind in kinds]), strict=True)) if kinds else {}
    for group, mean in means.items():
        scores.update((f"{group}_{name}", value) for name, value in zip(SCORES, mean, strict=True))
    return scores


class ArmEditing(evaluate.Metric):
    """`evaluate` metric over `editing_scores`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Image(),
                    "sources": datasets.Value("string"),
                    "instructions": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, predictions, sources, instructions):
        return editing_scores(predictions, sources, instructions)
