"""Prints what rendering tokens by published models takes: seconds, memory, and what diffusers' own pipelines take.

    python benchmarks/speed/renderers.py [--renderers flux2 sana flux] [--grid 32 32] [--batches 1 4] [--steps 28]
        [--output FILE]

Random weights, made on the device in the sizes of the published configurations, in bfloat16 (`--size tiny`: a toy,
the default on a CPU). Each renderer draws grids of random `z_q`; beside it the pipeline of diffusers with the same
transformer, VAE and scheduler draws pictures of the same size with the same guidance, of prompts as long as there are
tokens. The two take turns, and the ratio is that of their medians. The VAE's share is that of decoding alone. Memory
is the most that was held, weights included (on a CPU by the process): while rendering, by the VAE on a large picture
with and without tiling, and on a GPU while rendering with diffusers' model offload.
"""

import argparse
import statistics
import sys
import traceback
from collections.abc import Callable

import diffusers
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from heads import peak_memory
from measuring import alternating, card, random_model, seconds_of
from torch import nn

from transformers_arm.detokenizer_arm_latent import ArmLatentDetokenizer
from transformers_arm.evaluation.results import write_result
from transformers_arm.sizes.renderers import DC_BLOCKS, PUBLISHED, renderer_parts

GPU = torch.cuda.is_available()
NAMES = {
    "flux2": "black-forest-labs/FLUX.2-klein-base-4B",
    "sana": "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
    "flux": "black-forest-labs/FLUX.1-dev",
}
CONDITION = {"published": 1152, "tiny": 32}
BLOCKS = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
TINY_FLUX = {**BLOCKS, "in_channels": 16, "joint_attention_dim": 32}
TINY_KL = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 32}
DC_SIDES = ("encoder", "decoder")
TINY = {  # what a toy has in place of the published transformer's and VAE's
    "flux2": ({**TINY_FLUX, "axes_dims_rope": (4, 4, 4, 4)}, TINY_KL),
    "sana": (
        {
            **{"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32},
            **{"num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "caption_channels": 32},
        },
        {
            **{f"{side}_block_out_channels": (8, 8, 8, 8, 32, 32) for side in DC_SIDES},
            **{f"{side}_layers_per_block": (1,) * len(DC_BLOCKS) for side in DC_SIDES},
            "attention_head_dim": 4,
        },
    ),
    "flux": ({**TINY_FLUX, "axes_dims_rope": (4, 6, 6), "pooled_projection_dim": 16}, TINY_KL),
}


def renderer_of(name: str, size: str, dtype: torch.dtype) -> ArmLatentDetokenizer:
    made, transformer, vae = PUBLISHED[NAMES[name]]
    if size == "tiny":
        transformer, vae = transformer | TINY[name][0], vae | TINY[name][1]
    parts = random_model(lambda: renderer_parts(made, transformer, vae, CONDITION[size]), dtype)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=name != "sana")
    renderer = made(scheduler=scheduler, **parts)
    renderer.set_progress_bar_config(disable=True)
    return renderer


def theirs(name: str, renderer: ArmLatentDetokenizer) -> DiffusionPipeline:
    """diffusers' pipeline of a renderer's parts, without what encodes texts."""
    made = getattr(diffusers, renderer.base_pipelines[0])
    parts = {each: renderer.components[each] for each in ("transformer", "vae", "scheduler")}
    absent = {"flux": ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    pipe = made(**dict.fromkeys(absent.get(name, ("text_encoder", "tokenizer"))), **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def their_arguments(name: str, renderer: ArmLatentDetokenizer, z_q: torch.Tensor, guidance: float) -> dict:
    """What that pipeline takes in place of a renderer's `z_q`: prompts as long as there are tokens, and no prompts."""
    found = {}
    for prefix, dropped in (("", False), ("negative_", True)):
        drop = torch.full((len(z_q),), dropped, device=z_q.device)
        tokens, pooled, _, _ = renderer.connector(z_q, drop)
        found[f"{prefix}prompt_embeds"] = tokens
        if name == "flux":
            found[f"{prefix}pooled_prompt_embeds"] = pooled
        if name == "sana":
            found[f"{prefix}prompt_attention_mask"] = torch.ones(tokens.shape[:2], device=z_q.device)
    if name == "flux":  # whose guidance_scale is what its distilled transformer is told
        return found | {"guidance_scale": renderer.config.embedded_guidance, "true_cfg_scale": guidance}
    if name == "sana":
        found |= {"negative_prompt": None, "use_resolution_binning": False}
    return found | {"guidance_scale": guidance}


def calls_of(name: str, renderer: ArmLatentDetokenizer, z_q: torch.Tensor, guidance: float) -> dict[str, Callable]:
    """Ours and theirs, each a function of the steps that gives pictures [B, 3, H, W]."""
    side = renderer.pixels_per_token
    size = {"height": z_q.shape[1] * side, "width": z_q.shape[2] * side}
    pipe, arguments = theirs(name, renderer), their_arguments(name, renderer, z_q, guidance) | size

    def ours(steps: int) -> torch.Tensor:
        return renderer(z_q, num_inference_steps=steps, guidance_scale=guidance, output_type="pt").images

    def diffusers_own(steps: int) -> torch.Tensor:
        return pipe(num_inference_steps=steps, output_type="pt", **arguments).images

    return {"ours": ours, "diffusers": diffusers_own}


@torch.no_grad()
def of_batch(name: str, renderer: ArmLatentDetokenizer, pictures: int, arguments: argparse.Namespace) -> dict:
    """Seconds and GiB of rendering so many pictures together."""
    z_q = random_z_q(renderer, pictures, arguments.grid)
    calls = calls_of(name, renderer, z_q, arguments.guidance)
    shapes = {way: list(call(min(2, arguments.steps)).shape) for way, call in calls.items()}  # a warm-up
    if shapes["ours"] != shapes["diffusers"]:
        raise RuntimeError(f"Ours drew {shapes['ours']}, diffusers {shapes['diffusers']}.")
    timed = {way: lambda call=call: call(arguments.steps) for way, call in calls.items()}
    seconds = {way: statistics.median(each) for way, each in alternating(timed, arguments.repeats).items()}
    peak_memory(reset=True)
    height, width = shapes["ours"][-2:]
    sample = torch.randn(renderer.sample_shape(pictures, height, width)).to(z_q)
    vae = seconds_of(lambda: renderer.decode(sample, height, width))
    peak_memory(reset=True)
    finite = bool(calls["ours"](min(2, arguments.steps)).isfinite().all())
    return {
        "pictures": pictures,
        "seconds_a_picture": seconds["ours"] / pictures,
        "seconds_a_step": (seconds["ours"] - vae) / arguments.steps,
        "vae_share": vae / seconds["ours"],
        "peak_gib": peak_memory() / 2**30,
        "diffusers_seconds_a_picture": seconds["diffusers"] / pictures,
        "ratio": seconds["ours"] / seconds["diffusers"],
        "finite": finite,
    }


def random_z_q(renderer: ArmLatentDetokenizer, pictures: int, grid: list[int]) -> torch.Tensor:
    where = renderer.connector.tokens.weight
    return torch.randn(pictures, *grid, renderer.condition_size, dtype=where.dtype, device=where.device)


def gib_of(module: nn.Module) -> float:
    return sum(each.nbytes for each in module.parameters()) / 2**30


@torch.no_grad()
def tiling(renderer: ArmLatentDetokenizer, side: int) -> dict[str, float]:
    """The peak of decoding one picture of side x side px, whole and in tiles, in GiB."""
    found, shape = {"side": side}, renderer.sample_shape(1, side, side)
    sample = torch.randn(shape).to(renderer.vae.device, renderer.vae.dtype)
    for way, prepare in (("tiles_gib", renderer.vae.enable_tiling), ("whole_gib", renderer.vae.disable_tiling)):
        prepare()
        peak_memory(reset=True)
        renderer.decode(sample, side, side)
        found[way] = peak_memory() / 2**30
    return found


def offloaded(renderer: ArmLatentDetokenizer, arguments: argparse.Namespace) -> float:
    """The peak of rendering one picture with model offload, in GiB; leaves the renderer's parts on the CPU."""
    z_q = random_z_q(renderer, 1, arguments.grid)
    renderer.enable_model_cpu_offload()
    peak_memory(reset=True)
    renderer(z_q, num_inference_steps=min(2, arguments.steps), guidance_scale=arguments.guidance, output_type="pt")
    renderer.remove_all_hooks()
    return peak_memory() / 2**30


def tried(measure: Callable, *given) -> dict | None:
    """What is measured, or why it is not: what does not fit leaves the others."""
    try:
        return measure(*given)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def line(name: str, row: dict) -> str:
    if "error" in row:
        return f"| {name} | {row['error'].splitlines()[0]} | | | | | | |"
    seconds = f"{row['seconds_a_picture']:.3f} | {row['seconds_a_step']:.4f} | {row['vae_share']:.1%}"
    theirs = f"{row['diffusers_seconds_a_picture']:.3f} | {row['ratio']:.3f}"
    return f"| {name} | {row['pictures']} | {seconds} | {theirs} | {row['peak_gib']:.2f} |"


def measure(name: str, arguments: argparse.Namespace, dtype: torch.dtype, found: dict, save: Callable) -> None:
    """Fills in what is found of a renderer, and saves it as it comes."""
    renderer = renderer_of(name, arguments.size, dtype)
    found["weights_gib"] = {part: gib_of(renderer.components[part]) for part in ("transformer", "connector", "vae")}
    for pictures in arguments.batches:
        found["rows"].append(tried(of_batch, name, renderer, pictures, arguments))
        print(line(name, found["rows"][-1]), flush=True)
        save()
    found["tiling"] = tried(tiling, renderer, arguments.tiled)
    save()
    if GPU and arguments.offload:
        found["offload"] = tried(lambda: {"peak_gib": offloaded(renderer, arguments)})
        save()


def summary(name: str, found: dict) -> str:
    """What a renderer holds, in words."""
    weights = sum(found.get("weights_gib", {}).values())
    tiles, offload = found.get("tiling", {}), found.get("offload", {})
    shown = [f"{name}: weights {weights:.2f} GiB"]
    if "side" in tiles:
        peaks = f"{tiles['whole_gib']:.2f}, in tiles {tiles['tiles_gib']:.2f}"
        shown.append(f"decoding {tiles['side']} px {peaks}")
    if "peak_gib" in offload:
        shown.append(f"with model offload {offload['peak_gib']:.2f}")
    errors = [each["error"] for each in (found, tiles, offload) if "error" in each]
    return "; ".join([*shown, *errors])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renderers", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--size", choices=CONDITION, default="published" if GPU else "tiny")
    parser.add_argument("--grid", type=int, nargs=2, default=[32, 32] if GPU else [4, 4], help="tokens of 16 px")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="pictures rendered together")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--repeats", type=int, default=1, help="measured, after a warm-up of two steps")
    parser.add_argument("--tiled", type=int, default=2048 if GPU else 128, help="px a side of the VAE's large picture")
    parser.add_argument("--no-offload", dest="offload", action="store_false", help="measure no model offload")
    parser.add_argument("--threads", type=int, default=None if GPU else 1, help="of the CPU")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if GPU else torch.float32
    renderers = {name: {"model": NAMES[name], "rows": []} for name in arguments.renderers}
    fields = vars(arguments) | {"card": card(), "dtype": str(dtype).removeprefix("torch."), "renderers": renderers}
    fields |= {"torch": torch.__version__, "diffusers": diffusers.__version__}

    def save() -> None:  # what was measured stays, should the rest be cut off
        if arguments.output:
            write_result(arguments.output, **fields)

    print("| renderer | pictures | s a picture | s a step | of it the VAE | diffusers, s a picture | ratio | GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name, found in renderers.items():
        found.update(tried(measure, name, arguments, dtype, found, save) or {})
    save()
    print(*("\n" + summary(name, found) for name, found in renderers.items()), sep="")
    parts = [part for found in renderers.values() for part in (found, *found["rows"], *found.values())]
    if any(isinstance(part, dict) and "error" in part for part in parts):
        sys.exit("Some of it was not measured.")


if __name__ == "__main__":
    main()
