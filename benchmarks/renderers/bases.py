"""Trains a small VAE of a family on a world, and writes it as published pipelines lie: a base for renderers.

    python benchmarks/renderers/bases.py flux2 runs/renderers/bases/flux2
    python benchmarks/renderers/bases.py flux runs/renderers/bases/flux_emoji --world emoji --halvings 2

The classes are diffusers' own, and the folder is one that `from_base` takes as it takes the published one: an
untrained transformer, the VAE, whose latents are scaled as the family does, and the scheduler. Prints how well the VAE
gives back held-out pictures.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    ModelMixin,
    SanaPipeline,
    SanaTransformer2DModel,
)
from torch.nn.functional import mse_loss, pixel_unshuffle
from torch.utils.data import DataLoader
from tqdm.auto import trange

from transformers_arm.data.collators import ImageTextCollator, to_pixel_values
from transformers_arm.data.world import find_world
from transformers_arm.detokenizer_arm_latent import of_whole_places, resized
from transformers_arm.image_processing_arm import ArmImageProcessor
from transformers_arm.metrics.arm_fidelity.arm_fidelity import psnr

WORLDS = {  # what their `pictures` take, for those to learn from and for those to be scored by
    "shapes": ({"canvases": [{"weight": 0.7}, {"max_jitter": 2, "weight": 0.3}]}, {"split": "test"}),
    "emoji": ({}, {"of": ["unseen"]}),
}
SLOT_SIZE = 128  # of what stands in place of a text, in each transformer
KL_WEIGHT = 1e-4  # beside a squared error that ends near 0.002
LOG_VARIANCE = -6.0  # of latents at first: with noise of 1, as it would be, tiny VAEs learn no objects

KL = {"layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 8, "sample_size": 48}
KL_CHANNELS = (16, 32, 64, 64)  # whole, after one halving, two and three
DC_BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
DC_SCALES = ((), (), (), (5,), (5,), (5,))
DC_CHANNELS = (8, 16, 32, 64, 128, 128)
DC = {
    "latent_channels": 32,
    "attention_head_dim": 16,
    "encoder_block_types": DC_BLOCKS,
    "decoder_block_types": DC_BLOCKS,
    "encoder_block_out_channels": DC_CHANNELS,
    "decoder_block_out_channels": DC_CHANNELS,
    "encoder_layers_per_block": (1,) * 6,
    "decoder_layers_per_block": (1,) * 6,
    "encoder_qkv_multiscales": DC_SCALES,
    "decoder_qkv_multiscales": DC_SCALES,
    "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
}
HEADS = {"num_attention_heads": 6, "attention_head_dim": 32}
FLUX = {**HEADS, "in_channels": 4 * KL["latent_channels"], "joint_attention_dim": SLOT_SIZE}


def kl(halvings: int) -> dict:
    """Settings of a KL's VAE. Published ones halve three times."""
    levels = halvings + 1
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    return {**KL, **blocks, "block_out_channels": KL_CHANNELS[:levels]}


def flux2(halvings: int = 3) -> DiffusionPipeline:
    sizes = {"num_layers": 1, "num_single_layers": 3, "axes_dims_rope": (8, 8, 8, 8), "guidance_embeds": False}
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKLFlux2(**kl(halvings)),
        text_encoder=None,
        tokenizer=None,
        transformer=Flux2Transformer2DModel(**FLUX, **sizes),
    )


def flux(halvings: int = 3) -> DiffusionPipeline:
    sizes = {"num_layers": 2, "num_single_layers": 2, "axes_dims_rope": (8, 12, 12), "guidance_embeds": True}
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKL(**kl(halvings), use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=FluxTransformer2DModel(**FLUX, **sizes, pooled_projection_dim=SLOT_SIZE),
    )


def sana() -> DiffusionPipeline:
    return SanaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderDC(**DC),
        transformer=SanaTransformer2DModel(
            **HEADS,
            in_channels=DC["latent_channels"],
            out_channels=DC["latent_channels"],
            num_layers=4,
            num_cross_attention_heads=6,
            cross_attention_head_dim=32,
            cross_attention_dim=192,
            caption_channels=SLOT_SIZE,
            sample_size=2,
            qk_norm="rms_norm_across_heads",
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, final_sigmas_type="zero"
        ),
    )


FAMILIES = {each.__name__: each for each in (flux2, flux, sana)}


