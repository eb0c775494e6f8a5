"""The settings of GRPO on image tokens: TRL's, with the paper's numbers, without what makes no sense for images."""

import math
from dataclasses import dataclass, field

from trl import GRPOConfig

from ..data.row_errors import check_share
from .trainer import no_bf16_on_cpu, settle

# Settings of GRPOConfig that make no sense here: the only value taken, and why.
REFUSED = {
    "remove_unused_columns": (False, "it would take away source images and the rewards' columns"),
    "sync_ref_model": (False, "the penalty is to the frozen policy, and no checkpoint would hold another reference"),
    "mask_truncated_completions": (False, "an image has no end-of-text token, so every loss would be masked"),
    "use_vllm": (False, "vLLM does not know ARM's routed head; ArmForCausalLM.generate samples the images"),
    "use_transformers_continuous_batching": (False, "images are sampled in one batch with a static cache"),
    "cast_lm_head_to_fp32": (False, "log-probabilities are taken in fp32 as it is"),
    "use_liger_kernel": (False, "its fused loss multiplies by the whole head, text and image rows together"),
    "label_smoothing_factor": (0.0, "an update by rewards has no labels to smooth"),
    "repetition_penalty": (1.0, "image tokens do repeat, and log-probabilities know nothing of a penalty"),
    "min_p": (None, "images are sampled with temperature, top_k and top_p"),
    "generation_kwargs": (None, "images are sampled with temperature, top_k and top_p, without guidance"),
    "cache_implementation": (None, "images are sampled with a static cache of their own"),
    "chat_template_kwargs": (None, "prompts are rendered by ArmProcessor.image_generation_inputs"),
}


