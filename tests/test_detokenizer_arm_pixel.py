"""The pixel detokenizer: what it renders is a function of its inputs, signs and steps are those of rectified flow."""

import json
import pickle

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from transformers_arm import ArmPixelDetokenizer, ArmPixelTransformer, ArmVQConfig, ArmVQModel
from transformers_arm.pixel_transformer_arm import flow_matching_loss
from transformers_arm.renderers_arm import load_detokenizer


def new_transformer(patch_size=16, hidden_size=32):
    torch.manual_seed(0)
    transformer = ArmPixelTransformer(
        condition_size=32, hidden_size=hidden_size, num_layers=1, num_attention_heads=2, patch_size=patch_size
    )
    with torch.no_grad():
        transformer.null_condition.normal_()
    return transformer.eval()


def new_detokenizer(transformer=None, **defaults):
    detokenizer = ArmPixelDetokenizer(transformer or new_transformer(), FlowMatchEulerDiscreteScheduler(), **defaults)
    detokenizer.set_progress_bar_config(disable=True)
    return detokenizer


@pytest.fixture(scope="module")
def detokenizer():
    return new_detokenizer(default_steps=3)


@pytest.fixture(scope="module")
def z_q():
    return torch.randn(3, 2, 4, 32, generator=torch.Generator().manual_seed(1))


def seeds(*numbers):
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    return generators[0] if len(numbers) == 1 else generators


def render(detokenizer, z_q, *numbers, **kwargs):
    """Pictures [B, 3, H, W] under one seed, or one a picture."""
    return detokenizer(z_q, generator=seeds(*numbers), output_type="pt", **kwargs).images


class Recorder(ArmPixelTransformer):
    """Writes down what it is called with."""

    def forward(self, sample, sigma, z_q, drop_condition=None):
        if not hasattr(self, "calls"):
            self.calls = []
        self.calls.append((len(sample), sigma[0].item(), drop_condition))
        return super().forward(sample, sigma, z_q, drop_condition)


def constant_transformer():
    """An ordinary transformer whose weights make it predict the same patch everywhere, and the picture that makes."""
    transformer = new_transformer(patch_size=4)
    patch = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        transformer.output_projection.weight.zero_()
        transformer.output_projection.bias.copy_(patch.flatten())
    return transformer, patch.repeat(1, 2, 3)[None]  # a grid of 2x3


# --- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, 1), (3, 3), (2, 6), (4, 3)])
def test_pictures_have_the_size_of_the_grid_in_patches(detokenizer, grid):
    height, width = grid[0] * 16, grid[1] * 16
    z_q = torch.randn(2, *grid, 32)
    assert [image.size for image in detokenizer(z_q).images] == [(width, height)] * 2
    array = detokenizer(z_q, output_type="np").images
    assert array.shape == (2, height, width, 3) and array.dtype == np.float32
    assert detokenizer(z_q, output_type="pt").images.shape == (2, 3, height, width)
    (images,) = detokenizer(z_q, return_dict=False)
    assert len(images) == 2


def test_the_three_kinds_of_output_are_the_same_pictures(detokenizer, z_q):
    tensor, array, pictures = (
        detokenizer(z_q, generator=seeds(0), output_type=kind).images for kind in ("pt", "np", "pil")
    )
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), (array * 255).round())


def test_output_is_within_0_and_1_even_where_the_transformer_overshoots():
    transformer, _ = constant_transformer()
    with torch.no_grad():
        transformer.output_projection.bias.mul_(100)
    images = render(new_detokenizer(transformer), torch.zeros(1, 2, 3, 32), 0)
    assert images.min() == 0 and images.max() == 1


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others(detokenizer, z_q):
    assert torch.equal(render(detokenizer, z_q, 0), render(detokenizer, z_q, 0))
    assert not torch.allclose(render(detokenizer, z_q, 0), render(detokenizer, z_q, 1), atol=1e-3)
    assert not torch.allclose(render(detokenizer, z_q, 0), render(detokenizer, z_q.flip(0), 0), atol=1e-3)


