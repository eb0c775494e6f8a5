"""Trains ARM's tokenizer: `ArmVQModel` with the four losses of paper section 3.1 and the parts only they need.

L = caption + pixel + sigmoid + feature, each with its weight from the configuration, plus (ours) penalties on
correlated channels and on codes that follow other patches. A loss of weight 0 costs nothing: what only it needs is
neither read, built nor computed.

Knows nothing about optimizers and checkpoints. What is frozen comes from the backbones and has no gradients.
"""

import os
import re
from dataclasses import dataclass

import torch
from torch import distributed, nn
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
    SiglipModel,
    SiglipTextModel,
    SiglipVisionModel,
)
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead
from transformers.utils import ModelOutput

from .configuration_arm import ArmVQConfig
from .loading_arm import CompleteCheckpointMixin
from .modeling_arm_vq import ArmVQModel, ArmVQPreTrainedModel

FROZEN_PARTS = ("text_model", "pooling_head", "captioner")  # beside the vision tower, which ArmVQModel freezes
FROZEN_TENSORS = tuple(f"{name}." for name in ("vq_model.vision_model", *FROZEN_PARTS))  # how their names begin


@dataclass
class ArmVQPreTrainingOutput(ModelOutput):
    """`loss` (scalar), `losses` (each part before its weight) and the tokenizer's `codes` [B, h, w] and `z_q`.

    `loss_counts` are the pictures that each part is the mean of, and `"all"` of them. Where a share of the pixel loss
    is taken at pure noise, `losses` has that and the rest apart as well, detached, as `by_noise` says.
    """

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    loss_counts: dict[str, torch.LongTensor | int] | None = None
    codes: torch.LongTensor | None = None
    z_q: torch.FloatTensor | None = None