@dataclass
class ArmGRPOConfig(GRPOConfig):
    """`trl.GRPOConfig` with the paper's numbers (section 5), and what decoding and rewards need.

    Batch sizes count samples, not prompts. Guidance is off in rollouts: it would bias the update. Images are sampled
    in the weights' dtype; autocast (`bf16`) over float32 weights scores them in another. Where a reward is None,
    `multi_objective_aggregation="sum_then_normalize"` renormalises the weights of the others, and
    `"normalize_then_sum"` puts it at its group's mean.

    **What clipping means.** At the sequence level, the default, the ratio of a picture of T tokens is
    `exp(mean of the T log-ratios)`, the geometric mean of its tokens' ratios (GSPO, arXiv 2507.18071), not their
    product. So `epsilon` bounds the *mean* log-ratio of a token: 0.2 clips below ln 0.8 = -0.223 and above
    ln 1.2 = 0.182. A picture of 1,024 tokens may become exp(1024 * 0.182) = 1.2^1024, some 10^81, times as likely as a
    whole before its gradient stops: a loose bound, and the paper's number (GSPO takes 3e-4 and 4e-4; 3e-4 lets the
    whole become exp(0.31) = 1.36 times as likely). With `importance_sampling_level="token"` each token's own ratio is
    held to 0.8 .. 1.2, and one token that strays loses its gradient alone. Neither acts where an update takes what has
    just been drawn, once (`num_iterations` 1, `steps_per_generation` no more than `gradient_accumulation_steps`, as by
    default and in the recipes): the ratio is 1 then. `clip_ratio/region_mean` of the log says how much is clipped.

    Args:
        temperature: of text-to-image; editing_temperature: of edits, None for the same.
        epsilon: how far the ratio may be from 1, see above; `epsilon_high` is the upper bound, if another.
        rollout_batch_size: samples drawn at a time on each device, of a group or of several; None draws all at once.
            What is drawn is the same (but where rounding tips a token, as in any other batch), for each sample has its
            own generator. The cache of keys and values is as large as this many pictures: `transformers-arm memory`
            has the numbers. Samples are scored `per_device_train_batch_size` at a time.
        max_completion_length: what `loss_type="dr_grpo"` divides by; an image always has the H*W tokens of its grid.
        decode_batch_size: pictures decoded at a time.
        num_inference_steps, decoder_guidance_scale: of the detokenizer; None takes what it was saved with.
        reward_timeout: seconds a call of a reward may take; None sets no limit.
        max_reward_failure_share: share of a reward's samples, over its last 20 calls, above which training stops.
        local_files: whether rows of parquet, json, csv and tar files may name local files, archives and remote stores
            as pictures. Without it they name http(s) addresses; image folders and rows made in memory need none of it.
        max_skipped: share of the rows that may be unusable: they are named, counted and left out.
        picture_steps: steps between two sheets of pictures in `<output_dir>/rollouts/`; 0 draws none.

    Raises:
        ValueError: a setting of TRL that makes no sense for images, or saves between generations, from which training
            could not resume exactly.
    """

    per_device_train_batch_size: int = field(default=16, metadata={"help": "Samples at a time on each device."})
    learning_rate: float = field(default=3e-5, metadata={"help": "Initial learning rate (paper: 3e-5, edits 5e-5)."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second beta of AdamW."})
    num_generations: int | None = field(default=16, metadata={"help": "Images sampled a prompt."})
    temperature: float = field(default=0.7, metadata={"help": "Sampling temperature of text-to-image."})
    top_k: int = field(default=1000, metadata={"help": "Codes sampled from; 0 keeps all."})
    beta: float = field(default=0.01, metadata={"help": "Weight of the KL penalty."})
    epsilon: float = field(default=0.2, metadata={"help": "Clipping of a picture's mean ratio a token."})
    loss_type: str = field(default="grpo", metadata={"help": "As in GRPOConfig."})
    importance_sampling_level: str = field(default="sequence", metadata={"help": "As in GRPOConfig."})
    use_bias_correction_kl: bool = field(default=False, metadata={"help": "As in GRPOConfig."})
    max_completion_length: int | None = field(default=1024, metadata={"help": "What dr_grpo divides by."})

    editing_temperature: float | None = field(default=1.0, metadata={"help": "Sampling temperature of edits."})
    rollout_batch_size: int | None = field(default=32, metadata={"help": "Samples drawn at a time on each device."})
    decode_batch_size: int = field(default=16, metadata={"help": "Pictures decoded at a time."})
    num_inference_steps: int | None = field(default=None, metadata={"help": "Steps of the detokenizer."})
    decoder_guidance_scale: float | None = field(default=None, metadata={"help": "Guidance of the detokenizer."})
    reward_timeout: float | None = field(default=600.0, metadata={"help": "Seconds a call of a reward may take."})
    max_reward_failure_share: float = field(default=0.1, metadata={"help": "Failed samples that are borne."})
    local_files: bool = field(default=False, metadata={"help": "Whether rows of files may name local pictures."})
    max_skipped: float = field(default=0.05, metadata={"help": "Share of rows that may be unusable, and is left out."})
    picture_steps: int = field(default=50, metadata={"help": "Steps between two sheets of pictures; 0: none."})

    def __post_init__(self):
        no_bf16_on_cpu(self)
        settle(vars(self))
        super().__post_init__()
        for name, (only, why) in REFUSED.items():
            if getattr(self, name) != only:
                raise ValueError(f"{name}={getattr(self, name)!r} makes no sense for images: {why}. Leave it out.")
        for name in ("temperature", "editing_temperature", "reward_timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} {value} must be a finite number above 0.")
        for name in ("rollout_batch_size", "decode_batch_size"):
            if (size := getattr(self, name)) is not None and size < 1:
                raise ValueError(f"{name} {size} must be at least 1.")
        if not 0 <= self.max_reward_failure_share <= 1:
            raise ValueError(f"max_reward_failure_share {self.max_reward_failure_share} must be a share, 0 to 1.")
        check_share(self.max_skipped)
        if self.loss_type == "dr_grpo" and not self.max_completion_length:
            raise ValueError("loss_type='dr_grpo' divides by max_completion_length; set it to the tokens of an image.")
        each = self.steps_a_generation
        if each > 1 and (self.save_strategy == "best" or (self.save_strategy == "steps" and self.save_steps % each)):
            raise ValueError(
                f"save_steps {self.save_steps} must be a multiple of the {each} steps that one generation feeds, and "
                "save_strategy not 'best', or training could not resume exactly."
            )

    @property
    def steps_a_generation(self) -> int:
        """Steps after which a step ends where a generation does."""
        forwards = self.steps_per_generation * self.num_iterations
        return math.lcm(forwards, self.gradient_accumulation_steps) // self.gradient_accumulation_steps
