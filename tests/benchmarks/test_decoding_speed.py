"""The benchmarks of drawing and training run, and what they print adds up; the plain loop draws as `generate` does."""

import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from plain_loop import plain_loop
from torch.utils.flop_counter import FlopCounterMode

from transformers_arm.modeling_arm import ArmForCausalLM

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed"
SMALL = ["--size", "small", "--hidden", "48", "--layers", "1"]


@pytest.fixture
def command_line(monkeypatch):
    """Runs a script of the benchmarks of speed with arguments, as a shell does."""

    def command(script: str, *arguments) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [script, *map(str, arguments)])
            runpy.run_path(str(SPEED / script), run_name="__main__")

    return command


@pytest.fixture(scope="module")
def model(arm_folder):
    return ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32).eval()


def prompts(count: int, length: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 200, (count, length), generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids)


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_all_contestants_draw_the_same_number_of_tokens_and_shares_are_ratios_of_their_speeds(
    command_line, tmp_path, capsys
):
    files = ["--output", tmp_path / "speed.json", "--plot", tmp_path / "speed.png"]
    command_line("decoding.py", *SMALL, "--codes", 64, "--batches", 1, 3, "--grid", 2, 3, "--repeats", 2, *files)
    result, printed = json.loads((tmp_path / "speed.json").read_text()), capsys.readouterr().out
    names = {"ours", "plain loop", "Janus", "Emu3", "products", "bandwidth"}
    assert [row["batch"] for row in result["rows"]] == [1, 3] and result["codes"] == 64
    for row in result["rows"]:
        speeds, steps = row["tokens_a_second"], row["milliseconds_a_step"]
        assert set(speeds) == set(steps) == names and not row["errors"]
        for name in names:
            assert steps[name] > 0 and speeds[name] == pytest.approx(1000 * row["batch"] / steps[name])
            assert row["shares"]["ours"][name] == pytest.approx(speeds["ours"] / speeds[name])
            assert f"| {row['batch']} | {name} | " in printed
        assert all(len(seconds) == 2 for seconds in row["seconds"].values())
    matrices = 48 * (4 * 48 + 3 * 1024) + 64 * 48  # one layer and the rows of codes, all that a step multiplies with
    assert result["rows"][0]["weights_bytes"] == 4 * matrices
    with Image.open(tmp_path / "speed.png") as picture:
        assert picture.height > 2 * 6 * 10


def test_contestants_can_be_left_out_and_guidance_that_is_none_is_refused(command_line, tmp_path, capsys):
    few = ["--codes", 64, "--batches", 1, "--grid", 1, 2, "--repeats", 1, "--output", tmp_path / "speed.json"]
    command_line("decoding.py", *SMALL, *few, "--without", "plain", "janus", "emu3")
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert set(row["tokens_a_second"]) == {"ours", "products", "bandwidth"}
    with pytest.raises(SystemExit):
        command_line("decoding.py", *SMALL, *few, "--guidance", 1)
    assert "--guidance 1.0 must be above 1" in capsys.readouterr().err


def test_generate_draws_the_plain_loop_s_tokens(arm_folder, command_line, tmp_path):
    command_line("same_tokens.py", "--model", arm_folder, "--output", tmp_path / "same.json")
    cases = json.loads((tmp_path / "same.json").read_text())["cases"]
    assert {"editing, three branches", "editing, a mask", "three pictures a prompt"} < set(cases)
    assert all(case["tokens"] and not case["differ"] for case in cases.values())
    assert max(case["kinds"] for case in cases.values()) > 5


def test_one_token_that_differs_is_found(model):
    script = runpy.run_path(str(SPEED / "same_tokens.py"))
    ids, mask = prompts(2)
    inputs = {"input_ids": ids, "attention_mask": mask}
    case = (inputs, (3, 3), {"guidance_scale": 1.0}, 1, None)
    assert script["compare"](model, case)["differ"] == 0
    hidden = torch.ones_like(mask)
    hidden[0, 0] = 0  # generate reads the first prompt without its first id
    drawn = script["drawn"](model, inputs | {"attention_mask": hidden}, (3, 3), guidance_scale=1.0, do_sample=False)
    plain = plain_loop(model, [(ids, mask)], (3, 3), do_sample=False)
    assert torch.equal(drawn[1], plain[1]) and not torch.equal(drawn[0], plain[0])


