"""The visual tokenizer alone, from its own folder or that of an ARM, and what its codes follow from."""

import hashlib
import json
import os

import torch
from transformers import AutoConfig

from ..configuration_arm import ArmConfig
from ..image_processing_arm import ArmImageProcessor
from ..modeling_arm_vq import ArmVQModel
from .pictures import MAX_CODE


class _TokenizerOfArm(ArmVQModel):
    """Loads the tokenizer alone from an ARM's folder."""

    _keys_to_ignore_on_load_unexpected = [r"^(model|lm_head)\."]


def load_tokenizer(folder: str | os.PathLike, dtype: str = "float32") -> tuple[ArmVQModel, ArmImageProcessor]:
    """The visual tokenizer and the image processor of its folder, or of the folder of the ARM that it is part of."""
    config = AutoConfig.from_pretrained(folder)
    options = {"dtype": getattr(torch, dtype)}
    if isinstance(config, ArmConfig):
        own = {"config": config.vq_config, "key_mapping": {r"^model\.vq_model\.": ""}}
        vq_model = _TokenizerOfArm.from_pretrained(folder, **own, **options)
    else:
        vq_model = ArmVQModel.from_pretrained(folder, **options)
    if vq_model.config.codebook_size > MAX_CODE + 1:
        raise ValueError(f"The codebook has {vq_model.config.codebook_size} codes, but uint16 holds {MAX_CODE + 1}.")
    return vq_model.eval(), ArmImageProcessor.from_pretrained(folder)


def describe_tokenizer(folder: str, dtype: str) -> dict:
    """What a tokenizer's codes follow from, to be compared by."""
    vq_model, image_processor = load_tokenizer(folder, dtype)
    return {
        **described_model(vq_model),
        "dtype": dtype,
        "image_processor": json.loads(image_processor.to_json_string()),
    }


def described_model(vq_model: ArmVQModel) -> dict:
    """What the codes of given pixels follow from, but for their precision."""
    return {
        "weights": weights_fingerprint(vq_model),
        "codebook_size": vq_model.config.codebook_size,
        "quantizer": {name: getattr(vq_model.config, name) for name in ("fsq_levels", "fsq_activation")},
    }


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A SHA-256 of all that what a model makes follows from, such as a tokenizer's codes, but its configuration."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
