"""Scores how much of its codebook an image tokenizer uses."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
Usage of a codebook, and the perplexity of the codes of pictures.
"""
_INPUTS = """
Args:
    predictions: the integer codes of each picture, in a row.
    codebook_size: the number of codes there are.

Returns:
    "codebook_usage": share of the codebook in use (0..1). "code_perplexity": the number of equally frequent codes that
    would say as much (1..codebook_size).
"""


def _flat_codes(codes) -> np.ndarray:
    """Codes of pictures, lists or arrays of any and of different lengths, in one row."""
    if isinstance(codes, Sequence):
        return np.concatenate([_flat_codes(part) for part in codes]) if len(codes) else np.empty(0, int)
    return np.asarray(codes).ravel()


def code_counts(codes, codebook_size: int) -> np.ndarray:
    """How often integer codes, in any nesting, name each entry of the codebook: int64 [codebook_size].

    Raises:
        ValueError: no codes, codes that are no integers, or one outside the codebook.
    """
    codes = _flat_codes(codes)
    if codes.size == 0 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"Codes are integers, at least one; got {codes.size} values of {codes.dtype}.")
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise ValueError(
            f"Codes {codes.min()}..{codes.max()} are outside the codebook 0..{codebook_size - 1}; "
            "pass the tokenizer's codebook size."
        )
    return np.bincount(codes, minlength=codebook_size)


def usage_scores(counts: np.ndarray) -> dict[str, float]:
    """`code_counts`, or sums of them -> usage (share of the codebook met, 0..1), perplexity (exp of the entropy)."""
    shares = counts[counts > 0] / counts.sum()
    return {
        "codebook_usage": len(shares) / len(counts),
        "code_perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def codebook_scores(codes, codebook_size: int) -> dict[str, float]:
    """`usage_scores` of integer codes; raises as `code_counts`."""
    return usage_scores(code_counts(codes, codebook_size))


class ArmCodebook(evaluate.Metric):
    """`evaluate` metric over `codebook_scores`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.List(datasets.Value("int64"))}),
        )

    def _compute(self, predictions, codebook_size):
        return codebook_scores(predictions, codebook_size)
