"""What all renderers of `z_q` share: a call, its checks, guidance against a learned null, a scheduler's steps.

Sign and scale are those of diffusers' flow matching: sigma = 1 - t, x_sigma = (1 - sigma) * data + sigma * noise, and
what is predicted is the velocity noise - data. Knows nothing about what a renderer is made of.
"""

import copy
import os
from collections.abc import Callable

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

from .loading_arm import SafetensorsOnlyMixin, class_named
from .modeling_arm_vq import ArmVQModel

PACKAGE = "transformers_arm"


class ArmDetokenizer(SafetensorsOnlyMixin, DiffusionPipeline):
    """Renders `z_q`, or codes when `vq_model` is attached, into pictures: a base class.

    A subclass registers its parts, among them a `scheduler`, and `default_steps` and `default_guidance_scale`, and has
    the methods that raise here. `vq_model` is attached after loading (`detokenizer.vq_model = model`) and never saved.
    """

    own_parts: dict[str, type] = {}  # parts whose classes are ARM's, by name
    output_types = ("pil", "np", "pt")
    _callback_tensor_inputs = ["latents"]
    vq_model: ArmVQModel | None = None

    # `model_index.json` names the module of ARM's own parts as it is called where this package is installed. Code that
    # came with a model's folder runs under other names: there, and everywhere, the class is the one beside this.

    @classmethod
    def load_config(cls, *args, **kwargs):
        found = super().load_config(*args, **kwargs)
        index = found[0] if isinstance(found, tuple) else found
        # A renderer's own class needs none of the code that the folder names for `DiffusionPipeline`.
        index["_class_name"] = class_named(index)
        return found

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        named = class_named(config_dict)
        if named not in (None, cls.__name__):
            raise ValueError(
                f"The folder holds a {named}, not a {cls.__name__}; load it by its own class, or by load_detokenizer."
            )
        parts = {name: [part.__module__, part.__name__] for name, part in cls.own_parts.items()}
        return super().extract_init_dict({**config_dict, **parts}, **kwargs)

    def save_config(self, save_directory: str | os.PathLike, **kwargs) -> None:
        for name, part in self.own_parts.items():
            module = part.__module__.rpartition(".")[-1]
            self.register_to_config(**{name: (f"{PACKAGE}.{module}", part.__name__)})
        super().save_config(save_directory, **kwargs)

    @property
    def condition_size(self) -> int:
        """Channels of `z_q`."""
        raise NotImplementedError

    @property
    def pixels_per_token(self) -> int:
        """Pixels a side that a token stands for."""
        raise NotImplementedError

    def sample_shape(self, batch: int, height: int, width: int) -> tuple[int, ...]:
        """The shape of what is denoised, for pictures of height x width px."""
        raise NotImplementedError

    def conditions(self, z_q: torch.Tensor, drop: torch.BoolTensor | None, sample_shape: tuple[int, ...]):
        """What `velocity` takes beside the sample, made once a call.

        Args:
            z_q: [B, h, w, C].
            drop: [B], True where the learned null stands in place of `z_q`; None for nowhere.
        """
        raise NotImplementedError

    def velocity(self, sample: torch.Tensor, sigma: torch.Tensor, conditions) -> torch.Tensor:
        """noise - data, in the shape of the sample [B, ...]; sigma [B] in 0..1."""
        raise NotImplementedError

    def decode(self, sample: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """What is denoised -> pictures [B, 3, height, width] in -1..1."""
        raise NotImplementedError

    def shift(self, sample: torch.Tensor, steps: int) -> float | None:
        """How far a scheduler with `use_dynamic_shifting` moves sigmas towards noise (its `mu`); None: does not."""
        return None

    def check_size(self, height: int, width: int, grid: tuple[int, int]) -> None:
        """Raises a ValueError for a size in px that a grid of tokens cannot be rendered at."""
        for name, side in (("height", height), ("width", width)):
            if side < 1:
                raise ValueError(f"{name} {side} must be at least 1 px.")

    def check_inputs(self, z_q, codes, num_inference_steps, guidance_scale, generator, output_type) -> None:
        if (z_q is None) == (codes is None):
            raise ValueError("Give exactly one of z_q and codes.")
        if codes is not None:
            self._check_codes(codes)
        if z_q is not None and (z_q.ndim != 4 or z_q.shape[-1] != self.condition_size):
            raise ValueError(f"z_q must be [B, h, w, {self.condition_size}], got {list(z_q.shape)}.")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps {num_inference_steps} must be at least 1.")
        if guidance_scale < 0:
            raise ValueError(f"guidance_scale {guidance_scale} must not be negative; 1 turns guidance off.")
        if output_type not in self.output_types:
            raise ValueError(f"Unknown output_type {output_type!r}; use one of {', '.join(self.output_types)}.")
        batch = len(codes if z_q is None else z_q)
        if isinstance(generator, list) and len(generator) not in (1, batch):
            raise ValueError(
                f"Got {len(generator)} generators for {batch} pictures; give one for all or one a picture."
            )

    def _check_codes(self, codes: torch.LongTensor) -> None:
        if self.vq_model is None:
            raise ValueError("Codes need a tokenizer: set detokenizer.vq_model to an ArmVQModel, or give z_q.")
        size = self.vq_model.config.codebook_size
        if codes.ndim != 3:
            raise ValueError(f"codes must be [B, h, w], got {list(codes.shape)}.")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise ValueError(
                f"codes span {int(codes.min())}..{int(codes.max())}, but the tokenizer's are 0..{size - 1}. Take the "
                "tokenizer that they are from, and of token ids less the model's visual_token_offset."
            )

    @torch.no_grad()
    def __call__(
        self,
        z_q: torch.Tensor | None = None,
        codes: torch.LongTensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        height: int | None = None,
        width: int | None = None,
        callback_on_step_end: Callable[..., dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - as in diffusers' pipelines
    ) -> ImagePipelineOutput | tuple:
        """Renders a batch.

        Args:
            z_q: [B, h, w, C]; or
            codes: int [B, h, w], when `vq_model` is attached.
            num_inference_steps: None takes the saved default (the paper's is 28).
            guidance_scale: guidance against the learned null condition; 1 turns it off, None takes the saved default.
            generator: randomness of the starting noise, one for all or one a picture.
            output_type: `"pil"`, `"np"` (float [B, H, W, 3] in 0..1), `"pt"` (float [B, 3, H, W] in 0..1) or, of those
                that render latents, `"latent"`.
            height, width: of the pictures, in px; by default those of the grid, 16 px a token.
            callback_on_step_end, callback_on_step_end_tensor_inputs: as in diffusers' pipelines; of tensors there are
                `latents`, what is denoised.

        Returns:
            `ImagePipelineOutput` with B pictures.

        Raises:
            ValueError: both or none of z_q and codes, or a value outside its bounds.
        """
        steps = self.config.default_steps if num_inference_steps is None else num_inference_steps
        guidance_scale = self.config.default_guidance_scale if guidance_scale is None else guidance_scale
        self.check_inputs(z_q, codes, steps, guidance_scale, generator, output_type)
        grid = tuple((codes if z_q is None else z_q).shape[1:3])
        height = grid[0] * self.pixels_per_token if height is None else height
        width = grid[1] * self.pixels_per_token if width is None else width
        self.check_size(height, width, grid)
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"There are no tensors {', '.join(sorted(unknown))} for a callback; there are latents.")
        if codes is not None:
            z_q = self.vq_model.decode_codes(codes.to(self.vq_model.device))
        z_q = z_q.to(self._execution_device, self.transformer.dtype)
        shape = self.sample_shape(len(z_q), height, width)
        sample = randn_tensor(shape, generator=generator, device=z_q.device, dtype=z_q.dtype)
        scheduler = self._scheduler(sample, steps)
        guided = guidance_scale != 1
        drop = torch.arange(2 * len(z_q), device=z_q.device) >= len(z_q) if guided else None
        conditions = self.conditions(torch.cat([z_q, z_q]) if guided else z_q, drop, shape)
        for step, timestep in enumerate(self.progress_bar(scheduler.timesteps)):
            sigma = (timestep / scheduler.config.num_train_timesteps).to(sample)
            inputs = torch.cat([sample, sample]) if guided else sample
            velocity = self.velocity(inputs, sigma.expand(len(inputs)), conditions)
            if guided:
                conditional, unconditional = velocity.chunk(2)
                velocity = unconditional + guidance_scale * (conditional - unconditional)
            sample = scheduler.step(velocity, timestep, sample, return_dict=False)[0]
            if callback_on_step_end is not None:
                given = {"latents": sample} if callback_on_step_end_tensor_inputs else {}
                sample = (callback_on_step_end(self, step, timestep, given) or {}).get("latents", sample)
        images = sample
        if output_type != "latent":
            images = self.decode(sample, height, width).float().clamp(-1, 1)
            images = self.image_processor.postprocess(images, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _scheduler(self, sample: torch.Tensor, steps: int) -> SchedulerMixin:
        """A scheduler of this call: it counts steps, and other threads render with this pipeline too."""
        scheduler = copy.deepcopy(self.scheduler)
        if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            scheduler.set_timesteps(steps, device=sample.device)
            return scheduler
        # Stated, because the scheduler's own would put the last step at sigma 0.001, where there is nothing to do.
        mu = self.shift(sample, steps) if scheduler.config.use_dynamic_shifting else None
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu, device=sample.device)
        scheduler.set_begin_index(0)
        return scheduler
