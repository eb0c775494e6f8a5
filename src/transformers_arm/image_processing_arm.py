"""Images for ARM's visual tokenizer: any picture -> `pixel_values` in [-1, 1], and decoded pixels -> pictures.

Every input first becomes one thing, an upright 8-bit RGB picture; sizes, scaling and batching follow from there. This
file does not know codes, tokens or sequences: only that a patch becomes one code and that an image has 1..128 patches
a side.
"""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import PIL.Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType, is_torch_tensor

from .configuration_arm import MAX_GRID_SIDE
from .fetching_arm import DECODING_ERRORS, FROM_CALLER, upright

CHANNELS = (1, 3, 4)  # gray, RGB, RGBA
STRIP_PIXELS = 2**20  # that are converted at once


@contextmanager
def naming_image(index: int):
    """Turns whatever a bad image raises into a ValueError (or TypeError) that says which image it was."""
    try:
        yield
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(
            f"Image {index} may be a decompression bomb: {error} Shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if "
            "you trust where it comes from."
        ) from error
    except TypeError as error:
        raise TypeError(f"Image {index}: {error}") from error
    except ValueError as error:
        raise ValueError(f"Image {index}: {error}") from error
    except DECODING_ERRORS as error:
        raise ValueError(f"Image {index} cannot be read: {error}. Is the file complete, and an image?") from error


def flatten_images(images: ImageInput) -> list:
    """Single images, batches [B, ...] and (nested) lists of them -> a flat list of single images."""
    images = unbatched(images)
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in flatten_images(item)]
    return [images]


def unbatched(images):
    """A batch [B, ...] as a list of its images; everything else passes through."""
    return list(images) if getattr(images, "ndim", 0) == 4 else images


def to_numpy(image):
    """Torch tensors, wherever they are and of whatever float type -> numpy arrays; everything else passes through."""
    if not is_torch_tensor(image):
        return image
    image = image.detach().cpu()
    return (image.float() if image.is_floating_point() else image).numpy()


