"""Scores how alike two sets of pictures are as a whole: Frechet distance of Inception features, by torchmetrics."""

import os
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import torch
from torch import nn

from transformers_arm.extras import require

_DESCRIPTION = """\
Frechet Inception distance (FID) of pictures to their originals; rFID where they are reconstructions.
"""
_INPUTS = """
Args:
    predictions: pictures (PIL) of any sizes.
    references: the originals, at least two.
    inception: the TorchScript file of the network, `inception-2015-12-05.pt` as StyleGAN's authors publish it.

Returns:
    "fid": 0 or more, less is better. "pictures": how many it is of; of few pictures it is too high, and figures of
    different numbers of pictures cannot be compared.
"""


class InceptionFeatures(nn.Module):
    """The Inception network of FID: uint8 pictures [B, 3, H, W] -> features [B, 2048]. It resizes them itself.

    Args:
        file: TorchScript, whose module takes `return_features=True`. It brings code of its own: load one you trust.

    Raises:
        ValueError: there is no such file, or it is no such network.
    """

    def __init__(self, file: str | os.PathLike):
        super().__init__()
        if not os.path.isfile(file):
            raise ValueError(
                f"{file} is no file; name the TorchScript file of FID's network, inception-2015-12-05.pt."
            )
        try:
            self.network = torch.jit.load(os.fspath(file), map_location="cpu").eval()
            self.num_features = self(torch.zeros(1, 3, 299, 299, dtype=torch.uint8)).shape[-1]  # torchmetrics reads it
        except RuntimeError as error:
            raise ValueError(
                f"{file} is not FID's network as TorchScript; name inception-2015-12-05.pt, or download it again."
            ) from error

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images, return_features=True)


class FrechetDistance:
    """FID, batch by batch, by torchmetrics; it keeps sums of features and no pictures.

    Args:
        inception: the network's file, or a module that does what `InceptionFeatures` does.
        device: where the network runs.

    Raises:
        ModuleNotFoundError: torchmetrics is missing; says how to install it.
        ValueError: as `InceptionFeatures`.
    """

    def __init__(self, inception: str | os.PathLike | nn.Module, device: str | torch.device = "cpu"):
        require("FID", "metrics", "torchmetrics")
        from torchmetrics.image.fid import FrechetInceptionDistance

        network = inception if isinstance(inception, nn.Module) else InceptionFeatures(inception)
        self.distance = FrechetInceptionDistance(network).to(device)

    def add(self, pictures: Sequence, *, real: bool) -> None:
        """Adds pictures (PIL, or uint8 arrays [H, W, 3]) of one size to the originals (`real`) or to the others."""
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
        self.distance.update(pixels.permute(0, 3, 1, 2).contiguous().to(self.distance.device), real=real)

    def value(self) -> float:
        """FID of all that was added.

        Raises:
            ValueError: fewer than two pictures of either kind.
        """
        fewest = int(min(self.distance.real_features_num_samples, self.distance.fake_features_num_samples))
        if fewest < 2:
            raise ValueError(f"FID compares how pictures vary, which {fewest} of them cannot; give at least 2.")
        return max(0.0, float(self.distance.compute()))  # of the same pictures it is 0 but for rounding


def fid(images: Sequence, references: Sequence, inception: str | os.PathLike | nn.Module) -> dict[str, float]:
    """FID and how many pictures it is of; see the metric's inputs. Raises as `FrechetDistance`."""
    distance = FrechetDistance(inception)
    for image, reference in zip(images, references, strict=True):
        distance.add([image], real=False)
        distance.add([reference], real=True)
    return {"fid": distance.value(), "pictures": len(images)}


class ArmFid(evaluate.Metric):
    """`evaluate` metric over `fid`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _compute(self, predictions, references, inception):
        return fid(predictions, references, inception)
