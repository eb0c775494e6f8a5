"""The pixel detokenizer: a diffusers pipeline that renders `z_q` by rectified flow in pixel space.

Knows nothing about how `z_q` was made, except that a tokenizer may be attached to turn codes into it.
"""

import copy
import os

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

from .loading_arm import SafetensorsOnlyMixin
from .modeling_arm_vq import ArmVQModel
from .pixel_transformer_arm import MIN_SIGMA, ArmPixelTransformer


class ArmPixelDetokenizer(SafetensorsOnlyMixin, DiffusionPipeline):
    """Renders `z_q`, or codes when `vq_model` is attached, into pictures.

    Args:
        transformer: the pixel-space diffusion transformer.
        scheduler: Euler steps over sigma = 1 - t.
        default_steps, default_guidance_scale: what a call without these arguments uses; saved with the pipeline.

    `vq_model` is attached after loading (`detokenizer.vq_model = model`) and is never saved with the pipeline.
    """

    model_cpu_offload_seq = "transformer"

    def __init__(
        self,
        transformer: ArmPixelTransformer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        default_steps: int = 28,
        default_guidance_scale: float = 1.5,
    ):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.register_to_config(default_steps=default_steps, default_guidance_scale=default_guidance_scale)
        self.vq_model: ArmVQModel | None = None
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    # `model_index.json` names the transformer's module as it is called where this package is installed. Code that came
    # with a model's folder runs under other names: there, and everywhere, the class is the one beside this.

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        transformer = [ArmPixelTransformer.__module__, ArmPixelTransformer.__name__]
        return super().extract_init_dict({**config_dict, "transformer": transformer}, **kwargs)

    def save_config(self, save_directory: str | os.PathLike, **kwargs) -> None:
        self.register_to_config(transformer=("transformers_arm.pixel_transformer_arm", ArmPixelTransformer.__name__))
        super().save_config(save_directory, **kwargs)

    def check_inputs(self, z_q, codes, num_inference_steps, guidance_scale, output_type) -> None:
        if (z_q is None) == (codes is None):
            raise ValueError("Give exactly one of z_q and codes.")
        if codes is not None and self.vq_model is None:
            raise ValueError("Codes need a tokenizer: set detokenizer.vq_model to an ArmVQModel, or give z_q.")
        size = self.transformer.config.condition_size
        if z_q is not None and (z_q.ndim != 4 or z_q.shape[-1] != size):
            raise ValueError(f"z_q must be [B, h, w, {size}], got {list(z_q.shape)}.")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps {num_inference_steps} must be at least 1.")
        if guidance_scale < 0:
            raise ValueError(f"guidance_scale {guidance_scale} must not be negative; 1 turns guidance off.")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"Unknown output_type {output_type!r}; use 'pil', 'np' or 'pt'.")

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
    ) -> ImagePipelineOutput | tuple:
        """Renders a batch.

        Args:
            z_q: [B, h, w, C]; or
            codes: int [B, h, w], when `vq_model` is attached.
            num_inference_steps: Euler steps; None takes the saved default (the paper's is 28).
            guidance_scale: guidance against the learned null condition; 1 turns it off, None takes the saved default.
            generator: randomness of the starting noise, one for all or one a picture.
            output_type: `"pil"`, `"np"` (float [B, H, W, 3] in 0..1) or `"pt"` (float [B, 3, H, W] in 0..1).

        Returns:
            `ImagePipelineOutput` with B pictures of h * patch x w * patch px.

        Raises:
            ValueError: both or none of z_q and codes, or a value outside its bounds.
        """
        steps = self.config.default_steps if num_inference_steps is None else num_inference_steps
        guidance_scale = self.config.default_guidance_scale if guidance_scale is None else guidance_scale
        self.check_inputs(z_q, codes, steps, guidance_scale, output_type)
        if codes is not None:
            z_q = self.vq_model.decode_codes(codes.to(self.vq_model.device))
        z_q = z_q.to(self._execution_device, self.transformer.dtype)
        batch, height, width, _ = z_q.shape
        if isinstance(generator, list) and len(generator) not in (1, batch):
            raise ValueError(
                f"Got {len(generator)} generators for {batch} pictures; give one for all or one a picture."
            )
        patch = self.transformer.config.patch_size
        shape = (batch, 3, height * patch, width * patch)
        sample = randn_tensor(shape, generator=generator, device=z_q.device, dtype=z_q.dtype)

        guided = guidance_scale != 1
        if guided:
            z_q = torch.cat([z_q, z_q])
        drop = torch.arange(len(z_q), device=z_q.device) >= batch
        scheduler = copy.deepcopy(self.scheduler)  # it counts steps, and other threads render with this pipeline too
        # Stated, because the scheduler's own would put the last step at sigma 0.001, where there is nothing to do.
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), device=z_q.device)
        schedule = list(zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True))
        for timestep, sigma in self.progress_bar(schedule):
            inputs = torch.cat([sample, sample]) if guided else sample
            sigmas = sigma.to(sample).expand(len(inputs))
            velocity = self.transformer(inputs, sigmas, z_q, drop_condition=drop if guided else None)
            if guided:
                conditional, unconditional = velocity.chunk(2)
                velocity = unconditional + guidance_scale * (conditional - unconditional)
            velocity = velocity * (sigma.clamp(min=MIN_SIGMA) / sigma)  # where the transformer holds its division
            sample = scheduler.step(velocity, timestep, sample, return_dict=False)[0]
        images = self.image_processor.postprocess(sample.float().clamp(-1, 1), output_type=output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
