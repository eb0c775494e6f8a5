"""Renderers in latents: conventions of the published pipelines, `z_q` in the place of the text, and parts of bases."""

import json

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline, FluxPipeline, SanaPipeline
from tiny_renderers import FAMILIES, new_renderer, write_base

from transformers_arm import ArmFlux2Detokenizer, ArmFluxDetokenizer, ArmPixelDetokenizer, ArmSanaDetokenizer
from transformers_arm.renderers_arm import load_detokenizer

EACH = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def renderers():
    return {family: new_renderer(family, default_steps=3) for family in FAMILIES}


@pytest.fixture(scope="module")
def z_q():
    return torch.randn(3, 2, 4, 12, generator=torch.Generator().manual_seed(1))


def seeds(*numbers):
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    return generators[0] if len(numbers) == 1 else generators


def render(renderer, z_q, *numbers, **kwargs):
    return renderer(z_q, generator=seeds(*numbers), **{"output_type": "pt", **kwargs}).images


@EACH
@pytest.mark.parametrize("grid", [(1, 1), (3, 3), (2, 6)])
def test_a_token_is_16_px_and_other_sizes_are_rendered_too(renderers, family, grid):
    z_q = torch.randn(2, *grid, 12)
    assert render(renderers[family], z_q, 0).shape == (2, 3, 16 * grid[0], 16 * grid[1])
    assert render(renderers[family], z_q, 0, height=50, width=33).shape == (2, 3, 50, 33)
    assert render(renderers[family], z_q, 0, height=64).shape == (2, 3, 64, 16 * grid[1])


@EACH
def test_kinds_of_output_are_the_same_pictures(renderers, family, z_q):
    renderer = renderers[family]
    tensor, array, pictures, latents = (
        render(renderer, z_q, 0, output_type=kind) for kind in ("pt", "np", "pil", "latent")
    )
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), (array * 255).round())
    with torch.no_grad():
        decoded = renderer.decode(latents, 32, 64).clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(decoded, tensor)


@EACH
@pytest.mark.parametrize("guidance_scale", [1.0, 1.5])
def test_each_picture_of_a_batch_equals_itself_alone(renderers, family, z_q, guidance_scale):
    together = render(renderers[family], z_q, 5, 6, 7, guidance_scale=guidance_scale)
    for index, seed in enumerate((5, 6, 7)):
        alone = render(renderers[family], z_q[index : index + 1], seed, guidance_scale=guidance_scale)
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-4, rtol=0)


@EACH
def test_guidance_goes_from_the_learned_null_through_the_condition(renderers, family, z_q):
    none, one, two = (
        render(renderers[family], z_q, 0, num_inference_steps=1, guidance_scale=scale, output_type="latent")
        for scale in (0.0, 1.0, 2.5)
    )
    assert (one - none).abs().max() > 0.01
    torch.testing.assert_close(two, none + 2.5 * (one - none), atol=1e-4, rtol=0)
    other = render(renderers[family], z_q.flip(0), 0, num_inference_steps=1, guidance_scale=0.0, output_type="latent")
    torch.testing.assert_close(other, none)  # guidance 0 does not look at z_q


@EACH
def test_guidance_1_runs_one_branch(renderers, family, z_q):
    renderer, batches = renderers[family], []
    handle = renderer.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    render(renderer, z_q, 0, guidance_scale=1.0)
    render(renderer, z_q, 0, guidance_scale=1.5)
    handle.remove()
    assert batches == [3, 3, 3, 6, 6, 6]


@EACH
def test_places_of_tokens_matter(renderers, family, z_q):
    drawn = [render(renderers[family], each, 0, guidance_scale=1.0) for each in (z_q, z_q.flip(1), z_q.flip(2))]
    assert all((drawn[0] - other).abs().max() > 1e-4 for other in drawn[1:])


# --- the conventions of published pipelines --------------------------------------------------------------------------


def published(family, renderer):
    """diffusers' own pipeline of a renderer's parts, without what encodes texts."""
    parts = {name: renderer.components[name] for name in ("transformer", "vae", "scheduler")}
    if family == "flux2":
        return Flux2KleinPipeline(text_encoder=None, tokenizer=None, is_distilled=False, **parts)
    if family == "sana":
        return SanaPipeline(text_encoder=None, tokenizer=None, **parts)
    return FluxPipeline(text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, **parts)


