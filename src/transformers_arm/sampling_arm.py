"""How a code of an image is chosen: guidance, temperature, top-k, top-p, and one number a row that says which.

A code is where the distribution, summed code after code, passes a number drawn uniformly beforehand: what is random is
a number a token, not one a code, and comes from any device's generator. Knows nothing about models and images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from numbers import Integral

import numpy as np
import torch

BELOW = -torch.finfo(torch.float32).tiny  # what is below a score, less that score, is below this as well
LEAST_TEMPERATURE = 1e-6  # logits divided by it are finite


def guided_logits(
    logits: torch.Tensor, guidance_scale: float = 1.0, image_guidance_scale: float = 1.0
) -> torch.Tensor:
    """Classifier-free guidance over branches (paper section 6; the order of the branches is ours).

    Args:
        logits: [branches, B, V]; the branches are (condition), (condition, nothing) or (condition, image without
            text, nothing).
        guidance_scale: how far from the branch without text.
        image_guidance_scale: how far the branch with the image stands from the one with nothing.

    Returns:
        [B, V].
    """
    if len(logits) == 1:
        return logits[0]
    if len(logits) == 2:
        conditional, nothing = logits
        return torch.lerp(nothing, conditional, guidance_scale)
    conditional, image, nothing = logits
    return torch.lerp(nothing, image, image_guidance_scale).add(conditional - image, alpha=guidance_scale)


def uniforms(
    images: int,
    count: int,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """What `count` codes of each image are drawn by: [images, count] in 0..1, on `device`.

    Args:
        generator: one for all images, or one an image, which makes each independent of the others; on any device.

    Raises:
        TypeError: another kind of generator.
        ValueError: fewer or more generators than images.
    """
    check_generators(images, generator)
    if isinstance(generator, Sequence):
        return torch.cat([uniforms(1, count, each, device) for each in generator])
    where = generator.device if generator else device
    return torch.rand(images, count, generator=generator, dtype=torch.float32, device=where).to(device)


def check_generators(images: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> None:
    """Raises what `uniforms` says."""
    one_each = isinstance(generator, Sequence)
    for each in generator if one_each else [generator]:
        if each is not None and not isinstance(each, torch.Generator):
            raise TypeError(
                f"generator must be a torch.Generator, or a list with one for each image, not {each!r}; "
                "torch.Generator().manual_seed(0) makes one."
            )
    if one_each and len(generator) != images:
        raise ValueError(f"Got {len(generator)} generators for {images} images; give one for all or one an image.")


def with_likeliest(settings: Mapping) -> dict:
    """The same settings, of which a temperature of 0 takes the likeliest tokens, as users and APIs mean it."""
    is_zero = 0 <= settings.get("temperature", 1) < LEAST_TEMPERATURE
    return {**settings, **({"temperature": 1.0, "do_sample": False} if is_zero else {})}


@dataclass(frozen=True)
class ImageSampling:
    """How codes are sampled from logits (paper section 6).

    Args:
        do_sample: False takes the likeliest code.
        temperature: what guided logits are divided by, 1e-6 or more.
        top_k: how many of the likeliest codes are kept; 0 keeps all. Those as likely as the last stay as well, on a
            CPU; elsewhere as many as there are places.
        top_p: least probability of the likeliest codes that are kept, after `top_k`; 1 keeps all.
        guidance_scale, image_guidance_scale: see `guided_logits`; 1 turns guidance off.

    Raises:
        ValueError: one of them is outside its bounds.
    """

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float = 1.5
    image_guidance_scale: float = 1.25

    def __post_init__(self):
        for name in ("guidance_scale", "image_guidance_scale"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(
                    f"{name} {getattr(self, name)} must be a finite number, 0 or more; 1 turns guidance off."
                )
        if not self.do_sample:
            return
        if not LEAST_TEMPERATURE <= self.temperature < inf:
            raise ValueError(
                f"temperature {self.temperature} must be a finite number above 0; do_sample=False takes the likeliest "
                f"code, as would less than {LEAST_TEMPERATURE}."
            )
        if not isinstance(self.top_k, Integral) or self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be a whole number, 0 (which keeps all codes) or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1 (which keeps all codes).")

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of the branches [branches, B, V] -> what is sampled from, but for codes that are not kept: [B, V]."""
        scores = guided_logits(logits.float(), self.guidance_scale, self.image_guidance_scale)
        return scores / self.temperature if self.do_sample and self.temperature != 1 else scores

    def kept(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores [B, V], those of codes that are not kept at -inf; a tensor of its own."""
        candidates, codes = self._candidates(scores)
        least = self._least(candidates)
        if least is not None:
            candidates = candidates.masked_fill(candidates < least, -inf)
        if codes is not None:
            return torch.full_like(scores, -inf).scatter(-1, codes, candidates)
        return scores.clone() if least is None else candidates

    def choose(self, scores: torch.Tensor, uniform: torch.Tensor) -> torch.LongTensor:
        """Scores [B, V] and numbers [B, 1] in 0..1 -> a code each [B]; V where the scores are not numbers."""
        count = scores.shape[-1]
        if not self.do_sample:
            best = scores.max(-1)
            return best.indices.masked_fill(best.values.isnan(), count)
        scores, codes = self._candidates(scores)
        if (least := self._least(scores)) is not None:  # in one pass; a CPU takes five times as long for a mask
            scores = torch.nn.functional.threshold(scores - least, BELOW, -inf)
        # In fp64: roundings of sums, which are others in other batches, would move all codes after them; and a GPU
        # sums up to each code in another order, from which what is impossible must gain nothing.
        dtype = torch.float32 if scores.device.type == "mps" else torch.float64  # which MPS has not
        passed = scores.softmax(-1).cumsum(-1, dtype=dtype)
        # Never 0, which a code of no probability would reach.
        chosen = torch.searchsorted(passed, (1 - uniform.to(dtype)) * passed[:, -1:])
        if codes is not None:
            chosen = torch.nn.functional.pad(codes, (0, 1), value=count).gather(-1, chosen)
        return chosen[:, 0]

    def _candidates(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.LongTensor | None]:
        """Scores and codes [B, top_k], in the order of the codes, of those to choose from; None stands for all.

        A GPU sums up fewer sooner. A CPU finds the least of them sooner than all of them (`highest`).
        """
        if not self.do_sample or not 0 < self.top_k < scores.shape[-1] or scores.device.type == "cpu":
            return scores, None
        codes = scores.topk(self.top_k, sorted=False).indices.sort(-1).values
        return scores.gather(-1, codes), codes

    def _least(self, scores: torch.Tensor) -> torch.Tensor | None:
        """The score [B, 1] of the least likely code that is kept; None where all are."""
        kept = min(self.top_k or scores.shape[-1], scores.shape[-1])
        if not self.do_sample or (kept == scores.shape[-1] and self.top_p == 1):
            return None
        best = highest(scores, kept) if kept < scores.shape[-1] else scores
        if self.top_p == 1:
            return best.amin(-1, keepdim=True)
        best = best.sort(-1, descending=True).values
        probabilities = best.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        return best.gather(-1, (before < self.top_p).sum(-1, keepdim=True).clamp(min=1) - 1)


def highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` highest scores of each row [B, V] -> [B, count], in no order."""
    if scores.device.type != "cpu":
        return scores.topk(count, sorted=False).values
    # NumPy selects by vectors, in a tenth of the time of topk.
    return torch.from_numpy(np.partition(scores.numpy(), -count, axis=-1)[:, -count:])


# How images are sampled unless `generation_config.image_generation`, of edits `image_editing`, or the call says
# otherwise.
IMAGE_GENERATION = asdict(ImageSampling())
# What `image_editing` says for pipelines alone: whether an edit has its source's own shape, not the processor's size,
# and within how many px; None is the processor's area.
IMAGE_EDITING = {"keep_aspect_ratio": True, "max_pixels": None}


def checked_shaping(settings: dict, patch_size: int) -> dict:
    """Those of `IMAGE_EDITING` that are stated; raises ValueError for what they cannot be."""
    keep, most = settings.get("keep_aspect_ratio"), settings.get("max_pixels")
    if keep is not None and not isinstance(keep, bool):
        raise ValueError(f"keep_aspect_ratio must be true or false, not {keep!r}.")
    if most is not None and (not isinstance(most, Integral) or most < patch_size**2):
        raise ValueError(f"max_pixels {most!r} must be a whole number, {patch_size**2} (one patch) or more.")
    return settings
