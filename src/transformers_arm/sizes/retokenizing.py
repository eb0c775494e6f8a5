"""Puts another visual tokenizer under a trained language model, which keeps what it has learnt.

Codes of two tokenizers have nothing in common but the pictures: a row of a new code starts as the mean of the rows of
the codes that stood at the same patches. Knows nothing about training, which has to follow.
"""

from collections.abc import Iterable

import torch

from ..configuration_arm import ArmConfig
from ..modeling_arm import VOCABULARY, ArmForCausalLM, draw_new_rows
from ..modeling_arm_vq import ArmVQModel


@torch.no_grad()
def codes_together(old: ArmVQModel, new: ArmVQModel, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """How often each code of one tokenizer stands where another has each of its own: [codes of new, codes of old].

    Args:
        batches: pictures [B, 3, H, W] in -1..1; sizes may differ between batches.

    Raises:
        ValueError: the tokenizers cut pictures differently, or there are no pictures.
    """
    if old.config.patch_size != new.config.patch_size:
        raise ValueError(
            f"The new tokenizer's patches have {new.config.patch_size} px and the old one's {old.config.patch_size}: "
            "their codes do not stand at the same places. Train the language model from its text backbone."
        )
    counts = torch.zeros(new.config.codebook_size * old.config.codebook_size)
    for pixel_values in batches:
        codes, others = (model.get_codes(pixel_values.to(model.device)).flatten().cpu() for model in (new, old))
        counts += torch.bincount(codes * old.config.codebook_size + others, minlength=len(counts))
    if not counts.any():
        raise ValueError("There are no pictures to compare the tokenizers by; pass some hundreds.")
    return counts.view(new.config.codebook_size, old.config.codebook_size)


@torch.no_grad()
def retokenized(
    model: ArmForCausalLM, vq_model: ArmVQModel, batches: Iterable[torch.Tensor], *, seed: int = 0
) -> ArmForCausalLM:
    """A model like `model` with another tokenizer; codes that no picture has get rows as new ones do.

    Args:
        vq_model: with patches of the same size, and any codebook.
        batches: as of `codes_together`; each code of the new tokenizer should be among them.
        seed: of the rows of the others.

    Raises:
        ValueError: as `codes_together`.
    """
    counts = codes_together(model.vq_model, vq_model, batches)
    seen, offset = counts.any(1), model.config.visual_token_offset
    shares = counts[seen] / counts[seen].sum(1, keepdim=True)
    vq_config = {**vq_model.config.to_dict(), "_name_or_path": ""}  # it may be a path of somebody's disk
    fields = {**model.config.to_dict(), "vq_config": vq_config, "vocab_size": offset + len(counts)}
    made = ArmForCausalLM._from_config(ArmConfig(**fields), dtype=model.dtype)
    theirs, ours = model.state_dict(), made.state_dict()
    kept = {name: value for name, value in theirs.items() if name not in VOCABULARY and ".vq_model." not in name}
    made.load_state_dict(kept, strict=False)
    made.vq_model.load_state_dict(vq_model.state_dict())
    for number, name in enumerate(VOCABULARY[: 1 if model.config.tie_word_embeddings else 2]):
        rows = theirs[name].cpu()
        ours[name][:offset] = rows[:offset]
        draw_new_rows(ours[name], offset, seed + number)
        ours[name][offset:][seen] = (shares @ rows[offset:].float()).to(rows.dtype)
    made.generation_config = model.generation_config
    return made
