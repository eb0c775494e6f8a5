"""The tokenizer: codes <-> values is exact, any grid works, batches change nothing, the tower stays frozen."""

import copy
import math

import numpy as np
import pytest
import torch
from tiny_arm import runs_of
from transformers import AutoConfig, AutoModel
from transformers.models.siglip.modeling_siglip import SiglipAttention
from vector_quantize_pytorch import FSQ
from vector_quantize_pytorch.finite_scalar_perturbation import FSP

from transformers_arm import ArmVQConfig, ArmVQModel
from transformers_arm.modeling_arm_vq import FiniteScalarQuantizer, grid_positions

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
ALL_LEVELS = [[2] * 16, [8, 5, 5, 5], [2, 3, 4], [7], [2]]


@pytest.fixture(scope="module")
def config():
    vision = SIZE | {"image_size": 48, "patch_size": 16}
    return ArmVQConfig(vision_config=vision, num_projection_layers=1, fsq_levels=[2] * 10)


@pytest.fixture(scope="module")
def model(config):
    """An untrained tokenizer whose batch norm has seen pictures, in evaluation mode."""
    torch.manual_seed(0)
    model = ArmVQModel(config).train()
    with torch.no_grad():
        for _ in range(3):
            model(pictures(4, 48, 48))
    return model.eval()


def pictures(batch, height, width, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the quantizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("levels", ALL_LEVELS, ids=str)
def test_every_code_survives_the_way_to_values_and_back(levels, dtype):
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(math.prod(levels))
    assert quantizer.codebook_size == len(codes)
    values = quantizer.codes_to_values(codes, dtype)
    assert values.dtype == dtype and values.shape == (len(codes), len(levels))
    assert len(values.unique(dim=0)) == len(codes)
    assert torch.equal(quantizer.values_to_codes(values), codes)
    assert torch.equal(quantizer.codes_to_values(quantizer.values_to_codes(values), dtype), values)


@pytest.mark.parametrize("levels", ALL_LEVELS, ids=str)
def test_a_code_is_the_mixed_radix_number_of_its_levels_first_channel_least_significant(levels):
    codes = np.arange(math.prod(levels))
    level = np.stack(np.unravel_index(codes, levels, order="F"), -1)
    expected = np.stack([np.linspace(-1, 1, count)[level[:, i]] for i, count in enumerate(levels)], -1)
    values = FiniteScalarQuantizer(levels).codes_to_values(torch.from_numpy(codes))
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-6)


def test_with_two_levels_values_are_the_binary_digits_of_the_code_as_signs():
    quantizer = FiniteScalarQuantizer([2] * 16)
    for code in (0, 1, 2, 40_000, 65_535):
        digits = [1.0 if digit == "1" else -1.0 for digit in reversed(f"{code:016b}")]
        assert quantizer.codes_to_values(torch.tensor(code)).tolist() == digits


