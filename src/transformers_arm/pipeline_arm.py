"""transformers pipelines that draw: "text-to-image" and "image-editing".

Requests of one batch are drawn together, all branches of guidance in one forward pass, and rendered by the detokenizer
that lies in the model's folder. Knows nothing about tokens.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import PIL.Image
import torch
from huggingface_hub import snapshot_download
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import Pipeline

from .detokenizer_arm_pixel import ArmPixelDetokenizer

PROGRESS_FROM = 16  # requests; shorter lists are done before a bar would help
DETOKENIZER_FOLDER = "detokenizer"
_RENDERING = {"num_inference_steps": "num_inference_steps", "decoder_guidance_scale": "guidance_scale"}
_GENERATION = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "guidance_scale",
    "image_guidance_scale",
    "generation_config",
    "generator",
    "streamer",
)


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items in order, the last one shorter; `itertools.batched` came with Python 3.12."""
    items = iter(items)
    return iter(lambda: list(islice(items, size)), [])


def load_detokenizer(
    name_or_path: str, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> ArmPixelDetokenizer:
    """The detokenizer in the `detokenizer` subfolder of a model's folder or Hub repo.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = name_or_path
    if name_or_path and not os.path.isdir(name_or_path):
        folder = snapshot_download(name_or_path, revision=revision, allow_patterns=f"{DETOKENIZER_FOLDER}/*")
    folder = os.path.join(folder, DETOKENIZER_FOLDER)
    if not name_or_path or not os.path.isfile(os.path.join(folder, "model_index.json")):
        raise FileNotFoundError(
            f"{name_or_path or 'A model that was not loaded from a folder'} holds no {DETOKENIZER_FOLDER}/"
            "model_index.json; name a complete ARM folder, or pass "
            "detokenizer=ArmPixelDetokenizer.from_pretrained(...) to the pipeline."
        )
    detokenizer = ArmPixelDetokenizer.from_pretrained(folder)
    return detokenizer if detokenizer.dtype == dtype else detokenizer.to(dtype)  # diffusers warns of every cast


class ArmImagePipeline(Pipeline):
    """What both pipelines share: requests in, pictures out, in order.

    One request gives one `PIL.Image`, a list gives a list; lists of pictures with `num_images_per_prompt` above 1.
    Any other iterable of requests (a dataset, a generator) gives an iterator, which reads a batch at a time.

    Args:
        model, processor: an `ArmForCausalLM` and its `ArmProcessor`.
        detokenizer: renders the tokens; None loads the one in the model's folder, in the model's dtype.
        kwargs: transformers' pipeline arguments; and defaults for those of a call.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model, *, processor=None, detokenizer: ArmPixelDetokenizer | None = None, **kwargs):
        if processor is None:
            raise ValueError("The pipeline needs an ArmProcessor: pass processor=, or model= as a folder or Hub id.")
        super().__init__(model, processor=processor, **kwargs)
        revision = getattr(model.config, "_commit_hash", None)
        self.detokenizer = detokenizer or load_detokenizer(model.name_or_path, model.dtype, revision)
        self.detokenizer.to(self.device)
        self.detokenizer.set_progress_bar_config(disable=True)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Saves model, processor and detokenizer: a folder from which `pipeline(task, model=folder)` loads again.

        Args:
            save_directory: the folder; made if there is none.
            kwargs: of the model's `save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        self.detokenizer.save_pretrained(os.path.join(save_directory, DETOKENIZER_FOLDER))

    def _sanitize_parameters(self, height=None, width=None, image_grid=None, num_images_per_prompt=None, **kwargs):
        forward = {name: value for name, value in kwargs.items() if name in (*_GENERATION, *_RENDERING)}
        if unknown := set(kwargs) - set(forward):
            known = ("height", "width", "image_grid", "num_images_per_prompt", "batch_size", *_GENERATION, *_RENDERING)
            raise TypeError(f"Unknown argument {', '.join(sorted(unknown))}; this pipeline takes {', '.join(known)}.")
        if num_images_per_prompt is not None:
            if num_images_per_prompt < 1:
                raise ValueError(f"num_images_per_prompt {num_images_per_prompt} must be at least 1.")
            forward["num_images_per_prompt"] = num_images_per_prompt
        preprocess = {name: side for name, side in (("height", height), ("width", width)) if side is not None}
        if image_grid is not None:
            if not isinstance(image_grid, Sequence) or len(image_grid) != 2:
                raise ValueError(f"image_grid must be (H, W), in tokens, not {image_grid!r}.")
            rows, columns = image_grid
            patch = self.processor.image_processor.patch_size
            size = {"height": rows * patch, "width": columns * patch}
            if {**size, **preprocess} != size:
                raise ValueError(
                    f"image_grid {rows}x{columns} is {size} px, but {preprocess} is given; leave one out."
                )
            preprocess = size
        return preprocess, forward, {}

    def __call__(self, requests, *, batch_size: int | None = None, **kwargs):
        """Draws requests; subclasses say what a request is."""
        preprocess, forward, _ = self._sanitize_parameters(**kwargs)
        preprocess, forward = {**self._preprocess_params, **preprocess}, {**self._forward_params, **forward}
        batch_size = batch_size or self._batch_size or 1
        if isinstance(requests, Mapping):
            return self._draw_all([requests], 1, preprocess, forward)[0]
        if isinstance(requests, list):
            return self._draw_all(requests, batch_size, preprocess, forward)
        return self._draw(map(self.checked, requests), batch_size, preprocess, forward)

    def _draw_all(self, requests: list[dict], batch_size: int, preprocess: dict, forward: dict) -> list:
        """Pictures of requests, all of which are checked before the first is drawn."""
        if not requests:
            raise ValueError("The list of requests is empty; pass at least one.")
        requests = [self.checked(request) for request in requests]
        generator = forward.get("generator")
        images = len(requests) * forward.get("num_images_per_prompt", 1)
        if isinstance(generator, (list, tuple)) and len(generator) != images:
            raise ValueError(f"Got {len(generator)} generators for {images} images; give one for all or one an image.")
        pictures = self._draw(requests, batch_size, preprocess, forward)
        return list(tqdm(pictures, total=len(requests), disable=len(requests) < PROGRESS_FROM, desc=self.task))

    def _draw(self, requests: Iterable[dict], batch_size: int, preprocess: dict, forward: dict) -> Iterator:
        """Pictures of requests, in order, `batch_size` requests at a time."""
        generators = forward.get("generator")
        one_each = isinstance(generators, (list, tuple))
        generators = iter(generators) if one_each else None
        for batch in batched(requests, batch_size):
            if one_each:
                images = len(batch) * forward.get("num_images_per_prompt", 1)
                forward = {**forward, "generator": list(islice(generators, images))}
                if len(forward["generator"]) < images:
                    raise ValueError("There are fewer generators than images; give one for all or one an image.")
            yield from self.run_single(batch, preprocess, forward, {})
        if one_each and next(generators, None) is not None:
            raise ValueError("There are more generators than images; give one for all or one an image.")

    def checked(self, request: dict) -> dict:
        """The request; raises TypeError for a prompt that is no str."""
        if not isinstance(request["prompt"], str):
            raise TypeError(f"A prompt is a str, not {request['prompt']!r}.")
        return request

    def preprocess(self, requests: list[dict], height: int | None = None, width: int | None = None) -> dict:
        """Requests `{"prompt", "image" (editing)}` -> inputs of `generate` for one grid, and sizes to give back."""
        image_processor, patch = self.processor.image_processor, self.processor.image_processor.patch_size
        height = image_processor.size["height"] if height is None else height
        width = image_processor.size["width"] if width is None else width
        if height < 1 or width < 1 or height % patch or width % patch:
            raise ValueError(f"Picture size {height}x{width} must be multiples of the {patch} px patch.")
        images, size, sizes = None, {}, [None] * len(requests)
        if "image" in requests[0]:
            images = [self._open(request["image"]) for request in requests]
            size, sizes = {"size": {"height": height, "width": width}}, [image.size for image in images]
        prompts = [request["prompt"] for request in requests]
        inputs = self.processor.image_generation_inputs(prompts, images, **size)
        return {"inputs": dict(inputs), "image_grid": (height // patch, width // patch), "sizes": sizes}

    def _open(self, image) -> PIL.Image.Image:
        """An image of any kind the image processor takes -> an RGB picture at its own size."""
        pixels = self.processor.image_processor.process_image(image)
        return PIL.Image.fromarray(pixels.transpose(1, 2, 0))

    def _forward(self, model_inputs: dict, num_images_per_prompt: int = 1, **kwargs) -> dict:
        rendering = {_RENDERING[name]: value for name, value in kwargs.items() if name in _RENDERING}
        generation = {name: value for name, value in kwargs.items() if name not in _RENDERING}
        height, width = model_inputs["image_grid"]
        sequences = self.model.generate(
            **model_inputs["inputs"],
            generation_mode="image",
            image_grid=(height, width),
            num_return_sequences=num_images_per_prompt,
            **generation,
        )
        codes = sequences[:, -1 - height * width : -1].view(-1, height, width) - self.model.config.visual_token_offset
        z_q = self.model.vq_model.decode_codes(codes)
        images = self.detokenizer(z_q, generator=kwargs.get("generator"), **rendering).images
        return {"images": images, "sizes": model_inputs["sizes"], "num_images_per_prompt": num_images_per_prompt}

    def postprocess(self, model_outputs: dict) -> list:
        """Pictures of a batch -> one entry a request, an edit at its source's size."""
        each = model_outputs["num_images_per_prompt"]
        entries = []
        for size, pictures in zip(model_outputs["sizes"], batched(model_outputs["images"], each), strict=True):
            pictures = [picture if size in (None, picture.size) else picture.resize(size) for picture in pictures]
            entries.append(pictures if each > 1 else pictures[0])
        return entries


class ArmTextToImagePipeline(ArmImagePipeline):
    """`pipeline("text-to-image", model=...)(prompt)`: a caption gives a picture.

    Example:
        >>> from transformers import pipeline
        >>> import transformers_arm
        >>> picture = pipeline("text-to-image", model="checkpoints/arm-tiny")("a red circle above a blue square")
    """

    def __call__(self, prompt: str | Iterable[str], **kwargs):
        """Draws prompts.

        Args:
            prompt: a prompt, a list of prompts, or any iterable of prompts.
            height, width: of the pictures in px, multiples of the patch; default: the processor's size.
            image_grid: (H, W), the same in tokens.
            num_images_per_prompt: pictures a prompt.
            batch_size: prompts drawn together.
            do_sample, temperature, top_k, top_p, guidance_scale: how tokens are sampled; default: what the model
                folder's generation config says.
            num_inference_steps, decoder_guidance_scale: of the detokenizer; default: what it was saved with.
            generator: a `torch.Generator`, or a list with one a picture.
            streamer: gets each row of image tokens.

        Returns:
            A `PIL.Image` for a prompt, a list for a list (of lists if num_images_per_prompt > 1), else an iterator.
        """
        if isinstance(prompt, (str, Mapping)) or not isinstance(prompt, (Iterable, Dataset)):
            return super().__call__({"prompt": prompt}, **kwargs)
        requests = ({"prompt": each} for each in prompt)
        return super().__call__(list(requests) if isinstance(prompt, (list, tuple)) else requests, **kwargs)


class ArmImageEditingPipeline(ArmImagePipeline):
    """`pipeline("image-editing", model=...)(image, prompt)`: a picture and an instruction give the edited picture.

    Example:
        >>> from transformers import pipeline
        >>> import transformers_arm
        >>> edited = pipeline("image-editing", model="checkpoints/arm-tiny")("scene.png", "remove the red circle")
    """

    def __call__(self, image, prompt: str | Iterable[str] | None = None, **kwargs):
        """Edits pictures; results come at their source's size.

        Args:
            image: a picture (PIL, array, tensor, path or address), a list of them, or an iterable of
                `{"image", "prompt"}`, then without `prompt`.
            prompt: the instruction, or one a picture.
            height, width: what the picture is resized to before it is read, in px, multiples of the patch; default:
                the processor's size.
            image_grid: (H, W), the same in tokens.
            kwargs: as for text-to-image; and `image_guidance_scale`.

        Returns:
            A `PIL.Image` for a picture, a list for a list (of lists if num_images_per_prompt > 1), else an iterator.

        Raises:
            ValueError: no image to edit, or not as many instructions as pictures.
            TypeError: an instruction that is no str.
        """
        if prompt is None and isinstance(image, (Iterable, Dataset)) and not isinstance(image, str):
            return super().__call__(list(image) if isinstance(image, tuple) else image, **kwargs)
        if not isinstance(image, (list, tuple)):
            return super().__call__({"image": image, "prompt": prompt}, **kwargs)
        prompts = prompt if isinstance(prompt, (list, tuple)) else [prompt] * len(image)
        if len(prompts) != len(image):
            raise ValueError(f"Got {len(prompts)} instructions for {len(image)} images; give one for all or one each.")
        requests = [{"image": each, "prompt": text} for each, text in zip(image, prompts, strict=True)]
        return super().__call__(requests, **kwargs)

    def checked(self, request: dict) -> dict:
        """The request; raises as for text-to-image, and TypeError or ValueError where there is nothing to edit."""
        if not isinstance(request, Mapping) or not {"image", "prompt"} <= set(request):
            raise TypeError(f'A request to edit is {{"image": ..., "prompt": ...}}, not {request!r}.')
        if request["image"] is None:
            raise ValueError("There is no image to edit; pass image=, or use the text-to-image pipeline.")
        return super().checked(request)