def test_the_plain_loop_samples_within_its_settings(model):
    ids, mask = prompts(3)
    branches = [(ids, mask), (torch.full_like(ids, 3), mask)]
    greedy = plain_loop(model, branches, (2, 4), guidance_scale=2.0, do_sample=False)
    assert greedy.shape == (3, 8)
    for certain in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        assert torch.equal(plain_loop(model, branches, (2, 4), guidance_scale=2.0, **certain), greedy)
    assert not torch.equal(plain_loop(model, branches, (2, 4), guidance_scale=6.0, do_sample=False), greedy)
    seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    together = plain_loop(model, branches, (2, 4), generator=seeds)
    third = [(part[2:], rows[2:]) for part, rows in branches]
    last = plain_loop(model, third, (2, 4), generator=[seeds[2].manual_seed(7)])
    assert torch.equal(together[2:], last) and not torch.equal(together[0], together[1])


# --- training --------------------------------------------------------------------------------------------------------


def test_steps_of_training_are_measured(command_line, tmp_path, capsys):
    output = ["--output", tmp_path / "speed.json"]
    command_line("training.py", *SMALL, "--lengths", 40, 80, "--grid", 2, 3, "--steps", 1, *output)
    result, printed = json.loads((tmp_path / "speed.json").read_text()), capsys.readouterr().out
    assert result["layers"] == 1 and [row["tokens"] for row in result["rows"]] == [40, 80]
    for row in result["rows"]:
        assert row["tokens_a_second"] == pytest.approx(row["tokens"] / row["seconds"])
        share = row["model_flops"] / row["seconds"] / result["product_flops_a_second"]
        assert row["flops_share"] == pytest.approx(share) and share > 0
        assert f"| sdpa | {row['tokens']} | " in printed


def test_an_attention_that_does_not_run_is_named_and_the_others_are_measured(command_line, tmp_path):
    if find_spec("flash_attn"):
        pytest.skip("flash-attn is installed")
    options = ["--lengths", 40, 80, "--grid", 2, 3, "--steps", 1, "--attention", "flash_attention_2", "sdpa"]
    with pytest.raises(SystemExit, match="Some rows were not measured"):
        command_line("training.py", *SMALL, *options, "--output", tmp_path / "speed.json")
    flash, sdpa, *longer = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert [row["tokens"] for row in (flash, sdpa, *longer)] == [40, 40, 80, 80]  # a cut leaves rows to compare
    assert flash["attention"] == "flash_attention_2" and "seconds" not in flash and "FlashAttention" in flash["error"]
    assert sdpa["seconds"] > 0


def test_flops_of_a_step_are_those_that_torch_counts():
    script = runpy.run_path(str(SPEED / "training.py"))
    config = script["config_of"]("small", layers=2, hidden=48, codes=64)
    model = script["random_model"](lambda: ArmForCausalLM(config), torch.float32).train()
    model.set_attn_implementation({"": "eager", "vq_config": "sdpa"})
    row = script["packed_row"](config, 14, 4, (2, 3))  # one document
    assert (row["labels"] == -100).sum() == 1 and row["position_ids"].max() == 13
    matrices = sum(weight.numel() for weight in model.model.layers.parameters() if weight.ndim == 2)
    expected = script["model_flops"](config, matrices, row)
    causal, whole = 14 * 15 // 2, 14 * 14  # eager attention multiplies what it masks, too
    expected += 3 * 4 * 2 * 48 * (whole - causal)
    expected -= 2 * 48 * (6 * 64 + 6 * config.visual_token_offset)  # torch counts no products in place: the head's
    with FlopCounterMode(display=False) as counter:
        model(**row, use_cache=False).loss.backward()
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.001)


def test_documents_of_a_row_begin_anew():
    script = runpy.run_path(str(SPEED / "training.py"))
    config = script["config_of"]("small", layers=1, hidden=48, codes=64)
    row = script["packed_row"](config, 40, 4, (2, 3))
    begins = (row["position_ids"][0] == 0).nonzero().flatten().tolist()
    assert begins == [0, 14, 28] and (row["labels"][0, begins] == -100).all()
    assert (row["input_ids"][0] >= config.visual_token_offset).sum() == 6 + 6 + 5
