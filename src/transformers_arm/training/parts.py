"""The parts that belong to a model: its processor, its detokenizer, and the policy that its updates stay near.

The rule, for all trainers and recipes: **a part comes from where its model came from**, of the same commit, by the
same token, from the same cache and as offline as it (`HubOptionsMixin.hub_options`), wherever the repo's branch is by
now; and what the model has become in memory since is its own reference. Knows nothing about how models are trained.
"""

import copy
import logging
import os

import torch

from ..modeling_arm import ArmForCausalLM
from ..processing_arm import ArmProcessor
from ..renderers_arm import load_detokenizer
from ..sizes.adapters import without_adapters

logger = logging.getLogger(__name__)


def origin_of(model, part: str) -> tuple[str, dict]:
    """A model's folder or Hub id, and what else `from_pretrained` needs to find its other parts there.

    Args:
        model: an `ArmForCausalLM`, or a PEFT model of one.
        part: what it is asked for; for the error.

    Raises:
        ValueError: the model was made in memory.
    """
    arm = without_adapters(model)
    if not arm.name_or_path:
        raise ValueError(f"The model came from no folder or Hub repo, where its {part} would be; pass {part}=.")
    return arm.name_or_path, dict(arm.hub_options)


def given_model(model, model_init_kwargs: dict | None = None, quantization_config=None):
    """The model that a trainer is given, as it is or by its folder or Hub id.

    Args:
        model: an `ArmForCausalLM`, a PEFT model of one, or where one is.
        model_init_kwargs, quantization_config: of `from_pretrained`; the dtype is float32 unless stated.

    Raises:
        TypeError: another model.
        ValueError: `quantization_config` for a model that is loaded already.
    """
    if isinstance(model, str):
        options = {"dtype": torch.float32, "quantization_config": quantization_config, **(model_init_kwargs or {})}
        return ArmForCausalLM.from_pretrained(model, **options)
    if not isinstance(without_adapters(model), ArmForCausalLM):
        raise TypeError(f"The model is a {type(model).__name__}, and no ArmForCausalLM; use TRL's own trainers.")
    if quantization_config is not None:
        raise ValueError("The model is loaded already, so quantization_config comes too late; load the model with it.")
    return model


def processor_of(model) -> ArmProcessor:
    """The processor of a model; raises as `origin_of`."""
    name, hub = origin_of(model, "processing_class")
    return ArmProcessor.from_pretrained(name, **hub)


def detokenizer_of(model, *, required: bool = True):
    """The detokenizer of a model, in its own dtype, bf16 or fp32: it is saved with what is trained.

    Args:
        required: whether one that is not there is an error; else None is returned, and where more may be on the Hub
            than can be seen, a warning given.

    Raises:
        ValueError: as `origin_of`.
        FileNotFoundError: there is none, and it is required.
        OSError: it could not be downloaded.
    """
    name, hub = origin_of(model, "detokenizer")
    try:
        return load_detokenizer(name, **hub)
    except FileNotFoundError as error:
        if required:
            raise
        if not os.path.isdir(name):
            logger.warning("What is saved will have no detokenizer: %s", error)
        return None


def reference_of(model: ArmForCausalLM, reference: "ArmForCausalLM | str | None" = None) -> ArmForCausalLM:
    """What a policy stays near: frozen, and in evaluation mode.

    Args:
        model: the policy.
        reference: a model, which is frozen as it is, or a folder or Hub id, loaded in the policy's dtype by the
            policy's token and cache; None makes a copy of the policy as it is now. The frozen tokenizer, which takes
            no part in scores, is shared with the copy.

    Raises:
        TypeError: the reference is no `ArmForCausalLM`.
        ValueError: it is the policy itself, or has other ids.
    """
    if reference is None:
        reference = copy.deepcopy(model, {id(model.vq_model): model.vq_model})
    elif isinstance(reference, str):
        hub = dict(model.hub_options)
        if reference != model.name_or_path:
            hub.pop("revision", None)  # a commit of another repo
        attention = {"attn_implementation": model.config._attn_implementation}
        reference = ArmForCausalLM.from_pretrained(reference, dtype=model.dtype, **attention, **hub)
    if not isinstance(reference, ArmForCausalLM):
        raise TypeError(f"reference is a {type(reference).__name__}; pass an ArmForCausalLM, its folder or Hub id.")
    if reference is model:
        raise ValueError("reference is the model that is trained; leave it out, and a copy of it is made.")
    ids = [(each.config.vocab_size, each.config.visual_token_offset) for each in (model, reference)]
    if ids[0] != ids[1]:
        raise ValueError(
            f"The reference has {ids[1][0]} ids, of images from {ids[1][1]}, the model {ids[0][0]} from {ids[0][1]}; "
            "pass a model of the same vocabulary, such as the one that training began with."
        )
    return reference.requires_grad_(False).eval()
