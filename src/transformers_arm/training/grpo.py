"""GRPO on image tokens (paper section 5) with TRL: what ARM's rollouts, log-probabilities and rewards are.

A prompt and its pictures become ids that end where the new picture opens; a completion is exactly its H*W image
tokens, and only their prediction is optimised. Pictures are decoded once a rollout, and every reward sees them.
Sampling, decoding and so the update do not depend on the number of processes: each sample has its own generator.
Knows nothing about what is rewarded.
"""

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image
import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer
from trl.models import prepare_deepspeed, unwrap_model_for_generation
from trl.trainer.utils import is_async_callable

from ..data.columns import SOURCES, rgb_picture
from ..detokenizer_arm_pixel import ArmPixelDetokenizer
from ..evaluation.sheets import picture_sheet
from ..generation_arm import stack_left_padded
from ..modeling_arm import ArmForCausalLM
from ..pipeline_arm import batched
from ..processing_arm import ArmProcessor
from ..rewards.errors import RewardError
from ..sizes.adapters import check_adapters, without_adapters
from .parts import detokenizer_of, given_model, processor_of, reference_of
from .reporting import log_samples
from .requests import EDITING, TEXT_TO_IMAGE, check_requests, read_grid, read_request
from .reward_calls import AsyncGuardedReward, GuardedReward
from .trainer import AtomicCheckpointMixin, CardMixin, no_bf16_on_cpu, set_aside, settle, without_checkpointing

logger = logging.getLogger(__name__)

SHEET_GROUPS = 8  # prompts a picture sheet shows, with all their samples

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

    Args:
        temperature: of text-to-image; editing_temperature: of edits, None for the same.
        max_completion_length: what `loss_type="dr_grpo"` divides by; an image always has the H*W tokens of its grid.
        decode_batch_size: pictures decoded at a time.
        num_inference_steps, decoder_guidance_scale: of the detokenizer; None takes what it was saved with.
        reward_timeout: seconds a call of a reward may take; None sets no limit.
        max_reward_failure_share: share of a reward's samples, over its last 20 calls, above which training stops.
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
    epsilon: float = field(default=0.2, metadata={"help": "Clipping of the ratio."})
    loss_type: str = field(default="grpo", metadata={"help": "As in GRPOConfig."})
    importance_sampling_level: str = field(default="sequence", metadata={"help": "As in GRPOConfig."})
    use_bias_correction_kl: bool = field(default=False, metadata={"help": "As in GRPOConfig."})
    max_completion_length: int | None = field(default=1024, metadata={"help": "What dr_grpo divides by."})

    editing_temperature: float | None = field(default=1.0, metadata={"help": "Sampling temperature of edits."})
    decode_batch_size: int = field(default=16, metadata={"help": "Pictures decoded at a time."})
    num_inference_steps: int | None = field(default=None, metadata={"help": "Steps of the detokenizer."})
    decoder_guidance_scale: float | None = field(default=None, metadata={"help": "Guidance of the detokenizer."})
    reward_timeout: float | None = field(default=600.0, metadata={"help": "Seconds a call of a reward may take."})
    max_reward_failure_share: float = field(default=0.1, metadata={"help": "Failed samples that are borne."})
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
        if self.decode_batch_size < 1:
            raise ValueError(f"decode_batch_size {self.decode_batch_size} must be at least 1.")
        if not 0 <= self.max_reward_failure_share <= 1:
            raise ValueError(f"max_reward_failure_share {self.max_reward_failure_share} must be a share, 0 to 1.")
        if self.loss_type == "dr_grpo" and not self.max_completion_length:
            raise ValueError("loss_type='dr_grpo' divides by max_completion_length; set it to the tokens of an image.")
        # Steps after which a step ends where a generation does.
        forwards = self.steps_per_generation * self.num_iterations
        each = math.lcm(forwards, self.gradient_accumulation_steps) // self.gradient_accumulation_steps
        if each > 1 and (self.save_strategy == "best" or (self.save_strategy == "steps" and self.save_steps % each)):
            raise ValueError(
                f"save_steps {self.save_steps} must be a multiple of the {each} steps that one generation feeds, and "
                "save_strategy not 'best', or training could not resume exactly."
            )


