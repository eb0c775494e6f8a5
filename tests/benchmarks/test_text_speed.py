"""The benchmark of writing text runs, both models do the same, and its figures add up."""

import json
import runpy
import statistics
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from transformers_arm.modeling_arm import ArmForCausalLM

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def siblings(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS / "speed"))


def test_both_models_are_timed_in_turn_and_the_ratio_is_the_median_of_pairs(tmp_path, monkeypatch, capsys):
    command = ["text.py", "--size", "tiny", "--device", "cpu", "--batch", "2", "--tokens", "3", "--pairs", "3"]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "speed.json")])
    runpy.run_path(str(BENCHMARKS / "speed" / "text.py"), run_name="__main__")
    result = json.loads((tmp_path / "speed.json").read_text())
    assert list(result["rows"]) == ["greedy", "sampled", "top-k 50"] and result["size"] == "tiny"
    for row in result["rows"].values():
        ours, theirs = row["seconds"]["arm"], row["seconds"]["qwen2"]
        assert len(ours) == len(theirs) == 3
        assert row["ratio"] == pytest.approx(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)))
        assert row["tokens_per_second"]["arm"] == pytest.approx(6 / statistics.median(ours))
    assert "| greedy |" in capsys.readouterr().out


def test_stock_qwen2_writes_what_arm_writes():
    script = runpy.run_path(str(BENCHMARKS / "speed" / "text.py"))
    torch.manual_seed(0)
    config = script["small_depth"](**script["SIZES"]["tiny"])
    arm = script["random_model"](lambda: ArmForCausalLM(config), torch.float32, "cpu")
    qwen2, ids = script["qwen2_of"](arm), torch.randint(1000, 100_000, (2, 5))
    assert qwen2.lm_head.weight.shape == (152_064, 32) and arm.lm_head.weight.shape == (217_600, 32)
    arguments = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(arm.generate(ids, **arguments), qwen2.generate(ids, **arguments))
    flops = []
    for model in (arm, qwen2):
        with FlopCounterMode(display=False) as counter:
            model.generate(ids, **arguments)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1]


def test_the_page_tells_what_was_measured():
    rows = json.loads((BENCHMARKS / "results" / "speed_text.json").read_text())["rows"]
    page = (BENCHMARKS.parent / "docs" / "arm-7b.md").read_text()
    assert f"takes {rows['greedy']['ratio']:.2f} times Qwen2's seconds, greedily" in page
    assert f"when it samples {rows['sampled']['ratio']:.2f} times" in page
