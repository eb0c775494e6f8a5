"""Pictures to edit and where: of any kind to sources and masks, their grids of tokens, and edits put back into them.

Knows nothing about models, tokens and requests.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageFilter
import PIL.ImageOps
import torch
from torch.nn.functional import adaptive_max_pool2d

from .image_processing_arm import (
    ArmImageProcessor,
    array_to_pil,
    flatten_images,
    naming_image,
    size_with_aspect_ratio,
    to_numpy,
)


@dataclass
class Sources:
    """What one edit starts from.

    Args:
        pictures: RGB pictures at their own sizes; the first is the one that is edited.
        mask: bool [height, width] of the first, True where it may change; None for everywhere.
    """

    pictures: list[PIL.Image.Image]
    mask: np.ndarray | None = None

    @classmethod
    def opened(cls, images, mask, image_processor: ArmImageProcessor) -> "Sources":
        """Sources of whatever the image processor takes: `images` is one or a list of them, `mask` one or None.

        Raises:
            ValueError: what cannot be opened, or a mask of another size than its picture or without any white.
        """
        pictures, images = [], flatten_images(images)
        for index, image in enumerate(images):
            with naming_image(index) if len(images) > 1 else nullcontext():
                pictures.append(opened(image, image_processor))
        return cls(pictures, opened_mask(mask, pictures[0], image_processor))

    def grid(
        self, image_processor: ArmImageProcessor, keep_aspect_ratio: bool, max_pixels: int | None
    ) -> tuple[int, int]:
        """H, W in tokens of the edit: those of the first picture's own shape, or else of the processor's size.

        Args:
            max_pixels: what its own shape is shrunk to, if it is larger; None takes the processor's area.
        """
        size, patch, first = image_processor.size, image_processor.patch_size, self.pictures[0]
        height, width = size["height"], size["width"]
        if keep_aspect_ratio:
            height, width = size_with_aspect_ratio(
                first.height, first.width, patch, height * width if max_pixels is None else max_pixels
            )
        return height // patch, width // patch

    def edit_mask(self, grid: tuple[int, int]) -> torch.BoolTensor:
        """[1, H, W], True where tokens may change: where any pixel of their patches may."""
        mask = np.ones((1, 1), bool) if self.mask is None else self.mask
        return adaptive_max_pool2d(torch.from_numpy(mask).float()[None], grid) > 0

    def fit(self, picture: PIL.Image.Image, margin: int | None, patch_size: int) -> PIL.Image.Image:
        """An edit at its source's size, and where there is a mask, the source's own pixels outside of it.

        Args:
            margin: px over which it fades into the source; None takes half of what a token covers.
        """
        source = self.pictures[0]
        scale = min(source.width / picture.width, source.height / picture.height)
        picture = picture if picture.size == source.size else picture.resize(source.size)
        if self.mask is None:
            return picture
        return blend(picture, source, self.mask, int(patch_size * scale / 2) if margin is None else margin)


def opened(image, image_processor: ArmImageProcessor) -> PIL.Image.Image:
    """An image of any kind the image processor takes -> an RGB picture at its own size."""
    return PIL.Image.fromarray(image_processor.process_image(image).transpose(1, 2, 0))


def opened_mask(mask, source: PIL.Image.Image, image_processor: ArmImageProcessor) -> np.ndarray | None:
    """A mask of any kind the image processor takes -> bool [height, width], True where the source may change."""
    if mask is None:
        return None
    mask = to_numpy(image_processor.fetch_images(mask))
    mask = array_to_pil(mask) if isinstance(mask, np.ndarray) else mask
    if getattr(mask, "has_transparency_data", False):  # over black: where nobody painted nothing may change
        painted = PIL.ImageOps.exif_transpose(mask).convert("RGBA")
        mask = PIL.Image.alpha_composite(PIL.Image.new("RGBA", painted.size, "black"), painted)
    mask = np.asarray(opened(mask, image_processor).convert("L")) >= 128
    if mask.shape != (source.height, source.width):
        raise ValueError(
            f"The mask is {'x'.join(map(str, mask.shape))} px (height x width), but its picture "
            f"{source.height}x{source.width}; resize the mask to the picture's size."
        )
    if not mask.any():
        raise ValueError(
            "The mask selects nothing to edit: white (True, 1.0 or 255) is where the picture may change. Integers "
            "are read as 0..255; pass a mask of 0 and 1 as bool."
        )
    return mask


def grow(mask: np.ndarray, radius: int) -> np.ndarray:
    """A bool mask [height, width] with all that lies up to `radius` px from it, along either axis."""
    for _ in range(2):  # along one axis, then along the other
        counts = np.pad(mask, ((radius + 1, radius), (0, 0))).cumsum(0, dtype=np.int32)
        mask = (counts[2 * radius + 1 :] > counts[: -2 * radius - 1]).T
    return mask


def blend(picture: PIL.Image.Image, source: PIL.Image.Image, mask: np.ndarray, margin: int) -> PIL.Image.Image:
    """The picture in the mask, the source more than `margin` px from it, and a ramp between them.

    Args:
        picture, source: RGB pictures of one size.
        mask: bool [height, width].
        margin: px, along either axis; 0 makes a hard edge.
    """
    # Blurred over the other half of the margin, what has grown by one half is 1 in the mask and 0 beyond the margin.
    share = PIL.Image.fromarray(grow(mask, (margin + 1) // 2)).convert("L")
    return PIL.Image.composite(picture, source, share.filter(PIL.ImageFilter.BoxBlur(margin // 2)))
