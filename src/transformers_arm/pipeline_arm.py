"""transformers pipelines that draw: "text-to-image" and "image-editing".

Requests of one batch are drawn together, all branches of guidance in one forward pass, and rendered by the detokenizer
that lies in the model's folder. Knows nothing about tokens.

Where this file came with a model and the package is not installed, `pipeline` does not know the tasks; it draws under
the name of one that it knows:

    from transformers import pipeline
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    Draw = get_class_from_dynamic_module("pipeline_arm.ArmTextToImagePipeline", repo)  # or ArmImageEditingPipeline
    draw = pipeline("image-text-to-text", model=repo, pipeline_class=Draw, trust_remote_code=True)
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from numbers import Integral
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .configuration_arm import MAX_GRID_SIDE
from .edits_arm import Sources
from .image_processing_arm import flatten_images, unbatched
from .loading_arm import execution_device, is_placed
from .previews_arm import Previews, check_previews, check_rows
from .prompts_arm import checked_batch_size
from .renderers_arm import DETOKENIZER_FOLDER, load_detokenizer
from .rendering_arm import moved, rendered
from .sampling_arm import IMAGE_EDITING, checked_shaping

if TYPE_CHECKING:
    from .detokenizer_arm import ArmDetokenizer

PROGRESS_FROM = 16  # requests; shorter lists are done before a bar would help
# What a call takes beside its requests, whom it is for, and what it is called there.
ARGUMENTS = {
    "height": ("size", "height"),
    "width": ("size", "width"),
    "image_grid": ("size", "image_grid"),
    "num_images_per_prompt": ("batch", "num_images_per_prompt"),
    "batch_size": ("batch", "batch_size"),
    "do_sample": ("generate", "do_sample"),
    "temperature": ("generate", "temperature"),
    "top_k": ("generate", "top_k"),
    "top_p": ("generate", "top_p"),
    "guidance_scale": ("generate", "guidance_scale"),
    "image_guidance_scale": ("generate", "image_guidance_scale"),
    "generation_config": ("generate", "generation_config"),
    "generator": ("generate", "generator"),  # and the detokenizer's
    "streamer": ("generate", "streamer"),
    "num_inference_steps": ("detokenizer", "num_inference_steps"),
    "decoder_guidance_scale": ("detokenizer", "guidance_scale"),
    "preview": ("preview", "preview"),
    "preview_every": ("preview", "preview_every"),
    "preview_steps": ("preview", "preview_steps"),
}
EDITING_ARGUMENTS = {
    "mask": ("request", "mask"),
    "images": ("request", "images"),
    "mask_margin": ("mask", "mask_margin"),
    "keep_aspect_ratio": ("size", "keep_aspect_ratio"),
    "max_pixels": ("size", "max_pixels"),
    **ARGUMENTS,
}


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items in order, the last one shorter; `itertools.batched` came with Python 3.12."""
    items = iter(items)
    return iter(lambda: list(islice(items, size)), [])


def save_remote_code(pipe, folder: str | os.PathLike) -> None:
    """Copies the file of a pipeline's class, and those it imports, if they came with a model, not with a package."""
    if type(pipe).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
        custom_object_save(pipe, folder)


