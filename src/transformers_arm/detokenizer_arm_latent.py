"""Renderers in the latents of a pre-trained text-to-image model: its transformer, VAE and scheduler, and a connector.

A base class; families differ in what a transformer's forward takes and in how a VAE's latents are scaled, and in
nothing else. Texts and their encoders have no part in this.
"""

import os
from typing import ClassVar

import diffusers
import torch
from diffusers import DiffusionPipeline, ModelMixin, PipelineQuantizationConfig, SchedulerMixin
from diffusers.image_processor import VaeImageProcessor
from torch import nn

from .connector_arm import ArmConnector, Conditions
from .detokenizer_arm import ArmDetokenizer
from .loading_arm import check_parts_are_there


class ArmLatentDetokenizer(ArmDetokenizer):
    """Renders `z_q`, or codes when `vq_model` is attached, in the latents of a VAE: a base class.

    Args:
        transformer, vae, scheduler: diffusers' own, of the classes of `parts`.
        connector: brings `z_q` to the transformer.
        default_steps, default_guidance_scale: what a call without these arguments uses; saved with the pipeline.
        pixels_per_token: what a token stands for, a side.
        embedded_guidance: what a transformer with guidance embeddings, a distilled one, is told always; true guidance
            is the call's.
    """

    parts: ClassVar[dict[str, type]]  # of a published pipeline, with their classes
    base_pipelines: ClassVar[tuple[str, ...]]  # the classes of published pipelines that have these parts
    own_parts = {"connector": ArmConnector}
    output_types = (*ArmDetokenizer.output_types, "latent")
    model_cpu_offload_seq = "connector->transformer->vae"

    def __init__(
        self,
        transformer: ModelMixin,
        vae: ModelMixin,
        scheduler: SchedulerMixin,
        connector: ArmConnector,
        default_steps: int = 28,
        default_guidance_scale: float = 1.5,
        pixels_per_token: int = 16,
        embedded_guidance: float = 1.0,
    ):
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler, connector=connector)
        self.register_to_config(
            default_steps=default_steps,
            default_guidance_scale=default_guidance_scale,
            pixels_per_token=pixels_per_token,
            embedded_guidance=embedded_guidance,
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @classmethod
    def from_base(
        cls,
        base: str | os.PathLike,
        condition_size: int = 1152,
        *,
        dtype: torch.dtype = torch.float32,
        connector: dict | None = None,
        defaults: dict | None = None,
        quantization_config: PipelineQuantizationConfig | None = None,
        **hub,
    ) -> "ArmLatentDetokenizer":
        """A renderer of a published pipeline's transformer, VAE and scheduler, with a connector that is untrained.

        Its text encoder and tokenizer are neither read nor downloaded.

        Args:
            base: folder or Hub id of the pipeline.
            condition_size: channels of `z_q`, the hidden size of the tokenizer's vision tower.
            connector: settings of `ArmConnector` in place of the family's.
            defaults: settings of the pipeline, such as `default_steps`.
            quantization_config: as `DiffusionPipeline.from_pretrained` takes it, for the transformer, the VAE or both.
            hub: options of every download, such as `revision` and `token`.

        Raises:
            ValueError: the pipeline is of another family.
            OSError: it lacks a part, or cannot be downloaded.
        """
        index = DiffusionPipeline.load_config(base, **hub)
        cls._check_base(base, index)
        scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(base, subfolder="scheduler", **hub)
        options = {"dtype": dtype, "use_safetensors": True, **hub}
        models = {}
        for name, part in cls.parts.items():
            # As diffusers' own loader of parts asks; there is no public way for one part.
            how = quantization_config and quantization_config._resolve_quant_config(module_name=name)
            models[name] = part.from_pretrained(base, subfolder=name, quantization_config=how, **options)
        sizes = {**cls.connector_sizes(models["transformer"].config), **(connector or {})}
        made = ArmConnector(condition_size=condition_size, **sizes)
        nn.Module.to(made, dtype)  # diffusers' own `to` warns of every cast
        return cls(scheduler=scheduler, connector=made, **models, **(defaults or {}))

    @classmethod
    def _check_base(cls, base: str | os.PathLike, index: dict) -> None:
        name = index.get("_class_name")
        if name not in cls.base_pipelines:
            raise ValueError(
                f"{base} is a {name}, but {cls.__name__} is made of {' or '.join(cls.base_pipelines)}; take the "
                "detokenizer class of its family, or another base."
            )
        cls._check_parts(base, index)
        check_parts_are_there(base, (*cls.parts, "scheduler"))

    @classmethod
    def _check_parts(cls, where: str | os.PathLike, index: dict) -> None:
        for part, expected in {**cls.parts, "scheduler": SchedulerMixin}.items():
            library, found = index.get(part) or (None, None)
            kind = getattr(diffusers, found, None) if found and library == "diffusers" else None
            if kind is None or not issubclass(kind, expected):
                raise ValueError(f"{where} has as {part} {found}, but a {expected.__name__} is needed.")

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        found = super().extract_init_dict(config_dict, **kwargs)
        cls._check_parts(f"A folder of {cls.__name__}", config_dict)
        return found

    @classmethod
    def connector_sizes(cls, transformer_config) -> dict:
        """Settings of `ArmConnector` for a transformer."""
        raise NotImplementedError

    @property
    def pixels_per_place(self) -> int:
        """Pixels a side that a place of the transformer's latents stands for: FLUX takes 2 x 2 of its VAE's as one."""
        return 2 * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def embedded_guidance(self, sigma: torch.Tensor) -> torch.Tensor | None:
        """What a transformer with guidance embeddings is told, [B]; None for one without."""
        if not self.transformer.config.guidance_embeds:
            return None
        return torch.full_like(sigma, self.config.embedded_guidance)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, H, W] in -1..1 -> latents as the transformer knows them, [B, channels, h, w]."""
        raise NotImplementedError

    @property
    def condition_size(self) -> int:
        return self.connector.config.condition_size

    @property
    def pixels_per_token(self) -> int:
        return self.config.pixels_per_token

    def sample_shape(self, batch: int, height: int, width: int) -> tuple[int, ...]:
        places = self.pixels_per_place
        return batch, self.transformer.config.in_channels, -(-height // places), -(-width // places)

    def conditions(self, z_q: torch.Tensor, drop: torch.BoolTensor | None, sample_shape: tuple[int, ...]):
        return self.connector(z_q.to(self.connector.dtype), drop, tuple(sample_shape[-2:])).to(self.transformer.dtype)

    def velocity(self, sample: torch.Tensor, sigma: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        if conditions.added is not None:
            sample = sample + conditions.added
        return self.predict(sample.to(self.transformer.dtype), sigma, conditions).to(sample.dtype)

    def predict(self, sample: torch.Tensor, sigma: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """What the transformer makes of latents [B, channels, h, w]: noise - data."""
        raise NotImplementedError

    def decode(self, sample: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return resized(self.decode_latents(sample), height, width)

    def decode_latents(self, sample: torch.Tensor) -> torch.Tensor:
        """Latents as of `encode` -> pictures of whole places."""
        raise NotImplementedError


def resized(pictures: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Pictures [B, 3, H, W] in -1..1 at another size."""
    if tuple(pictures.shape[-2:]) == (height, width):
        return pictures
    size, how = (height, width), {"mode": "bicubic", "antialias": True, "align_corners": False}
    return nn.functional.interpolate(pictures.float(), size, **how).clamp(-1, 1)


def of_whole_places(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Pictures [B, 3, H, W] in -1..1 at the next size that is a whole number of places of so many px, for a VAE."""
    return resized(pictures, *(-(-length // side) * side for length in pictures.shape[-2:]))


def places(grid: tuple[int, int], of: tuple[int, int], device) -> torch.Tensor:
    """Rows and columns [h * w, 2] of a grid of tokens, counted in places of another grid that covers the same."""
    rows, columns = (
        (torch.arange(count, device=device, dtype=torch.float32) + 0.5) * total / count - 0.5
        for count, total in zip(grid, of, strict=True)
    )
    return torch.cartesian_prod(rows, columns).view(-1, 2)


def as_sequence(latents: torch.Tensor) -> torch.Tensor:
    """[B, channels, h, w] -> [B, h * w, channels]."""
    return latents.flatten(2).mT


def as_grid(sequence: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """[B, h * w, channels] -> [B, channels, h, w]."""
    return sequence.mT.unflatten(2, grid)