@pytest.mark.parametrize("guidance_scale", [1.0, 1.5])
def test_with_a_generator_a_picture_each_picture_of_a_batch_equals_itself_alone(detokenizer, z_q, guidance_scale):
    together = render(detokenizer, z_q, 5, 6, 7, guidance_scale=guidance_scale)
    for index, seed in enumerate((5, 6, 7)):
        alone = render(detokenizer, z_q[index : index + 1], seed, guidance_scale=guidance_scale)
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=0)


# --- guidance and steps ----------------------------------------------------------------------------------------------


def test_guidance_1_runs_no_second_branch():
    transformer = Recorder(32, 32, 1, 2, 16)
    detokenizer, z_q = new_detokenizer(transformer), torch.zeros(3, 2, 2, 32)
    detokenizer(z_q, num_inference_steps=2, guidance_scale=1.0)
    assert [(batch, drop) for batch, _, drop in transformer.calls] == [(3, None)] * 2
    transformer.calls.clear()
    detokenizer(z_q, num_inference_steps=2, guidance_scale=1.5)
    assert [(batch, drop.tolist()) for batch, _, drop in transformer.calls] == [(6, [False] * 3 + [True] * 3)] * 2


def test_guidance_goes_from_the_null_condition_through_the_condition(z_q):
    """With one step the picture is the clean prediction, so guided pictures lie on a line."""
    detokenizer = new_detokenizer()
    with torch.no_grad():  # small enough that no pixel is clipped
        detokenizer.transformer.output_projection.weight.mul_(0.1)
    unconditional, conditional, guided = (
        render(detokenizer, z_q, 0, num_inference_steps=1, guidance_scale=scale) for scale in (0.0, 1.0, 2.5)
    )
    assert (conditional - unconditional).abs().max() > 0.01
    torch.testing.assert_close(guided, unconditional + 2.5 * (conditional - unconditional), atol=1e-5, rtol=0)
    other = render(detokenizer, z_q.flip(0), 0, num_inference_steps=1, guidance_scale=0.0)
    torch.testing.assert_close(other, unconditional)  # guidance 0 does not look at z_q


@pytest.mark.parametrize("steps", [1, 2, 4, 28])
def test_steps_go_down_evenly_from_pure_noise_and_none_is_idle(steps):
    transformer = Recorder(32, 32, 1, 2, 16)
    new_detokenizer(transformer)(torch.zeros(1, 1, 1, 32), num_inference_steps=steps, guidance_scale=1.0)
    expected = [1 - step / steps for step in range(steps)]
    assert [sigma for _, sigma, _ in transformer.calls] == pytest.approx(expected)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 28, 50])
def test_a_transformer_that_knows_the_picture_renders_it_exactly(steps, guidance_scale):
    transformer, picture = constant_transformer()
    images = render(
        new_detokenizer(transformer),
        torch.zeros(1, 2, 3, 32),
        0,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
    )
    torch.testing.assert_close(images, (picture + 1) / 2, atol=1e-4, rtol=0)


def test_defaults_are_used_and_saved(tmp_path):
    transformer = Recorder(32, 32, 1, 2, 16)
    detokenizer = new_detokenizer(transformer, default_steps=3, default_guidance_scale=2.0)
    detokenizer(torch.zeros(1, 1, 1, 32))
    assert [batch for batch, _, _ in transformer.calls] == [2] * 3
    new_detokenizer(default_steps=3, default_guidance_scale=2.0).save_pretrained(tmp_path)
    loaded = ArmPixelDetokenizer.from_pretrained(tmp_path)
    assert (loaded.config.default_steps, loaded.config.default_guidance_scale) == (3, 2.0)
    paper = new_detokenizer()
    assert (paper.config.default_steps, paper.config.default_guidance_scale) == (28, 1.5)


# --- codes, saving, errors -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vq_model():
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = ArmVQConfig(vision_config=vision | {"image_size": 48, "patch_size": 16}, num_projection_layers=1)
    return ArmVQModel(config).eval()


