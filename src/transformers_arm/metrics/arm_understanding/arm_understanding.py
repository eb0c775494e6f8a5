"""Scores answers about pictures: exact match per kind of question, and existence questions as POPE does."""

from collections import defaultdict
from collections.abc import Sequence

import datasets
import evaluate

_DESCRIPTION = """\
Exact match of answers, after lower-casing and stripping. Existence questions are also scored per kind of negatives as
binary decisions: accuracy, F1 of "yes", and the share of "yes" among the answers.
"""
_INPUTS = """
Args:
    predictions: answers given.
    references: right answers.
    kinds: the kind of each question, such as "color" or "existence".
    negatives: optional; for each question "random", "popular" or "adversarial", or None where it is none of these.

Returns:
    The share of exact matches (0..1) per kind, and "overall", their mean over the kinds. With `negatives` also, for
    each of their kinds, as in "random_accuracy", "random_f1" and "random_yes_share".
"""
_CITATION = """\
@inproceedings{li2023pope,
  title={Evaluating Object Hallucination in Large Vision-Language Models},
  author={Li, Yifan and Du, Yifan and Zhou, Kun and Wang, Jinpeng and Zhao, Wayne Xin and Wen, Ji-Rong},
  booktitle={EMNLP},
  year={2023}
}
"""


def _normalized(answers: Sequence[str]) -> list[str]:
    return [answer.strip().lower() for answer in answers]


def exact_match(answers: Sequence[str], references: Sequence[str], kinds: Sequence[str]) -> dict[str, float]:
    """Share of answers that equal their references, per kind, and the mean over the kinds as "overall"."""
    right = defaultdict(list)
    for answer, reference, kind in zip(_normalized(answers), _normalized(references), kinds, strict=True):
        right[kind].append(answer == reference)
    scores = {kind: sum(found) / len(found) for kind, found in right.items()}
    return {**scores, "overall": sum(scores.values()) / len(scores)}


def existence_scores(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Accuracy, F1 of "yes" (0 where no "yes" is right) and share of "yes" among the answers, all in 0..1.

    An answer that is neither "yes" nor "no" is wrong, and no "yes".
    """
    pairs = list(zip(_normalized(answers), _normalized(references), strict=True))
    said, due = sum(answer == "yes" for answer, _ in pairs), sum(reference == "yes" for _, reference in pairs)
    hits = sum(answer == reference == "yes" for answer, reference in pairs)
    return {
        "accuracy": sum(answer == reference for answer, reference in pairs) / len(pairs),
        "f1": 2 * hits / (said + due) if said + due else 0.0,
        "yes_share": said / len(pairs),
    }


def understanding_scores(
    answers: Sequence[str],
    references: Sequence[str],
    kinds: Sequence[str],
    negatives: Sequence[str | None] | None = None,
) -> dict[str, float]:
    """Exact match per kind of question, and existence per kind of negatives; see the metric's inputs."""
    scores = exact_match(answers, references, kinds)
    groups = defaultdict(list)
    for answer, reference, negative in zip(answers, references, negatives or [None] * len(answers), strict=True):
        if negative:
            groups[negative].append((answer, reference))
    for negative, pairs in groups.items():
        existence = existence_scores(*zip(*pairs, strict=True))
        scores.update((f"{negative}_{name}", value) for name, value in existence.items())
    return scores


class ArmUnderstanding(evaluate.Metric):
    """`evaluate` metric over `understanding_scores`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Value("string"),
                    "kinds": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, predictions, references, kinds, negatives=None):
        return understanding_scores(predictions, references, kinds, negatives)
