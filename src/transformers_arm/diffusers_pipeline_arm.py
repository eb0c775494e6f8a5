"""`ArmPipeline`: drawing and editing behind diffusers' names, for code that was written for a diffusers pipeline.

It holds the two transformers pipelines' parts and calls those pipelines; knows nothing about how they work.
"""

import os

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from transformers.generation.streamers import BaseStreamer
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .image_processing_arm import unbatched
from .loading_arm import HUB_OPTIONS, execution_device, is_placed
from .modeling_arm import ArmForCausalLM
from .pipeline_arm import (
    ArmImageEditingPipeline,
    ArmImagePipeline,
    ArmTextToImagePipeline,
    save_remote_code,
)
from .processing_arm import ArmProcessor
from .prompts_arm import checked_batch_size
from .renderers_arm import load_detokenizer, torch_parts

PICTURES_AT_ONCE = 8  # unless a call says how many requests: a hundred prompts are no one batch


class RowProgress(BaseStreamer):
    """A streamer of `generate` that moves a progress bar on by each row of image tokens, and passes all on.

    Args:
        bar: the progress bar.
        streamer: another streamer, which gets what this one gets, or None.
    """

    def __init__(self, bar, streamer: BaseStreamer | None = None):
        self.bar, self.streamer = bar, streamer

    def put(self, value: torch.LongTensor) -> None:
        self.bar.update()
        if self.streamer is not None:
            self.streamer.put(value)

    def end(self) -> None:
        self.bar.refresh()
        if self.streamer is not None:
            self.streamer.end()


