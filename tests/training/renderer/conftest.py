"""Recipes of short trainings of renderers of tiny parts."""

import pytest
import torch
from tiny_renderers import FAMILIES, write_base
from vq_pretraining import SMALL

from transformers_arm import ArmVQForPreTraining
from transformers_arm.image_processing_arm import ArmImageProcessor


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_backbones):
    """A tokenizer, and bases of all families."""
    folder = tmp_path_factory.mktemp("renderers")
    torch.manual_seed(0)
    pretraining = ArmVQForPreTraining.from_backbones(**tiny_backbones, **SMALL)
    pretraining.vq_model.save_pretrained(folder / "vq_model")
    ArmImageProcessor.from_pretrained(tiny_backbones["vision"]).save_pretrained(folder / "vq_model")
    for family in FAMILIES:
        (folder / family).mkdir()
        write_base(family, folder / family)
    return folder


@pytest.fixture(scope="module")
def recipe(folders):
    """Makes recipes of a short training; `sections` replace its own."""

    def make(output_dir, family="flux2", training=None, **sections):
        short = {
            **{"seed": 0, "use_cpu": True, "max_steps": 4, "per_device_train_batch_size": 2, "save_steps": 2},
            **{"learning_rate": 1e-2, "logging_steps": 1, "report_to": "none", "disable_tqdm": True},
        }
        made = {"output_dir": str(output_dir), "vq_model": str(folders / "vq_model"), "data": {"world": "shapes"}}
        made |= {"training": short | (training or {})} | sections
        return made if "start_from" in sections else {"base": str(folders / family)} | made

    return make
