"""Rewards edits that leave alone what they should leave alone: pixels outside the region that may change."""

import numpy as np
from PIL import Image, ImageFilter


class EditPreservation:
    """Share of the source kept outside the region an edit may change, 0..1; a reward for `ArmGRPOTrainer`.

    The region is where the dataset column `mask` (PIL, or an array [H, W] or [H, W, C]) is not zero, or else where the
    column `target_image` differs from the source by more than `tolerance`, widened by `margin`. Outside it a pixel
    counts max(0, 1 - difference / tolerance), the difference being the largest of its RGB channels'. Pictures and
    masks of another size than the source are resized to it.

    None, not judged: other tasks than editing, no source or several, neither mask nor target, and a region that is the
    whole picture.

    Args:
        tolerance: difference (above 0, up to 255) at which a pixel counts as not kept.
        margin: pixels that the region is widened by where the target defines it: its edges are soft.

    Raises:
        ValueError: a tolerance or margin outside its range; when called, a mask of another shape.
    """

    def __init__(self, *, tolerance: float = 32.0, margin: int = 2):
        if not 0 < tolerance <= 255:
            raise ValueError(
                f"tolerance {tolerance} is outside 0..255, 0 left out; it is a difference of 8-bit pixels."
            )
        if margin < 0:
            raise ValueError(f"margin {margin} is below 0; pass by how many pixels the region is widened.")
        self.tolerance, self.margin = tolerance, margin

    def __call__(
        self,
        *,
        images: list[Image.Image],
        source_images: list[list[Image.Image]],
        task: list[str],
        mask: list | None = None,
        target_image: list | None = None,
        **columns,
    ) -> list[float | None]:
        """One share a sample, or None."""
        nothing = [None] * len(images)
        samples = zip(images, source_images, task, mask or nothing, target_image or nothing, strict=True)
        return [
            self._share_kept(image, *sources, *region) if kind == "editing" and len(sources) == 1 else None
            for image, sources, kind, *region in samples
        ]

    def _share_kept(self, image, source, mask, target) -> float | None:
        if mask is not None:
            may_change = _read_mask(mask, source.size)
        elif target is not None:
            may_change = _widened(_difference(target, source) > self.tolerance, self.margin)
        else:
            return None
        if may_change.all():
            return None
        kept = 1 - _difference(image, source)[~may_change] / self.tolerance
        return float(kept.clip(min=0).mean())


def _difference(image: Image.Image, source: Image.Image) -> np.ndarray:
    """Largest absolute difference of the RGB channels, float32 [H, W] of the source's size, 0..255."""
    resized = image.convert("RGB").resize(source.size, Image.Resampling.BICUBIC)
    return np.abs(np.asarray(resized, np.float32) - np.asarray(source.convert("RGB"), np.float32)).max(-1)


def _as_picture(region: np.ndarray) -> Image.Image:
    return Image.fromarray(region.astype(np.uint8) * 255)


def _widened(region: np.ndarray, margin: int) -> np.ndarray:
    """A region, bool [H, W], with all pixels within a square of `margin` around its own."""
    return np.asarray(_as_picture(region).filter(ImageFilter.MaxFilter(2 * margin + 1))) > 0


def _read_mask(mask: Image.Image | np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where a mask is not zero in any channel but alpha, bool [H, W] of the `size` (width, height)."""
    values = np.asarray(mask) != 0
    if values.ndim == 3:
        colors = values.shape[-1] - (values.shape[-1] in (2, 4))
        values = values[..., :colors].any(-1)
    if values.ndim != 2:
        raise ValueError(f"A mask is [height, width] or [height, width, channels], got shape {list(values.shape)}.")
    return np.asarray(_as_picture(values).resize(size, Image.Resampling.NEAREST)) > 0