def shown_to(vae: ModelMixin, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, H, W] at the size that the VAE takes: places of KL are two of its latents wide."""
    side = 32 if isinstance(vae, AutoencoderDC) else 2 ** len(vae.config.block_out_channels)
    return of_whole_places(pictures, side)


def latents_of(vae: ModelMixin, pictures: torch.Tensor) -> torch.Tensor:
    encoded = vae.encode(shown_to(vae, pictures))
    return encoded.latent if isinstance(vae, AutoencoderDC) else encoded.latent_dist.mode()


def loss_of(vae: ModelMixin, pictures: torch.Tensor) -> torch.Tensor:
    """Squared error, and of KL's a little of their divergence from noise: the mean over latents."""
    pictures = shown_to(vae, pictures)
    encoded = vae.encode(pictures)
    if isinstance(vae, AutoencoderDC):
        return mse_loss(vae.decode(encoded.latent).sample, pictures)
    latents = encoded.latent_dist
    divergence = latents.kl().mean() / latents.mean[0].numel()
    return mse_loss(vae.decode(latents.sample()).sample, pictures) + KL_WEIGHT * divergence


@torch.no_grad()
def narrow(vae: ModelMixin) -> None:
    """Has a KL's latents begin with little noise."""
    if not isinstance(vae, AutoencoderDC):
        last = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv
        _, log_variance = last.weight.chunk(2)
        log_variance.zero_()
        last.bias.chunk(2)[1].fill_(LOG_VARIANCE)


def batches(world: str, count: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    data = find_world(world).pictures(count * size, batch_size=size, seed=seed, **WORLDS[world][0])
    for batch in DataLoader(data, size, collate_fn=ImageTextCollator()):
        yield batch["pixel_values"]


def train(vae: ModelMixin, world: str, steps: int, batch_size: int, learning_rate: float, seed: int) -> None:
    optimizer = torch.optim.AdamW(vae.parameters(), learning_rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    vae.train()
    with trange(steps, desc=type(vae).__name__, mininterval=10) as bar:
        for step, pictures in zip(bar, batches(world, steps, batch_size, seed), strict=True):
            loss = loss_of(vae, pictures)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 100 == 0:
                bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    vae.eval()


@torch.no_grad()
def scale_latents(vae: ModelMixin, world: str, count: int, seed: int) -> None:
    """Measures on pictures what a family scales its latents to unit variance by; writes it where the family looks."""
    latents = torch.cat([latents_of(vae, each) for each in batches(world, -(-count // 64), 64, seed)])
    if isinstance(vae, AutoencoderKLFlux2):
        places = pixel_unshuffle(latents, 2)
        vae.bn.running_mean.copy_(places.mean((0, 2, 3)))
        vae.bn.running_var.copy_(places.var((0, 2, 3)))
    elif isinstance(vae, AutoencoderKL):
        vae.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())
    else:
        vae.register_to_config(scaling_factor=1 / latents.std().item())


@torch.no_grad()
def scores(vae: ModelMixin, world: str, count: int, seed: int) -> dict[str, float]:
    """PSNR of what the VAE gives back of held-out pictures, and what the world can read of it."""
    known, (_, held_out) = find_world(world), WORLDS[world]
    data = known.pictures(count, batch_size=count, seed=seed, **held_out)
    pictures = to_pixel_values([data[index]["image"] for index in range(count)])
    returned = [vae.decode(latents_of(vae, each)).sample for each in pictures.split(64)]
    returned = resized(torch.cat(returned), *pictures.shape[-2:])
    both = [ArmImageProcessor().postprocess(each) for each in (returned, pictures)]
    return {"psnr": sum(map(psnr, *both)) / count, **known.reconstruction_scores(*both)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path, help="where the pipeline is written")
    parser.add_argument("--world", choices=WORLDS, default="shapes", help="(default: %(default)s)")
    parser.add_argument("--halvings", type=int, choices=(1, 2, 3), help="of a side in FLUX's VAEs (default: 3)")
    parser.add_argument("--start-from", type=Path, help="folder written before, whose VAE learns on")
    parser.add_argument("--steps", type=int, default=4000, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="(default: %(default)s)")
    parser.add_argument("--items", type=int, default=512, help="pictures to scale and score by (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    if arguments.halvings and arguments.family == "sana":
        parser.error("--halvings is of FLUX's VAEs; Sana's halves five times.")
    sizes = {"halvings": arguments.halvings} if arguments.halvings else {}
    world, items, seed = arguments.world, arguments.items, arguments.seed

    torch.manual_seed(seed)
    pipeline = FAMILIES[arguments.family](**sizes)
    if arguments.start_from is None:
        narrow(pipeline.vae)
    else:
        pipeline.register_modules(vae=type(pipeline.vae).from_pretrained(arguments.start_from, subfolder="vae"))
    train(pipeline.vae, world, arguments.steps, arguments.batch_size, arguments.learning_rate, seed)
    scale_latents(pipeline.vae, world, items, seed + 1)
    pipeline.save_pretrained(arguments.folder)
    print({name: round(score, 4) for name, score in scores(pipeline.vae, world, items, seed).items()})