def as_published(family, renderer, conditions, latents, height, width):
    """What diffusers' own pipeline draws of the conditions in place of its texts'."""
    pipe, embeds = published(family, renderer), conditions.tokens
    pipe.set_progress_bar_config(disable=True)
    common = {"height": height, "width": width, "num_inference_steps": 4, "output_type": "pt", "prompt": None}
    if family == "flux2":
        return pipe(prompt_embeds=embeds, latents=latents, guidance_scale=1.0, **common).images
    if family == "sana":
        mask = torch.ones(embeds.shape[:2])
        sigmas = np.linspace(1, 1 / 4, 4).tolist()
        return pipe(
            prompt_embeds=embeds,
            prompt_attention_mask=mask,
            latents=latents,
            guidance_scale=1.0,
            negative_prompt="",
            sigmas=sigmas,
            use_resolution_binning=False,
            **common,
        ).images
    return pipe(
        prompt_embeds=embeds,
        pooled_prompt_embeds=conditions.pooled,
        latents=latents.flatten(2).mT,
        guidance_scale=renderer.config.embedded_guidance,
        **common,
    ).images


@EACH
def test_latents_times_and_steps_are_those_of_the_published_pipeline(family, monkeypatch):
    """Else a pre-trained transformer would be destroyed. Only where the text stands is ours, and set aside here."""
    renderer = new_renderer(family, embedded_guidance=3.5)
    own = type(renderer).predict

    def predict(self, sample, sigma, conditions):
        if family == "sana":
            return own(self, sample, sigma, conditions)
        ids = {"flux2": torch.zeros(1, 1, 4)}.get(family, torch.zeros(1, 3))
        forward = self.transformer.forward
        monkeypatch.setattr(self.transformer, "forward", lambda **kwargs: forward(**{**kwargs, "txt_ids": ids}))
        try:
            return own(self, sample, sigma, conditions._replace(added=None))
        finally:
            monkeypatch.setattr(self.transformer, "forward", forward)

    monkeypatch.setattr(type(renderer), "predict", predict)
    if family == "flux2":
        torch.nn.init.zeros_(renderer.connector.latents.weight), torch.nn.init.zeros_(renderer.connector.latents.bias)
    z_q, height, width = torch.randn(1, 1, 1, 12, generator=seeds(2)), 64, 96
    shape = renderer.sample_shape(1, height, width)
    latents = torch.randn(shape, generator=seeds(3))
    ours = render(renderer, z_q, 3, height=height, width=width, num_inference_steps=4, guidance_scale=1.0)
    monkeypatch.setattr(type(renderer), "predict", own)
    with torch.no_grad():
        theirs = as_published(family, renderer, renderer.connector(z_q), latents, height, width)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@EACH
def test_latents_of_pictures_decode_to_what_the_autoencoder_makes_of_them(renderers, family):
    renderer, pictures = renderers[family], torch.rand(2, 3, 64, 96) * 2 - 1
    with torch.no_grad():
        encoded = renderer.vae.encode(pictures)
        expected = renderer.vae.decode(
            getattr(encoded, "latent", None) if family == "sana" else encoded.latent_dist.mode()
        )
        torch.testing.assert_close(
            renderer.decode(renderer.encode(pictures), 64, 96), expected.sample, atol=1e-4, rtol=0
        )
        assert renderer.encode(pictures).shape == renderer.sample_shape(2, 64, 96)


# --- parts of published pipelines ------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("shard", ["10GB", "20KB"])
def test_a_renderer_is_made_of_a_published_folder_without_its_text_encoder(family, shard, tmp_path):
    parts = write_base(family, tmp_path, shard)
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > (1 if shard == "20KB" else 0)
    made = FAMILIES[family][0].from_base(tmp_path, condition_size=12, defaults={"default_steps": 2})
    for name in ("transformer", "vae"):
        ours, theirs = made.components[name].state_dict(), parts[name].state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[each], theirs[each]) for each in ours)
    assert made.scheduler.to_json_string() == parts["scheduler"].to_json_string()
    made.set_progress_bar_config(disable=True)
    assert made(torch.randn(1, 2, 2, 12), output_type="pt").images.shape == (1, 3, 32, 32)
    assert made.config.default_steps == 2