def array_to_uint8(array: np.ndarray) -> np.ndarray:
    """Values -> 0..255: booleans are 0 and 255, integers are read as 0..255, floats as 0..1."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    is_float = np.issubdtype(array.dtype, np.floating)
    if not is_float and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"arrays of {array.dtype} are not images; pass uint8 in 0..255 or floats in 0..1.")
    if array.size == 0:
        raise ValueError(f"the array of shape {array.shape} has no pixels.")
    if is_float and not np.isfinite(array).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(array))} of {array.size} values are NaN or infinite.")
    values = np.round(array.astype(np.float64) * 255) if is_float else array
    if values.min() < 0 or values.max() > 255:
        bound, fix = (
            ("floats are read as 0..1", "divide by 255 if they span 0..255, use (x + 1) / 2 if they span -1..1")
            if is_float
            else ("integers are read as 0..255", "divide 16-bit values by 257 and pass uint8")
        )
        raise ValueError(f"values span {array.min():g}..{array.max():g}, but {bound}; {fix}.")
    return values.astype(np.uint8)


def array_to_pil(array: np.ndarray, input_data_format: str | ChannelDimension | None = None) -> PIL.Image.Image:
    """[H, W], [H, W, C] or [C, H, W] with C in 1 (gray), 3 (RGB), 4 (RGBA) -> PIL image."""
    expected = "expected [height, width], [height, width, C] or [C, height, width] with C = 1, 3 or 4"
    if array.ndim not in (2, 3):
        raise ValueError(f"the array has shape {array.shape}; {expected}.")
    array = array_to_uint8(array)
    if array.ndim == 3:
        axes = {None: (0, 2), ChannelDimension.FIRST: (0,), ChannelDimension.LAST: (2,)}
        layout = None if input_data_format is None else ChannelDimension(input_data_format)
        axes = [axis for axis in axes[layout] if array.shape[axis] in CHANNELS]
        if not axes:
            asked = f" with input_data_format='{layout.value}'" if layout else ""
            raise ValueError(f"the array has shape {array.shape}{asked}; {expected}.")
        if len(axes) > 1:
            raise ValueError(
                f"the array's shape {array.shape} can be read as [height, width, C] and as [C, height, width]; say "
                "which with input_data_format='channels_last' or 'channels_first'."
            )
        array = np.moveaxis(array, axes[0], -1)
        array = array[..., 0] if array.shape[-1] == 1 else array
    return PIL.Image.fromarray(np.ascontiguousarray(array))


def convert_to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """A picture of any mode -> 8-bit RGB; what is transparent is composited over white."""
    if image.mode.startswith("I;16"):
        return PIL.Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return array_to_pil(np.asarray(image)).convert("RGB")
    if image.mode in ("RGBa", "La"):  # premultiplied alpha, which conversion to RGB would drop
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:  # over white; older versions of transformers would drop it
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def check_sides(name: str, height: int, width: int, patch_size: int, fix: str) -> None:
    """Raises a ValueError unless both sides are whole numbers of patches that the shape tokens can state."""
    for side in (height, width):
        if side % patch_size or not 1 <= side // patch_size <= MAX_GRID_SIDE:
            raise ValueError(
                f"{name} is {height}x{width} pixels (height x width), but sides must be multiples of {patch_size} "
                f"from {patch_size} to {patch_size * MAX_GRID_SIDE}. {fix}"
            )


def size_with_aspect_ratio(height: int, width: int, patch_size: int, max_pixels: int) -> tuple[int, int]:
    """The rule that makes any picture's size legal: both sides are scaled by one factor, and then, by less than a
    patch each, to whole patches.

    The factor is 1, unless the picture must be shrunk to fit `max_pixels` or 128 patches a side, or enlarged to reach
    one patch. Raises a ValueError for a picture so long that it fits neither way.
    """
    rows, columns, max_patches = height / patch_size, width / patch_size, max_pixels / patch_size**2
    scale = min(1, math.sqrt(max_patches / (rows * columns)), MAX_GRID_SIDE / max(rows, columns))
    scale = max(scale, 1 / min(rows, columns))
    rows, columns = rows * scale, columns * scale
    grid = max(1, round(rows)), max(1, round(columns))
    if math.prod(grid) > max_patches or max(grid) > MAX_GRID_SIDE:  # what was rounded up does not fit
        grid = max(1, math.floor(rows)), max(1, math.floor(columns))
    if max(grid) > MAX_GRID_SIDE or math.prod(grid) > max_patches:
        raise ValueError(
            f"{height}x{width} pixels (height x width) cannot keep their aspect ratio within {MAX_GRID_SIDE} "
            f"patches of {patch_size} pixels a side and {max_pixels} pixels in all; crop the image, or pass "
            "keep_aspect_ratio=False to have it stretched to `size`."
        )
    return grid[0] * patch_size, grid[1] * patch_size


class ArmImageProcessorKwargs(ImagesKwargs, total=False):
    """
    patch_size (`int`, *optional*, defaults to 16):
        Pixels a side of the patch that becomes one code.
    keep_aspect_ratio (`bool`, *optional*, defaults to `False`):
        Keep the image's own proportions, within the area of `size`, instead of resizing to exactly `size`.
    """

    patch_size: int | None
    keep_aspect_ratio: bool | None


class ArmImageProcessor(PilBackend):
    r"""Prepares images for `ArmVQModel`: `pixel_values` float32 [B, 3, H, W], 8-bit x becoming x / 127.5 - 1.

    **Size** (both sides are multiples of `patch_size`, 1..128 patches):
    - `size={"height": h, "width": w}` (default 512x512): resized to exactly that.
    - `keep_aspect_ratio=True`: both sides are scaled by one factor and then, by less than a patch each, to multiples;
      shrunk only to the area of `size` and to 128 patches a side, enlarged only to reach one patch. Images too long
      for that are refused.
    - `do_resize=False`, or `size=None`: the image's own size, refused if it is not a multiple.

    A `size` given at the call without `do_resize` switches resizing on. An image that already has its size is not
    resampled. With `return_tensors` all images of a call must come out at one size; without it, `pixel_values` is a
    list of [3, H, W] arrays.

    **What is taken**: PIL images, numpy arrays, torch tensors, batches of them [B, ...], paths, http(s) addresses,
    base64 strings, and lists of all these. Everything becomes an upright 8-bit RGB picture first:

    | input | becomes |
    |---|---|
    | RGBA, LA, PA, palette or RGB or gray with a transparent colour | composited over white |
    | 1-bit, gray, palette, CMYK, YCbCr, HSV, LAB | RGB by Pillow's own conversion (colour profiles are not applied) |
    | 16-bit gray (`I;16`) | divided by 257 |
    | 32-bit modes `I`, `F` | as arrays: integers in 0..255, floats in 0..1 |
    | EXIF orientation | applied |
    | GIF, APNG, multi-page files | the first frame (of a PIL image: the frame it stands at) |
    | arrays [H, W], [H, W, C], [C, H, W] | C = 1 gray, 3 RGB, 4 RGBA (both ends could be C: see below) |
    | uint8 and other integers | read as 0..255 |
    | floats | read as 0..1 and rounded to 8 bits |
    | booleans | black and white |

    Paths, addresses and base64 strings are opened by `fetcher`, within its limits. It is `FROM_CALLER`, which takes
    what the caller's own code may name, local files and private addresses among it; where others name pictures, set
    `image_processor.fetcher = FROM_OUTSIDE`. It is not saved.

    **What is refused**, with a `ValueError` (`TypeError` for things that are no images) that names the image's place
    in the list: files that are empty, damaged or no image, more bytes or pixels than `fetcher` allows, images
    and arrays without pixels, other numbers of channels, NaN and infinity, values outside the ranges above. An array
    such as [3, W, 3], whose first and last side could both be C, is refused until `input_data_format`
    ("channels_first" or "channels_last") says which it is: guessing would swap colours and columns.

    Args:
        size (`dict[str, int]`, *optional*, defaults to `{"height": 512, "width": 512}`):
            Size in pixels after resizing; with `keep_aspect_ratio`, the area that bounds it.
        patch_size (`int`, *optional*, defaults to 16):
            Pixels a side of the patch that becomes one code.
        keep_aspect_ratio (`bool`, *optional*, defaults to `False`):
            Keep the image's own proportions.
        do_resize, resample, do_rescale, rescale_factor, do_normalize, image_mean, image_std:
            As in every transformers image processor; all of them can be given at the call too.
    """

    valid_kwargs = ArmImageProcessorKwargs
    model_input_names = ["pixel_values"]

    do_resize = True
    size = {"height": 512, "width": 512}
    keep_aspect_ratio = False
    patch_size = 16
    resample = PILImageResampling.BILINEAR  # as SigLIP2, the frozen encoder
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    do_convert_rgb = True
    fetcher = FROM_CALLER  # opens paths, addresses and base64 strings; not saved

    def __init__(self, **kwargs: Unpack[ArmImageProcessorKwargs]):
        if "size" in kwargs and kwargs["size"] is None:  # transformers would take it for the default size
            kwargs["do_resize"] = False
        super().__init__(**kwargs)
        self._validate_preprocess_kwargs(**{name: getattr(self, name) for name in self._valid_kwargs_names})

    def preprocess(self, images: ImageInput, *args, **kwargs: Unpack[ArmImageProcessorKwargs]) -> BatchFeature:
        """Images -> `BatchFeature` with `pixel_values`; the class docstring says what is taken and what is refused."""
        if "size" in kwargs:
            kwargs.setdefault("do_resize", kwargs["size"] is not None)
        return super().preprocess(images, *args, **kwargs)

    def fetch_images(self, image_url_or_urls):
        """Opens paths, addresses and base64 strings, keeping the nesting; everything else passes through."""
        if isinstance(image_url_or_urls, (list, tuple)):
            images = []
            for index, image in enumerate(image_url_or_urls):
                with naming_image(index):
                    images.append(self.fetch_images(image))
            return images
        if isinstance(image_url_or_urls, (str, os.PathLike)):
            return self.fetcher.open(image_url_or_urls)
        return image_url_or_urls

    def process_image(
        self, image, input_data_format: str | ChannelDimension | None = None, **kwargs: Unpack[ArmImageProcessorKwargs]
    ) -> np.ndarray:
        """One image of any accepted kind -> uint8 [3, H, W]."""
        image = to_numpy(self.fetch_images(image))
        if isinstance(image, np.ndarray):
            image = array_to_pil(image, input_data_format)
        elif not isinstance(image, PIL.Image.Image):
            raise TypeError(
                f"{type(image).__name__} is no image; pass a PIL image, an array, a tensor, a path or an address."
            )
        if 0 in image.size:
            raise ValueError(
                f"the image has {image.height}x{image.width} pixels (height x width), which is none at all."
            )
        image = upright(image)
        pixels, rows = np.empty((image.height, image.width, 3), np.uint8), max(1, STRIP_PIXELS // image.width)
        for top in range(0, image.height, rows):  # in strips: some conversions hold all pixels several times over
            strip = image.crop((0, top, image.width, min(top + rows, image.height)))
            pixels[top : top + rows] = np.asarray(convert_to_rgb(strip))
        return pixels.transpose(2, 0, 1)

    def to_dict(self) -> dict:
        return {name: value for name, value in super().to_dict().items() if name != "fetcher"}

    def _prepare_image_like_inputs(self, images: ImageInput, *args, **kwargs) -> Iterator[np.ndarray]:
        """Pictures [3, H, W], each made when it is asked for: of many, one at a time has its full size."""
        for index, image in enumerate(flatten_images(images)):
            with naming_image(index):
                image = self.process_image(image, *args, **kwargs)
            yield image

    def _preprocess(
        self,
        images: Iterable[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        keep_aspect_ratio: bool,
        patch_size: int,
        resample: "PILImageResampling | None",
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float],
        image_std: float | list[float],
        return_tensors: str | TensorType | None,
        **kwargs,
    ) -> BatchFeature:
        resized = []
        for image in images:  # without enumerate, which would keep one until it has the next
            height, width = image.shape[1:]
            with naming_image(len(resized)):
                if not do_resize:
                    fix = "Resize or crop it, or let the processor do that with do_resize=True."
                    check_sides("the image", height, width, patch_size, fix)
                elif keep_aspect_ratio:
                    height, width = size_with_aspect_ratio(height, width, patch_size, size.height * size.width)
                else:
                    height, width = size.height, size.width
            if (height, width) != image.shape[1:]:
                image = self.resize(image, SizeDict(height=height, width=width), resample)
            resized.append(image)
        if not resized:
            raise ValueError("There are no images; pass at least one.")
        sizes = sorted({image.shape[1:] for image in resized})
        if return_tensors is not None and len(sizes) > 1:
            raise ValueError(
                f"Images of different sizes (height, width) {sizes} do not fit one tensor; leave out return_tensors "
                "to get a list, pass them one by one, or resize them all to `size` with keep_aspect_ratio=False."
            )
        if do_rescale and do_normalize:
            # In one step, as the torchvision backend does: x becomes the float32 nearest to x / 127.5 - 1.
            image_mean, image_std = (np.ones(3) * value / rescale_factor for value in (image_mean, image_std))
            do_rescale = False
        return super()._preprocess(
            resized,
            do_resize=False,
            size=size,
            resample=resample,
            do_rescale=do_rescale,
            rescale_factor=rescale_factor,
            do_normalize=do_normalize,
            image_mean=image_mean,
            image_std=image_std,
            return_tensors=return_tensors,
            **kwargs,
        )

    def _validate_preprocess_kwargs(self, **kwargs: Unpack[ArmImageProcessorKwargs]) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        if kwargs["do_center_crop"] or kwargs["do_pad"] or kwargs["do_convert_rgb"] is False:
            raise ValueError(
                "ARM images are resized, never cropped or padded, and always RGB; leave out do_center_crop, do_pad "
                "and do_convert_rgb, and crop or pad images before they come here."
            )
        if kwargs["do_normalize"] and not kwargs["do_rescale"]:
            raise ValueError(
                "do_rescale=False with do_normalize=True would normalise 0..255 as if it were 0..1; leave do_rescale "
                "on (floats in 0..1 are recognised by their dtype) or switch do_normalize off too."
            )
        size = kwargs["size"]
        if size is not None:
            if not (size.height and size.width):
                raise ValueError(f"size must be {{'height': ..., 'width': ...}}, got {dict(size)}.")
            check_sides("size", size.height, size.width, kwargs["patch_size"], "Use the nearest such size.")

    def postprocess(self, pixel_values) -> list[PIL.Image.Image]:
        """Pixels in [-1, 1] -> RGB pictures, the inverse of `preprocess`.

        Args:
            pixel_values (float tensor or array [B, 3, H, W], or a list of [3, H, W]):
                Values are rounded to 8 bits, and clipped to what 8 bits can hold.

        Raises:
            ValueError: for other shapes, and for NaN or infinity (what diverged must not look like a picture).
            TypeError: for anything but floats.
        """
        pictures = []
        for index, image in enumerate(pixel_values):
            with naming_image(index):
                image = to_numpy(image)
                if not isinstance(image, np.ndarray) or not np.issubdtype(image.dtype, np.floating):
                    raise TypeError(
                        f"postprocess takes floating-point pixels, got {getattr(image, 'dtype', type(image))}."
                    )
                if image.ndim != 3 or image.shape[0] != 3:
                    raise ValueError(
                        f"postprocess takes pixels [batch, 3, height, width], got {image.shape} in a batch."
                    )
                if not np.isfinite(image).all():
                    raise ValueError(
                        f"{np.count_nonzero(~np.isfinite(image))} of {image.size} pixels are NaN or infinite."
                    )
                mean, std = (np.reshape(value, (-1, 1, 1)) for value in (self.image_mean, self.image_std))
                image = np.round((image.astype(np.float64) * std + mean) / self.rescale_factor)
                pictures.append(PIL.Image.fromarray(image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)))
        return pictures


__all__ = ["ArmImageProcessor", "ArmImageProcessorKwargs"]
