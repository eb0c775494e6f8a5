"""Training of renderers in latents: what learns, what is kept of it, and how it goes on."""

import pytest
import torch
from renderer_training import train, weights
from safetensors.torch import load_file
from short_trainings import Killed
from tiny_renderers import FAMILIES, new_renderer

from transformers_arm.modeling_arm_vq import ArmVQModel
from transformers_arm.training.renderer import LatentTraining, latent_flow_errors

EACH = pytest.mark.parametrize("family", FAMILIES)
LORA = {"lora": {"r": 2, "lora_alpha": 8}}


@pytest.mark.parametrize("family", ["flux2", "flux", "sana"])
def test_transformer_and_connector_learn_and_the_vae_stays(family, recipe, folders, tmp_path):
    trained = weights(train(recipe(tmp_path / "run", family, condition_dropout=0.5)))
    made = FAMILIES[family][0]
    vq_model = ArmVQModel.from_pretrained(folders / "vq_model")
    before = weights(made.from_base(folders / family, vq_model.config.hidden_size))
    assert trained.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(trained[name], value) == name.startswith("vae."), name


@pytest.mark.parametrize("lora", [{}, LORA], ids=["all", "lora"])
def test_an_interrupted_training_goes_on_as_if_it_had_not_ended(lora, recipe, tmp_path, monkeypatch):
    sections = {"ema_decay": 0.9, "condition_dropout": 0.5, "validation": {"rows": 2, "every": 3}, **lora}
    sections["evaluation"] = {"every": 2, "pictures": 2, "steps": 2}
    expected = weights(train(recipe(tmp_path / "whole", **sections)))
    plain_step, taken = LatentTraining.forward, []

    def dies(self, *args, **kwargs):
        taken.append(self.training)
        if sum(taken) == 4:
            raise Killed
        return plain_step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LatentTraining, "forward", dies)
        train(recipe(tmp_path / "killed", **sections))
    torch.manual_seed(99)
    resumed = weights(train(recipe(tmp_path / "killed", **sections)))
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name


def test_what_is_saved_is_the_average(recipe, tmp_path):
    """The last weights' share is what `ema_decay` leaves of it."""
    plain = weights(train(recipe(tmp_path / "plain")))
    averaged = weights(train(recipe(tmp_path / "averaged", ema_decay=0.0)))
    slow = weights(train(recipe(tmp_path / "slow", ema_decay=0.5)))
    first = weights(train(recipe(tmp_path / "first", training={"max_steps": 1})))
    name = "connector.tokens.weight"
    assert torch.equal(plain[name], averaged[name])
    assert 0 < (slow[name] - plain[name]).norm() < (first[name] - plain[name]).norm()


def test_lora_learns_beside_the_connector_and_is_merged(recipe, folders, tmp_path):
    trained = weights(train(recipe(tmp_path / "run", **LORA, condition_dropout=0.5)))
    before = weights(train(recipe(tmp_path / "none", condition_dropout=0.5, training={"learning_rate": 0.0})))
    changed = {name for name, value in before.items() if not torch.equal(trained[name], value)}
    adapted = {name for name in before if name.startswith("transformer.") and "blocks." in name and "norm" not in name}
    assert changed == adapted | {name for name in before if name.startswith("connector.")}
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    saved = load_file(tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors")
    assert all("lora" in name or "connector" in name for name in saved)


@EACH
@pytest.mark.parametrize("times", ["uniform", "logit-normal"])
def test_the_loss_reaches_transformer_and_connector(family, times):
    renderer = new_renderer(family)
    latents, z_q = torch.randn(renderer.sample_shape(3, 32, 64)), torch.randn(3, 2, 4, 12)
    latent_flow_errors(renderer, latents, z_q, condition_dropout=0.5, times=times).mean().backward()
    for part in (renderer.transformer, renderer.connector):
        assert all(value.grad is not None and value.grad.isfinite().all() for value in part.parameters())
    with pytest.raises(ValueError, match="'uniform' or 'logit-normal', not 'cosine'"):
        latent_flow_errors(renderer, latents, z_q, condition_dropout=0.5, times="cosine")
