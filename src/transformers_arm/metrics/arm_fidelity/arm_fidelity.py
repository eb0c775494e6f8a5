"""Scores how faithfully pictures come back, pixel by pixel: PSNR and SSIM, by scikit-image."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from transformers_arm.extras import require

_DESCRIPTION = """\
PSNR and SSIM of pictures against their originals.
"""
_INPUTS = """
Args:
    predictions: pictures that came back (PIL).
    references: the originals, of the same sizes.

Returns:
    "psnr": mean over the pictures, in dB. "ssim": mean over the pictures, -1..1, where 1 is the same picture.
"""
MAX_PSNR = 100.0  # dB; identical pictures would have infinitely many
SSIM_WINDOW = 11  # px a side, what the Gaussian of `ssim` covers


def _scikit_image():
    """Its metrics; imported late, because only these two need it."""
    require("A score of fidelity", "metrics", "skimage")
    from skimage import metrics

    return metrics


def _pair(image, reference) -> tuple[np.ndarray, np.ndarray]:
    image, reference = np.asarray(image, np.float64), np.asarray(reference, np.float64)
    if image.shape != reference.shape:
        raise ValueError(f"Shapes differ: {image.shape} and {reference.shape}; resize one picture to the other.")
    return image, reference


def psnr(image, reference) -> float:
    """Peak signal-to-noise ratio in dB of two pictures with values in 0..255, at most 100.

    Args:
        image, reference: PIL images or arrays [height, width, 3].

    Raises:
        ValueError: sizes differ.
        ModuleNotFoundError: scikit-image is missing; says how to install it.
    """
    image, reference = _pair(image, reference)
    with np.errstate(divide="ignore"):  # of identical pictures
        ratio = _scikit_image().peak_signal_noise_ratio(reference, image, data_range=255)
    return min(MAX_PSNR, float(ratio))


def ssim(image, reference) -> float:
    """Structural similarity of two pictures with values in 0..255, -1..1: the mean of the colors' own.

    With the Gaussian window of 11 px (sigma 1.5) of Wang et al. (2004).

    Args:
        image, reference: PIL images or arrays [height, width, 3], sides of at least 11 px.

    Raises:
        ValueError: sizes differ, or a side is too short.
        ModuleNotFoundError: scikit-image is missing; says how to install it.
    """
    image, reference = _pair(image, reference)
    if min(image.shape[:2]) < SSIM_WINDOW:
        raise ValueError(
            f"A picture of {image.shape[0]}x{image.shape[1]} px (height x width) is smaller than the window of SSIM, "
            f"{SSIM_WINDOW} px a side; give larger pictures."
        )
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(_scikit_image().structural_similarity(reference, image, data_range=255, channel_axis=-1, **gaussian))


def fidelity_scores(images: Sequence, references: Sequence) -> dict[str, float]:
    """Mean PSNR and SSIM; see the metric's inputs."""
    pairs = list(zip(images, references, strict=True))
    return {
        "psnr": sum(psnr(*pair) for pair in pairs) / len(pairs),
        "ssim": sum(ssim(*pair) for pair in pairs) / len(pairs),
    }


class ArmFidelity(evaluate.Metric):
    """`evaluate` metric over `fidelity_scores`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _compute(self, predictions, references):
        return fidelity_scores(predictions, references)
