"""Renderers that FSDP2 shards learn, are looked at, saved and gone on with as whole ones are."""

import shutil

import pytest
import torch
import two_launched
from renderer_training import weights

from transformers_arm.renderers_arm import load_detokenizer

BLOCKS = ("--fsdp_transformer_layer_cls_to_wrap", "Flux2TransformerBlock,Flux2SingleTransformerBlock")


@pytest.mark.slow
@pytest.mark.parametrize("sections", [{}, {"lora": {"r": 2}}], ids=["all", "lora"])
def test_a_sharded_renderer_trains_as_a_whole_one(sections, recipe, tmp_path):
    sections |= {"ema_decay": 0.9, "condition_dropout": 0.5, "validation": {"rows": 4, "every": 3}}
    sections["evaluation"] = {"every": 2, "pictures": 2, "steps": 2}
    trained = {}
    for name in ("whole", "sharded", "resumed"):
        if name == "resumed":
            shutil.copytree(tmp_path / "sharded" / "checkpoint-2", tmp_path / name / "checkpoint-2")
        by = {"by": None} if name == "whole" else {"options": BLOCKS}
        two_launched.train(recipe(tmp_path / name, **sections), trainer="renderer", **by)
        trained[name] = weights(load_detokenizer(tmp_path / name))
        if name != "resumed":
            sheet = (tmp_path / name / "reconstructions" / "step-0000002.png").read_bytes()
            assert sheet == (tmp_path / "whole" / "reconstructions" / "step-0000002.png").read_bytes()
    assert (tmp_path / "sharded" / "checkpoint-2" / "pytorch_model_fsdp_0").is_dir()
    for name, value in trained["whole"].items():
        torch.testing.assert_close(trained["sharded"][name], value, atol=1e-4, rtol=0, msg=name)
        assert torch.equal(trained["resumed"][name], trained["sharded"][name]), name