class ArmImagePipeline(Pipeline):
    """What both pipelines share: requests in, pictures out, in order.

    One request gives one `PIL.Image`, a list gives a list; lists of pictures with `num_images_per_prompt` above 1.
    Any other iterable of requests (a dataset, a generator) gives an iterator, which reads a batch at a time.

    Args:
        model, processor: an `ArmForCausalLM` and its `ArmProcessor`.
        detokenizer: renders the tokens; None takes the model's `detokenizer`, or loads the one in its folder, in the
            model's dtype. It is moved to where the model computes, unless offloading places it.
        device: as in transformers. A model that a device map or offloading places stays, and computes where that says.
        local_files_only: take that one from the cache, as `pipeline` takes the rest.
        kwargs: transformers' pipeline arguments; and defaults for those of a call.

    Raises:
        ValueError: no processor, or a device that is not the one where a placed model computes.
    """

    show_progress = True  # of long lists of requests
    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _arguments = ARGUMENTS

    def __init__(
        self,
        model,
        *,
        processor=None,
        detokenizer: "ArmDetokenizer | None" = None,
        device: int | str | torch.device | None = None,
        local_files_only: bool = False,
        **kwargs,
    ):
        if processor is None:
            raise ValueError("The pipeline needs an ArmProcessor: pass processor=, or model= as a folder or Hub id.")
        if is_placed(model) or getattr(model, "hf_device_map", None) is not None:
            device = self._checked_device(device, model)
            # transformers would move the model, or ask a map whose first place may be the disk. What it needs is this.
            super().__init__(SimpleNamespace(device=device), processor=processor, device=device, **kwargs)
            self.model = model
        else:
            super().__init__(model, processor=processor, device=device, **kwargs)
        hub = {**model.hub_options, **({"local_files_only": True} if local_files_only else {})}
        own = detokenizer or model.detokenizer
        self.detokenizer = own or load_detokenizer(model.name_or_path, model.dtype, **hub)
        moved(self.detokenizer, self.device)

    @staticmethod
    def _checked_device(device: int | str | torch.device | None, model: torch.nn.Module) -> torch.device:
        """Where a placed model computes; raises ValueError if it is asked to be elsewhere."""
        there = execution_device(model)
        asked = there if device is None else torch.empty(0, device="cpu" if device == -1 else device).device
        if asked != there:
            raise ValueError(
                f"The model cannot be moved to {asked}: a device map or offloading places it, and it computes on "
                f"{there}. Leave device out, or load the model without device_map."
            )
        return there

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Saves model, processor and detokenizer: a folder from which `pipeline(task, model=folder)` loads again.

        Args:
            save_directory: the folder; made if there is none.
            kwargs: of the model's `save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        self.detokenizer.save_pretrained(os.path.join(save_directory, DETOKENIZER_FOLDER))
        save_remote_code(self, save_directory)

    def _sanitize_parameters(self, height=None, width=None, image_grid=None, num_images_per_prompt=None, **kwargs):
        whom = ("generate", "detokenizer", "preview")
        forward = {name: value for each in whom for name, value in self._of(each, kwargs, kept=True).items()}
        check_previews(self.model, forward, getattr(self, "_forward_params", None))
        if unknown := set(kwargs) - set(forward):
            raise TypeError(
                f"Unknown argument {', '.join(sorted(unknown))}; this pipeline takes {', '.join(self._arguments)}."
            )
        if num_images_per_prompt is not None:
            if num_images_per_prompt < 1:
                raise ValueError(f"num_images_per_prompt {num_images_per_prompt} must be at least 1.")
            forward["num_images_per_prompt"] = num_images_per_prompt
        grid = self._stated_grid(height, width, image_grid)
        return {} if grid is None else {"grid": grid}, forward, {}

    def _stated_grid(self, height: int | None, width: int | None, grid: Sequence | None) -> tuple[int, int] | None:
        """H, W in tokens that a call states, in px or tokens; None if it states nothing.

        Raises:
            ValueError: a size that no grid has, or two that differ.
        """
        processor = self.processor.image_processor
        patch, stated = processor.patch_size, {}
        if grid is not None:
            if not isinstance(grid, Sequence) or [isinstance(each, Integral) for each in grid] != [True, True]:
                raise ValueError(f"image_grid must be (H, W), in tokens, not {grid!r}.")
            stated = {"height": grid[0] * patch, "width": grid[1] * patch}
        sides = {name: side for name, side in (("height", height), ("width", width)) if side is not None}
        if stated and {**stated, **sides} != stated:
            raise ValueError(f"image_grid {grid[0]}x{grid[1]} is {stated} px, but {sides} is given; leave one out.")
        if not (stated or sides):
            return None
        height, width = ({**dict(processor.size), **stated, **sides}[name] for name in ("height", "width"))
        most = MAX_GRID_SIDE * patch
        if sides and any(side % patch or not patch <= side <= most for side in (height, width)):
            sides = f"multiples of the {patch} px patch, {patch} to {most}"
            raise ValueError(f"Picture size {height}x{width} (height x width) must be {sides}.")
        return height // patch, width // patch

    def _of(self, whom: str, given: Mapping, *, kept: bool = False) -> dict:
        """Those of the given arguments that are for one, by the names they have there, or `kept` as they are."""
        known = {name: there for name, (who, there) in self._arguments.items() if who == whom and name in given}
        return {name if kept else there: given[name] for name, there in known.items()}

    def __call__(self, requests, *, batch_size: int | None = None, **kwargs):
        """Draws requests; subclasses say what a request is."""
        own = (self._preprocess_params, self._forward_params, self._postprocess_params)
        given = self._sanitize_parameters(**kwargs)
        parameters = [{**defaults, **values} for defaults, values in zip(own, given, strict=True)]
        sizes = (batch_size, self._batch_size, 1)
        batch_size = checked_batch_size(next(size for size in sizes if size is not None))
        if isinstance(requests, Mapping):
            return self._draw_all([requests], 1, *parameters)[0]
        if isinstance(requests, list):
            return self._draw_all(requests, batch_size, *parameters)
        return self._draw(map(self.checked, requests), batch_size, *parameters)

    def _draw_all(
        self, requests: list[dict], batch_size: int, preprocess: dict, forward: dict, postprocess: dict
    ) -> list:
        """Pictures of requests, all of which are checked before the first is drawn."""
        if not requests:
            raise ValueError("The list of requests is empty; pass at least one.")
        requests = [self.checked(request) for request in requests]
        generator = forward.get("generator")
        images = len(requests) * forward.get("num_images_per_prompt", 1)
        if isinstance(generator, (list, tuple)) and len(generator) != images:
            raise ValueError(f"Got {len(generator)} generators for {images} images; give one for all or one an image.")
        pictures = self._draw(requests, batch_size, preprocess, forward, postprocess)
        hidden = not self.show_progress or len(requests) < PROGRESS_FROM
        return list(tqdm(pictures, total=len(requests), disable=hidden, desc=self.task))

    def _draw(
        self, requests: Iterable[dict], batch_size: int, preprocess: dict, forward: dict, postprocess: dict
    ) -> Iterator:
        """Pictures of requests, in order, `batch_size` requests at a time."""
        generators = forward.get("generator")
        one_each, images = isinstance(generators, (list, tuple)), forward.get("num_images_per_prompt", 1)
        generators = iter(generators) if one_each else None
        for number, batch in enumerate(batched(requests, batch_size)):
            own, first = None, number * batch_size
            if one_each:
                own = [list(islice(generators, images)) for _ in batch]
                if sum(map(len, own)) < len(batch) * images:
                    raise ValueError("There are fewer generators than images; give one for all or one an image.")
            opened = [self.opened(each) for each in batch]
            yield from self._draw_batch(opened, first, own, preprocess, forward, postprocess)
        if one_each and next(generators, None) is not None:
            raise ValueError("There are more generators than images; give one for all or one an image.")

    def _draw_batch(
        self, requests: list[dict], first: int, own: list | None, preprocess: dict, forward: dict, postprocess: dict
    ) -> list:
        """Pictures of opened requests, in order; those of one grid are drawn together.

        Args:
            first: number of the first request, among all of the call.
            own: generators of each request, if there is one a picture.
        """
        preprocess, entries = dict(preprocess), {}
        stated = preprocess.pop("grid", None)
        grids = [stated or self.own_grid(each, **preprocess) for each in requests]
        for grid in dict.fromkeys(grids if forward.get("preview") is not None else ()):
            check_rows(forward.get("preview_every") or 1, grid)
        for grid in dict.fromkeys(grids):
            places = [place for place, each in enumerate(grids) if each == grid]
            if own is not None:
                forward = {**forward, "generator": [each for place in places for each in own[place]]}
            of_grid, forward = [requests[p] for p in places], {**forward, "places": [first + p for p in places]}
            drawn = self.run_single(of_grid, {"grid": grid, **preprocess}, forward, postprocess)
            entries |= zip(places, drawn, strict=True)
        return [entries[place] for place in range(len(requests))]

    @property
    def default_grid(self) -> tuple[int, int]:
        """H, W in tokens of the processor's size."""
        processor = self.processor.image_processor
        return processor.size["height"] // processor.patch_size, processor.size["width"] // processor.patch_size

    def own_grid(self, request: dict) -> tuple[int, int]:
        """H, W in tokens of a request of a call that states none."""
        return self.default_grid

    def opened(self, request: dict) -> dict:
        """A checked request with its pictures opened."""
        return request

    def checked(self, request: dict) -> dict:
        """The request; raises TypeError for a prompt that is no str."""
        if not isinstance(request["prompt"], str):
            raise TypeError(f"A prompt is a str, not {request['prompt']!r}.")
        return request

    def preprocess(self, requests: list[dict], grid: tuple[int, int], **kwargs) -> dict:
        """Opened requests of one grid -> `inputs` of `generate`, `image_grid`, and `sources`, of edits what they start
        from.
        """
        raise NotImplementedError

    def _forward(self, model_inputs: dict, num_images_per_prompt: int = 1, places: list = (), **kwargs) -> dict:
        each = num_images_per_prompt
        numbers = [place * each + copy for place in places for copy in range(each)]
        _, images = self.drawn(model_inputs["inputs"], model_inputs["image_grid"], numbers, each, **kwargs)
        return {"images": images, "num_images_per_prompt": each, "sources": model_inputs["sources"]}

    def drawn(self, inputs: dict, grid: tuple[int, int], numbers: list[int], each: int = 1, **kwargs) -> tuple:
        """Sequences and pictures of what `generate` takes, `each` for a prompt.

        Args:
            numbers: of the pictures, for previews.
            kwargs: what a call says of pictures.
        """
        rendering, generation, previews = (self._of(whom, kwargs) for whom in ("detokenizer", "generate", "preview"))
        if previews.get("preview") is not None:
            shown = (self.model, self.detokenizer, grid, numbers, generation.get("streamer"))
            generation["streamer"] = Previews(*shown, **previews, **rendering)
        height, width = grid
        sequences = self.model.generate(
            **inputs, generation_mode="image", image_grid=grid, num_return_sequences=each, **generation
        )
        codes = sequences[:, -1 - height * width : -1].view(-1, height, width) - self.model.config.visual_token_offset
        images = rendered(self.model, self.detokenizer, codes, generator=kwargs.get("generator"), **rendering)
        return sequences, images

    def postprocess(self, model_outputs: dict, mask_margin: int | None = None) -> list:
        """Pictures of a batch -> one entry a request, an edit at its source's size and within its mask."""
        each, patch = model_outputs["num_images_per_prompt"], self.processor.image_processor.patch_size
        entries = []
        for drawn, sources in zip(batched(model_outputs["images"], each), model_outputs["sources"], strict=True):
            if sources is not None:
                drawn = [sources.fit(picture, mask_margin, patch) for picture in drawn]
            entries.append(drawn if each > 1 else drawn[0])
        return entries


