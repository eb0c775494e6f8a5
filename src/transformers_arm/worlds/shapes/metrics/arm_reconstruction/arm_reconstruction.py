"""Scores an image tokenizer: how well its pictures come back, and how much of its codebook it uses."""

from collections.abc import Sequence

import datasets
import evaluate

from transformers_arm.metrics.arm_codebook.arm_codebook import codebook_scores
from transformers_arm.metrics.arm_fidelity.arm_fidelity import psnr
from transformers_arm.worlds.shapes.reader import read_scene, reading_equals

_DESCRIPTION = """\
PSNR of reconstructions, the share of them that read back as their originals do, and the use of the codebook.
"""
_INPUTS = """
Args:
    predictions: reconstructed pictures (PIL).
    references: the originals, of the same sizes.
    codes: optional; the integer codes of the pictures, in any nesting.
    codebook_size: the number of codes there are; needed with `codes`.

Returns:
    "psnr": mean over the pictures, in dB. "read_back": share (0..1) of pictures whose objects and background, as read
    back, are all those of the original. With `codes` also "codebook_usage", the share of the codebook in use (0..1),
    and "code_perplexity", the number of equally frequent codes that would say as much (1..codebook_size).
"""


def reads_back(image, reference) -> bool:
    """Whether a picture shows exactly the objects and the background that the original shows, and shows any."""
    expected = read_scene(reference)
    return bool(expected.objects) and reading_equals(read_scene(image), expected)


def reconstruction_scores(
    images: Sequence, references: Sequence, codes=None, codebook_size: int | None = None
) -> dict[str, float]:
    """PSNR, read-back and, where there are codes, codebook usage and perplexity; see the metric's inputs."""
    if (codes is None) != (codebook_size is None):
        raise ValueError("codes and codebook_size go together; pass both or neither.")
    pairs = list(zip(images, references, strict=True))
    scores = {
        "psnr": sum(psnr(*pair) for pair in pairs) / len(pairs),
        "read_back": sum(reads_back(*pair) for pair in pairs) / len(pairs),
    }
    return scores if codes is None else {**scores, **codebook_scores(codes, codebook_size)}


class ArmReconstruction(evaluate.Metric):
    """`evaluate` metric over `reconstruction_scores`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _compute(self, predictions, references, codes=None, codebook_size=None):
        return reconstruction_scores(predictions, references, codes, codebook_size)
