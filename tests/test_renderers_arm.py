"""Loading renderers: in which dtype, quantised, offloaded and with the VAE in parts, as in diffusers."""

import json
import shutil
from importlib.util import find_spec

import accelerate
import pytest
import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig, QuantoConfig
from tiny_renderers import FAMILIES, new_renderer, write_base

from transformers_arm import ArmPipeline, ArmPixelDetokenizer
from transformers_arm.renderers_arm import load_detokenizer, torch_parts
from transformers_arm.training.parts import detokenizer_of

EACH = pytest.mark.parametrize("family", [each for each in FAMILIES if each != "flux, distilled"])
with_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


def rendered(renderer, z_q):
    generator = torch.Generator().manual_seed(0)
    return renderer(z_q, num_inference_steps=2, generator=generator, output_type="pt").images


def dtypes_of(renderer):
    return {value.dtype for part in torch_parts(renderer) for value in part.parameters()}


@pytest.fixture(scope="module")
def z_q():
    return torch.randn(2, 8, 8, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model's folder with a renderer in bfloat16, and the base that it could be of, by family."""
    found = {}
    for family in FAMILIES:
        found[family] = tmp_path_factory.mktemp("renderers")
        write_base(family, found[family] / "base")
        made = FAMILIES[family][0].from_base(found[family] / "base", 12, dtype=torch.bfloat16)
        made.save_pretrained(found[family] / "detokenizer")
    return found


# --- dtypes ----------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize(("dtype", "expected"), [(None, torch.bfloat16), (torch.float32, torch.float32)])
def test_a_renderer_is_loaded_in_the_dtype_that_is_asked_for_or_its_own(family, dtype, expected, folders):
    loaded = load_detokenizer(str(folders[family]), dtype)
    assert dtypes_of(loaded) == {expected}
    assert rendered(loaded, torch.randn(1, 2, 2, 12)).shape == (1, 3, 32, 32)


@EACH
def test_parts_may_be_of_different_dtypes(family, folders):
    mixed = {"transformer": torch.bfloat16, "default": torch.float32}
    loaded = DiffusionPipeline.from_pretrained(folders[family] / "detokenizer", dtype=mixed)
    assert [part.dtype for part in (loaded.transformer, loaded.vae, loaded.connector)] == [
        *(torch.bfloat16, torch.float32, torch.float32),
    ]
    assert rendered(loaded, torch.randn(1, 2, 2, 12)).shape == (1, 3, 32, 32)


def test_a_pipeline_loads_its_renderer_in_its_models_dtype(arm_folder):
    pipe = ArmPipeline.from_pretrained(arm_folder, dtype=torch.bfloat16)
    assert dtypes_of(pipe.detokenizer) == {torch.bfloat16}
    assert pipe("a red circle").images[0].size == (48, 48)
    assert dtypes_of(detokenizer_of(pipe.model)) == {torch.float32}  # a training saves it again


# --- memory ----------------------------------------------------------------------------------------------------------


def with_model_offload(renderer):
    renderer.enable_model_cpu_offload(device="cpu")
    assert all(hasattr(part, "_hf_hook") for part in torch_parts(renderer))


def with_sequential_offload(renderer):
    for part in torch_parts(renderer):  # as diffusers calls it, but on "cpu": accelerate trips over its "cpu:0"
        accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    assert next(renderer.transformer.parameters()).is_meta


def with_group_offload(renderer):
    renderer.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


def with_sliced_vae(renderer):
    renderer.vae.enable_slicing()


@EACH
@pytest.mark.parametrize("how", [with_model_offload, with_sequential_offload, with_group_offload, with_sliced_vae])
def test_saving_memory_changes_no_picture(family, how, z_q):
    renderer = new_renderer(family)
    before = rendered(renderer, z_q)
    how(renderer)
    torch.testing.assert_close(rendered(renderer, z_q), before, atol=1e-5, rtol=0)


@EACH
def test_a_vae_in_tiles_sees_no_more_than_a_tile(family, z_q):
    renderer, seen = new_renderer(family), []
    renderer.vae.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    whole = rendered(renderer, z_q)
    if family == "sana":
        sides = {f"tile_sample_{kind}": 64 for kind in ("min_height", "min_width")}
        strides = {f"tile_sample_stride_{side}": 48 for side in ("height", "width")}
        renderer.vae.enable_tiling(**sides, **strides)
    else:
        renderer.vae.enable_tiling()
        renderer.vae.tile_sample_min_size, renderer.vae.tile_latent_min_size = 64, 8
    tiled = rendered(renderer, z_q)
    assert seen[0] > max(seen[1:]) and len(seen) > 4 and tiled.shape == whole.shape
    # An untrained VAE's norms differ from tile to tile; another picture would be 1.1 of its contrast away.
    assert 0 < (tiled - whole).abs().mean() < 0.8 * whole.std()


# --- quantised -------------------------------------------------------------------------------------------------------


@EACH
@with_torchao
def test_a_renderer_is_loaded_quantised(family, folders):
    from diffusers import TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    how = PipelineQuantizationConfig(quant_mapping={"transformer": TorchAoConfig(Int8WeightOnlyConfig())})
    folder, given = folders[family], {"dtype": torch.bfloat16, "quantization_config": how}
    for loaded in (
        load_detokenizer(str(folder), **given),
        FAMILIES[family][0].from_base(folder / "base", 12, **given),
        DiffusionPipeline.from_pretrained(folder / "detokenizer", **given),
    ):
        kinds = {
            part: {type(each).__name__ for each in loaded.components[part].parameters()}
            for part in ("transformer", "vae")
        }
        assert kinds["vae"] == {"Parameter"} < kinds["transformer"]
        assert rendered(loaded, torch.randn(1, 2, 2, 12)).shape == (1, 3, 32, 32)


@EACH
@pytest.mark.filterwarnings("ignore:.*Quanto.*:FutureWarning")
@pytest.mark.skipif(find_spec("optimum") is not None, reason="optimum is installed")
def test_quantising_by_what_is_not_installed_is_refused(family, folders):
    how = PipelineQuantizationConfig(quant_mapping={"transformer": QuantoConfig("int8")})
    with pytest.raises(ImportError, match="pip install optimum-quanto"):
        load_detokenizer(str(folders[family]), quantization_config=how)
    with pytest.raises(ImportError, match="pip install optimum-quanto"):
        FAMILIES[family][0].from_base(folders[family] / "base", 12, quantization_config=how)


def test_a_quantisation_of_another_kind_is_refused(folders, arm_folder):
    for folder in (folders["sana"], arm_folder):
        with pytest.raises(ValueError, match="must be an instance of `PipelineQuantizationConfig`"):
            load_detokenizer(str(folder), quantization_config={"transformer": "int8"})


def test_what_is_stored_in_fp16_is_loaded_in_fp32(arm_folder):
    loaded = load_detokenizer(arm_folder)
    assert type(loaded) is ArmPixelDetokenizer and dtypes_of(loaded) == {torch.float32}


# --- folders that are not whole --------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("part", ["vae", "connector", "scheduler"])
def test_a_folder_that_lacks_a_part_is_refused_by_the_parts_name(family, part, folders, tmp_path):
    folder = shutil.copytree(folders[family], tmp_path / family)
    shutil.rmtree(folder / "detokenizer" / part)
    with pytest.raises(FileNotFoundError, match=f"detokenizer lacks the folders {part}; copy"):
        load_detokenizer(str(folder))
    if part != "connector":
        shutil.rmtree(folder / "base" / part)
        with pytest.raises(FileNotFoundError, match=f"base lacks the folders {part}; copy"):
            FAMILIES[family][0].from_base(folder / "base", 12)


@pytest.mark.parametrize(
    ("part", "other"), [("vae", "AutoencoderTiny"), ("transformer", "UNet2DModel"), ("vae", None)]
)
@EACH
def test_a_folder_whose_part_is_of_another_class_is_refused(family, part, other, folders, tmp_path):
    folder = shutil.copytree(folders[family], tmp_path / family) / "detokenizer"
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {part: [other and "diffusers", other]}))
    expected = FAMILIES[family][0].parts[part].__name__
    for load in (lambda: load_detokenizer(str(folder.parent)), lambda: DiffusionPipeline.from_pretrained(folder)):
        with pytest.raises(ValueError, match=f"has as {part} {other}, but a {expected} is needed"):
            load()
