"""ARM's visual tokenizer: frozen SigLIP features -> transformer blocks -> FSQ -> transformer blocks.

Notable choices beside the paper's: a batch norm without weights stands before the quantizer, so that no bit is
constant; grid positions are sines and cosines, so that any grid is legal; codes are packed in integers from an fp32
quantizer, so that codes -> values -> codes is exact in every dtype. Knows nothing about losses or pixels.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel, SiglipVisionModel
from transformers.models.siglip.modeling_siglip import SiglipAttention, SiglipEncoder, SiglipEncoderLayer
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .attention_arm import PartsAttentionMixin
from .configuration_arm import ArmVQConfig
from .loading_arm import CompleteCheckpointMixin, ExecutionDeviceMixin, hooked, under_hooks


@dataclass
class ArmVQOutput(ModelOutput):
    """What the tokenizer makes of a batch of pictures with a grid of h x w patches.

    Of a list of pictures each field is a list, with a member [h, w, ...] a picture.

    Args:
        z_q: [B, h, w, hidden_size], the quantized representation; None where it was not asked for.
        codes: int64 [B, h, w], each in 0..codebook_size-1.
        features: [B, h, w, hidden_size], the SigLIP features `z_q` was made from.
        channels: [B, h, w, len(fsq_levels)], what entered the quantizer.
        hidden_states, attentions: on request, of the blocks before the quantizer and then of those after it, if they
            ran.
    """

    z_q: torch.FloatTensor | list[torch.FloatTensor] | None = None
    codes: torch.LongTensor | list[torch.LongTensor] | None = None
    features: torch.FloatTensor | list[torch.FloatTensor] | None = None
    channels: torch.FloatTensor | list[torch.FloatTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class FiniteScalarQuantizer(nn.Module):
    """Finite scalar quantization (arXiv 2309.15505) with levels symmetric about zero (arXiv 2411.19842).

    Channel i takes one of `levels[i]` evenly spaced values in -1..1. Gradients pass the rounding straight through. A
    code is the mixed-radix number of the levels, first channel least significant.

    Which value that is, the activation says: "tanh" rounds tanh(x) to the nearest. "ifsq" cuts the range of
    2 * sigmoid(1.6 x) - 1 (arXiv 2601.17124), which spreads a standard normal channel almost evenly, into equal parts,
    one a level; rounded to the nearest, the outer levels would get half of the others' share. With 2 levels both are
    the sign, with other slopes.

    Args:
        levels: of each channel, 2 or more.
        activation: "tanh" or "ifsq".
    """

    def __init__(self, levels: list[int], activation: str = "tanh"):
        super().__init__()
        self.levels, self.activation = list(levels), activation
        self.radix = [math.prod(self.levels[:channel]) for channel in range(len(self.levels))]
        self.codebook_size = math.prod(self.levels)

    def _scales(self, device) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels and radix as int64 tensors [C]; not buffers, which loading by way of the meta device would lose."""
        return torch.tensor(self.levels, device=device), torch.tensor(self.radix, device=device)

    def bound(self, channels: torch.Tensor) -> torch.Tensor:
        """[..., C] -> fp32 positions on the level axis, in 0..levels-1."""
        levels, _ = self._scales(channels.device)
        channels = channels.float()
        share = (channels.tanh() + 1) / 2 if self.activation == "tanh" else (1.6 * channels).sigmoid()
        return share * (levels - 1)

    def level_of(self, position: torch.Tensor) -> torch.Tensor:
        """Positions [..., C] on the level axis -> the levels that stand for them, whole numbers in fp32."""
        if self.activation == "tanh":
            return (position + 0.5).floor()
        levels, _ = self._scales(position.device)
        return (position * levels / (levels - 1)).floor().minimum(levels - 1)

    def forward(self, channels: torch.Tensor) -> tuple[torch.Tensor, torch.LongTensor]:
        """[..., C] -> quantized values in -1..1 of the same shape and dtype, and codes [...]."""
        if channels.shape[-1] != len(self.levels):
            raise ValueError(f"Got {channels.shape[-1]} channels for {len(self.levels)} FSQ levels; they must agree.")
        levels, radix = self._scales(channels.device)
        position = self.bound(channels)
        level = self.level_of(position)
        straight_through = position + (level - position).detach()
        values = 2 * straight_through / (levels - 1) - 1
        return values.to(channels.dtype), (level.long() * radix).sum(-1)

    def codes_to_values(self, codes: torch.LongTensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Codes [...] -> values in -1..1 [..., C].

        Raises:
            TypeError: codes are not integers.
            ValueError: a code is outside the codebook.
        """
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise TypeError(f"Codes must be integers, got {codes.dtype}; call .long() on whole numbers.")
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.codebook_size):
            bad = codes.min() if codes.min() < 0 else codes.max()
            raise ValueError(f"Code {int(bad)} is outside this codebook (0..{self.codebook_size - 1}).")
        levels, radix = self._scales(codes.device)
        level = codes.long().unsqueeze(-1) // radix % levels
        return (2 * level.float() / (levels - 1) - 1).to(dtype)

    def values_to_codes(self, values: torch.Tensor) -> torch.LongTensor:
        """Quantized values [..., C] -> codes [...]; the inverse of `codes_to_values` in fp32, bf16 and fp16."""
        levels, radix = self._scales(values.device)
        level = ((values.float() + 1) / 2 * (levels - 1)).round().long()
        return (level * radix).sum(-1)


def grid_positions(height: int, width: int, dim: int, device=None, dtype=torch.float32) -> torch.Tensor:
    """Sine and cosine embeddings of a grid's rows and columns: [1, height * width, dim]; dim must divide by 4."""
    frequencies = 100.0 ** (-torch.arange(dim // 4, device=device, dtype=torch.float32) / (dim // 4))
    rows = torch.arange(height, device=device)[:, None] * frequencies
    columns = torch.arange(width, device=device)[:, None] * frequencies
    rows = torch.cat([rows.sin(), rows.cos()], -1)[:, None].expand(-1, width, -1)
    columns = torch.cat([columns.sin(), columns.cos()], -1)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1).reshape(1, height * width, dim).to(dtype)


def encoded_by_size(pictures: Sequence, encode: Callable[[list], Iterable]) -> list:
    """What `encode` makes of lists of pictures of one size, for pictures of any, in their order.

    Padded to one batch they would need masks and positions of each grid, for the same codes in up to three times the
    time (measured on one CPU core).
    """
    encoded = [None] * len(pictures)
    for size in dict.fromkeys(picture.shape for picture in pictures):
        places = [place for place, picture in enumerate(pictures) if picture.shape == size]
        for place, result in zip(places, encode([pictures[place] for place in places]), strict=True):
            encoded[place] = result
    return encoded


class ArmVQPreTrainedModel(PartsAttentionMixin, ExecutionDeviceMixin, CompleteCheckpointMixin, PreTrainedModel):
    config: ArmVQConfig
    base_model_prefix = "vq_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SiglipEncoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True


class ArmVQModel(ArmVQPreTrainedModel):
    """The tokenizer: pictures -> codes and `z_q`, codes -> `z_q` (paper section 3.1).

    The SigLIP vision tower is frozen: it has no gradients and stays in evaluation mode.
    """

    base_model_prefix = "vq_model"
    keeps_fp32 = False  # as a part of an ARM, whose codes it made, it does
    _can_record_outputs = {"hidden_states": SiglipEncoderLayer, "attentions": SiglipAttention}

    def __init__(self, config: ArmVQConfig):
        super().__init__(config)
        dim, channels = config.hidden_size, len(config.fsq_levels)
        # The dtype this model is being made in, not the one that the nested config was saved with.
        dtype = torch.get_default_dtype()
        self.vision_model = SiglipVisionModel._from_config(config.vision_config, dtype=dtype).requires_grad_(False)
        blocks = copy.deepcopy(config.vision_config)
        blocks.num_hidden_layers = config.num_projection_layers
        self.feature_norm = nn.LayerNorm(dim)
        self.down_blocks = SiglipEncoder(blocks)
        self.down_norm = nn.LayerNorm(dim)
        self.down_projection = nn.Linear(dim, channels)
        self.channel_norm = nn.BatchNorm1d(channels, affine=False, momentum=0.02)
        self.quantizer = FiniteScalarQuantizer(config.fsq_levels, config.fsq_activation)
        self.up_projection = nn.Linear(channels, dim)
        self.up_blocks = SiglipEncoder(blocks)
        self.up_norm = nn.LayerNorm(dim)
        for layer in (*self.down_blocks.layers, *self.up_blocks.layers):
            layer.self_attn.config = config.vision_config  # not the copy: `set_attn_implementation` changes this one
        self.post_init()

    def train(self, mode: bool = True):
        super().train(mode)
        self.vision_model.eval().requires_grad_(False)  # here, because from_pretrained makes new parameters
        return self

    def _apply(self, fn: Callable, recurse: bool = True):
        """What `to`, `half`, ... do to every tensor; one that `keeps_fp32` is moved by it, and not cast to 16 bits."""
        if self.keeps_fp32:
            cast = fn

            def fn(tensor: torch.Tensor) -> torch.Tensor:
                done = cast(tensor)
                shorter = tensor.dtype == torch.float32 and done.dtype in (torch.float16, torch.bfloat16)
                return tensor.to(done.device) if shorter else done

        return super()._apply(fn, recurse)

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        patch = self.config.patch_size
        if not isinstance(pixel_values, torch.Tensor):
            raise ValueError(
                f"pixel_values must be one tensor [B, 3, H, W], got a {type(pixel_values).__name__}; `encode` takes "
                "lists of pictures of any sizes, training takes batches of one size."
            )
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(f"pixel_values must be [B, 3, H, W], got {list(pixel_values.shape)}.")
        height, width = pixel_values.shape[-2:]
        if height % patch or width % patch or not height or not width:
            raise ValueError(
                f"Picture size {height}x{width} is not a multiple of the {patch} px patch; "
                "resize it with ArmImageProcessor."
            )

    @capture_outputs
    def forward(
        self, pixel_values: torch.Tensor, output_z_q: bool = True, **kwargs: Unpack[TransformersKwargs]
    ) -> ArmVQOutput:
        """pixel_values [B, 3, H, W] in -1..1, sides multiples of the patch -> `ArmVQOutput`.

        Args:
            output_z_q: False runs nothing behind the quantizer, which codes do not depend on.

        Raises:
            ValueError: a shape that is no batch of RGB pictures on the patch grid.
        """
        self.check_pixel_values(pixel_values)
        batch, height, width = len(pixel_values), *(side // self.config.patch_size for side in pixel_values.shape[-2:])
        # Positions for another size than the tower's own are made from a weight that their parent reads itself.
        with torch.no_grad(), hooked(self.vision_model.embeddings.position_embedding):
            features = self.vision_model(pixel_values, interpolate_pos_encoding=True).last_hidden_state
        hidden_states = self.down_blocks(self.feature_norm(features)).last_hidden_state
        channels = self.down_projection(self.down_norm(hidden_states))
        channels = self.channel_norm(channels.flatten(0, 1)).view(batch, height, width, -1)
        values, codes = self.quantizer(channels)
        return ArmVQOutput(
            z_q=self.up_project(values) if output_z_q else None,
            codes=codes,
            features=features.view(batch, height, width, -1),
            channels=channels,
        )

    def up_project(self, values: torch.Tensor) -> torch.Tensor:
        """Quantized values [B, h, w, C] -> `z_q` [B, h, w, hidden_size]."""
        batch, height, width, _ = values.shape
        projected = self.up_projection(values.flatten(1, 2))
        positions = grid_positions(height, width, self.config.hidden_size, projected.device, values.dtype)
        hidden_states = self.up_blocks(projected + positions).last_hidden_state
        return self.up_norm(hidden_states).view(batch, height, width, -1)

    @torch.no_grad()
    def encode(self, pixel_values: torch.Tensor | Sequence[torch.Tensor], output_z_q: bool = True) -> ArmVQOutput:
        """Pictures in -1..1 -> codes and `z_q`, without gradients.

        Args:
            pixel_values: [B, 3, H, W]; or a list of [3, H, W] of any sizes, of which those of one size are encoded
                together and every field of the output is a list in the pictures' order.
            output_z_q: as `forward`.

        Raises:
            ValueError: no pictures, or as `forward`.
        """
        if not len(pixel_values):
            raise ValueError("pixel_values holds no pictures; pass at least one.")
        if isinstance(pixel_values, torch.Tensor):
            return self._encode(pixel_values, output_z_q)

        def encode_alike(alike: list[torch.Tensor]) -> Iterable[dict[str, torch.Tensor]]:
            encoded = self._encode(torch.stack(alike), output_z_q)
            names = [name for name in ("z_q", "codes", "features", "channels") if name in encoded]
            return ({name: encoded[name][place] for name in names} for place in range(len(alike)))

        encoded = encoded_by_size(pixel_values, encode_alike)
        return ArmVQOutput(**{name: [each[name] for each in encoded] for name in encoded[0]})

    def get_codes(
        self, pixel_values: torch.Tensor | Sequence[torch.Tensor]
    ) -> torch.LongTensor | list[torch.LongTensor]:
        """Pictures -> their codes alone, [B, h, w], or of a list each [h, w]: those of `encode`, in less time.

        Args and errors as `encode`.
        """
        return self.encode(pixel_values, output_z_q=False).codes

    def _encode(self, pixel_values: torch.Tensor, output_z_q: bool) -> ArmVQOutput:
        """`forward` in the weights' own precision: under autocast some codes would be others."""
        if hasattr(next(self.parameters()), "ds_id"):
            raise ValueError(
                "DeepSpeed's ZeRO-3 has divided the visual tokenizer among processes, which encode pictures at "
                "different times. Train on codes, which transformers-arm tokenize makes, or shard with FSDP2, which "
                "leaves the tokenizer whole."
            )
        with torch.autocast(self.device.type, enabled=False):
            return self(pixel_values.to(self.device), output_z_q=output_z_q, return_dict=True)

    @torch.no_grad()
    @under_hooks
    def decode_codes(self, codes: torch.LongTensor) -> torch.Tensor:
        """Codes [B, h, w] -> `z_q` [B, h, w, hidden_size], for a detokenizer. Raises as `codes_to_values`."""
        if codes.ndim != 3:
            raise ValueError(f"codes must be [B, h, w], got {list(codes.shape)}; reshape them to their grid.")
        return self.up_project(self.quantizer.codes_to_values(codes.to(self.device), self.dtype))