class ArmPipeline(DiffusionPipeline):
    """Draws prompts, and with `image` edits pictures, called as diffusers' pipelines are.

    Args:
        model, processor: an `ArmForCausalLM` and its `ArmProcessor`.
        detokenizer: renders the tokens.

    Example:
        >>> from transformers_arm import ArmPipeline
        >>> pipe = ArmPipeline.from_pretrained("checkpoints/arm-tiny")
        >>> picture = pipe(prompt="a red circle above a blue square").images[0]
        >>> edited = pipe(prompt="remove the red circle", image=picture).images[0]

    `enable_model_cpu_offload` and `enable_sequential_cpu_offload` are diffusers' own, for the detokenizer's parts too.
    """

    model_cpu_offload_seq = "model"  # and then the detokenizer's

    def __init__(self, model: ArmForCausalLM, processor: ArmProcessor, detokenizer: DiffusionPipeline):
        super().__init__()
        self.register_modules(model=model, processor=processor, detokenizer=detokenizer)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        dtype: torch.dtype | str = "auto",
        torch_dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        **kwargs,
    ) -> "ArmPipeline":
        """Loads a complete ARM folder or Hub repo, onto the CPU unless `device_map` says where.

        Args:
            pretrained_model_name_or_path: the folder, or the repo's id.
            dtype: (or `torch_dtype`) of the weights; "auto" is what they were saved in.
            revision: branch, tag or commit of the repo.
            trust_remote_code: needed where this class itself came with the repo.
            kwargs: `token`, `cache_dir`, `local_files_only` and `force_download`, as everywhere; and what the model's
                `from_pretrained` takes beside them, such as `device_map`, `max_memory` and `offload_folder`.
        """
        name = os.fspath(pretrained_model_name_or_path)
        hub = {name: kwargs[name] for name in (*HUB_OPTIONS, "force_download") if name in kwargs}
        given = {"trust_remote_code": trust_remote_code, **hub}
        model = ArmForCausalLM.from_pretrained(
            name, dtype=torch_dtype or dtype, revision=revision, **{**kwargs, **given}
        )
        commit = model.hub_options.get("revision")  # one for all parts, should the branch move on now
        if cls.__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
            ArmProcessor.register_for_auto_class()  # as AutoProcessor does, so that a saved processor names its code
        processor = ArmProcessor.from_pretrained(name, revision=commit, **given)
        return cls(model, processor, load_detokenizer(name, model.dtype, commit, **hub))

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Saves a complete ARM folder, as the transformers pipelines do; kwargs of the model's `save_pretrained`."""
        self._pipeline(ArmTextToImagePipeline).save_pretrained(save_directory, **kwargs)
        save_remote_code(self, save_directory)

    def to(self, *args, **kwargs) -> "ArmPipeline":
        """Moves everything, the detokenizer too, to a device or dtype, as in diffusers.

        Raises:
            ValueError: a device map or offloading places a part, which is elsewhere or of another dtype.
        """
        given = [each for each in (*args, kwargs.get("device"), kwargs.get("dtype")) if each is not None]
        asked = [each if isinstance(each, torch.dtype) else torch.empty(0, device=each).device for each in given]
        parts = torch_parts(self.detokenizer)
        for part in filter(is_placed, (self.model, *parts)):
            there = {execution_device(part), part.dtype}
            if not there.issuperset(asked):
                raise ValueError(
                    f"{type(part).__name__} cannot be moved to {', '.join(map(str, asked))}: a device map or "
                    f"offloading places it ({', '.join(map(str, there))}). Load it without device_map, or call "
                    "remove_all_hooks() first, which ends offloading."
                )
        if not any(map(is_placed, parts)):
            self.detokenizer.to(*args, **kwargs)
        return self if is_placed(self.model) else super().to(*args, **kwargs)

    def remove_all_hooks(self) -> None:
        """Ends offloading, the detokenizer's too, as in diffusers.

        Raises:
            ValueError: hooks are those of a device map, without which the model computes nothing.
        """
        if is_placed(self.model) and getattr(self.model, "hf_device_map", None) is not None:
            raise ValueError(
                f"A device map places the model: {self.model.hf_device_map}. Load it without device_map to offload it."
            )
        super().remove_all_hooks()
        self.detokenizer.remove_all_hooks()

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Brings the model to the accelerator to draw, then the detokenizer's parts to render, as in diffusers."""
        super().enable_model_cpu_offload(gpu_id, device)
        from accelerate import cpu_offload_with_hook  # here: it is there, or diffusers has refused

        for part in torch_parts(self.detokenizer):
            _, hook = cpu_offload_with_hook(part, self._offload_device, prev_module_hook=self._all_hooks[-1])
            self._all_hooks.append(hook)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Brings each layer to the accelerator as it computes, as in diffusers."""
        super().enable_sequential_cpu_offload(gpu_id, device)
        self.detokenizer.enable_sequential_cpu_offload(gpu_id, device)

    def _pipeline(self, pipeline_class: type[ArmImagePipeline]) -> ArmImagePipeline:
        parts = {"processor": self.processor, "detokenizer": self.detokenizer}
        return pipeline_class(self.model, **parts, device=self.model.device)

    def _draw(
        self, pipeline_class: type[ArmImagePipeline], requests: tuple, batch_size=None, streamer=None, **given
    ) -> list:
        """What a transformers pipeline makes of requests, a batch at a time under one progress bar."""
        drawing = self._pipeline(pipeline_class)
        drawing.show_progress = False  # but this one
        if batch_size is None:
            batch_size = max(1, PICTURES_AT_ONCE // max(1, given.get("num_images_per_prompt", 1)))
        batches = -(-len(requests[0]) // checked_batch_size(batch_size))
        preprocess, _, _ = drawing._sanitize_parameters(**given)
        rows, _ = preprocess.get("grid") or drawing.default_grid
        with self.progress_bar(total=batches * (rows + 2)) as bar:  # and what opens and closes a picture
            drawn = drawing(*requests, batch_size=batch_size, streamer=RowProgress(bar, streamer), **given)
            bar.total = bar.n  # edits at their sources' own shapes have other rows
            bar.refresh()
        self.maybe_free_model_hooks()
        return drawn

    def __call__(
        self,
        prompt: str | list[str],
        image=None,
        mask_image=None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **kwargs,
    ) -> ImagePipelineOutput | tuple:
        """Draws prompts, or edits pictures as they say, some together at a time.

        Args:
            prompt: a caption, or with `image` an instruction; one or a list. There is no `negative_prompt`: what
                guidance compares with is the model without a prompt.
            image: what to edit, of any kind that `ArmImageProcessor` takes; one for all prompts or a list.
            mask_image: where it may change (white), of its own size; one for all pictures or a list.
            height, width: px to draw at, or to read `image` at; default: the processor's. Edits come back at the size
                of their picture.
            num_inference_steps: of the detokenizer, which renders the tokens that the language model wrote.
            guidance_scale, image_guidance_scale: of the language model, towards the prompt and towards `image`; the
                renderer's is `decoder_guidance_scale`.
            num_images_per_prompt: pictures a prompt, next to each other in the result.
            generator: one for all, or a list with one a picture.
            output_type: `"pil"`, `"np"` (float32 [N, H, W, 3] in 0..1) or `"pt"` (float32 [N, 3, H, W] in 0..1); the
                last two are of pictures of one size.
            return_dict: False gives a tuple.
            kwargs: `batch_size`, the requests that are drawn together (default: as many as make 8 pictures);
                `streamer`, which gets each batch's tokens as they are drawn, beside the progress bar; `preview`,
                `preview_every`, `preview_steps`, `image_grid`, `decoder_guidance_scale`, `do_sample`, `temperature`,
                `top_k`, `top_p`, `generation_config` and `mask_margin`; all as in the image-editing pipeline.

        Returns:
            `ImagePipelineOutput` whose `images` are all pictures, prompt by prompt.

        Raises:
            ValueError: a mask without an image, an unknown output_type, or what the transformers pipelines refuse.
            TypeError: an argument, such as `negative_prompt`, that they do not take.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"Unknown output_type {output_type!r}; use 'pil', 'np' or 'pt'.")
        if image is None and mask_image is not None:
            raise ValueError("mask_image says where image may change, but there is no image; pass it, or no mask.")
        several = isinstance(prompt, (list, tuple))
        prompts = list(prompt) if several else [prompt]
        requests, pipeline_class = (prompts,), ArmTextToImagePipeline
        if image is not None:
            images = unbatched(image)
            images = list(images) if isinstance(images, (list, tuple)) else [images] * len(prompts)
            requests = (images, prompts if several else prompts * len(images), mask_image)
            pipeline_class = ArmImageEditingPipeline
        arguments = {
            "height": height,
            "width": width,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "image_guidance_scale": image_guidance_scale,
            "num_images_per_prompt": num_images_per_prompt,
            "generator": generator,
            **kwargs,
        }
        given = {name: value for name, value in arguments.items() if value is not None}
        drawn = self._draw(pipeline_class, requests, **given)
        pictures = [picture for each in drawn for picture in (each if isinstance(each, list) else [each])]
        if output_type != "pil":
            if len(sizes := sorted({picture.size for picture in pictures})) > 1:
                raise ValueError(
                    f"Pictures of the sizes {sizes} (width, height) do not fit one array; use output_type='pil', or "
                    "edit pictures of one size."
                )
            pictures = VaeImageProcessor.pil_to_numpy(pictures)
            pictures = pictures if output_type == "np" else VaeImageProcessor.numpy_to_pt(pictures)
        return ImagePipelineOutput(images=pictures) if return_dict else (pictures,)
