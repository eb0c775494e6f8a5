"""Published renderers at full size, without weights: the transformers and VAEs of text-to-image models, as their
configurations have them, and the connectors that `z_q` takes into them.

Knows nothing about checkpoints.
"""

import torch
from torch import nn

from ..connector_arm import ArmConnector
from ..detokenizer_arm_flux import ArmFluxDetokenizer
from ..detokenizer_arm_flux2 import ArmFlux2Detokenizer
from ..detokenizer_arm_latent import ArmLatentDetokenizer
from ..detokenizer_arm_sana import ArmSanaDetokenizer

NF4_BLOCK = 64  # of bitsandbytes: weights with one scale
CONDITION_SIZE = 1152  # of SigLIP2-so400m, arm-7b's vision tower
KL = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 1024,  # px, from which on tiling has tiles
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
DC_BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
DC_SCALES = ((), (), (), (5,), (5,), (5,))

# The class that renders by it, and what its transformer's and its VAE's configurations say.
PUBLISHED: dict[str, tuple[type[ArmLatentDetokenizer], dict, dict]] = {
    "black-forest-labs/FLUX.2-klein-base-4B": (
        ArmFlux2Detokenizer,
        {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "attention_head_dim": 128,
            "joint_attention_dim": 7680,
            "in_channels": 128,
            "guidance_embeds": False,
        },
        {**KL, "latent_channels": 32},
    ),
    "black-forest-labs/FLUX.1-dev": (
        ArmFluxDetokenizer,
        {
            "num_layers": 19,
            "num_single_layers": 38,
            "num_attention_heads": 24,
            "attention_head_dim": 128,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "in_channels": 64,
            "guidance_embeds": True,
        },
        {
            **KL,
            "latent_channels": 16,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
        },
    ),
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": (
        ArmSanaDetokenizer,
        {
            "num_layers": 20,
            "num_attention_heads": 70,
            "attention_head_dim": 32,
            "num_cross_attention_heads": 20,
            "cross_attention_head_dim": 112,
            "cross_attention_dim": 2240,
            "caption_channels": 2304,
            "in_channels": 32,
            "qk_norm": "rms_norm_across_heads",
        },
        {
            "latent_channels": 32,
            "encoder_block_types": DC_BLOCKS,
            "decoder_block_types": DC_BLOCKS,
            "encoder_qkv_multiscales": DC_SCALES,
            "decoder_qkv_multiscales": DC_SCALES,
            "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
            "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
            "upsample_block_type": "interpolate",
            "downsample_block_type": "Conv",
            "scaling_factor": 0.41407,
        },
    ),
}


def renderer_parts(
    made: type[ArmLatentDetokenizer], transformer: dict, vae: dict, condition_size: int = CONDITION_SIZE
) -> nn.ModuleDict:
    """Transformer, connector and VAE of a renderer by their configurations, on the device of torch's context: "meta"
    allocates nothing. The VAE is frozen.
    """
    transformer = made.parts["transformer"](**transformer)
    connector = ArmConnector(condition_size, **made.connector_sizes(transformer.config))
    vae = made.parts["vae"](**vae).requires_grad_(False)
    return nn.ModuleDict({"transformer": transformer, "connector": connector, "vae": vae})


def published_parts(name: str) -> nn.ModuleDict:
    """`renderer_parts` of a published renderer."""
    return renderer_parts(*PUBLISHED[name])


def weight_bytes(parts: nn.ModuleDict) -> dict[str, int]:
    """What a renderer's weights take, as they are loaded, and what of them is held at once with model offload.

    "int8" and "nf4" are of the transformer's linear layers, as torchao (a scale in bfloat16 an output) and
    bitsandbytes (4 bits, a scale in fp32 every `NF4_BLOCK`) have them; all else is in bfloat16 there.
    """
    numbers = {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}
    linear = [each.weight for each in parts["transformer"].modules() if isinstance(each, nn.Linear)]
    quantized, outputs = sum(each.numel() for each in linear), sum(each.shape[0] for each in linear)
    rest = 2 * (sum(numbers.values()) - quantized)
    return {
        "fp32": 4 * sum(numbers.values()),
        "bf16": 2 * sum(numbers.values()),
        "bf16, model offload": 2 * max(numbers.values()),
        "int8": quantized + 2 * outputs + rest,
        "nf4": quantized // 2 + 4 * (quantized // NF4_BLOCK) + rest,
    }


def weights_table() -> str:
    """`weight_bytes` of published renderers, in GiB and Markdown."""
    with torch.device("meta"):
        found = {name: weight_bytes(published_parts(name)) for name in PUBLISHED}
    ways = list(next(iter(found.values())))
    rows = [
        f"| {name} | {' | '.join(f'{each / 2**30:.2f}' for each in sizes.values())} |" for name, sizes in found.items()
    ]
    return "\n".join([f"| GiB of weights | {' | '.join(ways)} |", "|---|" + "---|" * len(ways), *rows])