class ArmGRPOTrainer(AtomicCheckpointMixin, CardMixin, GRPOTrainer):
    """`trl.GRPOTrainer` for ARM: text-to-image, editing, or both mixed.

    Rows of the datasets: `prompt` (str, a caption or an instruction); for edits `source_image`, or `source_images`, a
    list; `task`, "text_to_image" or "editing", where both are mixed; optionally `height` and `width` of the picture to
    draw, in px (default: the processor's size; edits are given back at their source's size). Any other column is
    passed on to the rewards.

    Rewards are called with keywords: `prompts`, `images` (PIL, what was drawn), `source_images` (lists of PIL, empty
    for text-to-image), `completion_ids`, `task`, every dataset column, and what TRL gives (`completions`,
    `trainer_state`, `log_extra`, `log_metric`); those they do not name are left out. They return a list of float or
    None, one a sample; None means that the reward does not apply, or could not be judged.

    Args:
        model: an `ArmForCausalLM`, a PEFT model of one, or a folder or Hub id.
        reward_funcs: a reward or a list of them.
        args: an `ArmGRPOConfig`.
        train_dataset, eval_dataset: see above.
        processing_class: an `ArmProcessor`; None loads the model's (`training.parts`).
        detokenizer: renders the tokens; None loads the model's.
        reference: what `beta` keeps the policy near, a model, or its folder or Hub id; None takes the model as it is
            handed over: a frozen copy, or with PEFT the model without what the adapters learn from then on.
        quantization_config: of a model that is named.
        kwargs: `callbacks`, `optimizers`, `peft_config`, as TRL's.

    Raises:
        TypeError: another model or config, or a reward that is no callable.
        ValueError: no reward, a row that cannot be drawn, fewer rows than one generation takes, a reference that is of
            no use, an adapter on the head, or sharded weights.
        RewardError: (while training) a reward fails too often.
    """

    _tag_names = ["trl", "grpo", "arm"]  # "arm" tells ArmForCausalLM that only rows that can follow are scored
    _name = "GRPO on image tokens"

    def __init__(
        self,
        model: "str | ArmForCausalLM",
        reward_funcs: Callable | Sequence[Callable],
        args: ArmGRPOConfig | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict | None = None,
        processing_class=None,
        *,
        detokenizer: ArmPixelDetokenizer | None = None,
        reference: "ArmForCausalLM | str | None" = None,
        quantization_config=None,
        **kwargs,
    ):
        if unknown := set(kwargs) & {"tools", "rollout_func", "environment_factory"}:
            raise TypeError(f"{', '.join(sorted(unknown))}: a rollout is one image here; leave it out.")
        path = model if isinstance(model, str) else model.config._name_or_path
        args = ArmGRPOConfig(f"{Path(path).name or 'arm'}-GRPO") if args is None else args
        if not isinstance(args, ArmGRPOConfig):
            raise TypeError(f"args must be an ArmGRPOConfig, not a {type(args).__name__}: its defaults are TRL's.")
        if reference is not None and not args.beta:
            raise ValueError("beta is 0, so no reference is asked; set beta, or leave reference out.")
        rewards = list(reward_funcs) if isinstance(reward_funcs, (list, tuple)) else [reward_funcs]
        if not rewards or reward_funcs is None:
            raise ValueError("There is no reward; pass at least one in reward_funcs.")
        for reward in rewards:
            if isinstance(reward, (str, PreTrainedModel)) or not callable(reward):
                raise TypeError(
                    f"A reward is a callable, not a {type(reward).__name__}: TRL's reward models read text alone, and "
                    "a picture has none. ImageTextSimilarity takes models that see it."
                )
        model = given_model(model, args.model_init_kwargs, quantization_config)
        check_adapters(model, kwargs.get("peft_config"), on_head=False)
        processing_class = processor_of(model) if processing_class is None else processing_class
        detokenizer = detokenizer_of(model) if detokenizer is None else detokenizer
        self._check_rows(train_dataset, eval_dataset, args, processing_class)
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False  # every trained parameter takes part in every image
        aside = {"model_init_kwargs": None}  # TRL would say that it ignores them
        adapted = is_peft_model(model) or kwargs.get("peft_config") is not None
        if args.beta and (reference is not None or not adapted):
            # Now, as the model is handed over; TRL would load one from where the model came from, if it was.
            reference, aside["beta"] = reference_of(without_adapters(model), reference), 0.0
        guarded = [
            (AsyncGuardedReward if is_async_callable(reward) else GuardedReward)(reward, args.reward_timeout)
            for reward in rewards
        ]
        with set_aside(args, **aside):
            super().__init__(model, guarded, args, train_dataset, eval_dataset, processing_class, **kwargs)
        self.beta = args.beta
        if self._dist.is_zero3 or self._dist.is_fsdp:
            raise ValueError(
                "Rollouts call the model's parts one by one, on each process as its prompts want them, so its weights "
                "must be whole there: use DeepSpeed's ZeRO-2, which shards gradients and optimizer, or LoRA."
            )
        if len(set(self.reward_func_names)) < len(self.reward_func_names):
            raise ValueError(
                f"Two rewards have one name in {', '.join(self.reward_func_names)}, so logs would mix them up; give "
                "one another __name__."
            )
        if reference is not None and self.is_deepspeed_enabled:
            self.ref_model = prepare_deepspeed(reference, self.accelerator)
        elif reference is not None:
            self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
        self.detokenizer = detokenizer.to(self.accelerator.device)
        self.detokenizer.set_progress_bar_config(disable=True)
        self._requests: list[dict] = []  # of the rollout at work, one a sample
        self._sheet_step = -1  # the step of the last sheet of pictures

    @staticmethod
    def _check_rows(train_dataset, eval_dataset, args: ArmGRPOConfig, processor: ArmProcessor) -> None:
        for name, dataset in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            for part, rows in (dataset if isinstance(dataset, dict) else {"": dataset}).items():
                if isinstance(rows, Dataset):
                    check_requests(rows, f"{name}[{part!r}]" if part else name, processor.image_processor)
        each = args.generation_batch_size // args.num_generations
        if isinstance(train_dataset, Dataset) and len(train_dataset) < each:
            raise ValueError(
                f"train_dataset has {len(train_dataset)} rows, but one generation takes {each} prompts "
                f"(generation_batch_size {args.generation_batch_size} / num_generations {args.num_generations}); "
                "nothing would be trained. Add rows or make the batch smaller."
            )

    def train(self, *args, **kwargs):
        """`GRPOTrainer.train`; raises ValueError if the (streamed) dataset did not suffice for one generation."""
        output = super().train(*args, **kwargs)
        if not self.state.global_step:
            prompts = self.args.generation_batch_size // self.num_generations
            raise ValueError(
                "Nothing was trained: train_dataset has fewer rows than one generation takes, "
                f"{prompts} prompts. Add rows or make the batch smaller."
            )
        return output

    @property
    def arm(self) -> ArmForCausalLM:
        """The model without what accelerate and PEFT put around it."""
        return without_adapters(self.accelerator.unwrap_model(self.model))

    @contextmanager
    def _sampling_model(self):
        """The model as TRL unwraps it for `generate`, without gradients."""
        unwrapped = unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        )
        with unwrapped as model, torch.no_grad():
            yield model

    # --- a rollout --------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        mode = "train" if self.model.training else "eval"
        first = self.accelerator.process_index * len(inputs)
        self._requests = [
            {**self._request(row), "generator": self._generator(mode, first + index, row["prompt"])}
            for index, row in enumerate(inputs)
        ]
        shared: dict[tuple, PIL.Image.Image] = {}  # the samples of a group have one source, and rewards can tell
        for request in self._requests:
            sources = request["source_images"]
            request["source_images"] = [shared.setdefault((each.size, each.tobytes()), each) for each in sources]
        hidden = ("generator", "grid")  # what rewards have no use for
        rows = [{name: request[name] for name in request if name not in hidden} for request in self._requests]
        unwrapped = self.accelerator.unwrap_model(self.model)
        with without_checkpointing(unwrapped, self.args.gradient_checkpointing_kwargs):  # TRL uses its older names
            output = super()._generate_and_score_completions(rows)
        self._log_rewards(mode)
        if self._metrics[mode]["frac_reward_zero_std"][-1] == 1 and mode == "train":
            logger.warning(
                "Step %d: the samples of every prompt have equal rewards, so there is nothing to learn from. If that "
                "lasts, take a finer reward, more num_generations or a higher temperature.",
                self.state.global_step,
            )
        self._show(mode, rows)
        return output

    def _request(self, row: Mapping) -> dict:
        """A dataset's row -> `prompt`, `task`, `source_images` and the row's other columns; and `grid`, in tokens."""
        where = f"with prompt {row.get('prompt')!r}"
        task, sources = read_request(row, where, rgb_picture)
        grid = read_grid(row, where, self.processing_class.image_processor)
        others = {name: value for name, value in row.items() if name not in SOURCES}
        return {**others, "task": task, "source_images": sources, "grid": grid}

    def _generator(self, mode: str, index: int, prompt: str) -> torch.Generator:
        """A sample's own randomness: of the seed, the step and its place in the batch over all processes."""
        micro_step = self._step % self.args.gradient_accumulation_steps
        words = f"{self.args.seed}/{mode}/{self.state.global_step}/{micro_step}/{index}/{prompt}"
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
        return torch.Generator(self.accelerator.device).manual_seed(seed)

    def _alike(self, *names: str) -> dict[tuple, list[int]]:
        """Places of the rollout's requests, by what they hold under some names."""
        places = defaultdict(list)
        for index, request in enumerate(self._requests):
            places[tuple(request[name] for name in names)].append(index)
        return places

    def _temperature(self, task: str) -> float:
        edit = task == EDITING and self.args.editing_temperature is not None
        return self.args.editing_temperature if edit else self.temperature

    def _tokenize_prompts(self, prompts: list[str]):
        """Prompts -> ids with the tokens of their source images, up to where the new image opens. Equal requests, the
        samples of a group, are encoded once.
        """
        encoded: dict[tuple, list[int]] = {}
        keys = [(request["prompt"], request["grid"], *map(id, request["source_images"])) for request in self._requests]
        patch = self.processing_class.image_processor.patch_size
        with self._sampling_model():
            for (grid, task), places in self._alike("grid", "task").items():
                new = {keys[place]: self._requests[place] for place in places}
                images = [request["source_images"] for request in new.values()] if task == EDITING else None
                inputs = self.processing_class.image_generation_inputs(
                    [request["prompt"] for request in new.values()],
                    images,
                    size={"height": grid[0] * patch, "width": grid[1] * patch},
                )
                input_ids = inputs["input_ids"].to(self.accelerator.device)
                if images is not None:
                    input_ids = self.arm.model.fill_image_tokens(input_ids, inputs["pixel_values"])
                opening = self.arm.config.image_opening(*grid)
                for key, ids, mask in zip(new, input_ids.cpu(), inputs["attention_mask"].bool(), strict=True):
                    encoded[key] = [*ids[mask].tolist(), *opening]
        return [encoded[key] for key in keys], None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        """Ids up to the opening of the image -> exactly H*W image tokens each."""
        completion_ids: list[list[int]] = [[] for _ in prompt_ids]
        for (grid, task), places in self._alike("grid", "task").items():
            opening, count = len(self.arm.config.image_opening(*grid)), grid[0] * grid[1]
            prompts = [torch.tensor([prompt_ids[place][:-opening]]) for place in places]  # generate opens the image
            input_ids, attention_mask = stack_left_padded([(ids, torch.ones_like(ids)) for ids in prompts])
            with self._sampling_model() as model:
                sequences = model.generate(
                    input_ids=input_ids.to(self.accelerator.device),
                    attention_mask=attention_mask.to(self.accelerator.device),
                    generation_mode="image",
                    image_grid=grid,
                    do_sample=True,  # and all else that the folder's generation config would set
                    temperature=self._temperature(task),
                    top_k=self.top_k,
                    top_p=self.top_p,
                    guidance_scale=1.0,
                    image_guidance_scale=1.0,
                    generator=[self._requests[place]["generator"] for place in places],
                )
            for place, ids in zip(places, sequences[:, -1 - count : -1].tolist(), strict=True):
                completion_ids[place] = ids
        return completion_ids, None

    def _generate(self, prompts: list[str]):
        mode = "train" if self.model.training else "eval"
        prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, *rest = super()._generate(prompts)
        for name in ("clipped_ratio", *(f"{which}_terminated_length" for which in ("mean", "min", "max"))):
            del self._metrics[mode][f"completions/{name}"]  # an image has no end-of-text token
        extra_fields["images"] = self._decode(completion_ids)
        return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, *rest

    def _decode(self, completion_ids: list[list[int]]) -> list[PIL.Image.Image]:
        """Image tokens -> pictures; an edit's at its source's size."""
        pictures: list = [None] * len(completion_ids)
        for (grid,), places in self._alike("grid").items():
            for batch in batched(places, self.args.decode_batch_size):
                codes = torch.tensor([completion_ids[place] for place in batch], device=self.accelerator.device)
                with self._sampling_model():
                    codes = codes.view(-1, *grid) - self.arm.config.visual_token_offset
                    z_q = self.arm.vq_model.decode_codes(codes)
                images = self.detokenizer(
                    z_q,
                    num_inference_steps=self.args.num_inference_steps,
                    guidance_scale=self.args.decoder_guidance_scale,
                    generator=[self._requests[place]["generator"] for place in batch],
                ).images
                for place, image in zip(batch, images, strict=True):
                    sources = self._requests[place]["source_images"]
                    pictures[place] = image.resize(sources[0].size) if sources else image
        return pictures

    # --- log-probabilities ------------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal,
    ):
        """Log-probabilities of the completions' image tokens over the visual rows, at the temperature they were
        sampled with (prompts that hold image tokens are edits), by the model's own forward, so that all hooks run.
        """
        log_probs, entropies = [], []
        size = batch_size or len(input_ids)
        for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
            labels = ids.masked_fill(mask == 0, -100)
            labels[:, :-logits_to_keep] = -100
            edits = (ids[:, :-logits_to_keep] >= self.arm.config.visual_token_offset).any(1)
            temperature = torch.where(edits, self._temperature(EDITING), self._temperature(TEXT_TO_IMAGE))
            with self.accelerator.autocast():
                outputs = model(
                    input_ids=ids, attention_mask=mask, labels=labels, scoring_temperature=temperature, use_cache=False
                )
            log_probs.append(outputs.log_probs[:, -logits_to_keep:])
            entropies.append(outputs.entropies[:, -logits_to_keep:])
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None

    # --- rewards ----------------------------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        """Rewards [samples of all processes, rewards], NaN where there is none, the others weighing as much more."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        mode = "train" if self.model.training else "eval"
        for name, reward in zip(self.reward_func_names, self.reward_funcs, strict=True):
            counts = torch.tensor(reward.take_counts(), device=self.accelerator.device)
            failed, asked, stops = self.accelerator.reduce(counts, "sum").tolist()
            if stops:  # on all processes, or those without the error would wait for the others
                raise reward.stop or RewardError(f"Reward {name} stopped training on another process.")
            reward.check_share(failed, asked, self.args.max_reward_failure_share)
            self._metrics[mode][f"rewards/{name}/failed"].append(failed / max(asked, 1))
        self._rewards = rewards
        if self.multi_objective_aggregation != "sum_then_normalize":
            return rewards
        weights = self.reward_weights.to(rewards.device).abs()
        answered = (~rewards.isnan() * weights).sum(1, keepdim=True)
        unjudged = rewards.new_tensor(torch.nan)  # where none, or none with a weight, has answered
        return torch.where(answered > 0, rewards * weights.sum() / answered, unjudged)

    def _log_rewards(self, mode: str) -> None:
        """Logs each reward as it was given, over all samples and a task."""
        tasks = gather_object([request["task"] for request in self._requests])
        for name, values in zip(self.reward_func_names, self._rewards.T, strict=True):
            known = values[~values.isnan()]
            self._metrics[mode][f"rewards/{name}/mean"][-1] = known.mean().item()
            self._metrics[mode][f"rewards/{name}/std"][-1] = known.std().item() if len(known) > 1 else 0.0
            self._logs["rewards"][name].clear()
            self._logs["rewards"][name].extend(values.tolist())
            for task in sorted(set(tasks)):
                of_task = values[torch.tensor([each == task for each in tasks], device=values.device)]
                mean = of_task.nanmean().item()
                if mean == mean:  # the reward applies to the task
                    self._metrics[mode][f"rewards/{task}/{name}"].append(mean)

    def _show(self, mode: str, rows: list[dict]) -> None:
        """Logs a sheet of the first groups' pictures, each row behind its source, and what they were asked for."""
        if self.log_completions and self.log_multimodal:
            self._logs["images"].extend(gather_object([[row["images"]] for row in rows]))
        step, every = self.state.global_step, self.args.picture_steps
        due = mode == "train" and every and step % every == 0 and step != self._sheet_step
        if not due or not self.is_world_process_zero():
            return
        self._sheet_step = step
        groups = list(batched(rows, min(self.num_generations, len(rows))))[:SHEET_GROUPS]
        pictures = [[*group[0]["source_images"], *(row["images"] for row in group)] for group in groups]
        log_samples(self, "rollouts", picture_sheet(pictures), [group[0]["prompt"] for group in groups])
