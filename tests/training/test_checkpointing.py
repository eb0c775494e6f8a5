"""Gradient checkpointing goes by the name that the installed transformers wants, so that it warns of nothing."""

import pytest

from transformers_arm import ArmForCausalLM, ArmGRPOConfig, ArmSFTConfig
from transformers_arm.training.trainer import training_arguments, without_checkpointing


@pytest.mark.parametrize("config", [lambda **given: training_arguments(given), ArmSFTConfig, ArmGRPOConfig])
@pytest.mark.parametrize("on", [True, False])
def test_checkpointing_has_the_name_that_this_transformers_wants(config, on, tmp_path, recwarn):
    kwargs = {"use_reentrant": False}
    arguments = config(
        output_dir=str(tmp_path), gradient_checkpointing=on, gradient_checkpointing_kwargs=kwargs, use_cpu=True
    )
    assert not [each for each in recwarn if "checkpointing" in str(each.message)]
    for name in ("gradient", "activation"):
        if hasattr(arguments, f"{name}_checkpointing"):
            assert getattr(arguments, f"{name}_checkpointing") is on
            assert getattr(arguments, f"{name}_checkpointing_kwargs") == kwargs


def test_a_model_keeps_its_activations_meanwhile(arm_folder, recwarn):
    model = ArmForCausalLM.from_pretrained(arm_folder)
    with without_checkpointing(model, None):
        assert not model.is_gradient_checkpointing
    model.model.gradient_checkpointing = True
    with pytest.raises(KeyboardInterrupt), without_checkpointing(model, {"use_reentrant": False}):
        assert not model.is_gradient_checkpointing
        raise KeyboardInterrupt
    assert model.is_gradient_checkpointing
    assert not [each for each in recwarn if "checkpointing" in str(each.message)]
