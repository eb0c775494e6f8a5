"""Flex attention on a CPU: torch's own reference of it, which is not compiled and has a backward pass."""

from contextlib import contextmanager

import pytest
import torch

from transformers_arm import attention_arm


@contextmanager
def flex_on_cpu():
    """Has flex attention train on the CPU, as it does on a GPU, by products of whole matrices.

    What is compiled at other times runs as it is meanwhile; torch's compiled kernels for CPUs have no backward pass,
    which it checks for before it looks at whether they are what runs.
    """
    with pytest.MonkeyPatch.context() as patch, torch.compiler.set_stance("force_eager"):
        patch.setattr(attention_arm, "flex_trains", lambda: True)
        patch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None)
        yield
