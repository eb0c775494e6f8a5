"""Trains a renderer of a pre-trained text-to-image model on a fixed tokenizer, by rectified flow in the latents of its
VAE (paper section 3.2).

Its connector learns, and its transformer, or LoRA on that; VAE and tokenizer are frozen and in no checkpoint. It saves
the renderer to `output_dir`/detokenizer, with LoRA merged, which by itself goes to `output_dir`/adapter.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field
from torch import nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import set_seed

from ..connector_arm import ArmConnector
from ..data.collators import ImageTextCollator
from ..data.image_text import ImageTextMixture
from ..data.visual_tokenizer import described_model, load_tokenizer, weights_fingerprint
from ..data.world import World
from ..detokenizer_arm_latent import ArmLatentDetokenizer, of_whole_places
from ..modeling_arm_vq import ArmVQModel
from ..renderers_arm import DETOKENIZER_FOLDER, detokenizer_class, detokenizer_class_of_base
from .averages import AveragingMixin
from .callbacks import ReconstructionCallback
from .latent_cache import CachedLatents, encode_once
from .picture_data import RenderingRecipe, picture_data
from .pushing import raise_failed_pushes
from .recipe import Section, section
from .resumable_data import HeldOutRowsMixin, MixtureTrainer
from .saving import save_folder
from .sharding import take_whole, whole_state_dict
from .trainer import ArmTrainer, ArmTrainingArguments, train, training_arguments
from .validation import when
from .work import FORWARD, LEARNING, THROUGH, Work, decoder_flops, encoder_flops, register_work
from .world_data import samples_per_step, world_pictures

PARTS = ("transformer", "vae", "scheduler", "connector")  # of the pipeline


class Cache(Section):
    """Latents and codes that are encoded once; a run that goes on, or another one of the same parts, takes them.
    `per_device_train_batch_size` counts pictures then, of streamed data too.
    """

    folder: str = Field(description="Where they are kept.")
    pictures: int = Field(ge=1, description="How many, of which all epochs are.")


class RendererRecipe(RenderingRecipe):
    """A renderer in latents."""

    output_dir: str = Field(description="Folder to write.")
    vq_model: str = Field(description="Folder or Hub id of the tokenizer that it renders, or of its ARM.")
    base: str | None = Field(None, description="Folder or Hub id of a published pipeline, which gets a new connector.")
    start_from: str | None = Field(None, description="In its place: folder of a renderer, which goes on learning.")
    connector: section("ConnectorSettings", ArmConnector, without=("condition_size",)) | None = Field(
        None, description="Of a new connector, in place of its family's."
    )
    condition_dropout: float = Field(
        0.1, ge=0, le=1, description="Share of the samples without tokens, which guidance compares with."
    )
    times: Literal["uniform", "logit-normal"] = Field(
        "uniform", description="How noise levels are drawn: logit-normal has most of them in the middle."
    )
    ema_decay: float | None = Field(
        None, ge=0, lt=1, description="Of a moving average of the weights, which is then what is saved."
    )
    lora: section("RendererLora", LoraConfig, without=("modules_to_save", "task_type")) | None = Field(
        None,
        description="Of the transformer's layers, beside the connector; all linear ones of its blocks unless stated. "
        "Without it all weights learn.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of what does not learn: the VAE and, with lora, the transformer; never the tokenizer."
    )
    pipeline_defaults: section("RendererDefaults", ArmLatentDetokenizer, without=PARTS) | None = Field(
        None, description="In place of what base or start_from has."
    )
    cache: Cache | None = Field(None, description="Of the data's first pictures, in place of encoding all on the way.")

    def problems(self):
        if (self.base is None) == (self.start_from is None):
            yield "base", "state either base (a published pipeline) or start_from (the folder of a renderer)."
        if self.start_from is not None and self.connector is not None:
            yield "connector", "it is for a new one, and start_from has its own; leave it out."
        if self.lora is not None and self.dtype != "float32" and not self.training.stated().get("bf16"):
            yield "dtype", "adapters learn in fp32 beside the transformer; add training.bf16, or leave dtype out."
        yield from super().problems()


class LatentTraining(nn.Module):
    """Pictures -> flow-matching loss of a renderer in latents, given the fixed tokenizer's `z_q`.

    Its parts that learn are the renderer's transformer and connector. VAE and tokenizer are no submodules: nothing
    that saves, shards or casts what learns meets them.
    """

    def __init__(
        self,
        renderer: ArmLatentDetokenizer,
        vq_model: ArmVQModel,
        condition_dropout: float = 0.1,
        times: str = "uniform",
    ):
        super().__init__()
        if renderer.condition_size != vq_model.config.hidden_size:
            raise ValueError(
                f"The renderer takes z_q of {renderer.condition_size} channels, but the tokenizer's have "
                f"{vq_model.config.hidden_size}. Take the tokenizer that it was trained with, or begin from its base."
            )
        if renderer.pixels_per_token != vq_model.config.patch_size:
            raise ValueError(
                f"The renderer makes {renderer.pixels_per_token} px a side of a token, but the tokenizer's are of "
                f"{vq_model.config.patch_size}. Take the tokenizer that it was trained with, or set pixels_per_token."
            )
        self.transformer = renderer.transformer.requires_grad_(True)
        self.connector = renderer.connector.requires_grad_(True)
        renderer.vae.requires_grad_(False).eval()
        renderer.vq_model = vq_model.requires_grad_(False).eval()
        self.renderer, self.condition_dropout, self.times = renderer, condition_dropout, times

    @property
    def vq_model(self) -> ArmVQModel:
        return self.renderer.vq_model

    @property
    def device(self) -> torch.device:
        return self.vq_model.device

    def place_frozen(self, device: torch.device) -> None:
        """Moves the parts that do not learn, which a trainer does not know of."""
        nn.Module.to(self.renderer.vae, device)
        self.vq_model.to(device)

    def activation_checkpointing_enable(self, *args, **kwargs) -> None:
        self.transformer.enable_gradient_checkpointing()

    gradient_checkpointing_enable = activation_checkpointing_enable  # as older transformers call it

    @torch.no_grad()
    def encode(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.LongTensor]:
        """Pictures [B, 3, H, W] in -1..1 -> latents [B, channels, h, w] and codes [B, h, w]."""
        codes = self.vq_model.encode(pixel_values, output_z_q=False).codes
        whole = of_whole_places(pixel_values, self.renderer.pixels_per_place)
        with torch.autocast(self.device.type, enabled=False):
            return self.renderer.encode(whole), codes

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        latents: torch.Tensor | None = None,
        codes: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> dict:
        """Of pictures as `encode` takes them, or of what it makes of them.

        Args:
            num_items_in_batch: pictures of the whole step, over all processes and accumulated batches; None: these
                alone. `loss` is then this batch's part of the mean over all of them.
        """
        if pixel_values is not None:
            latents, codes = self.encode(pixel_values)
        errors = latent_flow_errors(
            self.renderer,
            latents.float(),
            self.vq_model.decode_codes(codes),
            condition_dropout=self.condition_dropout if self.training else 0.0,
            times=self.times,
        )
        loss = errors.mean() if num_items_in_batch is None else errors.sum() / num_items_in_batch
        return {"loss": loss, "loss_counts": {"all": len(errors)}}


@lru_cache(maxsize=64)  # shapes of a run's buckets
def transformer_flops(renderer: ArmLatentDetokenizer, grid: tuple[int, int], tokens: tuple[int, int]) -> int:
    """Operations of a transformer's forward pass on one picture, as torch counts them of one without weights.

    Args:
        grid, tokens: height and width of the latents, and of the codes.
    """
    connector, transformer = renderer.connector.config, renderer.transformer
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        parts = {"transformer": renderer.parts["transformer"].from_config(transformer.config), "vae": None}
        bare = type(renderer)(scheduler=renderer.scheduler, connector=ArmConnector.from_config(connector), **parts)
        sample = torch.empty(1, transformer.config.in_channels, *grid)
        z_q = torch.empty(1, *tokens, connector.condition_size)
        bare.predict(sample, torch.empty(1), bare.conditions(z_q, None, sample.shape))
    return counter.get_total_flops()


@register_work
def _(model: LatentTraining, inputs: Mapping) -> Work:
    patch = model.vq_model.config.patch_size
    if "latents" in inputs:
        count, *tokens = inputs["codes"].shape
        grid = inputs["latents"].shape[-2:]
        tokenizing = decoder_flops(model.vq_model, count, math.prod(tokens))
    else:
        count, _, height, width = inputs["pixel_values"].shape
        tokens, grid = (height // patch, width // patch), model.renderer.sample_shape(count, height, width)[-2:]
        tokenizing = encoder_flops(model.vq_model, count, math.prod(tokens), FORWARD)
    passes = LEARNING if next(model.transformer.parameters()).requires_grad else THROUGH
    rendering = passes * count * transformer_flops(model.renderer, tuple(grid), tuple(tokens))
    return Work(count * math.prod(tokens), tokenizing + rendering)


def latent_flow_errors(
    renderer: ArmLatentDetokenizer, latents: torch.Tensor, z_q: torch.Tensor, *, condition_dropout: float, times: str
) -> torch.Tensor:
    """Squared errors of the velocity in latents, averaged over those of a sample: [B].

    Args:
        latents: [B, channels, h, w], as of `ArmLatentDetokenizer.encode`.
        z_q: [B, h, w, C].
        condition_dropout: share of the samples trained without `z_q`, which guidance compares with.
        times: how noise levels are drawn: "uniform", or "logit-normal", most of them in the middle.

    Raises:
        ValueError: another way to draw them.
    """
    if times not in ("uniform", "logit-normal"):
        raise ValueError(f"Noise levels are drawn 'uniform' or 'logit-normal', not {times!r}.")
    drawn = torch.rand if times == "uniform" else torch.randn
    sigma = drawn(len(latents), device=latents.device)
    sigma = sigma if times == "uniform" else sigma.sigmoid()
    drop = torch.rand_like(sigma) < condition_dropout
    noise, weight = torch.randn_like(latents), sigma[:, None, None, None]
    sample = (1 - weight) * latents + weight * noise
    velocity = renderer.velocity(sample, sigma, renderer.conditions(z_q, drop, latents.shape))
    return (velocity.float() - (noise - latents)).square().mean((1, 2, 3))


class LatentReconstructionCallback(ReconstructionCallback):
    """Of a `LatentTraining`, with the average of its weights where the trainer keeps one."""

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[nn.Module]:
        with self.trainer.averaged(), self.trainer.accelerator.autocast(), super().whole(model) as whole:
            yield whole

    def detokenizer_of(self, model: LatentTraining) -> ArmLatentDetokenizer:
        return model.renderer


class RendererTrainer(HeldOutRowsMixin, AveragingMixin, ArmTrainer):
    """On drawn pictures, and on what is cached."""


class StreamedRendererTrainer(AveragingMixin, MixtureTrainer):
    """On streamed ones."""


def new_renderer(recipe: RendererRecipe, vq_model: ArmVQModel) -> ArmLatentDetokenizer:
    """The renderer that a recipe begins from: what learns in fp32, the rest as the recipe says."""
    frozen, learning = getattr(torch, recipe.dtype), torch.float32
    of_transformer = frozen if recipe.lora else learning  # read so: in fp32 it may not fit
    defaults = recipe.pipeline_defaults.plain() if recipe.pipeline_defaults else {}
    if recipe.start_from is not None:
        kind = detokenizer_class(recipe.start_from)
        if not issubclass(kind, ArmLatentDetokenizer):
            raise ValueError(
                f"start_from {recipe.start_from} holds an {kind.__name__}, which has no latents; "
                "`transformers-arm train detokenizer` trains those."
            )
        dtypes = {"transformer": of_transformer, "vae": frozen, "default": learning}
        renderer = kind.from_pretrained(recipe.start_from, dtype=dtypes, **defaults)
    else:
        renderer = detokenizer_class_of_base(recipe.base).from_base(
            recipe.base,
            vq_model.config.hidden_size,
            dtype=of_transformer,
            connector=recipe.connector.plain() if recipe.connector else None,
            defaults={"pixels_per_token": vq_model.config.patch_size, **defaults},
        )
    for part, dtype in ((renderer.connector, learning), (renderer.vae, frozen)):
        nn.Module.to(part, dtype)  # diffusers' own `to` warns of every cast
    renderer.set_progress_bar_config(disable=True)
    return renderer


def collate(samples: list[dict]) -> dict[str, torch.Tensor]:
    """Of `CachedLatents`, or pictures."""
    if "latents" not in samples[0]:
        return ImageTextCollator()(samples)
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def cached(
    recipe: RendererRecipe, model: LatentTraining, data: Dataset | ImageTextMixture, arguments: ArmTrainingArguments
) -> CachedLatents:
    """What the trainer's data become where the recipe has a cache, which is made unless it is there."""
    rank, processes, size = arguments.process_index, arguments.world_size, arguments.per_device_train_batch_size
    if isinstance(data, ImageTextMixture):
        made_of = data.made_of()
        loader = data.loader(process_index=rank, processes=processes, num_workers=arguments.dataloader_num_workers)
        batches = (batch["pixel_values"] for batch in loader)
    else:
        made_of = {**recipe.data.plain(), "seed": arguments.seed}
        data = world_pictures(recipe.data, arguments, length=processes * size * -(-recipe.cache.pictures // size))
        firsts = range(rank * size, len(data), processes * size)
        batches = (collate([data[first + place] for place in range(size)])["pixel_values"] for first in firsts)
    encoded = (model.encode(pixel_values.to(model.device)) for pixel_values in batches)
    vae, folder, count = model.renderer.vae, Path(recipe.cache.folder), recipe.cache.pictures
    settings = {name: value for name, value in vae.config.items() if not name.startswith("_")}  # such as a scale
    parts = {
        "vae": {
            "class": type(vae).__name__,
            "dtype": recipe.dtype,
            "weights": weights_fingerprint(vae),
            "config": settings,
        },
        "tokenizer": described_model(model.vq_model),
    }
    made_of = {"pictures": count, **parts, "data": made_of}
    encode_once(folder, made_of, encoded, arguments, count // processes + (rank < count % processes))
    return CachedLatents(folder, arguments.max_steps * samples_per_step(arguments), size, arguments.seed)


def new_trainer(
    recipe: RendererRecipe, model: LatentTraining, learner: LatentTraining | PeftModel, arguments: ArmTrainingArguments
) -> tuple[ArmTrainer, World | Iterator[Mapping]]:
    """The trainer of a recipe's model on its data, and the pictures that are looked at on the way.

    Args:
        learner: the model, or what has put adapters on it.
    """
    sizing = recipe.sizing(recipe.vq_model)
    data, sets, looked_at = picture_data(recipe, arguments, sizing, ImageTextCollator())
    options = {"eval_dataset": sets, "ema_decay": recipe.ema_decay}
    if recipe.cache is not None:
        data = cached(recipe, model, data, arguments)
    elif not recipe.drawn:
        return StreamedRendererTrainer(learner, arguments, train_dataset=data, **options), looked_at
    return RendererTrainer(learner, arguments, train_dataset=data, data_collator=collate, **options), looked_at


def with_adapters(model: LatentTraining, fields: dict) -> PeftModel:
    """LoRA on the linear layers of a transformer's blocks, beside a connector that learns as a whole.

    Args:
        fields: of `LoraConfig`; they replace what stands here.
    """
    layers = [name for name, each in model.named_modules() if isinstance(each, nn.Linear) and "blocks." in name]
    adapted = get_peft_model(model, LoraConfig(**{"target_modules": layers, **fields}, modules_to_save=["connector"]))
    model.renderer.connector = model.connector  # which PEFT has wrapped
    return adapted


@dataclass
class Merged:
    """A renderer that saves with its adapters merged."""

    adapted: PeftModel

    def save_pretrained(self, folder: Path) -> None:
        model = self.adapted.merge_and_unload()
        model.renderer.connector = model.connector
        model.renderer.save_pretrained(folder)


def save_renderer(trainer: AveragingMixin, output: Path) -> None:
    """Saves the trained renderer, with the average of its weights if there is one; to be called by all processes."""
    trainer.take_average()
    model = trainer.accelerator.unwrap_model(trainer.model)
    if state_dict := whole_state_dict(trainer):
        take_whole(model, state_dict)
    if isinstance(model, PeftModel):
        save_folder(trainer, output / "adapter", {"": (model,)})
    renderer = Merged(model) if isinstance(model, PeftModel) else model.renderer
    save_folder(trainer, output / DETOKENIZER_FOLDER, {"": (renderer,)})
    raise_failed_pushes(trainer)


def train_renderer(recipe: RendererRecipe) -> None:
    """Trains as a recipe says, from the newest checkpoint in `output_dir` if there is one."""
    output = Path(recipe.output_dir)
    arguments = training_arguments(recipe.training.plain(), output_dir=str(output), **when(recipe.validation))
    set_seed(arguments.seed)
    vq_model, _ = load_tokenizer(recipe.vq_model)
    model = LatentTraining(new_renderer(recipe, vq_model), vq_model, recipe.condition_dropout, recipe.times)
    model.place_frozen(arguments.device)
    learner = with_adapters(model, recipe.lora.plain()) if recipe.lora else model
    trainer, looked_at = new_trainer(recipe, model, learner, arguments)
    if recipe.evaluation is not None:
        trainer.add_callback(LatentReconstructionCallback(trainer, looked_at, **recipe.evaluation.plain()))
    if arguments.process_index:
        set_seed(arguments.seed + arguments.process_index)  # or all would draw the same noise for their pictures
    train(trainer)
    save_renderer(trainer, output)
