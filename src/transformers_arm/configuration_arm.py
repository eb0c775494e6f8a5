"""Configurations of ARM's models. Numbers of the paper (arXiv 2606.11188, section 3.1) are the defaults."""

from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    Qwen2Config,
    SiglipTextConfig,
    SiglipVisionConfig,
)

FSQ_ACTIVATIONS = ("tanh", "ifsq")


FP32_ATTENTION = ("sdpa", "eager")  # kernels of the others are for 16 bits


def attention_of_parts(config: PreTrainedConfig, attn_implementation: str | dict | None) -> str | dict | None:
    """What the parts of a configuration take of an `attn_implementation`, as transformers' setters want it.

    Of one name `fp32_parts` take "sdpa" where it is none of `FP32_ATTENTION`; a dict by part stays as it is.

    Raises:
        ValueError: a dict names a part that there is not, or gives one of `fp32_parts` another attention.
    """
    if isinstance(attn_implementation, dict):
        check_parts(config, attn_implementation)
    elif attn_implementation not in (None, *FP32_ATTENTION) and config.fp32_parts:
        parts = {part: "sdpa" if part in config.fp32_parts else attn_implementation for part in config.sub_configs}
        return {"": attn_implementation, **parts}
    return attn_implementation


def check_parts(config: PreTrainedConfig, attn_implementation, fp32_part: str | None = None) -> None:
    """Raises ValueError as `attention_of_parts`; `fp32_part` names the part that this configuration is in, if any."""
    if not isinstance(attn_implementation, dict):
        if fp32_part is not None and attn_implementation not in (None, *FP32_ATTENTION):
            raise ValueError(
                f"attn_implementation names {attn_implementation!r} for {fp32_part}, which computes in fp32 and takes "
                f"{' or '.join(FP32_ATTENTION)}. One name for the whole model has it take sdpa."
            )
        return
    for part, implementation in attn_implementation.items():
        if part and part not in config.sub_configs:
            known = ", ".join(map(repr, ["", *config.sub_configs]))
            raise ValueError(
                f"attn_implementation names {part!r}, which {type(config).__name__} has not; its parts are {known} "
                "('' is itself), and a part's value may be such a dict again."
            )
        inner = getattr(config, part) if part else config
        if inner is not None:
            own = part if part in getattr(config, "fp32_parts", ()) else fp32_part
            check_parts(inner, implementation, own)


class CheckedPartsMixin:
    """A configuration whose parts take what they can of an `attn_implementation`: `attention_of_parts`.

    transformers gives all parts one name, and passes over parts that there are not.
    """

    fp32_parts = ()  # of `sub_configs`; they keep fp32 however the whole is loaded

    @PreTrainedConfig._attn_implementation.setter  # its getter as it is: each layer asks, and torch.compile follows it
    def _attn_implementation(self, value):
        PreTrainedConfig._attn_implementation.fset(self, attention_of_parts(self, value))


class ArmVQConfig(CheckedPartsMixin, PreTrainedConfig):
    """Configuration of `ArmVQModel`, ARM's visual tokenizer, and of `ArmVQForPreTraining`, which trains it.

    Args:
        vision_config: the frozen SigLIP vision tower; the paper's SigLIP2-SO400M at patch 16, 512 px.
        num_projection_layers: transformer blocks before the quantizer, and again after it.
        fsq_levels: levels of each quantized channel; the codebook size is their product (2^16 = 65,536).
        fsq_activation: what bounds a channel before it is quantized, "tanh" or "ifsq" (arXiv 2601.17124), which uses
            the levels more evenly; with 2 levels both are the sign. See `FiniteScalarQuantizer`.
        text_config, captioner_config: the frozen text tower and captioner; only `ArmVQForPreTraining` has them.
        backbones: in checkpoints of a training, which leave out what is frozen: where that is, as keywords of
            `ArmVQForPreTraining.take_frozen`, folders as seen from the checkpoint's.
        pixel_num_layers, pixel_hidden_size, pixel_num_heads: the pixel-space diffusion transformer, 24 layers in the
            paper. Ours: it is as wide as a patch of 16 px has numbers, 3 * 16^2, so that no layer must compress.
        caption_loss_weight, pixel_loss_weight, sigmoid_loss_weight, feature_loss_weight: the four losses; what only
            a loss of weight 0 needs is not built.
        decorrelation_loss_weight: penalty on the covariance of the channels before the quantizer (ours: small
            worlds need it, or the bits copy each other; 0 is the paper's loss).
        context_loss_weight: penalty on what a patch's code changes by where other patches surround it (ours: in
            small worlds an empty patch otherwise has a code for every surrounding; 0 is the paper's loss).
        pixel_regression_share: share of the samples whose pixel loss is taken at t = 0, where the input is pure noise
            and rectified flow is regression on `z_q` (ours: small budgets learn detail sooner; 0 is the paper's).
        caption_share: share of each batch that the captioner reads, to save its time; 1 is the paper's.
    """

    model_type = "arm_vq"
    sub_configs = {"vision_config": SiglipVisionConfig, "text_config": AutoConfig, "captioner_config": AutoConfig}
    keys_to_ignore_at_inference = ["losses", "loss_counts"]  # what Trainer must not gather

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    captioner_config: dict | PreTrainedConfig | None = None
    backbones: dict[str, str] | None = None
    num_projection_layers: int = 6
    fsq_levels: list[int] | tuple[int, ...] = (2,) * 16
    fsq_activation: str = "tanh"
    pixel_num_layers: int = 24
    pixel_hidden_size: int = 768
    pixel_num_heads: int = 12
    caption_loss_weight: float = 1.0
    pixel_loss_weight: float = 5.0
    sigmoid_loss_weight: float = 5.0
    feature_loss_weight: float = 1.0
    decorrelation_loss_weight: float = 0.0
    context_loss_weight: float = 0.0
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
        if self.fsq_activation not in FSQ_ACTIVATIONS:
            raise ValueError(f"fsq_activation {self.fsq_activation!r} is not one of {', '.join(FSQ_ACTIVATIONS)}.")
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict:
        fields = super().to_dict()
        return {name: value for name, value in fields.items() if (name, value) != ("backbones", None)}

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


