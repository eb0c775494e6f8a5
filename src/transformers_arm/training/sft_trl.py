"""Supervised fine-tuning with TRL: its data handling, packing and logs around ARM's own routed loss.

    trainer = ArmSFTTrainer(model, ArmSFTConfig("output", packing=True, max_length=4096), train_dataset=dataset)
    trainer.train()

Rows (`data/columns.py`) become `input_ids` and `labels` before TRL sees them, their pictures tokens of the frozen
tokenizer, if they are not codes already; truncation, packing, collation and logs are TRL's. TRL's own loss multiplies
every position by the whole head, so that text and image tokens share one softmax: it is replaced by the loss of ARM's
forward. Knows nothing about how pictures are rendered.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from random import Random

import torch
from datasets import Dataset, Features, IterableDataset, List, Value
from datasets.fingerprint import Hasher
from transformers import Trainer
from trl import SFTConfig, SFTTrainer

from ..data.columns import row_conversation, undecoded
from ..data.conversations import (
    NO_DROPOUT,
    ConversationCollator,
    check_codes,
    check_condition_dropout,
    document_parts,
    drop_conditions,
    is_document,
    picture_tokens,
    pictures_of,
    pixel_values_of,
)
from ..data.input_files import column_names, with_rows_undecoded
from ..data.pictures import fetcher_for
from ..data.row_errors import Skipping, check_share, row_error
from ..data.visual_tokenizer import weights_fingerprint
from ..fetching_arm import FROM_CALLER, Fetcher
from ..modeling_arm import ArmForCausalLM
from ..processing_arm import ArmProcessor
from ..sizes.adapters import check_adapters, without_adapters
from .logs import RunLogsMixin
from .parts import given_model, processor_of
from .process import ProcessMixin
from .routed_loss import WHOLE_HEAD, RoutedLossMixin, refuse_other_losses
from .sharding import ShardingMixin
from .trainer import AtomicCheckpointMixin, CardMixin, no_bf16_on_cpu, set_aside, settle

ROWS_AT_ONCE = 32  # whose pictures are encoded together
ENCODED = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})


@dataclass
class ArmSFTConfig(SFTConfig):
    """TRL's `SFTConfig` for ARM. Loss is on what the assistant says, always, and on all of a plain document.

    Args:
        max_length: longest row in tokens, and what packing fills. None, unlike TRL's 1,024: one picture of 512x512 px
            has 1,024 tokens. Rows whose pictures, or all that is learnt, would be cut off are refused; plain documents
            become several rows, of which none is cut.
        condition_dropout: probabilities `text`, `image` and `both` with which a training row that asks for a picture
            loses that part of its request, so that guidance has its other branches (`drop_conditions`, which says
            what pre-training takes). Drawn once a row, when the dataset is prepared. None drops nothing.
        local_files: whether rows of parquet, json, csv and tar files may name local files, archives and remote stores
            as pictures. Without it they name http(s) addresses; image folders and rows made in memory need none of it.
        max_skipped: share of the rows that may be unusable: they are named, counted and left out.
        peak_tflops: TFLOP/s that a GPU could do, for `model_flops_share` in the log; None takes those of known GPUs.

    Raises:
        ValueError: an option of TRL that makes no sense for ARM.
    """

    _VALID_DICT_FIELDS = SFTConfig._VALID_DICT_FIELDS + ["condition_dropout"]

    max_length: int | None = field(default=None, metadata={"help": "Longest row in tokens, and what packing fills."})
    condition_dropout: dict[str, float] | str | None = field(
        default=None, metadata={"help": "Probabilities text, image, both: what requests for pictures lose."}
    )
    local_files: bool = field(default=False, metadata={"help": "Whether rows of files may name local pictures."})
    max_skipped: float = field(default=0.05, metadata={"help": "Share of rows that may be unusable, and is left out."})
    peak_tflops: float | None = field(default=None, metadata={"help": "TFLOP/s that a GPU could do, for the log."})

    def __post_init__(self):
        no_bf16_on_cpu(self)
        settle(vars(self))
        super().__post_init__()
        refuse_other_losses(self)
        assistant_only = "only what the assistant says carries loss, as it is"
        fixed_layout = "ARM's layout of a conversation is fixed, and its turns end with <|im_end|>"
        refused = {
            "assistant_only_loss": (self.assistant_only_loss, assistant_only),
            "completion_only_loss": (self.completion_only_loss is not None, assistant_only),
            "loss_type": (self.loss_type != "nll", WHOLE_HEAD),
            "dataset_text_field": (
                self.dataset_text_field != "text",
                "plain documents are in `text`; rename the column",
            ),
            "chat_template_path": (self.chat_template_path, fixed_layout),
            "eos_token": (self.eos_token, fixed_layout),
            "eval_packing": (self.eval_packing and not self.packing, "its documents would see each other"),
            "packing_strategy": (self.packing and self.packing_strategy != "bfd", "it cuts pictures; use 'bfd'"),
            "truncation_mode": (self.truncation_mode != "keep_start", "it cuts the pictures that are asked about"),
        }
        for name, (is_refused, reason) in refused.items():
            if is_refused:
                raise ValueError(f"{name}={getattr(self, name)!r} makes no sense for ARM: {reason}. Leave it out.")
        check_condition_dropout(self.condition_dropout, NO_DROPOUT)
        check_share(self.max_skipped)
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every trainable parameter has a gradient, whatever the batch


def in_one_column(row: dict) -> dict:
    """A row as its only column, beside its own: `datasets` removes columns by names that all rows must have."""
    return {"row": row}


class RowEncoder:
    """Batches of rows -> `input_ids` and `labels`, exactly those of `ConversationCollator` for the same conversations.

    Args:
        model, processor: an ARM, whose frozen tokenizer encodes the pictures, and its processor, which sizes them.
        max_length: rows longer than this are checked; see `check_length`.
        condition_dropout, seed: see `ArmSFTConfig`; what row i loses is a function of seed and i.
        fetcher: opens what rows name as pictures.
        skipping: passes over rows that cannot be used; None skips none.

    Raises:
        ValueError: too many rows cannot be used; names them.
    """

    def __init__(
        self,
        model: ArmForCausalLM,
        processor: ArmProcessor,
        *,
        max_length: int | None = None,
        condition_dropout: dict[str, float] | None = None,
        seed: int = 0,
        fetcher: Fetcher = FROM_CALLER,
        skipping: Skipping | None = None,
    ):
        self.model, self.image_processor, self.fetcher = model, processor.image_processor, fetcher
        self.max_length, self.seed = max_length, seed
        self.skipping = skipping or Skipping("The dataset", 0.0)
        self.condition_dropout = NO_DROPOUT | (condition_dropout or {})
        self.collator = ConversationCollator(processor.tokenizer, model.vq_model, model.config)

    def fingerprint(self, dataset: Dataset) -> str:
        """What the result depends on, so that `datasets` finds it in its cache again; hashing the model as an object
        would write it out.
        """
        version = metadata.version("transformers-arm")
        vocabulary = sorted(self.collator.tokenizer.get_vocab().items())
        settings = [self.max_length, self.condition_dropout, self.seed, self.image_processor.to_json_string()]
        settings += [str(self.fetcher), self.skipping.max_skipped]
        return Hasher.hash(
            [
                dataset._fingerprint,
                version,
                weights_fingerprint(self.model.vq_model),
                self.model.config.to_json_string(),
                vocabulary,
                settings,
            ]
        )

    def pixel_values(self, picture) -> torch.Tensor:
        """`pixel_values_of` a picture."""
        return pixel_values_of(picture, self.image_processor)

    def image_tokens(self, pictures: list[torch.Tensor]) -> list[torch.LongTensor]:
        """Pictures [3, H, W] or codes [h, w] -> their tokens [h, w], in the same order."""
        vq_model = self.model.vq_model

        def encode(alike: list[torch.Tensor]) -> torch.LongTensor:
            return vq_model.get_codes(torch.stack(alike).to(vq_model.device, vq_model.dtype)).cpu()

        return picture_tokens(pictures, encode, self.model.config)

    def conversation(self, row: dict, index: int) -> list[dict]:
        """A row -> chat messages that have lost what `condition_dropout` drew for it."""
        messages = row_conversation(row, index, self.pixel_values, self.fetcher)
        check_codes(pictures_of(messages), self.model.config)
        return drop_conditions(Random(f"{self.seed}/{index}"), messages, **self.condition_dropout)

    def encode(self, index: int, messages: list[dict], tokens: Iterator[torch.LongTensor]) -> tuple[list, list]:
        """A row's conversation and the tokens of its pictures in order -> ids and labels."""
        ids, labels = self.collator.encode(messages, tokens)
        if not is_document(messages):
            self.check_length(index, ids, labels)
        return ids, labels

    def check_length(self, index: int, ids: list[int], labels: list[int]) -> None:
        """Refuses a row of which truncation would leave a broken picture, or nothing to learn; text may be cut."""
        if self.max_length is None or len(ids) <= self.max_length:
            return
        config, lost = self.model.config, ids[self.max_length :]
        in_picture = any(token >= config.visual_token_offset or token == config.vision_end_token_id for token in lost)
        if in_picture or not any(label != -100 for label in labels[: self.max_length]):
            what = "a picture" if in_picture else "all that it teaches"
            problem = (
                f"it has {len(ids)} tokens; at max_length {self.max_length} {what} would be cut off. Raise "
                "max_length, let the image processor make pictures smaller, or drop the row."
            )
            raise row_error(index, "", problem, "longer than max_length")

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list[list[int]]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        return self.encoded(rows, indices)

    def encoded(self, rows: list[dict], indices: list[int]) -> dict[str, list[list[int]]]:
        """The same for rows that need not have the same columns."""
        usable, encoded = [], []
        for index, row in zip(indices, rows, strict=True):
            with self.skipping.row(index):
                usable.append((index, self.conversation(row, index)))
        tokens = iter(self.image_tokens([image for _, messages in usable for image in pictures_of(messages)]))
        for index, messages in usable:
            pictures = [next(tokens) for _ in pictures_of(messages)]
            with self.skipping.row(index):
                encoded.append(self.encode(index, messages, iter(pictures)))
        self.skipping.check(len(rows))
        return {"input_ids": [ids for ids, _ in encoded], "labels": [labels for _, labels in encoded]}