def test_codes_render_like_their_z_q(vq_model):
    detokenizer = new_detokenizer(default_steps=2)
    detokenizer.vq_model = vq_model
    codes = torch.randint(65_536, (2, 3, 2), generator=seeds(0))
    from_codes = detokenizer(codes=codes, generator=seeds(3), output_type="pt").images
    assert torch.equal(from_codes, render(detokenizer, vq_model.decode_codes(codes), 3))


def test_saving_and_loading_keeps_the_pictures_and_leaves_the_tokenizer_out(vq_model, z_q, tmp_path):
    assert issubclass(ArmPixelDetokenizer, DiffusionPipeline)
    detokenizer = new_detokenizer(default_steps=2)
    detokenizer.vq_model = vq_model
    detokenizer.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_index.json", "scheduler", "transformer"]
    assert "vq_model" not in json.loads((tmp_path / "model_index.json").read_text())
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["diffusion_pytorch_model.safetensors"]
    loaded = ArmPixelDetokenizer.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.vq_model is None and type(loaded.transformer) is ArmPixelTransformer
    assert torch.equal(render(loaded, z_q, 0), render(detokenizer, z_q, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of z_q and codes"),
        ({"z_q": torch.zeros(1, 2, 2, 32), "codes": torch.zeros(1, 2, 2).long()}, "exactly one of z_q and codes"),
        ({"codes": torch.zeros(1, 2, 2).long()}, "detokenizer.vq_model"),
        ({"z_q": torch.zeros(1, 2, 2, 31)}, r"z_q must be \[B, h, w, 32\], got \[1, 2, 2, 31\]"),
        ({"z_q": torch.zeros(2, 2, 32)}, r"z_q must be \[B, h, w, 32\], got \[2, 2, 32\]"),
        ({"z_q": torch.zeros(1, 2, 2, 32), "num_inference_steps": 0}, "num_inference_steps 0 must be at least 1"),
        ({"z_q": torch.zeros(1, 2, 2, 32), "guidance_scale": -0.5}, "guidance_scale -0.5 must not be negative"),
        ({"z_q": torch.zeros(1, 2, 2, 32), "output_type": "latent"}, "Unknown output_type 'latent'"),
        ({"z_q": torch.zeros(3, 2, 2, 32), "generator": seeds(0, 1)}, "2 generators for 3 pictures"),
    ],
)
def test_bad_inputs_are_refused(detokenizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        detokenizer(**arguments)


def test_pictures_and_z_q_must_share_one_grid():
    with pytest.raises(ValueError, match=r"\[1, 3, 32, 48\] do not fit z_q.* 2x2"):
        new_transformer()(torch.zeros(1, 3, 32, 48), torch.ones(1), torch.zeros(1, 2, 2, 32))


# --- training --------------------------------------------------------------------------------------------------------


def test_a_transformer_that_knows_the_picture_has_loss_0_and_no_other_picture_has():
    transformer, picture = constant_transformer()
    z_q = torch.zeros(64, 2, 3, 32)
    for regression_share in (0.0, 1.0):
        exact = flow_matching_loss(transformer, picture.expand(64, -1, -1, -1), z_q, regression_share=regression_share)
        wrong = flow_matching_loss(
            transformer, -picture.expand(64, -1, -1, -1), z_q, regression_share=regression_share
        )
        assert exact.item() < 1e-9 < 0.1 < wrong.item()


def test_the_velocity_is_noise_minus_data():
    transformer, picture = constant_transformer()
    noise = torch.randn(picture.shape, generator=seeds(0))
    for sigma in (1.0, 0.5, 0.05):
        noisy = (1 - sigma) * picture + sigma * noise
        velocity = transformer(noisy, torch.tensor([sigma]), torch.zeros(1, 2, 3, 32))
        torch.testing.assert_close(velocity, noise - picture, atol=1e-4, rtol=0)


def test_at_sigma_1_the_transformer_sees_noise_alone():
    transformer = Recorder(32, 32, 1, 2, 16)
    z_q, picture = torch.zeros(1, 2, 2, 32), torch.full((1, 3, 32, 32), 1e6)  # would drown all noise
    for _ in range(5):
        flow_matching_loss(transformer, picture, z_q, regression_share=1.0)
    assert [sigma for _, sigma, _ in transformer.calls] == [1.0] * 5
    transformer.calls.clear()
    for _ in range(5):
        flow_matching_loss(transformer, picture, z_q)
    assert all(0 <= sigma < 1 for _, sigma, _ in transformer.calls)


def test_a_dropped_condition_is_not_looked_at(z_q):
    transformer, pictures = new_transformer(), torch.zeros(3, 3, 32, 64)

    def loss(z_q, condition_dropout):
        torch.manual_seed(0)
        return flow_matching_loss(transformer, pictures, z_q, condition_dropout=condition_dropout).item()

    assert loss(z_q, 1.0) == loss(z_q.flip(0), 1.0)
    assert abs(loss(z_q, 0.0) - loss(z_q.flip(0), 0.0)) > 1e-3


def test_a_few_steps_on_one_picture_teach_it_to_render_the_picture():
    detokenizer = new_detokenizer(new_transformer(patch_size=8, hidden_size=64))
    transformer = detokenizer.transformer
    picture = torch.full((1, 3, 24, 16), -0.8)
    picture[:, 0, 4:14, 5:12] = 0.9  # a red patch
    z_q = torch.randn(1, 3, 2, 32, generator=seeds(0))

    def psnr():
        drawn = render(detokenizer, z_q, 0, num_inference_steps=4, guidance_scale=1.0)
        return -10 * (drawn - (picture + 1) / 2).square().mean().log10().item()

    def loss():
        torch.manual_seed(1)
        with torch.no_grad():
            return flow_matching_loss(transformer, picture.expand(64, -1, -1, -1), z_q.expand(64, -1, -1, -1)).item()

    psnr_before, loss_before = psnr(), loss()
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=3e-3)
    for step in range(60):
        torch.manual_seed(100 + step)
        optimizer.zero_grad()
        flow_matching_loss(
            transformer, picture.expand(8, -1, -1, -1), z_q.expand(8, -1, -1, -1), regression_share=0.5
        ).backward()
        optimizer.step()
    assert loss() < 0.5 * loss_before
    assert psnr() > psnr_before + 6


