"""A stage that is run before the one whose folders it reads says so."""

import pytest

from transformers_arm.training.stages import train_stage


@pytest.mark.parametrize("stage", ["detokenizer", "tokenizer", "sft"])
def test_a_folder_that_no_stage_has_written_yet_is_named(stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"Has the stage that writes it run, and in this folder\? .*'runs/own/"):
        train_stage(stage, f"own/{stage}")
