"""Which attention the parts of a model compute with: one name for the whole, of which each part takes what it can.

By transformers' own hooks; `configuration_arm.attention_of_parts` says what the parts of a configuration are given.
Knows nothing about how attention is computed.
"""

import torch
from transformers.utils import logging

from .configuration_arm import attention_of_parts

logger = logging.get_logger(__name__)

FLEX_DEVICES = ("cuda", "xpu", "hpu")  # where flex attention has a backward pass


def flex_trains() -> bool:
    """Whether there is a device here that flex attention can train on; it has no backward pass on a CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator is not None and accelerator.type in FLEX_DEVICES


class PartsAttentionMixin:
    """Models that take one `attn_implementation` for all their parts, or a dict with one for each.

    "flex_attention" becomes "sdpa", with a warning, where there is no device that it trains on.
    """

    def set_attn_implementation(self, attn_implementation: str | dict, *args, **kwargs) -> None:
        """As in transformers; raises ValueError as `attention_of_parts`, and for a name that nobody knows."""
        given = attention_of_parts(self.config, attn_implementation)
        super().set_attn_implementation(given, *args, **kwargs)
        for part in self.config.sub_configs:  # transformers 5.17 reaches the parts of parts once
            chosen = given.get(part) if isinstance(given, dict) else self.config._attn_implementation
            if chosen is not None and getattr(self.config, part) is not None:
                getattr(self.config, part)._attn_implementation = chosen

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args, **kwargs) -> str:
        if attn_implementation == "flex_attention" and self._supports_flex_attn and not flex_trains():
            logger.warning_once("flex_attention trains on a GPU alone, and there is none here: sdpa takes its place.")
            attn_implementation = "sdpa"
        try:
            return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)
        except (ImportError, ValueError) as error:
            kind = ImportError if isinstance(error, ImportError) else ValueError
            raise kind(
                f"{type(self).__name__} cannot take attn_implementation={attn_implementation!r}: {error} Take 'sdpa', "
                "which is always there."
            ) from error
