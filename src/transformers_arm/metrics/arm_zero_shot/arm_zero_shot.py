"""Scores zero-shot retrieval: how often the right caption among several (usually 100) is found the best match."""

from collections.abc import Sequence

import datasets
import evaluate

_DESCRIPTION = """\
Share of pictures for which the caption most similar to the picture is the right one.
"""
_INPUTS = """
Args:
    predictions: for each picture, the index of the most similar caption, `similarities.argmax(-1)`.
    references: for each picture, the index of its own caption.

Returns:
    "accuracy": share of pictures (0..1).
"""


def zero_shot_accuracy(predictions: Sequence[int], references: Sequence[int]) -> float:
    """Share of indices that are right, 0..1."""
    hits = [int(found) == int(due) for found, due in zip(predictions, references, strict=True)]
    return sum(hits) / len(hits)


class ArmZeroShot(evaluate.Metric):
    """`evaluate` metric over `zero_shot_accuracy`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        return {"accuracy": zero_shot_accuracy(predictions, references)}