# Weights are safetensors; pickles, which run code as they are read, are left alone


class Malicious:
    """What leaves a file behind where it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


@pytest.mark.parametrize("beside", [True, False])
def test_a_pickle_is_never_read(detokenizer, z_q, tmp_path, beside):
    detokenizer.save_pretrained(tmp_path / "detokenizer")
    part = tmp_path / "detokenizer" / "transformer"
    for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors.bin", "pytorch_model.bin"):
        (part / name).write_bytes(pickle.dumps({"null_condition": Malicious(tmp_path / "ran")}))
    loaders = (
        lambda: ArmPixelDetokenizer.from_pretrained(tmp_path / "detokenizer"),
        lambda: load_detokenizer(str(tmp_path)),
        lambda: ArmPixelTransformer.from_pretrained(part),
    )
    if beside:
        again = [load() for load in loaders]
        assert torch.equal(render(detokenizer, z_q, 0), render(again[0].to("cpu"), z_q, 0))
    else:
        (part / "diffusion_pytorch_model.safetensors").unlink()
        for load in loaders:
            with pytest.raises(OSError, match="diffusion_pytorch_model.safetensors"):
                load()
    assert not (tmp_path / "ran").exists()


def test_asking_for_pickles_is_refused(tmp_path):
    for loaded in (ArmPixelDetokenizer, ArmPixelTransformer, ArmVQModel):
        with pytest.raises(ValueError, match="use_safetensors=False would unpickle"):
            loaded.from_pretrained(tmp_path, use_safetensors=False)
