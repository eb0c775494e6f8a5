"""Trains ARM's tokenizer: `ArmVQModel` with the four losses of paper section 3.1 and the parts only they need.

L = caption + pixel + sigmoid + feature, each with its weight from the configuration, plus (ours) a penalty on
correlated channels. A loss of weight 0 is not computed.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2ForCausalLM, SiglipModel, SiglipTextModel
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead
from transformers.utils import ModelOutput

from .configuration_arm import ArmVQConfig
from .modeling_arm_vq import ArmVQModel, ArmVQPreTrainedModel
from .pixel_transformer_arm import ArmPixelTransformer, flow_matching_loss


@dataclass
class ArmVQPreTrainingOutput(ModelOutput):
    """`loss` (scalar), `losses` (each part before its weight) and the tokenizer's `codes` [B, h, w] and `z_q`."""

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    codes: torch.LongTensor | None = None
    z_q: torch.FloatTensor | None = None


def sigmoid_loss(image_embeds: torch.Tensor, text_embeds: torch.Tensor, scale, bias) -> torch.Tensor:
    """SigLIP's loss (arXiv 2303.15343) of unit embeddings [B, D]; scale is the temperature's logarithm."""
    logits = text_embeds @ image_embeds.t() * scale.exp() + bias
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -nn.functional.logsigmoid(signs * logits).sum(-1).mean()


def decorrelation_loss(channels: torch.Tensor) -> torch.Tensor:
    """Mean squared covariance between different channels of [..., C] (arXiv 2105.04906, covariance term)."""
    centered = channels.float().flatten(0, -2)
    centered = centered - centered.mean(0)
    covariance = centered.t() @ centered / max(1, len(centered) - 1)
    off_diagonal = covariance - covariance.diag().diag()
    return off_diagonal.square().sum() / covariance.shape[0]


