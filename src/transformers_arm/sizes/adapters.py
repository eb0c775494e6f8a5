"""What PEFT and bitsandbytes must know of ARM to train it on a small budget: LoRA, trainable image rows, QLoRA.

Knows nothing about trainers; every one that takes a `peft_config` takes what `lora_config` returns.
"""

import torch
from peft import LoraConfig, PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from ..modeling_arm import ArmForCausalLM


def without_adapters(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside a PEFT model, or a model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check_adapters(model: torch.nn.Module, peft_config: PeftConfig | None = None, *, on_head: bool = True) -> None:
    """Refuses adapters that would be lost on ARM, and says which work.

    Args:
        model: an ARM, or a PEFT model of one.
        peft_config: what will be put on it.
        on_head: whether an adapter may stand on the head; TRL's trainers take none.

    Raises:
        ValueError: prompt learning, which gives embeddings in place of the ids that ARM's head and drawing go by; or
            an adapter on the head.
    """
    configs = [*(getattr(model, "peft_config", None) or {}).values(), *filter(None, [peft_config])]
    for config in configs:
        if config.is_prompt_learning:
            raise ValueError(
                f"{type(config).__name__} puts embeddings before the prompt, but ARM's head goes by ids, and drawing "
                "takes nothing else. Take an adapter of the layers, such as lora_config(model)."
            )
    targets = [config for config in configs if getattr(config, "target_modules", None)]
    adapted = isinstance(without_adapters(model).get_output_embeddings(), BaseTunerLayer)
    if not on_head and (adapted or any(check_target_module_exists(config, "lm_head") for config in targets)):
        raise ValueError(
            "TRL's trainers take no adapter on lm_head. Train the head itself, modules_to_save=['lm_head'], or its "
            "image rows, lora_config(model, visual_rows=True), and leave it out of target_modules; or take "
            "transformers_arm's ArmTrainer, which takes any."
        )


def lora_config(model: ArmForCausalLM, *, visual_rows: bool = False, **fields) -> LoraConfig:
    """LoRA on the decoder's linear layers.

    Args:
        model: what will be adapted.
        visual_rows: whether the image tokens' rows of embedding and head are trained as well: themselves, not by
            adapters of low rank. They are saved with the adapter, and no other rows. PEFT copies both tables in each
            forward pass, and does not know how under FSDP and ZeRO-3; merge before drawing many pictures.
        fields: of `peft.LoraConfig`; they replace what stands here.

    Raises:
        ValueError: `visual_rows` together with `trainable_token_indices`.
    """
    defaults = {"target_modules": model.LORA_TARGETS, "task_type": "CAUSAL_LM"}
    if visual_rows:
        if "trainable_token_indices" in fields:
            raise ValueError("visual_rows sets trainable_token_indices; give one or the other.")
        rows = list(range(model.config.visual_token_offset, model.config.vocab_size))
        defaults["trainable_token_indices"] = {"embed_tokens": rows, "lm_head": rows}
    return LoraConfig(**{**defaults, **fields})


def quantization(*, compute_dtype: torch.dtype | str = "bfloat16") -> BitsAndBytesConfig:
    """QLoRA's 4-bit weights (arXiv 2305.14314: NF4, quantized twice) for the decoder's linear layers and nothing else.

        model = ArmForCausalLM.from_pretrained(folder, quantization_config=quantization(), dtype="bfloat16")

    The visual tokenizer keeps its weights, so that codes stay what they are, and so do embedding and head, whose rows
    are taken by their numbers.

    Args:
        compute_dtype: what the weights are multiplied in.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    if not is_bitsandbytes_available():
        raise ImportError("4-bit weights need bitsandbytes; install it with `pip install transformers-arm[qlora]`.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=["model.vq_model", "lm_head"],
    )
