"""Training of renderers in latents: what learns, what is kept of it, and how it goes on."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from renderer_training import train, train_killed, weights
from safetensors.torch import load_file
from tiny_renderers import FAMILIES, new_renderer

from transformers_arm.detokenizer_arm_pixel import ArmPixelDetokenizer
from transformers_arm.modeling_arm_vq import ArmVQModel
from transformers_arm.pixel_transformer_arm import ArmPixelTransformer
from transformers_arm.training.averages import AveragingMixin
from transformers_arm.training.recipe import RecipeError, parse
from transformers_arm.training.renderer import RendererRecipe, latent_flow_errors

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
    train_killed(recipe(tmp_path / "killed", **sections), monkeypatch)
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


def test_the_average_takes_the_weights_place_for_looks_and_for_what_is_saved_alone(recipe, tmp_path, monkeypatch):
    """Not in each step, which would copy all weights twice."""
    plain, taken = AveragingMixin.take_average, []

    def counting(self):
        taken.append(self.state.global_step)
        return plain(self)

    monkeypatch.setattr(AveragingMixin, "take_average", counting)
    train(recipe(tmp_path / "run", ema_decay=0.5, evaluation={"every": 3, "pictures": 2, "steps": 2}))
    assert taken == [3, 4]


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


# --- what a recipe may say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", ["uniform", "logit-normal"])
def test_noise_levels_are_drawn_as_asked(times):
    """Of 4,000 levels 31.5% lie in the middle fifth where they are logit-normal, and 20% where they are uniform."""
    renderer, seen = new_renderer("sana"), []
    renderer.velocity = lambda sample, sigma, conditions: seen.append(sigma) or sample
    latents, z_q = torch.zeros(4000, 8, 1, 1), torch.zeros(4000, 1, 1, 12)
    latent_flow_errors(renderer, latents, z_q, condition_dropout=0.0, times=times)
    share = ((seen[0] - 0.5).abs() < 0.1).float().mean()
    assert share == pytest.approx({"uniform": 0.2, "logit-normal": 0.315}[times], abs=0.03)


def test_sixteen_bits_are_for_what_does_not_learn(recipe, tmp_path):
    sections = {"dtype": "bfloat16", "evaluation": {"every": 4, "pictures": 2, "steps": 2}}
    trained = train(recipe(tmp_path / "run", **LORA, **sections, ema_decay=0.5, training={"bf16": True}))
    saved = load_file(tmp_path / "run" / "detokenizer" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    pictures = trained(torch.randn(1, 2, 3, trained.condition_size), num_inference_steps=2, output_type="pt").images
    assert pictures.shape == (1, 3, 32, 48) and pictures.isfinite().all()


def test_a_renderer_goes_on_from_its_folder_with_other_defaults(recipe, tmp_path):
    first = train(recipe(tmp_path / "first"))
    kept = {"training": {"learning_rate": 0.0}, "pipeline_defaults": {"default_steps": 5}}
    second = train(recipe(tmp_path / "second", start_from=str(tmp_path / "first" / "detokenizer"), **kept))
    assert second.config.default_steps == 5 and first.config.default_steps == 28
    for name, value in weights(first).items():
        assert torch.equal(weights(second)[name], value), name


def test_activations_can_be_computed_again(recipe, tmp_path):
    """What learns ends as without it."""
    plain = weights(train(recipe(tmp_path / "plain")))
    again = weights(train(recipe(tmp_path / "again", training={"gradient_checkpointing": True})))
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"start_from": "x", "base": "y"}, "base: state either base"),
        ({"base": None}, "base: state either base"),
        ({"start_from": "x", "connector": {"token_size": 3}}, "connector: it is for a new one"),
        ({"condition_dropout": 1.5}, "condition_dropout: 1.5 does not fit"),
        ({"times": "cosine"}, "times: 'cosine' does not fit"),
        ({"ema_decay": 1.0}, "ema_decay: 1.0 does not fit"),
        ({"dtype": "bfloat16", "lora": {"r": 2}}, "dtype: adapters learn in fp32 beside the transformer; add"),
        ({"image_processor": {"keep_aspect_ratio": True}}, "image_processor: the data are a world's"),
        ({"cache": {"folder": "x", "pictures": 0}}, "cache.pictures: 0 does not fit"),
        ({"connector": {"condition_size": 3}}, "connector.condition_size: there is no such field"),
    ],
)
def test_what_a_recipe_may_not_say_is_refused_before_anything_is_loaded(recipe, tmp_path, sections, message):
    with pytest.raises(RecipeError, match=message):
        parse(RendererRecipe, recipe(tmp_path / "run", **sections), "recipe")


def test_parts_that_do_not_belong_together_are_refused(recipe, folders, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="other is a StableDiffusionPipeline, of which no renderer is made; take one"):
        train(recipe(tmp_path / "run", base=str(other)))
    new_renderer("flux2").save_pretrained(tmp_path / "narrow")
    with pytest.raises(ValueError, match="The renderer takes z_q of 12 channels, but the tokenizer's have 32"):
        train(recipe(tmp_path / "run", start_from=str(tmp_path / "narrow")))
    of_eight = {"pipeline_defaults": {"pixels_per_token": 8}}
    with pytest.raises(ValueError, match="makes 8 px a side of a token, but the tokenizer's are of 16"):
        train(recipe(tmp_path / "run", **of_eight))
    pixels = ArmPixelDetokenizer(ArmPixelTransformer(16, 32, 1, 16, 2), FlowMatchEulerDiscreteScheduler())
    pixels.save_pretrained(tmp_path / "pixels")
    with pytest.raises(ValueError, match="holds an ArmPixelDetokenizer, which has no latents"):
        train(recipe(tmp_path / "run", start_from=str(tmp_path / "pixels")))


def test_a_checkpoint_without_an_average_is_not_gone_on_from_with_one(recipe, tmp_path):
    train(recipe(tmp_path / "run", training={"max_steps": 2}))
    with pytest.raises(ValueError, match=r"checkpoint-2 has no average of its weights \(ema\), but ema_decay is 0.9"):
        train(recipe(tmp_path / "run", ema_decay=0.9))