def gather_texts(text_embeds: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Frozen text embeddings [B, D] of each process, in their order, and the row where this process's begin.

    Returns:
        [B of all processes, D] without gradients, and the row. Processes may hold different numbers of texts.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return text_embeds, 0
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    sizes = torch.zeros(processes, dtype=torch.long, device=text_embeds.device)
    sizes[rank] = len(text_embeds)
    distributed.all_reduce(sizes)
    first = int(sizes[:rank].sum())
    # A sum in which all other processes hold zeros: `all_gather` would ask for equal sizes.
    gathered = text_embeds.new_zeros(int(sizes.sum()), text_embeds.shape[1])
    gathered[first : first + len(text_embeds)] = text_embeds
    distributed.all_reduce(gathered)
    return gathered, first


def sigmoid_loss(image_embeds: torch.Tensor, text_embeds: torch.Tensor, scale, bias, *, first: int = 0):
    """SigLIP's loss (arXiv 2303.15343) of every picture with every text, in fp32: a sum over pairs per picture.

    Args:
        image_embeds: [B, D], of length 1.
        text_embeds: [N, D], of length 1; picture i belongs to text `first` + i.
        scale, bias: [1], of the similarities; scale is the temperature's logarithm.
    """
    with torch.autocast(image_embeds.device.type, enabled=False):  # bfloat16 resolves logits of 100 to 0.5 only
        logits = image_embeds.float() @ text_embeds.float().t() * scale.float().exp() + bias.float()
    signs = torch.full_like(logits, -1)
    signs.diagonal(first).fill_(1)
    return -nn.functional.logsigmoid(signs * logits).sum(-1).mean()


def decorrelation_loss(channels: torch.Tensor) -> torch.Tensor:
    """Mean squared covariance between different channels of [..., C] (arXiv 2105.04906, covariance term)."""
    with torch.autocast(channels.device.type, enabled=False):
        centered = channels.float().flatten(0, -2)
        centered = centered - centered.mean(0)
        covariance = centered.t() @ centered / max(1, len(centered) - 1)
    off_diagonal = covariance - covariance.diag().diag()
    return off_diagonal.square().sum() / covariance.shape[0]


def backbone_config(path: str, model_type: str) -> PreTrainedConfig:
    """The configuration of a checkpoint. Raises ValueError if it is of another type of model."""
    config = AutoConfig.from_pretrained(path)
    if config.model_type != model_type:
        raise ValueError(f"{path} holds a {config.model_type!r} model where a {model_type!r} one is needed.")
    config.name_or_path = ""  # it may be a path of somebody's disk, and is saved
    return config


def read_backbone(kind: type[PreTrainedModel], path: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, or of the part of it that `kind` is, in its dtype; ValueError if it lacks some."""
    others_are_welcome = {"_keys_to_ignore_on_load_unexpected": ["."]}
    return type(kind.__name__, (CompleteCheckpointMixin, kind), others_are_welcome).from_pretrained(path).state_dict()


def _seen_from(checkpoint: str | os.PathLike, path: str) -> str:
    """What a checkpoint calls a backbone: a folder as seen from its own, or as it is, or else the id of a repo."""
    here = os.path.normpath(os.path.join(checkpoint, path))
    found = here if os.path.isdir(here) else path
    if not os.path.isdir(found) and path.startswith((".", os.sep)):
        raise ValueError(
            f"{checkpoint} leaves out what is frozen, and {here}, where that was, is gone. Say where it is now: "
            "ArmVQForPreTraining.from_pretrained(..., backbones={'vision': ..., 'captioner': ...}), or `backbones` of "
            "a recipe."
        )
    return found


class ArmVQForPreTraining(ArmVQPreTrainedModel):
    """The tokenizer with its training-only parts: SigLIP's text tower and pooling head and a captioning Qwen2, all
    frozen, a linear connector into the captioner, and the pixel-space diffusion transformer.

    The pooling head stays SigLIP's own, so that `z_q` can stand wherever SigLIP's features can.

    In several processes the mean of their gradients is that of one process with the whole batch for the sigmoid and
    the feature loss, if batches are equally large or `num_items_in_batch` is told. What still sees a process's own
    batch: the statistics of `vq_model.channel_norm` (on GPUs `torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)`
    makes them common), the decorrelation loss, which is a covariance, the context loss, which mixes its pictures, the
    caption loss, a mean over as many tokens as the captions happen to have, and `caption_share`, a share of each
    process's batch.
    """

    base_model_prefix = "vq_model"
    frozen_from_backbones = True  # for trainers: checkpoints need not hold what is frozen
    backbones: dict[str, str] | None = None  # where that was taken from, as keywords of `take_frozen`
    # Of a checkpoint trained with a loss that has weight 0 now.
    _keys_to_ignore_on_load_unexpected = [
        *(r"^text_model\.", r"^pooling_head\.", r"^logit_(scale|bias)$"),
        *(r"^captioner\.", r"^caption_connector\.", r"^pixel_transformer\."),
    ]

    def __init__(self, config: ArmVQConfig):
        super().__init__(config)
        for loss, name in (("sigmoid", "text_config"), ("caption", "captioner_config")):
            if getattr(config, f"{loss}_loss_weight") and getattr(config, name) is None:
                raise ValueError(
                    f"ArmVQForPreTraining needs config.{name} for its {loss} loss; build it with from_backbones, or "
                    f"set {loss}_loss_weight to 0."
                )
        dtype = torch.get_default_dtype()  # the one this model is being made in, not the backbones'
        self.vq_model = ArmVQModel._from_config(config, dtype=dtype)
        if config.sigmoid_loss_weight:
            self.text_model = SiglipTextModel._from_config(config.text_config, dtype=dtype)
            self.pooling_head = SiglipMultiheadAttentionPoolingHead(config.vision_config)
            self.logit_scale = nn.Parameter(torch.zeros(1))
            self.logit_bias = nn.Parameter(torch.zeros(1))
        if config.caption_loss_weight:
            self.captioner = Qwen2ForCausalLM._from_config(config.captioner_config, dtype=dtype)
            self.caption_connector = nn.Linear(config.hidden_size, config.captioner_config.hidden_size)
        if config.pixel_loss_weight:
            from .pixel_transformer_arm import ArmPixelTransformer  # here: diffusers takes a while to import

            self.pixel_transformer = ArmPixelTransformer(
                condition_size=config.hidden_size,
                hidden_size=config.pixel_hidden_size,
                num_layers=config.pixel_num_layers,
                num_attention_heads=config.pixel_num_heads,
                patch_size=config.patch_size,
            )
        if config.backbones is not None:  # from which `from_pretrained` takes what is frozen
            self._keys_to_ignore_on_load_missing = [f"^{re.escape(start)}" for start in FROZEN_TENSORS]
        self.train(self.training)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """`PreTrainedModel.from_pretrained`; of a training's checkpoint too, which leaves out what is frozen.

        Args:
            backbones: what is frozen is taken from these, a dict of `take_frozen`'s keywords; None takes what the
                checkpoint names, and of a whole folder its own.

        Raises:
            ValueError: a folder that a checkpoint names is gone; says how to name another.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        named, model.config.backbones = model.config.backbones, None
        if named is None:
            model.backbones = {"pretraining": str(pretrained_model_name_or_path)}
        else:
            folder = pretrained_model_name_or_path
            model.take_frozen(**{name: _seen_from(folder, path) for name, path in named.items() if path is not None})
        return loaded

    @classmethod
    def from_backbones(
        cls,
        *,
        vision: str,
        text: str | None = None,
        captioner: str | None = None,
        dtype: torch.dtype = torch.float32,
        **config,
    ) -> "ArmVQForPreTraining":
        """A tokenizer to be trained, from SiglipModel checkpoints and a Qwen2ForCausalLM checkpoint.

        Backbones may be sharded and of any dtype. One at a time is in memory beside the new model.

        Args:
            vision: folder or Hub id of a SiglipModel (FixRes SigLIP2 is one); gives vision tower and pooling head.
            text: the same of another one, which gives text tower and the start of temperature and bias; None is
                `vision`'s own. Not needed for a sigmoid loss of weight 0.
            captioner: folder or Hub id of a Qwen2ForCausalLM; not needed for a caption loss of weight 0.
            dtype: of the new model. What learns wants fp32; autocast makes the computation bfloat16.
            **config: the rest of `ArmVQConfig`.

        Raises:
            ValueError: a checkpoint is of another type or lacks tensors; text and picture embeddings differ in size;
                the vision tower's picture is not made of whole patches; there is no captioner for the caption loss.
        """
        text = text or vision
        vision_config = backbone_config(vision, "siglip").vision_config
        if vision_config.image_size % vision_config.patch_size:
            raise ValueError(
                f"{vision} is for pictures of {vision_config.image_size} px, which are no whole number of patches of "
                f"{vision_config.patch_size} px; take one such as google/siglip2-so400m-patch16-512."
            )
        config = ArmVQConfig(vision_config=vision_config.to_dict(), **config)
        if config.sigmoid_loss_weight:
            config.text_config = backbone_config(text, "siglip").text_config
            if config.text_config.projection_size != config.hidden_size:
                raise ValueError(
                    f"Text embeddings of {text} have {config.text_config.projection_size} numbers, picture embeddings "
                    f"of {vision} {config.hidden_size}; take both towers of one SiglipModel."
                )
        if config.caption_loss_weight:
            if captioner is None:
                raise ValueError(
                    f"A caption_loss_weight of {config.caption_loss_weight} needs a captioner; name a "
                    "Qwen2ForCausalLM, or set it to 0."
                )
            config.captioner_config = backbone_config(captioner, "qwen2")
        model = cls._from_config(config, dtype=dtype)
        model.take_frozen(vision=vision, text=text, captioner=captioner)
        if config.sigmoid_loss_weight:
            siglip = read_backbone(SiglipModel, text)
            for name in ("logit_scale", "logit_bias"):
                model.get_parameter(name).data.copy_(siglip[name])
        return model

    def take_frozen(
        self,
        *,
        vision: str | None = None,
        text: str | None = None,
        captioner: str | None = None,
        pretraining: str | None = None,
    ) -> None:
        """Takes what is frozen from backbones, as `from_backbones` names them, or from a folder of this class."""
        if pretraining is not None:
            whole = type(self).from_pretrained(pretraining)
            self.load_state_dict({name: whole.state_dict()[name] for name in self.frozen_names()}, strict=False)
            self.backbones = whole.backbones
            return
        self._take_vision(vision)
        if self.config.sigmoid_loss_weight:
            self._take_text(text or vision)
        if self.config.caption_loss_weight:
            self.captioner.load_state_dict(read_backbone(Qwen2ForCausalLM, captioner))
        named = {"vision": vision, "text": text, "captioner": captioner}
        self.backbones = {name: str(path) for name, path in named.items() if path is not None}

    def frozen_names(self) -> set[str]:
        """The names of the tensors that come from the backbones and never learn."""
        return {name for name in self.state_dict() if name.startswith(FROZEN_TENSORS)}

    def backbones_from(self, folder: str | os.PathLike) -> dict[str, str] | None:
        """`backbones`, folders as they are seen from another one: both may move together, and no machine is named."""
        found = (self.backbones or {}).items()
        return {name: os.path.relpath(path, folder) if os.path.isdir(path) else path for name, path in found} or None

    def _take_vision(self, path: str) -> None:
        tower = read_backbone(SiglipVisionModel, path)
        head = {name.removeprefix("head."): tower.pop(name) for name in list(tower) if name.startswith("head.")}
        self.vq_model.vision_model.load_state_dict(tower)
        if self.config.sigmoid_loss_weight:
            self.pooling_head.load_state_dict(head)

    def _take_text(self, path: str) -> None:
        siglip, prefix = read_backbone(SiglipModel, path), "text_model."
        tower = {name.removeprefix(prefix): value for name, value in siglip.items() if name.startswith(prefix)}
        self.text_model.load_state_dict(tower)

    def train(self, mode: bool = True):
        super().train(mode)
        for name, part in self.named_children():
            if name in FROZEN_PARTS:
                part.eval().requires_grad_(False)  # here, because from_pretrained makes new parameters
        if self.config.caption_loss_weight:
            for layer in self.captioner.model.layers:
                layer.training = mode  # it alone, not what is in it: layers in training can checkpoint gradients
        if self.config.pixel_loss_weight:
            self.pixel_transformer.null_condition.requires_grad_(False)  # a training signal is never guided
        return self

    def image_embeds(self, z_q: torch.Tensor) -> torch.Tensor:
        """`z_q` [B, h, w, C] -> fp32 unit embeddings [B, C] beside SigLIP's text embeddings."""
        return nn.functional.normalize(self.pooling_head(z_q.flatten(1, 2)).float(), dim=-1)

    @torch.no_grad()
    def text_embeds(self, input_ids: torch.LongTensor) -> torch.Tensor:
        """SigLIP text ids [B, T] (padded to its full length) -> fp32 unit embeddings [B, C]."""
        return nn.functional.normalize(self.text_model(input_ids=input_ids).pooler_output.float(), dim=-1)

    def caption_loss(self, z_q: torch.Tensor, caption_ids: torch.LongTensor) -> torch.Tensor:
        """L_cap: cross-entropy of captions [B, T] (-100 where padded) that the frozen captioner reads off `z_q`; 0 if
        there are none.
        """
        prefix = self.caption_connector(z_q.flatten(1, 2))
        read = self.captioner.get_input_embeddings()(caption_ids[:, :-1].clamp(min=0))  # the last predicts nothing
        return self.captioner(
            inputs_embeds=torch.cat([prefix, read], 1),
            labels=caption_ids,
            shift_labels=caption_ids.contiguous(),  # of the positions kept, which are those before them
            logits_to_keep=caption_ids.shape[1],  # the head is as wide as the vocabulary, and pictures are long
            num_items_in_batch=(caption_ids != -100).sum().clamp(min=1),
            use_cache=False,
        ).loss

    def context_loss(self, pixel_values: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
        """Mean squared change of the quantized values of a random half of each picture's patches, where those of the
        next picture of the batch stand in place of the other half. One picture alone has none.

        Of the values, not of the channels [B, h, w, C] before them: only what changes a code counts.
        """
        kept = torch.rand(channels.shape[:3], device=channels.device) < 0.5
        kept_pixels = kept.repeat_interleave(self.config.patch_size, 1).repeat_interleave(self.config.patch_size, 2)
        mixed = torch.where(kept_pixels[:, None], pixel_values, pixel_values.roll(-1, 0))
        changed = self.vq_model(mixed, output_z_q=False, return_dict=True).channels
        one, other = (self.vq_model.quantizer(each)[0].float() for each in (channels, changed))
        changes = (one - other).square().mean(-1)
        return (changes * kept).sum() / kept.sum().clamp(min=1)

    def _caption_part(self, z_q, caption_ids) -> tuple[torch.Tensor, float]:
        """The caption loss of those pictures that have a caption, and their share of the pictures read."""
        read = max(1, round(self.config.caption_share * len(z_q)))
        share = 0.0 if caption_ids is None else (caption_ids[:read] != -100).any(-1).float().mean().item()
        if not share:  # one picture, so that other processes, which may have captions, need not wait for this one
            caption_ids, read = torch.full((1, 1), -100, device=z_q.device), 1
        return self.caption_loss(z_q[:read], caption_ids[:read]), share

    def _sigmoid_part(self, z_q, input_ids) -> tuple[torch.Tensor, float]:
        """The sigmoid loss of those pictures that have a caption, with all captions, and their share of all."""
        image_embeds = self.image_embeds(z_q)
        if input_ids is None:
            input_ids = torch.full((len(z_q), 1), -100, device=z_q.device)
        captioned = (input_ids != -100).all(-1)
        text_embeds = self.text_embeds(input_ids.clamp(min=0))[captioned]
        texts, first = gather_texts(text_embeds) if self.training else (text_embeds, 0)
        share = len(text_embeds) / len(z_q)
        # All pictures in place of none, against no texts: 0, with gradients for which other processes may wait.
        images, texts = (image_embeds[captioned], texts) if share else (image_embeds, texts[:0])
        return sigmoid_loss(images, texts, self.logit_scale, self.logit_bias, first=first if share else 0), share

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.LongTensor | None = None,
        caption_ids: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> ArmVQPreTrainingOutput:
        """The weighted sum of the losses. In training on several processes all must come here together.

        A picture has no caption where all its ids are -100, and none of a batch has where the ids are None. Such
        pictures add nothing for captions: the caption and the sigmoid loss, means over those that have one, count by
        their share. A loss that none of the pictures has is absent from `losses`, and its gradients are zeros.

        Args:
            pixel_values: [B, 3, H, W] in -1..1.
            input_ids: captions in the SigLIP tokenizer's ids, padded to its full length [B, T]; for the sigmoid loss.
            caption_ids: captions in the captioner's ids [B, T'], -100 where padded; for the caption loss.
            num_items_in_batch: pictures of the whole step, over all processes and accumulated batches; None: these
                alone. `loss` is then this batch's part of the mean over all of them.
        """
        config, encoded = self.config, self.vq_model(pixel_values, return_dict=True)
        losses, shares, apart, counts = {}, {}, {}, {}
        if config.caption_loss_weight:
            losses["caption"], shares["caption"] = self._caption_part(encoded.z_q, caption_ids)
        if config.pixel_loss_weight:
            from .pixel_transformer_arm import by_noise, flow_matching_errors

            share = config.pixel_regression_share
            errors, at_noise = flow_matching_errors(
                self.pixel_transformer, pixel_values, encoded.z_q, regression_share=share
            )
            losses["pixel"] = errors.mean()
            if share:
                apart, counts = by_noise(errors, at_noise)
        if config.sigmoid_loss_weight:
            losses["sigmoid"], shares["sigmoid"] = self._sigmoid_part(encoded.z_q, input_ids)
        if config.feature_loss_weight:
            cosines = nn.functional.cosine_similarity(encoded.z_q.float(), encoded.features.float(), dim=-1)
            losses["feature"] = 1 - cosines.mean()
        if config.decorrelation_loss_weight:
            losses["decorrelation"] = decorrelation_loss(encoded.channels)
        if config.context_loss_weight:
            losses["context"] = self.context_loss(pixel_values, encoded.channels)
        weights = {name: getattr(config, f"{name}_loss_weight") * shares.get(name, 1) for name in losses}
        loss, pictures = sum(weights[name] * value for name, value in losses.items()), len(pixel_values)
        if num_items_in_batch is not None:
            loss = loss * (pictures / num_items_in_batch)
        losses = {name: value for name, value in losses.items() if shares.get(name, 1)}
        counts |= {"all": pictures} | {name: pictures * shares.get(name, 1) for name in losses}
        losses |= apart
        return ArmVQPreTrainingOutput(
            loss=loss, losses=losses, loss_counts=counts, codes=encoded.codes, z_q=encoded.z_q
        )
