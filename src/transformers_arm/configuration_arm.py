"""Configurations of ARM's models. Numbers of the paper (arXiv 2606.11188, section 3.1) are the defaults."""

from transformers import AutoConfig, PreTrainedConfig, Qwen2Config, SiglipTextConfig, SiglipVisionConfig


class ArmVQConfig(PreTrainedConfig):
    """Configuration of `ArmVQModel`, ARM's visual tokenizer, and of `ArmVQForPreTraining`, which trains it.

    Args:
        vision_config: the frozen SigLIP vision tower; the paper's SigLIP2-SO400M at patch 16, 512 px.
        num_projection_layers: transformer blocks before the quantizer, and again after it.
        fsq_levels: levels of each quantized channel; the codebook size is their product (2^16 = 65,536).
        text_config, captioner_config: the frozen text tower and captioner; only `ArmVQForPreTraining` has them.
        pixel_num_layers, pixel_hidden_size, pixel_num_heads: the pixel-space diffusion transformer.
        caption_loss_weight, pixel_loss_weight, sigmoid_loss_weight, feature_loss_weight: the four losses.
        decorrelation_loss_weight: penalty on the covariance of the channels before the quantizer (ours: small
            worlds need it, or the bits copy each other; 0 is the paper's loss).
        pixel_regression_share: share of the samples whose pixel loss is taken at t = 0, where the input is pure noise
            and rectified flow is regression on `z_q` (ours: small budgets learn detail sooner; 0 is the paper's).
        caption_share: share of each batch that the captioner reads, to save its time; 1 is the paper's.
    """

    model_type = "arm_vq"
    sub_configs = {"vision_config": SiglipVisionConfig, "text_config": AutoConfig, "captioner_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    captioner_config: dict | PreTrainedConfig | None = None
    num_projection_layers: int = 6
    fsq_levels: list[int] | tuple[int, ...] = (2,) * 16
    pixel_num_layers: int = 24
    pixel_hidden_size: int = 1152
    pixel_num_heads: int = 16
    caption_loss_weight: float = 1.0
    pixel_loss_weight: float = 5.0
    sigmoid_loss_weight: float = 5.0
    feature_loss_weight: float = 1.0
    decorrelation_loss_weight: float = 0.0
    pixel_regression_share: float = 0.0
    caption_share: float = 1.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if self.vision_config is None:
            self.vision_config = {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 512,
                "patch_size": 16,
            }
        if isinstance(self.vision_config, dict):
            self.vision_config = SiglipVisionConfig(**{**self.vision_config, "vision_use_head": False})
        if isinstance(self.text_config, dict):
            self.text_config = SiglipTextConfig(**self.text_config)
        if isinstance(self.captioner_config, dict):
            self.captioner_config = Qwen2Config(**self.captioner_config)
        self.fsq_levels = list(self.fsq_levels)
        if not self.fsq_levels or min(self.fsq_levels) < 2:
            raise ValueError(f"fsq_levels {self.fsq_levels} must hold at least one channel of 2 or more levels.")
        super().__post_init__(**kwargs)

    @property
    def codebook_size(self) -> int:
        size = 1
        for levels in self.fsq_levels:
            size *= levels
        return size

    @property
    def patch_size(self) -> int:
        return self.vision_config.patch_size

    @property
    def hidden_size(self) -> int:
        """Channels of `z_q`, those of the vision tower."""
        return self.vision_config.hidden_size