@pytest.mark.parametrize("activation", ["tanh", "ifsq"])
@pytest.mark.parametrize("levels", ALL_LEVELS, ids=str)
def test_the_forward_pass_lands_on_every_code_that_its_values_stand_for(levels, activation):
    quantizer = FiniteScalarQuantizer(levels, activation)
    codes = torch.arange(math.prod(levels))
    values = quantizer.codes_to_values(codes)
    # The inverse of the bound; infinite at the outer levels.
    channels = values.atanh() if activation == "tanh" else ((values + 1) / 2).logit() / 1.6
    again, found = quantizer(channels)
    assert torch.equal(found, codes) and torch.equal(again, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("levels", ALL_LEVELS, ids=str)
def test_the_quantizer_equals_lucidrains_fsq(levels, dtype):
    reference, quantizer = FSQ(levels=levels, preserve_symmetry=True), FiniteScalarQuantizer(levels)
    channels = (2 * normal(3, 200, len(levels))).to(dtype)
    channels[0, 0], channels[0, 1], channels[0, 2] = 0.0, 100.0, -100.0
    expected, indices = reference(channels)
    values, codes = quantizer(channels)
    assert values.dtype == channels.dtype and codes.dtype == torch.int64
    assert torch.equal(codes, indices.long())
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(quantizer.codes_to_values(codes, dtype), reference.indices_to_codes(indices).to(dtype))


@pytest.mark.parametrize("levels", ALL_LEVELS, ids=str)
def test_gradients_pass_the_rounding_straight_through_as_in_lucidrains_fsq(levels):
    reference, quantizer = FSQ(levels=levels, preserve_symmetry=True), FiniteScalarQuantizer(levels)
    upstream = normal(2, 50, len(levels), seed=1)
    ours, theirs = (normal(2, 50, len(levels)).requires_grad_() for _ in range(2))
    (quantizer(ours)[0] * upstream).sum().backward()
    (reference(theirs)[0] * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(ours.grad, upstream * (1 - ours.detach().tanh() ** 2))


@pytest.mark.parametrize("levels", ALL_LEVELS, ids=str)
def test_ifsq_cuts_the_sigmoid_into_equal_parts_as_lucidrains_fsp(levels):
    reference = FSP(levels, act_name="sigmoid", quantize_rate=1.0, vector_norm="none")
    upstream = normal(3, 200, len(levels), seed=1)
    ours, theirs = (normal(3, 200, len(levels)) for _ in range(2))
    for channels in (ours, theirs):
        channels[0, 0], channels[0, 1] = 100.0, -100.0
        channels.requires_grad_()
    values, codes = FiniteScalarQuantizer(levels, "ifsq")(ours)
    expected, indices, *_ = reference(1.6 * theirs)
    assert torch.equal(codes, indices.long())
    (values * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad * 2 * 12**-0.5)  # FSP's values have variance 1, not 1/3
    bounded = 2 * (1.6 * ours.detach()).sigmoid() - 1
    torch.testing.assert_close(ours.grad, upstream * 0.8 * (1 - bounded**2))


@pytest.mark.parametrize("levels", [3, 4, 5, 8, 16])
def test_of_a_normal_channel_ifsq_uses_the_levels_more_evenly_than_tanh(levels):
    channels, unused = normal(400_000, 1), {}
    for activation in ("tanh", "ifsq"):
        _, codes = FiniteScalarQuantizer([levels], activation)(channels)
        shares = codes.bincount(minlength=levels) / len(codes)
        unused[activation] = 1 + float((shares * shares.log()).sum()) / math.log(levels)  # 0 where all are equal
    assert unused["ifsq"] < 0.003 < 0.006 < unused["tanh"]


def test_with_two_levels_both_activations_are_the_sign():
    channels = normal(1000, 10)
    for activation in ("tanh", "ifsq"):
        values, _ = FiniteScalarQuantizer([2] * 10, activation)(channels)
        assert torch.equal(values, channels.sign())


def test_a_grid_is_quantized_like_lucidrains_channel_first_images():
    channels = normal(2, 4, 3, 10)  # [B, h, w, C]
    expected, indices = FSQ(levels=[2] * 10, preserve_symmetry=True)(channels.permute(0, 3, 1, 2))
    values, codes = FiniteScalarQuantizer([2] * 10)(channels)
    assert torch.equal(codes, indices.long())
    torch.testing.assert_close(values, expected.permute(0, 2, 3, 1))


def test_channels_that_do_not_match_the_levels_are_refused():
    with pytest.raises(ValueError, match="7 channels for 10 FSQ levels"):
        FiniteScalarQuantizer([2] * 10)(normal(2, 3, 7))


@pytest.mark.parametrize("levels", [[], [2, 1], [0]])
def test_levels_that_are_no_quantizer_are_refused(levels):
    with pytest.raises(ValueError, match="fsq_levels .* must hold at least one channel of 2 or more levels"):
        ArmVQConfig(fsq_levels=levels)


def test_an_activation_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="fsq_activation 'erf' is not one of tanh, ifsq"):
        ArmVQConfig(fsq_activation="erf")


def test_the_activation_is_tanh_unless_the_config_says_otherwise_and_survives_saving(config, tmp_path):
    assert ArmVQModel(config).quantizer.activation == "tanh"
    other = copy.deepcopy(config)
    other.fsq_levels, other.fsq_activation = [8, 5, 5, 5], "ifsq"
    torch.manual_seed(0)
    model = ArmVQModel(other).eval()
    model.save_pretrained(tmp_path)
    loaded, picture = AutoModel.from_pretrained(tmp_path), pictures(1, 48, 64)
    assert loaded.quantizer.activation == loaded.config.fsq_activation == "ifsq"
    encoded = loaded.encode(picture)
    assert torch.equal(encoded.codes, model.encode(picture).codes)
    assert torch.equal(loaded.decode_codes(encoded.codes), encoded.z_q)


# --- codes in, codes out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(48, 64), (32, 96), (16, 16), (48, 48), (64, 48)])
def test_any_whole_number_of_patches_gives_its_grid_and_decodes_to_z_q(model, height, width):
    encoded = model.encode(pictures(2, height, width))
    grid = (2, height // 16, width // 16)
    assert encoded.codes.shape == grid and encoded.codes.dtype == torch.int64
    assert encoded.codes.min() >= 0 and encoded.codes.max() < 1024
    assert encoded.z_q.shape == encoded.features.shape == (*grid, 32) and encoded.channels.shape == (*grid, 10)
    assert torch.equal(model.decode_codes(encoded.codes), encoded.z_q)


def test_grids_are_laid_out_rows_first(model):
    picture = pictures(1, 48, 64)
    tower = model.vision_model(picture, interpolate_pos_encoding=True).last_hidden_state[0]
    features = model.encode(picture).features[0]
    assert all(torch.equal(features[row, column], tower[4 * row + column]) for row in range(3) for column in range(4))
    positions = grid_positions(3, 4, 8).view(3, 4, 8)
    for row in range(3):
        for column in range(4):
            rows, columns = [row, row / 10], [column, column / 10]  # two frequencies, 1 and 1/10
            angles = [f(x) for axis in (rows, columns) for f in (math.sin, math.cos) for x in axis]
            assert positions[row, column].tolist() == pytest.approx(angles)


def test_the_same_codes_in_other_places_give_another_z_q(model):
    codes = model.encode(pictures(1, 48, 64)).codes
    for axis in (1, 2):
        moved = model.decode_codes(codes.roll(1, dims=axis)).roll(-1, dims=axis)
        assert not torch.allclose(moved, model.decode_codes(codes), atol=1e-3)


def test_z_q_depends_on_each_code(model):
    codes = torch.zeros(1, 2, 2, dtype=torch.long)
    base = model.decode_codes(codes)
    for code in (1, 512, 1023):
        changed = codes.clone()
        changed[0, 1, 0] = code
        assert (model.decode_codes(changed) - base)[0, 1, 0].abs().max() > 1e-3


def test_a_batch_equals_its_members(model):
    batch = pictures(5, 48, 64)
    together = model.encode(batch)
    alone = [model.encode(picture[None]) for picture in batch]
    assert torch.equal(together.codes, torch.cat([one.codes for one in alone]))
    torch.testing.assert_close(together.z_q, torch.cat([one.z_q for one in alone]), atol=1e-4, rtol=0)
    decoded = torch.cat([model.decode_codes(codes[None]) for codes in together.codes])
    torch.testing.assert_close(model.decode_codes(together.codes), decoded, atol=1e-4, rtol=0)
    assert len(together.codes.unique()) > 10


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_pictures_of_mixed_sizes_are_encoded_as_each_alone_wherever_they_stand(model, attention):
    model = copy.deepcopy(model)
    model.set_attn_implementation(attention)
    sizes = [(48, 48), (16, 96), (48, 48), (32, 80), (96, 16), (16, 16), (144, 48), (48, 48), (16, 96)]
    mixed = [pictures(1, *size, seed=seed)[0] for seed, size in enumerate(sizes)]
    alone = [model.encode(picture[None]) for picture in mixed]
    assert len({code for one in alone for code in one.codes.flatten().tolist()}) > 20
    for order in (list(range(9)), list(range(8, -1, -1)), [4, 0, 8, 2, 6, 1, 7, 3, 5]):
        together = model.encode([mixed[place] for place in order])
        for number, place in enumerate(order):
            assert torch.equal(together.codes[number], alone[place].codes[0])
            for field in ("z_q", "features", "channels"):
                torch.testing.assert_close(together[field][number], alone[place][field][0], atol=1e-4, rtol=0)


def test_a_list_of_pictures_of_one_size_is_encoded_as_their_tensor(model):
    batch = pictures(5, 48, 64)
    listed, stacked = model.encode(list(batch)), model.encode(batch)
    for field in ("z_q", "codes", "features", "channels"):
        assert isinstance(listed[field], list) and torch.equal(torch.stack(listed[field]), stacked[field])


def test_codes_alone_are_those_of_encode_and_nothing_behind_the_quantizer_runs(model):
    model = copy.deepcopy(model)
    batch = pictures(5, 48, 64)
    mixed = [pictures(1, *size, seed=size[0])[0] for size in ((48, 48), (16, 96), (48, 48))]
    expected, of_each = model.encode(batch), model.encode(mixed)
    behind = [runs_of(part) for part in (model.up_projection, model.up_blocks)]
    codes = model.get_codes(batch)
    assert codes.dtype == torch.int64 and torch.equal(codes, expected.codes)
    assert all(map(torch.equal, model.get_codes(mixed), of_each.codes)) and len(of_each.codes) == 3
    encoded = model.encode(mixed, output_z_q=False)
    assert encoded.z_q is None and all(map(torch.equal, encoded.features, of_each.features))
    recorded = [model(batch, output_z_q=z_q, output_hidden_states=True).hidden_states for z_q in (False, True)]
    assert all(map(torch.equal, *recorded)) and 0 < len(recorded[0]) < len(recorded[1])
    assert behind == [[5], [5]]


def test_half_precision_keeps_codes_exact_through_decoding(config):
    torch.manual_seed(0)
    model = ArmVQModel(config).to(torch.bfloat16).eval()
    encoded = model.encode(pictures(2, 48, 48))
    assert encoded.z_q.dtype == torch.bfloat16
    assert torch.equal(model.decode_codes(encoded.codes), encoded.z_q)


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (torch.zeros(1, 2, 2), TypeError, "must be integers, got torch.float32"),
        (torch.zeros(1, 2, 2, dtype=torch.bool), TypeError, "must be integers, got torch.bool"),
        (torch.tensor([[[0, -3]]]), ValueError, r"Code -3 is outside this codebook \(0..1023\)"),
        (torch.tensor([[[0, 1024]]]), ValueError, r"Code 1024 is outside this codebook \(0..1023\)"),
        (torch.zeros(2, 2, dtype=torch.long), ValueError, r"codes must be \[B, h, w\], got \[2, 2\]"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.long), ValueError, r"codes must be \[B, h, w\], got \[1, 1, 2, 2\]"),
    ],
)
def test_bad_codes_are_refused(model, codes, error, message):
    with pytest.raises(error, match=message):
        model.decode_codes(codes)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 48, 48), r"pixel_values must be \[B, 3, H, W\], got \[1, 4, 48, 48\]"),
        ((3, 48, 48), r"pixel_values must be \[B, 3, H, W\], got \[3, 48, 48\]"),
        ((1, 48, 48, 3), r"pixel_values must be \[B, 3, H, W\], got \[1, 48, 48, 3\]"),
        ((1, 3, 48, 50), "48x50 is not a multiple of the 16 px patch"),
        ((1, 3, 40, 48), "40x48 is not a multiple of the 16 px patch"),
        ((1, 3, 0, 48), "0x48 is not a multiple of the 16 px patch"),
    ],
)
def test_bad_pixel_values_are_refused(model, shape, message):
    with pytest.raises(ValueError, match=message):
        model.encode(torch.zeros(shape))