MAX_GRID_SIDE = 128  # what shape tokens can state


class ArmConfig(CheckedPartsMixin, Qwen2Config):
    """Configuration of `ArmModel` and `ArmForCausalLM`: Qwen2's, a visual tokenizer, and one flat vocabulary.

    Ids below `visual_token_offset` are the base checkpoint's text rows; `visual_token_offset + code` is an image
    token. The defaults are arm-7b's: Qwen2.5-7B with the paper's tokenizer.

    Args:
        vq_config: the visual tokenizer's `ArmVQConfig`, or a dict with its fields.
        visual_token_offset: number of text rows; the first image token's id.
        vocab_size: all rows, `visual_token_offset` + the codebook's size.
        shape_token_offset: id of `<|h:1|>`; `<|h:2|>` .. `<|h:128|>`, `<|w:1|>` .. `<|w:128|>` follow it.
        vision_start_token_id, vision_end_token_id: what opens and closes an image in the sequence.
        image_token_id: stands for an image token until the picture is encoded (`<|image_pad|>`).

    Raises:
        ValueError: vocab_size or shape tokens that do not fit the rows, or one row for two tokens.
    """

    model_type = "arm"
    sub_configs = {"vq_config": ArmVQConfig}
    fp32_parts = ("vq_config",)  # its codes are made in fp32
    base_model_tp_plan = None  # no tensor parallelism: the routed head takes rows by their number
    keys_to_ignore_at_inference = ["past_key_values", "losses", "loss_counts"]  # what Trainer must not gather
    auto_map = {}  # TRL's reload of a reference model reads it

    vocab_size: int = 217_600
    hidden_size: int = 3584
    intermediate_size: int = 18_944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int | None = 4
    vq_config: dict | PreTrainedConfig | None = None
    visual_token_offset: int = 152_064
    shape_token_offset: int = 151_665
    vision_start_token_id: int = 151_652
    vision_end_token_id: int = 151_653
    image_token_id: int = 151_655

    def __post_init__(self, **kwargs):
        if self.vq_config is None:
            self.vq_config = ArmVQConfig()
        elif isinstance(self.vq_config, dict):
            self.vq_config = ArmVQConfig(**self.vq_config)
        if self.vocab_size != self.visual_token_offset + self.vq_config.codebook_size:
            raise ValueError(
                f"vocab_size {self.vocab_size} must be visual_token_offset {self.visual_token_offset} + the "
                f"codebook's {self.vq_config.codebook_size} codes."
            )
        last_shape_token = self.shape_token_offset + 2 * MAX_GRID_SIDE - 1
        if last_shape_token >= self.visual_token_offset:
            raise ValueError(
                f"Shape tokens {self.shape_token_offset}..{last_shape_token} do not fit the "
                f"{self.visual_token_offset} text rows; choose a smaller shape_token_offset."
            )
        for name in ("vision_start_token_id", "vision_end_token_id", "image_token_id"):
            token = getattr(self, name)
            if not 0 <= token < self.visual_token_offset or self.shape_token_offset <= token <= last_shape_token:
                raise ValueError(
                    f"{name} {token} must be a text row, 0..{self.visual_token_offset - 1}, and none of the shape "
                    f"tokens' {self.shape_token_offset}..{last_shape_token}; choose another shape_token_offset."
                )
        super().__post_init__(**kwargs)

    @classmethod
    def from_backbones(cls, *, text: str, vq: str, **config) -> "ArmConfig":
        """The configuration of `ArmForCausalLM.from_backbones` with the same arguments; reads no weights.

        Shape tokens take the rows after the text tokenizer's last id, image tokens those after the checkpoint's.

        Raises:
            ValueError: other kinds of models, a text tokenizer that lacks Qwen2.5's vision tokens, too few rows free
                for shape tokens, or `config` ties what the checkpoint does not or puts rows where others stand.
        """
        for path, needed in ((text, "qwen2"), (vq, ArmVQConfig.model_type)):
            found = PreTrainedConfig.get_config_dict(path)[0].get("model_type")
            if found != needed:
                raise ValueError(f"{path} holds a {found!r} model where a {needed!r} one is needed.")
        base = Qwen2Config.from_pretrained(text)
        vq_config = ArmVQConfig.from_pretrained(vq, text_config=None, captioner_config=None)
        tied = base.tie_word_embeddings
        if config.get("tie_word_embeddings", tied) != tied:
            raise ValueError(f"{text} has tie_word_embeddings={tied}; keep it, or its rows cannot be taken over.")
        tokenizer = AutoTokenizer.from_pretrained(text)
        rows, known, vocabulary = base.vocab_size, len(tokenizer), tokenizer.get_vocab()
        if rows - known < 2 * MAX_GRID_SIDE:
            raise ValueError(
                f"{text} has {rows - known} rows beyond its tokenizer's {known} tokens; shape tokens need "
                f"{2 * MAX_GRID_SIDE}. Enlarge its vocabulary first."
            )
        offset = config.get("shape_token_offset", known)
        if not known <= offset <= rows - 2 * MAX_GRID_SIDE:
            raise ValueError(
                f"shape_token_offset {offset} must be {known}..{rows - 2 * MAX_GRID_SIDE}: below stand tokens of the "
                "text tokenizer, above image tokens. Leave it out."
            )
        if config.get("visual_token_offset", rows) != rows:
            raise ValueError(
                f"visual_token_offset {config['visual_token_offset']} must be the {rows} rows of {text}; leave it out."
            )
        special = {
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
            "image_token_id": "<|image_pad|>",
        }
        if missing := [token for token in special.values() if token not in vocabulary]:
            raise ValueError(f"The tokenizer of {text} lacks {', '.join(missing)}; use a Qwen2.5 tokenizer.")
        fields = {
            **{name: value for name, value in base.to_dict().items() if name not in ("architectures", "model_type")},
            **{name: vocabulary[token] for name, token in special.items()},
            **{"vq_config": vq_config, "vocab_size": rows + vq_config.codebook_size},
            **{"visual_token_offset": rows, "shape_token_offset": known},
        }
        # Where the parts came from is of no use to who loads the whole, and may be a path of somebody's disk.
        fields["_name_or_path"] = vq_config.name_or_path = ""
        return cls(**{**fields, **config})

    @property
    def width_token_offset(self) -> int:
        """Id of `<|w:1|>`."""
        return self.shape_token_offset + MAX_GRID_SIDE

    @property
    def default_grid(self) -> tuple[int, int]:
        """H, W in tokens of a picture of the size that the visual tokenizer was made for."""
        side = self.vq_config.vision_config.image_size // self.vq_config.patch_size
        return side, side

    def image_opening(self, height: int, width: int) -> list[int]:
        """Ids that open an image of height x width tokens: `<|vision_start|> <|h:height|> <|w:width|>`."""
        return [
            self.vision_start_token_id,
            self.shape_token_offset + height - 1,
            self.width_token_offset + width - 1,
        ]

    def stated_grid(self, opening) -> tuple[int, int]:
        """H, W of an image, in tokens, by the last two of the ids that open it."""
        return int(opening[-2]) - self.shape_token_offset + 1, int(opening[-1]) - self.width_token_offset + 1

    def states_width(self, input_ids):
        """Whether each id of a tensor is one of `<|w:*|>`, the last of what opens an image."""
        return (input_ids >= self.width_token_offset) & (input_ids < self.width_token_offset + MAX_GRID_SIDE)

    def image_token_follows(self, input_ids):
        """Whether an image token is what can follow each id of a tensor: after `<|w:*|>` and after image tokens."""
        return self.states_width(input_ids) | (input_ids >= self.visual_token_offset)
