"""The benchmarks of drawing and training run, and what they print adds up; the plain loop draws as `generate` does."""

import json
import runpy
import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from plain_loop import plain_loop

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


TRAINING = [*SMALL, "--lengths", 96, 128, "--grid", 2, 3, "--words", 3, "--steps", 1]


def test_steps_of_training_are_measured(command_line, tmp_path, capsys):
    output = ["--output", tmp_path / "speed.json", "--attention", "sdpa", "eager", "--peak-tflops", 0.5]
    command_line("training.py", *TRAINING, *output)
    result, printed = json.loads((tmp_path / "speed.json").read_text()), capsys.readouterr().out
    named = [(row["attention"], row["tokens"]) for row in result["rows"]]
    assert result["layers"] == 1 and result["peak_tflops"] == 0.5
    assert named == [("sdpa", 96), ("eager", 96), ("sdpa", 128), ("eager", 128)]  # a cut leaves rows to compare
    for row in result["rows"]:
        assert 0.5 * row["tokens"] < row["document_tokens"] <= row["tokens"]
        assert row["tokens_a_second"] == pytest.approx(row["document_tokens"] / row["seconds"])
        reached = row["model_flops"] / row["seconds"]
        assert row["flops_share"] == pytest.approx(reached / result["product_flops_a_second"])
        assert row["peak_share"] == pytest.approx(reached / 0.5e12) and row["peak_share"] > 0
        assert 0 < row["waiting_share"] < 1 and row["gib"] >= 0
        assert f"| {row['attention']} | {row['tokens']} | " in printed
    flops = {row["tokens"]: row["model_flops"] for row in result["rows"]}
    assert [row["model_flops"] for row in result["rows"]] == [flops[96]] * 2 + [flops[128]] * 2  # of the same rows


def test_an_attention_that_does_not_run_is_named_and_the_others_are_measured(command_line, tmp_path):
    if find_spec("flash_attn"):
        pytest.skip("flash-attn is installed")
    names = ["flash_attention_2", *([] if torch.cuda.is_available() else ["flex_attention"]), "sdpa"]
    with pytest.raises(SystemExit, match="Some rows were not measured"):
        command_line("training.py", *TRAINING, "--attention", *names, "--output", tmp_path / "speed.json")
    *others, sdpa = json.loads((tmp_path / "speed.json").read_text())["rows"][: len(names)]
    assert [row["attention"] for row in others] == names[:-1] and not any("seconds" in row for row in others)
    assert "FlashAttention" in others[0]["error"] and sdpa["seconds"] > 0 and sdpa["peak_share"] is None
    assert all("flex_attention does not train here" in row["error"] for row in others[1:])


def test_documents_of_a_row_are_packed_as_in_a_training():
    script = runpy.run_path(str(SPEED / "training.py"))
    config = script["config_of"]("small", layers=1, hidden=48, codes=64)
    data = script["mixture_of"](config, 128, 3, (2, 3), 0)
    for batch, waited in islice(script["batches_of"](data, 0), 3):
        ids, begins = batch["input_ids"][0], (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
        documents = len(begins) - bool((batch["sources"] < 0).any())  # padding begins anew, too
        assert len(ids) == 128 and documents > 1 and waited > 0
        images = ids >= config.visual_token_offset
        assert (
            images.sum() == 6 * documents and (batch["labels"][0] >= config.visual_token_offset).sum() == images.sum()
        )
        assert ids[~images].max() < config.width_token_offset + 128


def test_rows_that_no_document_fits_are_told(command_line, tmp_path):
    with pytest.raises(SystemExit, match="Some rows were not measured"):
        command_line("training.py", *SMALL, "--lengths", 16, "--grid", 3, 3, "--output", tmp_path / "speed.json")
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert "longer than the budget" in row["error"]