class ArmVQForPreTraining(ArmVQPreTrainedModel):
    """The tokenizer with its training-only parts: SigLIP's text tower and pooling head and a captioning Qwen2, all
    frozen, a linear connector into the captioner, and the pixel-space diffusion transformer.

    The pooling head stays SigLIP's own, so that `z_q` can stand wherever SigLIP's features can.
    """

    base_model_prefix = "vq_model"

    def __init__(self, config: ArmVQConfig):
        super().__init__(config)
        for name in ("text_config", "captioner_config"):
            if getattr(config, name) is None:
                raise ValueError(f"ArmVQForPreTraining needs config.{name}; build it with from_backbones.")
        self.vq_model = ArmVQModel._from_config(config)
        self.text_model = SiglipTextModel._from_config(config.text_config)
        self.pooling_head = SiglipMultiheadAttentionPoolingHead(config.vision_config)
        self.logit_scale = nn.Parameter(torch.zeros(1))
        self.logit_bias = nn.Parameter(torch.zeros(1))
        self.captioner = Qwen2ForCausalLM._from_config(config.captioner_config)
        self.caption_connector = nn.Linear(config.hidden_size, config.captioner_config.hidden_size)
        self.pixel_transformer = ArmPixelTransformer(
            condition_size=config.hidden_size,
            hidden_size=config.pixel_hidden_size,
            num_layers=config.pixel_num_layers,
            num_attention_heads=config.pixel_num_heads,
            patch_size=config.patch_size,
        )
        self.train(self.training)
        self.post_init()

    @classmethod
    def from_backbones(cls, vision: str, captioner: str, **config) -> "ArmVQForPreTraining":
        """A tokenizer to be trained, from a SiglipModel checkpoint and a Qwen2ForCausalLM checkpoint.

        Args:
            vision: folder or Hub id of a SiglipModel (FixRes SigLIP2 is one); gives both towers, the pooling head and
                the start of temperature and bias.
            captioner: folder or Hub id of a Qwen2ForCausalLM.
            **config: the rest of `ArmVQConfig`.
        """
        for path, needed in ((vision, "siglip"), (captioner, "qwen2")):
            found = AutoConfig.from_pretrained(path).model_type
            if found != needed:
                raise ValueError(f"{path} holds a {found!r} model where a {needed!r} one is needed.")
        siglip = SiglipModel.from_pretrained(vision)
        language_model = AutoModelForCausalLM.from_pretrained(captioner)
        model = cls(
            ArmVQConfig(
                vision_config=siglip.config.vision_config.to_dict(),
                text_config=siglip.config.text_config.to_dict(),
                captioner_config=language_model.config.to_dict(),
                **config,
            )
        )
        tower = siglip.vision_model.state_dict()
        head = {name: tower.pop(name) for name in list(tower) if name.startswith("head.")}
        model.vq_model.vision_model.load_state_dict(tower)
        model.pooling_head.load_state_dict({name.removeprefix("head."): value for name, value in head.items()})
        model.text_model.load_state_dict(siglip.text_model.state_dict())
        model.captioner.load_state_dict(language_model.state_dict())
        model.logit_scale.data.copy_(siglip.logit_scale.data)
        model.logit_bias.data.copy_(siglip.logit_bias.data)
        return model

    def train(self, mode: bool = True):
        super().train(mode)
        for frozen in (self.text_model, self.pooling_head, self.captioner):
            frozen.eval().requires_grad_(False)  # here, because from_pretrained makes new parameters
        self.pixel_transformer.null_condition.requires_grad_(False)  # a training signal is never guided
        return self

    def image_embeds(self, z_q: torch.Tensor) -> torch.Tensor:
        """`z_q` [B, h, w, C] -> unit embeddings [B, C] beside SigLIP's text embeddings."""
        return nn.functional.normalize(self.pooling_head(z_q.flatten(1, 2)), dim=-1)

    @torch.no_grad()
    def text_embeds(self, input_ids: torch.LongTensor) -> torch.Tensor:
        """SigLIP text ids [B, T] (padded to its full length) -> unit embeddings [B, C]."""
        return nn.functional.normalize(self.text_model(input_ids=input_ids).pooler_output, dim=-1)

    def caption_loss(self, z_q: torch.Tensor, caption_ids: torch.LongTensor) -> torch.Tensor:
        """L_cap: cross-entropy of captions [B, T] (-100 where padded) that the frozen captioner reads off `z_q`."""
        prefix = self.caption_connector(z_q.flatten(1, 2))
        embedded = self.captioner.get_input_embeddings()(caption_ids.clamp(min=0))
        labels = torch.cat([caption_ids.new_full(prefix.shape[:2], -100), caption_ids], 1)
        return self.captioner(inputs_embeds=torch.cat([prefix, embedded], 1), labels=labels, use_cache=False).loss

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.LongTensor | None = None,
        caption_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> ArmVQPreTrainingOutput:
        """The weighted sum of the losses.

        Args:
            pixel_values: [B, 3, H, W] in -1..1.
            input_ids: captions in the SigLIP tokenizer's ids, padded to its full length [B, T]; for the sigmoid loss.
            caption_ids: captions in the captioner's ids [B, T'], -100 where padded; for the caption loss.
        """
        config, encoded = self.config, self.vq_model(pixel_values, return_dict=True)
        losses = {}
        if config.caption_loss_weight:
            read = max(1, round(config.caption_share * len(pixel_values)))
            losses["caption"] = self.caption_loss(encoded.z_q[:read], caption_ids[:read])
        if config.pixel_loss_weight:
            losses["pixel"] = flow_matching_loss(
                self.pixel_transformer, pixel_values, encoded.z_q, regression_share=config.pixel_regression_share
            )
        if config.sigmoid_loss_weight:
            losses["sigmoid"] = sigmoid_loss(
                self.image_embeds(encoded.z_q), self.text_embeds(input_ids), self.logit_scale, self.logit_bias
            )
        if config.feature_loss_weight:
            losses["feature"] = 1 - nn.functional.cosine_similarity(encoded.z_q, encoded.features, dim=-1).mean()
        if config.decorrelation_loss_weight:
            losses["decorrelation"] = decorrelation_loss(encoded.channels)
        loss = sum(getattr(config, f"{name}_loss_weight") * value for name, value in losses.items())
        return ArmVQPreTrainingOutput(loss=loss, losses=losses, codes=encoded.codes, z_q=encoded.z_q)