def test_no_pictures_and_lists_where_one_size_is_needed_are_refused(model):
    for nothing in ([], torch.zeros(0, 3, 48, 48)):
        with pytest.raises(ValueError, match="pixel_values holds no pictures"):
            model.encode(nothing)
        with pytest.raises(ValueError, match="pixel_values holds no pictures"):
            model.get_codes(nothing)
    with pytest.raises(ValueError, match=r"one tensor \[B, 3, H, W\], got a list; `encode` takes lists"):
        model([torch.zeros(3, 48, 48)])
    with pytest.raises(ValueError, match="48x50 is not a multiple of the 16 px patch"):
        model.encode([torch.zeros(3, 48, 48), torch.zeros(3, 48, 50)])


# --- loading, freezing, sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [ArmVQModel, AutoModel])
def test_saving_and_loading_changes_nothing(model, loader, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is ArmVQModel and not loaded.training
    assert type(AutoConfig.from_pretrained(tmp_path)) is ArmVQConfig
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    batch = pictures(2, 48, 64)
    assert torch.equal(loaded.encode(batch).codes, model.encode(batch).codes)
    assert torch.equal(loaded.encode(batch).z_q, model.encode(batch).z_q)


def test_the_config_survives_saving(config, tmp_path):
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert (loaded.codebook_size, loaded.patch_size, loaded.hidden_size) == (1024, 16, 32)


@pytest.mark.parametrize("origin", ["new", "loaded"])
def test_the_vision_tower_is_frozen_and_stays_in_evaluation_mode(config, origin, tmp_path):
    model = ArmVQModel(config)
    if origin == "loaded":
        model.save_pretrained(tmp_path)
        model = ArmVQModel.from_pretrained(tmp_path)
    model.train()
    assert model.training and model.down_blocks.training
    assert not any(module.training for module in model.vision_model.modules())
    assert not any(parameter.requires_grad for parameter in model.vision_model.parameters())
    output = model(pictures(2, 48, 48))
    assert not output.features.requires_grad and output.z_q.requires_grad
    output.z_q.square().mean().backward()
    assert all(parameter.grad is None for parameter in model.vision_model.parameters())
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(model.get_parameter(name).grad is not None for name in trained)


def test_the_choice_of_attention_reaches_every_block(config):
    model = ArmVQModel(copy.deepcopy(config))
    model.set_attn_implementation("eager")
    chosen = [m.config._attn_implementation for m in model.modules() if isinstance(m, SiglipAttention)]
    assert chosen == ["eager"] * 3  # the tower's, before the quantizer, after it


def test_encoding_leaves_no_gradients_and_no_traces(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    encoded = model.encode(pictures(2, 48, 48))
    assert not encoded.z_q.requires_grad and not model.decode_codes(encoded.codes).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_paper_s_size():
    config = ArmVQConfig()
    assert config.codebook_size == 65_536 and config.hidden_size == 1152 and config.num_projection_layers == 6
    with torch.device("meta"):
        model = ArmVQModel(config).eval()
        output = model(torch.empty(1, 3, 512, 512))
    assert sum(parameter.numel() for parameter in model.vision_model.parameters()) == 413_534_448
    assert output.codes.shape == (1, 32, 32) and output.z_q.shape == (1, 32, 32, 1152)
    assert len(model.down_blocks.layers) == len(model.up_blocks.layers) == 6