class ArmTextToImagePipeline(ArmImagePipeline):
    """`pipeline("text-to-image", model=...)(prompt)`: a caption gives a picture.

    Example:
        >>> from transformers import pipeline
        >>> import transformers_arm
        >>> picture = pipeline("text-to-image", model="checkpoints/arm-tiny")("a red circle above a blue square")
    """

    def preprocess(self, requests: list[dict], grid: tuple[int, int]) -> dict:
        inputs = self.processor.image_generation_inputs([request["prompt"] for request in requests])
        return {"inputs": dict(inputs), "image_grid": grid, "sources": [None] * len(requests)}

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
            streamer: as transformers' are; of each batch its `put` gets the opening [B, 3], each row of image tokens
                [B, W] and the closing [B, 1], and then its `end` is called.
            preview: a function that gets previews while the tokens come: number (of the picture, from 0, in order),
                rows (that are drawn) and a `PIL.Image` at the size it is drawn at. They change nothing of the result.
            preview_every, preview_steps: rows between previews (1), at most those of a picture, and steps of the
                detokenizer for one (4).

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

    _arguments = EDITING_ARGUMENTS

    def _sanitize_parameters(self, mask_margin=None, keep_aspect_ratio=None, max_pixels=None, **kwargs):
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        given = getattr(kwargs.get("generation_config"), "image_editing", None) or {}
        stated = {"keep_aspect_ratio": keep_aspect_ratio, "max_pixels": max_pixels}
        shaping = {name: given.get(name) if value is None else value for name, value in stated.items()}
        shaping = {name: value for name, value in shaping.items() if value is not None}
        preprocess |= checked_shaping(shaping, self.processor.image_processor.patch_size)
        if mask_margin is not None:
            if not isinstance(mask_margin, Integral) or mask_margin < 0:
                raise ValueError(f"mask_margin {mask_margin} must be a whole number of px, 0 (a hard edge) or more.")
            postprocess = {"mask_margin": int(mask_margin)}
        return preprocess, forward, postprocess

    def own_grid(self, request: dict, **shaping) -> tuple[int, int]:
        return request["sources"].grid(self.processor.image_processor, **self._shaping(shaping))

    def _shaping(self, stated: dict) -> dict:
        """How an edit gets its shape: as the call says, or else the model's generation settings (`IMAGE_EDITING`)."""
        own = getattr(self.model.generation_config, "image_editing", None) or {}
        settings = checked_shaping({**IMAGE_EDITING, **own, **stated}, self.processor.image_processor.patch_size)
        return {name: settings[name] for name in IMAGE_EDITING}

    def opened(self, request: dict) -> dict:
        images = request["images"] if request.get("images") is not None else [request["image"]]
        sources = Sources.opened(images, request.get("mask"), self.processor.image_processor)
        return {"prompt": request["prompt"], "sources": sources}

    def preprocess(self, requests: list[dict], grid: tuple[int, int], **shaping) -> dict:
        sources = [request["sources"] for request in requests]
        pictures = self._prepared(sources, grid, self._shaping(shaping)["keep_aspect_ratio"])
        inputs = self.processor.image_generation_inputs([request["prompt"] for request in requests], pictures)
        if any(each.mask is not None for each in sources):
            inputs["edit_mask"] = torch.cat([each.edit_mask(grid) for each in sources])
            inputs["edit_source"] = 0
        return {"inputs": dict(inputs), "image_grid": grid, "sources": sources}

    def _prepared(self, sources: list[Sources], grid: tuple[int, int], keep: bool) -> list[list]:
        """Pictures of each request: the first at the edit's own size, so that their tokens lie on one grid; others
        within it, at their own shapes if these are kept.
        """
        prepare, patch = self.processor.prepared, self.processor.image_processor.patch_size
        size = {"height": grid[0] * patch, "width": grid[1] * patch}
        firsts = prepare([each.pictures[0] for each in sources], size=size, keep_aspect_ratio=False)
        others = [picture for each in sources for picture in each.pictures[1:]]
        others = iter(prepare(others, size=size, keep_aspect_ratio=keep) if others else [])
        return [[first, *islice(others, len(each.pictures) - 1)] for first, each in zip(firsts, sources, strict=True)]

    def __call__(self, image=None, prompt: str | Iterable[str] | None = None, mask=None, images=None, **kwargs):
        """Edits pictures; results come at their source's size.

        Args:
            image: a picture (PIL, array, tensor, path or address), a list or batch [B, ...] of them, or an iterable of
                `{"image", "prompt"}`, with `"mask"` if there is one, then without `prompt` and `mask`. In place of
                `"image"`, `"images"` may list several that one edit is made of; the first is the one that is edited.
            prompt: the instruction, or one a picture.
            mask: where the picture may change: white, of the picture's own size and any kind that `image` takes, for
                all pictures or one a picture (None: everywhere). What is transparent counts as black. Tokens of
                patches that the mask does not touch are kept; so are all pixels, byte for byte, more than
                `mask_margin` from it.
            images: in place of `image`, several pictures that one edit is made of.
            mask_margin: px of the picture over which the edit fades into it around the mask, 0 for a hard edge;
                default: half of what a token covers.
            keep_aspect_ratio: whether a picture is read and edited at its own shape and size, and not at the
                processor's; default: what the model's generation settings say for `image_editing`, or else True.
            max_pixels: what it is shrunk to, if it is larger; default: what those say, or else the processor's area.
            height, width: what the picture is resized to before it is read, in px, multiples of the patch, in place of
                that.
            image_grid: (H, W), the same in tokens.
            kwargs: as for text-to-image; and `image_guidance_scale`.

        Returns:
            A `PIL.Image` for a picture, a list for a list (of lists if num_images_per_prompt > 1), else an iterator.

        Raises:
            ValueError: no image to edit, not as many instructions or masks as pictures, or a mask of another size than
                its picture or without any white.
            TypeError: an instruction that is no str, or both image and images.
        """
        if images is not None:
            if image is not None:
                raise TypeError("image is what one edit starts from and images are several; give one of the two.")
            return super().__call__({"images": images, "prompt": prompt, "mask": mask}, **kwargs)
        image, mask = unbatched(image), unbatched(mask)
        if prompt is None and isinstance(image, (Iterable, Dataset)) and not isinstance(image, str):
            if mask is not None:
                raise TypeError('Requests hold their masks themselves, as {"image": ..., "prompt": ..., "mask": ...}.')
            return super().__call__(list(image) if isinstance(image, tuple) else image, **kwargs)
        if not isinstance(image, (list, tuple)):
            return super().__call__({"image": image, "prompt": prompt, "mask": mask}, **kwargs)
        prompts, masks = (each if isinstance(each, (list, tuple)) else [each] * len(image) for each in (prompt, mask))
        for what, given in (("instructions", prompts), ("masks", masks)):
            if len(given) != len(image):
                raise ValueError(f"Got {len(given)} {what} for {len(image)} images; give one for all or one each.")
        requests = [
            {"image": picture, "prompt": text, "mask": area}
            for picture, text, area in zip(image, prompts, masks, strict=True)
        ]
        return super().__call__(requests, **kwargs)

    def checked(self, request: dict) -> dict:
        """The request; raises as for text-to-image, and TypeError or ValueError where there is nothing to edit."""
        if not isinstance(request, Mapping) or "prompt" not in request or not {"image", "images"} & set(request):
            raise TypeError(f'A request to edit is {{"image": ..., "prompt": ...}}, not {request!r}.')
        several = request.get("images")
        if several is not None and request.get("image") is not None:
            raise TypeError("image is what one edit starts from and images are several; give one of the two.")
        if several is None and request.get("image") is None:
            raise ValueError("There is no image to edit; pass image=, or use the text-to-image pipeline.")
        if several is not None and not flatten_images(several):
            raise ValueError("The list of images is empty; pass at least the one to edit.")
        return super().checked(request)