def documents_in_parts(rows: dict[str, list], max_length: int) -> dict[str, list]:
    """Batches of encoded rows, with those documents that are longer than `max_length` in parts.

    Those are what all is learnt of: of a conversation, nothing is learnt of what opens a turn.
    """
    found = {"input_ids": [], "labels": []}
    for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
        is_long = len(ids) > max_length > 1 and -100 not in labels[1:]
        for part in document_parts(ids, labels, max_length) if is_long else [(ids, labels)]:
            for column, values in zip(found, part, strict=True):
                found[column].append(values)
    return found


class ModelLossMixin:
    """For an `SFTTrainer`: transformers' loss, which is the model's own, in place of TRL's softmax over the head."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs["use_cache"] = False  # a cache would join the documents of a packed row
        if model.training:
            tokens = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).sum()
            self._total_train_tokens += self.accelerator.gather_for_metrics(tokens).sum().item()
        self._metrics["train" if model.training else "eval"]["num_tokens"] = [self._total_train_tokens]
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)


class ArmSFTTrainer(
    ProcessMixin,
    AtomicCheckpointMixin,
    ShardingMixin,
    CardMixin,
    RunLogsMixin,
    RoutedLossMixin,
    ModelLossMixin,
    SFTTrainer,
):
    """TRL's `SFTTrainer` for ARM.

    Logs `loss`, `num_tokens` and what `RunLogsMixin` says, `loss_text` and `loss_image` among it; not TRL's entropy
    and token accuracy, which come from its own head.

    Args:
        model: an `ArmForCausalLM`, a PEFT model around one, or the folder or Hub id of one (loaded in float32).
        args: an `ArmSFTConfig`; None takes its defaults.
        train_dataset: `datasets` of rows as `data/columns.py` says, or with `input_ids` and `labels` already; streamed
            ones too, with `max_steps`.
        processing_class: the `ArmProcessor`; None loads the model's (`training.parts`).
        kwargs: what `SFTTrainer` takes: `eval_dataset`, `peft_config` (with
            `target_modules=ArmForCausalLM.LORA_TARGETS`), `callbacks`, ...

    Raises:
        ValueError: a row that cannot be used, adapters in the frozen tokenizer or on the head, or an argument that
            would replace ARM's ids or loss.
        TypeError: another config, model or processor.
    """

    _tag_names = ["trl", "sft", "arm"]

    def __init__(
        self,
        model,
        args: ArmSFTConfig | None = None,
        *,
        train_dataset: Dataset | IterableDataset,
        processing_class: ArmProcessor | None = None,
        **kwargs,
    ):
        args = ArmSFTConfig() if args is None else args
        if not isinstance(args, ArmSFTConfig):
            raise TypeError(f"args is a {type(args).__name__}; pass an ArmSFTConfig, which checks TRL's options.")
        refuse_other_losses(args, kwargs.get("compute_loss_func"), trainer=type(self).__name__)
        if kwargs.get("formatting_func") is not None:
            raise ValueError("ArmSFTTrainer takes no formatting_func: ARM has its own ids and loss. Leave it out.")
        model = given_model(model, args.model_init_kwargs, kwargs.pop("quantization_config", None))
        arm = without_adapters(model)
        check_adapters(model, kwargs.get("peft_config"), on_head=False)
        if processing_class is None:
            processing_class = processor_of(arm)
        if not isinstance(processing_class, ArmProcessor):
            raise TypeError(f"processing_class is a {type(processing_class).__name__}; pass the model's ArmProcessor.")
        self._arm, self._processor = arm, processing_class
        forward = vars(arm).get("forward")
        # Here and not only in `_prepare_dataset`: TRL would refuse to pack rows in which it finds pictures.
        train_dataset = self._encode(train_dataset, args, "train")
        with set_aside(args, model_init_kwargs=None):  # TRL would say that it ignores them
            super().__init__(model, args, train_dataset=train_dataset, processing_class=processing_class, **kwargs)
        # TRL has put a forward with its own head over the model's; take it off again.
        if forward is None:
            vars(arm).pop("forward", None)
        else:
            arm.forward = forward
        if any(".base_layer." in name for name in arm.vq_model.state_dict()):
            raise ValueError(
                "The adapters reach into the frozen tokenizer, where they are never trained; give the PEFT config "
                "target_modules=ArmForCausalLM.LORA_TARGETS."
            )

    def _encode(self, dataset, args: ArmSFTConfig, name: str):
        """Rows -> `input_ids` and `labels`, kept in the cache of `datasets`; rows that have them stay as they are."""
        streamed = isinstance(dataset, IterableDataset)
        rows = with_rows_undecoded(dataset) if streamed else dataset
        if "input_ids" in (columns := column_names(rows)):
            return dataset
        encoder = RowEncoder(
            self._arm,
            self._processor,
            max_length=args.max_length,
            condition_dropout=args.condition_dropout if name == "train" else None,
            seed=args.seed,
            fetcher=fetcher_for(dataset, args.local_files),
            skipping=Skipping(f"{name} dataset", args.max_skipped, None if streamed else len(dataset)),
        )
        dataset = undecoded(rows)
        options = {"with_indices": True, "batched": True, "batch_size": ROWS_AT_ONCE, "features": ENCODED}
        parts = {"fn_kwargs": {"max_length": args.max_length}, "batched": True, "features": ENCODED}
        has_long = args.max_length is not None and (streamed or "text" in columns)  # later rows have their own
        if streamed:
            whole = dataset.map(in_one_column).select_columns("row")
            whole = whole.map(encoder.encoded, input_columns="row", remove_columns="row", **options)
            return whole.map(documents_in_parts, **parts) if has_long else whole
        home = self._arm.vq_model.device
        with args.main_process_first(desc=f"encoding of the {name} dataset"):
            self._arm.vq_model.to(args.device)
            dataset = dataset.map(
                encoder,
                remove_columns=columns,
                new_fingerprint=encoder.fingerprint(dataset),
                desc=f"Encoding {name} dataset",
                **options,
            )
            self._arm.vq_model.to(home)
            encoder.skipping.conclude(len(dataset))
            return dataset.map(documents_in_parts, **parts) if has_long else dataset

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        encoded = self._encode(dataset, args, dataset_name)
        return super()._prepare_dataset(encoded, processing_class, args, packing, formatting_func, dataset_name)
