"""GRPO on image tokens (paper section 5) with TRL: what ARM's rollouts, log-probabilities and rewards are.

A prompt and its pictures become ids that end where the new picture opens; a completion is exactly its H*W image
tokens, and only their prediction is optimised. Pictures are decoded once a rollout, and every reward sees them.
Sampling, decoding and so the update do not depend on the number of processes: each sample has its own generator.
Knows nothing about what is rewarded.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel
from trl import GRPOTrainer
from trl.models import prepare_deepspeed, unwrap_model_for_generation
from trl.trainer.utils import is_async_callable

from ..data.input_files import with_rows_undecoded
from ..data.pictures import fetcher_for
from ..data.row_errors import Skipping
from ..detokenizer_arm import ArmDetokenizer
from ..evaluation.sheets import picture_sheet
from ..modeling_arm import ArmForCausalLM
from ..pipeline_arm import batched
from ..processing_arm import ArmProcessor
from ..prompts_arm import stack_left_padded
from ..rewards.errors import RewardError
from ..sizes.adapters import check_adapters, without_adapters
from .grpo_config import ArmGRPOConfig
from .parts import detokenizer_of, given_model, processor_of, reference_of
from .process import ProcessMixin
from .reporting import log_samples
from .requests import EDITING, TEXT_TO_IMAGE, usable_requests
from .reward_calls import AsyncGuardedReward, GuardedReward
from .rollout import Batch, Rollout, readable
from .saving import AtomicCheckpointMixin
from .sharding import check_whole
from .trainer import CardMixin, set_aside, without_checkpointing

logger = logging.getLogger(__name__)

ROLLOUTS = "Rollouts call parts of the model, on each process as its prompts want them, so weights must be whole there"
SHEET_GROUPS = 8  # prompts a picture sheet shows, with all their samples


class ArmGRPOTrainer(ProcessMixin, AtomicCheckpointMixin, CardMixin, GRPOTrainer):
    """`trl.GRPOTrainer` for ARM: text-to-image, editing, or both mixed.

    Rows of the datasets: `prompt` (str, a caption or an instruction); for edits `source_image`, or `source_images`, a
    list; `task`, "text_to_image" or "editing", where both are mixed; optionally `height` and `width` of the picture to
    draw, in px (default: the processor's size; edits are given back at their source's size). Any other column is
    passed on to the rewards.

    Rows that cannot be drawn are left out at the start, pictures that lie here decoded. Where an address or a remote
    store then gives no picture, another prompt of the batch is drawn in place of that one, on all processes alike;
    `max_skipped` bounds both.

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
        detokenizer: ArmDetokenizer | None = None,
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
        check_whole(args, ROLLOUTS)
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
        train_dataset = self._usable(train_dataset, "train_dataset", args, processing_class)
        eval_dataset = self._usable(eval_dataset, "eval_dataset", args, processing_class)
        self._check_length(train_dataset, args)
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
        self._rollout: Rollout  # the one at work
        self._fetchers = {"train": fetcher_for(train_dataset, args.local_files)}  # of what rows name as pictures
        self._skipping = {mode: Skipping(f"{mode}_dataset", args.max_skipped) for mode in ("train", "eval")}
        self._sheet_step = -1  # the step of the last sheet of pictures

    @staticmethod
    def _usable(dataset, name: str, args: ArmGRPOConfig, processor: ArmProcessor):
        """`usable_requests` of a dataset, or of each in a dict."""
        if isinstance(dataset, dict):
            return {
                part: ArmGRPOTrainer._usable(rows, f"{name}[{part!r}]", args, processor)
                for part, rows in dataset.items()
            }
        if not isinstance(dataset, Dataset | IterableDataset):
            return dataset
        options = {"local_files": args.local_files, "max_skipped": args.max_skipped}
        return usable_requests(dataset, name, processor.image_processor, **options)

    @staticmethod
    def _check_length(train_dataset, args: ArmGRPOConfig) -> None:
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

    def get_eval_dataloader(self, eval_dataset=None):
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        rows = self.eval_dataset[rows] if isinstance(rows, str) else rows
        self._fetchers["eval"] = fetcher_for(rows, self.args.local_files)
        if isinstance(eval_dataset, IterableDataset):
            eval_dataset = with_rows_undecoded(eval_dataset)
        return super().get_eval_dataloader(eval_dataset)

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
        read = partial(
            Rollout,
            image_processor=self.processing_class.image_processor,
            fetcher=self._fetchers[mode],
            generator=lambda place, prompt: self._generator(mode, first + place, prompt),
        )
        size = self.num_generations if mode == "train" else self.num_generations_eval
        self._rollout = readable(read, inputs, first, size, self._skipping[mode])
        unwrapped = self.accelerator.unwrap_model(self.model)
        with without_checkpointing(unwrapped, self.args.gradient_checkpointing_kwargs):  # TRL uses its older names
            output = super()._generate_and_score_completions([request.row for request in self._rollout])
        self._log_rewards(mode)
        if self._metrics[mode]["frac_reward_zero_std"][-1] == 1 and mode == "train":
            logger.warning(
                "Step %d: the samples of every prompt have equal rewards, so there is nothing to learn from. If that "
                "lasts, take a finer reward, more num_generations or a higher temperature.",
                self.state.global_step,
            )
        self._show(mode)
        return output

    def _generator(self, mode: str, index: int, prompt: str) -> torch.Generator:
        """A sample's own randomness: of the seed, the step and its place in the batch over all processes."""
        micro_step = self._step % self.args.gradient_accumulation_steps
        words = f"{self.args.seed}/{mode}/{self.state.global_step}/{micro_step}/{index}/{prompt}"
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
        return torch.Generator(self.accelerator.device).manual_seed(seed)

    def _temperature(self, task: str) -> float:
        edit = task == EDITING and self.args.editing_temperature is not None
        return self.args.editing_temperature if edit else self.temperature

    def _tokenize_prompts(self, prompts: list[str]):
        """Prompts -> ids with the tokens of their source images, up to where the new image opens. Equal requests, the
        samples of a group, are encoded once, however they are drawn.
        """
        with self._sampling_model():
            for requests in self._rollout.by_kind():
                alike = requests.alike()
                for groups in batched(alike, self.args.rollout_batch_size or len(alike)):
                    self._encode(groups, requests)
        openings = [self.arm.config.image_opening(*request.grid) for request in self._rollout]
        ids = [[*request.prompt_ids, *opening] for request, opening in zip(self._rollout, openings, strict=True)]
        return ids, None, {}

    def _encode(self, groups: list[Batch], requests: Batch) -> None:
        """Groups of equal requests, of one kind -> their ids, without the opening."""
        rows, columns = requests.grid
        patch = self.processing_class.image_processor.patch_size
        images = [group[0].sources for group in groups] if requests.task == EDITING else None
        inputs = self.processing_class.image_generation_inputs(
            [group[0].prompt for group in groups], images, size={"height": rows * patch, "width": columns * patch}
        )
        input_ids = inputs["input_ids"].to(self.accelerator.device)
        if images is not None:
            input_ids = self.arm.model.fill_image_tokens(input_ids, inputs["pixel_values"])
        for group, ids, mask in zip(groups, input_ids.cpu(), inputs["attention_mask"].bool(), strict=True):
            for request in group:
                request.prompt_ids = ids[mask].tolist()

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        """Ids up to the opening of the image -> exactly H*W image tokens each, `rollout_batch_size` at a time."""
        for requests in self._rollout.to_draw(self.args.rollout_batch_size):
            prompts = [torch.tensor([request.prompt_ids]) for request in requests]  # generate opens the image
            input_ids, attention_mask = stack_left_padded([(ids, torch.ones_like(ids)) for ids in prompts])
            with self._sampling_model() as model:
                sequences = model.generate(
                    input_ids=input_ids.to(self.accelerator.device),
                    attention_mask=attention_mask.to(self.accelerator.device),
                    generation_mode="image",
                    image_grid=requests.grid,
                    do_sample=True,  # and all else that the folder's generation config would set
                    temperature=self._temperature(requests.task),
                    top_k=self.top_k,
                    top_p=self.top_p,
                    guidance_scale=1.0,
                    image_guidance_scale=1.0,
                    generator=requests.generators,
                )
            drawn = sequences[:, -1 - math.prod(requests.grid) : -1]  # the last one closes the image
            for request, ids in zip(requests, drawn.tolist(), strict=True):
                request.image_ids = ids
        return [request.image_ids for request in self._rollout], None

    def _generate(self, prompts: list[str]):
        mode = "train" if self.model.training else "eval"
        prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, *rest = super()._generate(prompts)
        for name in ("clipped_ratio", *(f"{which}_terminated_length" for which in ("mean", "min", "max"))):
            del self._metrics[mode][f"completions/{name}"]  # an image has no end-of-text token
        for requests in self._rollout.to_render(self.args.decode_batch_size):
            self._render(requests)
            for reward in self.reward_funcs:
                reward.start(**requests.columns())
        extra_fields["images"] = [request.picture for request in self._rollout]
        return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, *rest

    def _render(self, requests: Batch) -> None:
        """Image tokens -> pictures; an edit's at its source's size."""
        codes = torch.tensor([request.image_ids for request in requests], device=self.accelerator.device)
        with self._sampling_model():
            codes = codes.view(-1, *requests.grid) - self.arm.config.visual_token_offset
            z_q = self.arm.vq_model.decode_codes(codes)
        images = self.detokenizer(
            z_q,
            num_inference_steps=self.args.num_inference_steps,
            guidance_scale=self.args.decoder_guidance_scale,
            generator=requests.generators,
        ).images
        for request, image in zip(requests, images, strict=True):
            request.draw(image)

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
        tasks = gather_object([request.task for request in self._rollout])
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

    def _show(self, mode: str) -> None:
        """Logs a sheet of the first groups' pictures, each row behind its source, and what they were asked for."""
        if self.log_completions and self.log_multimodal:
            self._logs["images"].extend(gather_object([[request.picture] for request in self._rollout]))
        step, every = self.state.global_step, self.args.picture_steps
        due = mode == "train" and every and step % every == 0 and step != self._sheet_step
        if not due or not self.is_world_process_zero():
            return
        self._sheet_step = step
        groups = self._rollout.groups(self.num_generations)[:SHEET_GROUPS]
        pictures = [[*group[0].sources, *(request.picture for request in group)] for group in groups]
        log_samples(self, "rollouts", picture_sheet(pictures), [group[0].prompt for group in groups])
