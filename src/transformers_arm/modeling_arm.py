"""ARM: a Qwen2 that reads and writes text and image tokens in one sequence.

Notable choices: one flat vocabulary, one embedding and one head; which head rows can come next is a pure function of
the current id (after `<|w:*|>` or an image token: image tokens; after anything else: text), so losses, sampling and
RL multiply only the rows that are possible; the visual tokenizer lives inside, frozen, so that one folder loads all.
Knows nothing about processors and pipelines, or how a detokenizer renders.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, Qwen2ForCausalLM, Qwen2Model
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.qwen2.modeling_qwen2 import Qwen2PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .attention_arm import PartsAttentionMixin
from .configuration_arm import MAX_GRID_SIDE, ArmConfig
from .generation_arm import ArmGenerationMixin
from .image_tokens_arm import ImageTokensMixin
from .loading_arm import CompleteCheckpointMixin, ExecutionDeviceMixin, HubOptionsMixin
from .loss_arm import RoutedLinear, check_shared_table, group_logits, positions_at_once, row_logits, row_losses
from .modeling_arm_vq import ArmVQModel
from .prompts_arm import EMPTY_PROMPT
from .rendering_arm import RenderingMixin
from .sampling_arm import IMAGE_GENERATION

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")  # the matrices with a row for each id
ROWS_AT_ONCE = 8192  # of those, in fp32: 112 MiB at 3584 wide


def draw_new_rows(matrix: torch.Tensor, known: int, seed: int) -> None:
    """Fills rows `known`.. of an embedding or head [rows, hidden_size], so that their norms match the rows before.

    They are drawn from a normal with the known rows' standard deviation about zero, one for the matrix.
    """
    squares = sum(float(part.float().square().sum()) for part in matrix[:known].split(ROWS_AT_ONCE))
    deviation = (squares / matrix[:known].numel()) ** 0.5
    generator = torch.Generator(matrix.device).manual_seed(seed)
    for part in matrix[known:].split(ROWS_AT_ONCE):
        drawn = torch.empty(part.shape, dtype=torch.float32, device=part.device)
        part.copy_(drawn.normal_(0, deviation, generator=generator))


@dataclass
class ArmCausalLMOutput(CausalLMOutputWithPast):
    """`CausalLMOutputWithPast` with the parts of the loss.

    Args:
        losses: mean cross-entropy of text (`"text"`) and image tokens (`"image"`), detached, for logging; only of
            those that the labels hold. `loss_counts`: of how many labels each is the mean, and all.
        token_losses: [B, T] in fp32, detached: cross-entropy of the label that each position predicts, NaN where none
            carries loss; with `output_token_losses` only.
        log_probs, entropies: [B, T - 1], of the labels and of the distributions they were drawn from; with
            `scoring_temperature` only. 0 where a label carries no loss.
    """

    losses: dict[str, torch.Tensor] | None = None
    loss_counts: dict[str, int] | None = None
    token_losses: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    entropies: torch.Tensor | None = None


class ArmPreTrainedModel(
    PartsAttentionMixin, ExecutionDeviceMixin, HubOptionsMixin, CompleteCheckpointMixin, Qwen2PreTrainedModel
):
    """What the models share.

    The frozen tokenizer keeps fp32, which its codes are made in, however the rest is loaded, quantized or cast: in
    bfloat16 one code in seventy is another, in 8 bits one in nine.
    """

    config: ArmConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    _no_split_modules = ["Qwen2DecoderLayer", "SiglipEncoderLayer"]
    _keep_in_fp32_modules = [".*vq_model"]  # what quantizers leave alone, by the beginnings of names
    _keep_in_fp32_modules_strict = ["vq_model"]

    def __setattr__(self, name: str, value):
        if name in ("embed_tokens", "lm_head") and self.config.tie_word_embeddings:
            check_shared_table(name, value)  # here PEFT sets what it has put around a module
        super().__setattr__(name, value)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """As in transformers; newer ones have another name for it and warn of this one, which trl reads."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())