def test_a_renderer_of_bfloat16_is_loaded_in_bfloat16(tmp_path):
    write_base("flux2", tmp_path / "base")
    made = ArmFlux2Detokenizer.from_base(tmp_path / "base", 12, dtype=torch.bfloat16)
    made.save_pretrained(tmp_path / "detokenizer")
    loaded = load_detokenizer(str(tmp_path), torch.bfloat16)
    for part in ("transformer", "connector", "vae"):
        assert {value.dtype for value in loaded.components[part].parameters()} == {torch.bfloat16}
    assert loaded(torch.randn(1, 2, 2, 12), num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "SanaPipeline"}, "is a SanaPipeline, but ArmFluxDetokenizer is made of FluxPipeline"),
        ({"vae": None}, "has as vae None, but a AutoencoderKL is needed"),
        ({"transformer": ["diffusers", "SanaTransformer2DModel"]}, "has as transformer SanaTransformer2DModel"),
        ({"scheduler": ["diffusers", "AutoencoderKL"]}, "has as scheduler AutoencoderKL, but a SchedulerMixin"),
    ],
)
def test_a_base_of_another_family_or_without_a_part_is_refused(change, message, tmp_path):
    write_base("flux", tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | change))
    with pytest.raises(ValueError, match=message):
        ArmFluxDetokenizer.from_base(tmp_path)


@EACH
def test_the_folder_names_the_class(renderers, family, z_q, tmp_path):
    renderers[family].save_pretrained(tmp_path / "detokenizer")
    loaded = load_detokenizer(str(tmp_path))
    assert type(loaded) is FAMILIES[family][0]
    assert torch.equal(render(loaded, z_q, 0), render(renderers[family], z_q, 0))


def test_a_renderer_is_loaded_by_its_own_class_alone(renderers, tmp_path):
    renderers["sana"].save_pretrained(tmp_path)
    for other in (ArmPixelDetokenizer, ArmFluxDetokenizer):
        with pytest.raises(ValueError, match=f"holds a ArmSanaDetokenizer, not a {other.__name__}; load it"):
            other.from_pretrained(tmp_path)


def test_a_folder_that_names_no_renderer_is_refused(tmp_path):
    write_base("flux", tmp_path / "detokenizer")
    with pytest.raises(ValueError, match="holds a FluxPipeline, which renders no tokens; renderers are ArmPixelDeto"):
        load_detokenizer(str(tmp_path))


# --- the call --------------------------------------------------------------------------------------------------------


def test_a_callback_sees_and_changes_the_latents(renderers, z_q):
    seen = []

    def callback(pipe, step, timestep, given):
        seen.append((step, given["latents"].shape))
        return {"latents": torch.zeros_like(given["latents"])} if step == 2 else {}

    latents = render(renderers["flux2"], z_q, 0, callback_on_step_end=callback, output_type="latent")
    assert [step for step, _ in seen] == [0, 1, 2] and not latents.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of z_q and codes"),
        ({"codes": torch.zeros(1, 2, 2).long()}, "detokenizer.vq_model"),
        ({"z_q": torch.zeros(1, 2, 2, 11)}, r"z_q must be \[B, h, w, 12\], got \[1, 2, 2, 11\]"),
        ({"z_q": torch.zeros(1, 2, 2, 12), "num_inference_steps": 0}, "num_inference_steps 0 must be at least 1"),
        ({"z_q": torch.zeros(1, 2, 2, 12), "output_type": "jpeg"}, "'jpeg'; use one of pil, np, pt, latent"),
        ({"z_q": torch.zeros(1, 2, 2, 12), "height": -16}, "height -16 must be at least 1 px"),
        ({"z_q": torch.zeros(1, 2, 2, 12), "callback_on_step_end_tensor_inputs": ["text"]}, "no tensors text"),
        ({"z_q": torch.zeros(3, 2, 2, 12), "generator": seeds(0, 1)}, "2 generators for 3 pictures"),
    ],
)
def test_bad_inputs_are_refused(renderers, arguments, message):
    for family in ("flux2", "sana"):
        with pytest.raises(ValueError, match=message):
            renderers[family](**arguments)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [ArmFlux2Detokenizer, ArmSanaDetokenizer])
def test_sizes_of_connectors_follow_the_transformer(made):
    family = {ArmFlux2Detokenizer: "flux2", ArmSanaDetokenizer: "sana"}[made]
    assert new_renderer(family).connector.config.token_size == 24
