"""transformers pipelines that draw: "text-to-image" and "image-editing".

Requests of one grid are drawn together, all branches of guidance in one batch, and rendered by the detokenizer that
lies in the model's folder. Knows nothing about tokens.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import islice

import PIL.Image
from huggingface_hub import snapshot_download
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


def load_detokenizer(name_or_path: str, **hub_kwargs) -> ArmPixelDetokenizer:
    """The detokenizer in the `detokenizer` subfolder of a model's folder or Hub repo.

    Raises:
        FileNotFoundError: the folder has none.
    """
    if not os.path.isdir(name_or_path):
        name_or_path = snapshot_download(name_or_path, allow_patterns=f"{DETOKENIZER_FOLDER}/*", **hub_kwargs)
    folder = os.path.join(name_or_path, DETOKENIZER_FOLDER)
    if not os.path.isfile(os.path.join(folder, "model_index.json")):
        raise FileNotFoundError(
            f"{name_or_path} holds no {DETOKENIZER_FOLDER}/model_index.json; name a complete ARM folder, or pass "
            "detokenizer=ArmPixelDetokenizer.from_pretrained(...) to the pipeline."
        )
    return ArmPixelDetokenizer.from_pretrained(folder)


class ArmImagePipeline(Pipeline):
    """What both pipelines share: requests in, pictures out, in order.

    One request gives one `PIL.Image`, a list gives a list; lists of pictures with `num_images_per_prompt` above 1.
    Any other iterable of requests (a dataset, a generator) gives an iterator.

    Args:
        detokenizer: renders the tokens; None loads the one in the model's folder.
        kwargs: transformers' pipeline arguments; and defaults for those of a call.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, detokenizer: ArmPixelDetokenizer | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("The pipeline needs an ArmProcessor: pass processor=, or model= as a folder or Hub id.")
        self.detokenizer = detokenizer or load_detokenizer(self.model.name_or_path)
        self.detokenizer.vq_model = self.model.vq_model
        self.detokenizer.to(self.device)
        self.detokenizer.set_progress_bar_config(disable=True)

    def _sanitize_parameters(self, height=None, width=None, num_images_per_prompt=None, **kwargs):
        forward = {name: value for name, value in kwargs.items() if name in (*_GENERATION, *_RENDERING)}
        if unknown := set(kwargs) - set(forward):
            known = ("height", "width", "num_images_per_prompt", "batch_size", *_GENERATION, *_RENDERING)
            raise TypeError(f"Unknown argument {', '.join(sorted(unknown))}; this pipeline takes {', '.join(known)}.")
        if num_images_per_prompt is not None:
            if num_images_per_prompt < 1:
                raise ValueError(f"num_images_per_prompt {num_images_per_prompt} must be at least 1.")
            forward["num_images_per_prompt"] = num_images_per_prompt
        preprocess = {name: side for name, side in (("height", height), ("width", width)) if side is not None}
        return preprocess, forward, {}

    def __call__(self, requests, *, batch_size: int | None = None, **kwargs):
        """Draws requests; subclasses say what a request is."""
        preprocess, forward, _ = self._sanitize_parameters(**kwargs)
        preprocess, forward = {**self._preprocess_params, **preprocess}, {**self._forward_params, **forward}
        batch_size = batch_size or self._batch_size or 1
        if isinstance(requests, dict):
            return next(self._draw(iter([requests]), 1, preprocess, forward))
        pictures = self._draw(iter(requests), batch_size, preprocess, forward)
        if not isinstance(requests, list):
            return pictures
        if not requests:
            raise ValueError("The list of requests is empty; pass at least one.")
        generator = forward.get("generator")
        images = len(requests) * forward.get("num_images_per_prompt", 1)
        if isinstance(generator, list) and len(generator) != images:
            raise ValueError(f"Got {len(generator)} generators for {images} images; give one for all or one an image.")
        return list(tqdm(pictures, total=len(requests), disable=len(requests) < PROGRESS_FROM, desc=self.task))

    def _draw(self, requests: Iterator[dict], batch_size: int, preprocess: dict, forward: dict) -> Iterator:
        """Pictures of requests, in order, `batch_size` requests at a time."""
        generators = forward.get("generator")
        generators = iter(generators) if isinstance(generators, list) else None
        for batch in batched(requests, batch_size):
            if generators is not None:
                wanted = len(batch) * forward.get("num_images_per_prompt", 1)
                forward = {**forward, "generator": [next(generators) for _ in range(wanted)]}
            yield from self.run_single(batch, preprocess, forward, {})

    def preprocess(self, requests: list[dict], height: int | None = None, width: int | None = None) -> dict:
        """Requests `{"prompt", "image" (editing)}` -> inputs of `generate` for one grid, and the sizes to give back."""
        image_processor, patch = self.processor.image_processor, self.processor.image_processor.patch_size
        height, width = height or image_processor.size["height"], width or image_processor.size["width"]
        if height % patch or width % patch:
            raise ValueError(f"Picture size {height}x{width} is not a multiple of the {patch} px patch.")
        images = [self._open(request["image"]) for request in requests] if "image" in requests[0] else None
        inputs = self.processor.image_generation_inputs(
            [request["prompt"] for request in requests],
            images,
            **({} if images is None else {"size": {"height": height, "width": width}}),
        )
        sizes = [None] * len(requests) if images is None else [image.size for image in images]
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
        images = self.detokenizer(codes=codes, generator=kwargs.get("generator"), **rendering).images
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
        if isinstance(prompt, str):
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
            kwargs: as for text-to-image; and `image_guidance_scale`.

        Returns:
            A `PIL.Image` for a picture, a list for a list (of lists if num_images_per_prompt > 1), else an iterator.

        Raises:
            ValueError: no image to edit, or not as many instructions as pictures.
        """
        if prompt is None:
            return super().__call__(image, **kwargs)
        if image is None:
            raise ValueError("There is no image to edit; pass image=, or use the text-to-image pipeline.")
        if not isinstance(image, (list, tuple)):
            if not isinstance(prompt, str):
                raise ValueError("One image takes one instruction (a str); pass lists of the same length for more.")
            return super().__call__({"image": image, "prompt": prompt}, **kwargs)
        prompts = [prompt] * len(image) if isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(image):
            raise ValueError(f"Got {len(prompts)} instructions for {len(image)} images; give one for all or one each.")
        requests = [{"image": each, "prompt": text} for each, text in zip(image, prompts, strict=True)]
        return super().__call__(requests, **kwargs)