class ArmModel(ImageTokensMixin, ArmPreTrainedModel, Qwen2Model):
    """Qwen2's decoder over the flat vocabulary, with the frozen visual tokenizer as `vq_model`."""

    config: ArmConfig

    def __init__(self, config: ArmConfig):
        super().__init__(config)
        self.vq_model = ArmVQModel._from_config(config.vq_config, dtype=torch.float32)
        self.vq_model.keeps_fp32 = True
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        self.vq_model.eval().requires_grad_(False)  # here, because from_pretrained makes new parameters
        return self

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ):
        """`Qwen2Model.forward`; `pixel_values` as for `fill_image_tokens`."""
        if pixel_values is not None:
            input_ids = self.fill_image_tokens(input_ids, pixel_values)
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )


class ArmForCausalLM(ArmGenerationMixin, RenderingMixin, ArmPreTrainedModel, Qwen2ForCausalLM):
    """ARM with its routed head (paper section 3.2): next-token prediction over text and image tokens.

    `LORA_TARGETS` are the decoder's linear layers, for PEFT's `target_modules`: bare names such as `q_proj`, and
    `all-linear`, would also put adapters into the frozen tokenizer, where they are never trained.
    """

    config: ArmConfig
    output_modalities = ("image", "text")
    _tp_plan = {}  # as ArmConfig says
    LORA_TARGETS = r"(model\.)?layers\.\d+\.(self_attn|mlp)\.\w+_proj"

    def __init__(self, config: ArmConfig):
        Qwen2PreTrainedModel.__init__(self, config)
        self.model = ArmModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = RoutedLinear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def vq_model(self) -> ArmVQModel:
        return self.model.vq_model

    @classmethod
    def from_backbones(
        cls, *, text: str, vq: str, dtype: torch.dtype | str = "auto", seed: int = 0, **config
    ) -> "ArmForCausalLM":
        """An untrained ARM from a Qwen2 checkpoint (with its tokenizer) and a tokenizer checkpoint.

        Rows of ids that the text tokenizer knows are the checkpoint's, bit for bit; rows of shape and image tokens
        are new (`draw_new_rows`). On text the model's logits are the checkpoint's. `assembly.assemble` writes the
        same as a folder, with less memory.

        Args:
            text: folder or Hub id of a `Qwen2ForCausalLM` with its tokenizer.
            vq: folder or Hub id of an `ArmVQModel`.
            dtype: of the new model; "auto" takes the text checkpoint's.
            seed: of the new rows.
            config: fields of `ArmConfig` that replace those of the text checkpoint.

        Raises:
            ValueError: as `ArmConfig.from_backbones`.
        """
        new_config = ArmConfig.from_backbones(text=text, vq=vq, **config)
        base = Qwen2ForCausalLM.from_pretrained(text, dtype=dtype, use_safetensors=True)
        model = cls._from_config(new_config, dtype=base.dtype)
        theirs, ours = base.state_dict(), model.state_dict()
        model.load_state_dict({name: theirs[name] for name in theirs if name not in VOCABULARY}, strict=False)
        model.vq_model.load_state_dict(ArmVQModel.from_pretrained(vq, dtype=torch.float32).state_dict())
        known = new_config.shape_token_offset
        for number, name in enumerate(VOCABULARY[: 1 if new_config.tie_word_embeddings else 2]):
            ours[name][:known] = theirs[name][:known]
            draw_new_rows(ours[name], known, seed + number)
        model.generation_config = cls.generation_config_from_backbone(text)
        return model

    @staticmethod
    def generation_config_from_backbone(text: str) -> GenerationConfig:
        """The text checkpoint's settings, ends of turns and documents as ends, `IMAGE_GENERATION`, and as
        `empty_prompt_ids` the ids of `EMPTY_PROMPT`.
        """
        try:
            settings = GenerationConfig.from_pretrained(text).to_diff_dict()
        except OSError:  # it has none beside its config
            settings = GenerationConfig.from_model_config(AutoConfig.from_pretrained(text)).to_diff_dict()
        tokenizer = AutoTokenizer.from_pretrained(text)
        known_ends = settings.get("eos_token_id") or []
        ends = [tokenizer.get_vocab().get("<|im_end|>"), tokenizer.eos_token_id]  # of a turn, of a document
        ends += known_ends if isinstance(known_ends, list) else [known_ends]
        settings |= {
            "_from_model_config": False,  # or fields that transformers does not know are dropped on loading
            "eos_token_id": list(dict.fromkeys(end for end in ends if end is not None)),
            "pad_token_id": tokenizer.pad_token_id,
            "image_generation": dict(IMAGE_GENERATION),
            "empty_prompt_ids": [tokenizer.encode(part, add_special_tokens=False) for part in EMPTY_PROMPT],
        }
        return GenerationConfig(**settings)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args, **kwargs) -> nn.Embedding:
        """Refuses any other size than the present one: rows past the text would collide with image tokens.

        Raises:
            ValueError: another size is asked for.
        """
        if new_num_tokens is not None and new_num_tokens != self.config.vocab_size:
            free = self.config.visual_token_offset - self.config.shape_token_offset - 2 * MAX_GRID_SIDE
            raise ValueError(
                f"Cannot resize ARM's vocabulary from {self.config.vocab_size} to {new_num_tokens} rows: image tokens "
                f"stand at {self.config.visual_token_offset} and above. {free} text rows are free: new tokens take "
                "those."
            )
        return self.get_input_embeddings()

    def add_model_tags(self, tags: list[str] | str) -> None:
        """As in transformers, but refuses TRL's own trainers, which tag their model as they are constructed.

        They multiply by the whole head, so that text and image tokens share one softmax, and train it silently wrong.
        A subclass that scores only the rows that can follow says so by "arm" among its `_tag_names`.

        Raises:
            TypeError: tags of one of TRL's own trainers.
        """
        tags = [tags] if isinstance(tags, str) else tags
        if "trl" in tags and "arm" not in tags:
            ours = {"grpo": "ArmGRPOTrainer", "sft": "ArmSFTTrainer"}
            ours = next((ours[tag] for tag in tags if tag in ours), "ArmTrainer (trainers/sft.py)")
            raise TypeError(
                f"TRL's own trainer (tags {', '.join(tags)}) takes the softmax over all {self.config.vocab_size} rows "
                f"of ARM's head, not only those that can follow; use transformers_arm's {ours}."
            )
        super().add_model_tags(tags)

    @Qwen2PreTrainedModel.loss_function.setter
    def loss_function(self, value):
        raise ValueError(
            "ARM's loss goes over the head's rows that can follow, which no loss_function of logits knows; leave it, "
            "or override compute_loss of a trainer."
        )

    def image_token_follows(self, input_ids: torch.LongTensor) -> torch.BoolTensor:
        """`ArmConfig.image_token_follows`: the routing of the head."""
        return self.config.image_token_follows(input_ids)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
        skip_logits: bool | None = None,
        text_follows: bool = False,
        scoring_temperature: torch.Tensor | float | None = None,
        output_token_losses: bool = False,  # Trainer takes every name with "label" in it for a column
        **kwargs: Unpack[TransformersKwargs],
    ) -> ArmCausalLMOutput:
        """Hidden states, logits over the rows that can follow, and the loss.

        Args:
            input_ids: [B, T] ids of the flat vocabulary. Given `inputs_embeds` [B, T, hidden_size] instead, text is
                what can follow every position.
            labels: [B, T]; a label is predicted from the position before it; placeholders become image tokens as in
                `input_ids`. -100, and labels that cannot follow their position (`<|vision_end|>` after the last image
                token is forced), carry no loss.
            logits_to_keep: the last so many positions, or the positions, to return logits for; 0 means all.
            pixel_values: pictures for the placeholders of `input_ids`; see `ArmModel.fill_image_tokens`.
            skip_logits: whether to build none; None skips them while training with labels.
            text_follows: whether it is known that text can follow all positions of the logits, so that only its rows
                are multiplied and no id is looked at, which would make the host wait; as in `generate`'s text mode.
            scoring_temperature: one, or one a row [B], that logits are divided by: asks for the labels'
                log-probabilities, as reinforcement learning needs them, in place of loss and logits.
            output_token_losses: whether the loss comes with that of each label.
            kwargs: `shift_labels` (already shifted labels), `num_items_in_batch` (what the summed loss is divided by),
                and what `Qwen2Model` takes.

        Returns:
            `ArmCausalLMOutput`; logits [B, kept, vocab_size] with a large finite negative in rows that cannot follow.

        Raises:
            ValueError: labels of image tokens without `input_ids`, or scores asked for without labels.
        """
        if labels is not None or pixel_values is not None:  # in this order: see `fill_ids_and_labels`
            input_ids, labels = self.model.fill_ids_and_labels(input_ids, labels, pixel_values)
        shift_labels = kwargs.pop("shift_labels", None)
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if shift_labels is None and labels is not None:
            shift_labels = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
        looked_at = not text_follows or shift_labels is not None
        image_follows = self._image_follows(input_ids, hidden_states, shift_labels) if looked_at else None
        results = {}
        if scoring_temperature is not None:
            if shift_labels is None:
                raise ValueError("scoring_temperature is for scores of labels; pass labels, or leave it out.")
            scores = self.routed_log_probs(hidden_states, image_follows, shift_labels, scoring_temperature)
            results = dict(zip(("log_probs", "entropies"), scores, strict=True))
        elif shift_labels is not None:
            results["loss"], parts = self.routed_loss(hidden_states, image_follows, shift_labels, num_items_in_batch)
            results |= parts | ({} if output_token_losses else {"token_losses": None})
        if skip_logits is None:
            skip_logits = self.training and shift_labels is not None
        if not skip_logits and scoring_temperature is None:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            image_follows = None if text_follows or input_ids is None else image_follows[:, keep]
            results["logits"] = self.routed_logits(hidden_states[:, keep], image_follows)
        return ArmCausalLMOutput(
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **results,
        )

    def _image_follows(self, input_ids, hidden_states, shift_labels) -> torch.BoolTensor:
        """The routing [B, T], where it is known: it is a function of ids, and embeddings do not tell theirs."""
        if input_ids is not None:
            return self.image_token_follows(input_ids).to(hidden_states.device)
        if shift_labels is not None and (shift_labels >= self.config.visual_token_offset).any():
            raise ValueError(
                f"Some labels are image tokens ({self.config.visual_token_offset} and above), but inputs_embeds do "
                "not tell where those can follow, so their loss would be lost. Pass input_ids in place of "
                "inputs_embeds (prompt tuning, which makes these, cannot: take LoRA), or labels of text alone."
            )
        return torch.zeros(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)

    def routed_head(self, hidden_states: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Hidden states [..., hidden_size] -> logits [..., stop - start] of the head's rows start..stop-1."""
        return row_logits(self.lm_head, hidden_states, start, stop)

    def routed_logits(self, hidden_states: torch.Tensor, image_follows: torch.BoolTensor | None) -> torch.Tensor:
        """Hidden states [B, T, hidden_size] -> logits [B, T, vocab_size], each position over its own rows only.

        `image_follows` [B, T] makes the host wait for the device, once; None says that text follows everywhere.
        """
        shape, hidden_states = hidden_states.shape[:2], hidden_states.flatten(0, 1)
        # Finite even after division by a temperature of 0.01 (-256 in fp16): -inf makes NaN entropies.
        impossible = max(-1e9, torch.finfo(hidden_states.dtype).min / 256)
        logits = hidden_states.new_full((len(hidden_states), self.config.vocab_size), impossible)
        offset = self.config.visual_token_offset
        if image_follows is None:
            logits[:, :offset] = self.routed_head(hidden_states, 0, offset)
            return logits.unflatten(0, shape)
        order = image_follows.flatten().long().argsort(stable=True)  # text, then images
        images = int(image_follows.sum())
        groups = [(len(order) - images, 0, offset), (images, offset, self.config.vocab_size)]
        possible = group_logits(self.lm_head, hidden_states[order], groups)
        for (count, start, stop), part in zip(groups, possible, strict=True):
            places, order = order[:count], order[count:]
            logits[places, start:stop] = part.to(logits.dtype)  # autocast may differ
        return logits.unflatten(0, shape)

    @torch.compiler.disable
    def routed_loss(
        self,
        hidden_states: torch.Tensor,
        image_follows: torch.BoolTensor,
        shift_labels: torch.LongTensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor | dict]]:
        """Cross-entropy of each label over the rows that can follow its position.

        Args:
            hidden_states: [B, T, hidden_size]; image_follows, shift_labels: [B, T], labels already shifted.
            num_items_in_batch: what the sum is divided by; None takes the number of labels that carry loss.

        Returns:
            The loss, and what it is made of: `losses`, `loss_counts` and `token_losses` of `ArmCausalLMOutput`.
        """
        shift_labels = shift_labels.to(hidden_states.device)
        routes = list(self._chosen_labels(image_follows, shift_labels))
        groups = [(int(chosen.sum()), start, stop) for chosen, start, stop in routes]
        chosen_states, targets = (
            torch.cat([part[chosen] for chosen, _, _ in routes]) for part in (hidden_states, shift_labels)
        )
        sums, each = row_losses(self.lm_head, chosen_states, targets, groups)
        counts = [count for count, _, _ in groups]
        kinds = [each for each in zip(("text", "image"), sums.detach(), counts, strict=True) if each[-1]]
        losses = {kind: summed / count for kind, summed, count in kinds}
        token_losses = each.new_full(shift_labels.shape, torch.nan)
        for (chosen, _, _), part in zip(routes, each.split(counts), strict=True):
            token_losses[chosen] = part
        items = max(sum(counts), 1) if num_items_in_batch is None else num_items_in_batch
        loss_counts = {"all": sum(counts)} | {kind: count for kind, _, count in kinds}
        return sums.sum() / items, {"losses": losses, "loss_counts": loss_counts, "token_losses": token_losses}

    @torch.compiler.disable
    def routed_log_probs(
        self,
        hidden_states: torch.Tensor,
        image_follows: torch.BoolTensor,
        shift_labels: torch.LongTensor,
        temperature: torch.Tensor | float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each label over the rows that can follow its position, and the entropy there.

        Args:
            hidden_states: [B, T, hidden_size]; image_follows, shift_labels: [B, T], labels already shifted.
            temperature: one, or one a row [B].

        Returns:
            Two fp32 tensors [B, T - 1], 0 where the label carries no loss.
        """
        shift_labels = shift_labels.to(hidden_states.device)
        temperature = torch.as_tensor(temperature, dtype=torch.float32, device=hidden_states.device)
        temperature = temperature.reshape(-1, 1).expand(shift_labels.shape)
        log_probs, entropies = (hidden_states.new_zeros(shift_labels.shape, dtype=torch.float32) for _ in range(2))
        for chosen, start, stop in self._chosen_labels(image_follows, shift_labels):
            parts = [part[chosen] for part in (hidden_states, shift_labels - start, temperature)]
            size = positions_at_once(stop - start)
            chunks = list(zip(*(part.split(size) for part in parts), strict=True))
            if len(chunks) > 1:  # the logits of one chunk at a time, in the backward pass as well
                scored = [checkpoint(self._score, *chunk, start, stop, use_reentrant=False) for chunk in chunks]
            else:
                scored = [self._score(*chunk, start, stop) for chunk in chunks]
            found = [torch.cat(each) for each in zip(*scored, strict=True)]
            log_probs, entropies = (
                total.masked_scatter(chosen, part) for total, part in zip((log_probs, entropies), found, strict=True)
            )
        return log_probs[:, :-1], entropies[:, :-1]

    def _score(self, hidden_states, targets, temperature, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, hidden_size], targets and temperatures [N] -> log-probabilities and entropies [N] over some rows."""
        logits = self.routed_head(hidden_states, start, stop).float() / temperature[:, None]
        log_probs = logits.log_softmax(-1)
        return log_probs.gather(-1, targets[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)

    def _chosen_labels(
        self, image_follows: torch.BoolTensor, shift_labels: torch.LongTensor
    ) -> Iterator[tuple[torch.BoolTensor, int, int]]:
        """For text and for images: where a label [B, T] is of the rows start..stop-1 that can follow its position."""
        offset, end = self.config.visual_token_offset, self.config.vocab_size
        for route, start, stop in ((~image_follows, 0, offset), (image_follows, offset, end)):
            yield route & (shift_labels >= start) & (shift_labels < stop), start, stop
