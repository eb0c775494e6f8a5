"""Counts of parameters are the models' own, part by part."""

import pytest
import torch

from transformers_arm.modeling_arm_vq_pretraining import ArmVQForPreTraining
from transformers_arm.sizes.parameters import TOKENIZER_PARTS, count_parameters, paper_tables, parameter_table


@pytest.fixture(scope="module")
def model(tiny_backbones):
    size = {"num_projection_layers": 1, "pixel_num_layers": 1, "pixel_hidden_size": 32, "pixel_num_heads": 2}
    return ArmVQForPreTraining.from_backbones(**tiny_backbones, **size)


def numbers(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_each_part_has_its_trained_and_its_frozen_parameters(model):
    counts, vq_model = count_parameters(model, TOKENIZER_PARTS), model.vq_model
    before = (vq_model.feature_norm, vq_model.down_blocks, vq_model.down_norm, vq_model.down_projection)
    assert counts == {
        "SigLIP2 vision tower": (0, numbers(vq_model.vision_model)),
        "blocks before the quantizer": (numbers(*before), 0),
        "blocks after the quantizer": (numbers(vq_model.up_projection, vq_model.up_blocks, vq_model.up_norm), 0),
        "SigLIP2 text tower": (0, numbers(model.text_model)),
        "SigLIP2 pooling head": (0, numbers(model.pooling_head)),
        "temperature and bias": (2, 0),
        "captioner": (0, numbers(model.captioner)),  # its head is its embedding, and counts once
        "connector into the captioner": (numbers(model.caption_connector), 0),
        "pixel transformer": (numbers(model.pixel_transformer) - 32, 32),  # the condition of no picture is frozen
    }


def test_the_table_adds_up(model):
    rows = [line.strip("| ").split(" | ") for line in parameter_table(model, TOKENIZER_PARTS).splitlines()[2:]]
    trained, frozen = zip(*([int(number.replace(",", "")) for number in row[1:]] for row in rows), strict=True)
    assert rows[-1][0] == "all" and len(rows) == len(TOKENIZER_PARTS) + 1
    assert trained[-1] == sum(trained[:-1]) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained[-1] + frozen[-1] == model.num_parameters()


def test_a_parameter_of_no_part_is_refused(model):
    with pytest.raises(ValueError, match="lone.weight belongs to none of the parts head; add its beginning to one"):
        count_parameters(torch.nn.ModuleDict({"lone": torch.nn.Linear(2, 2)}), {"head": ("head.",)})


def test_the_paper_s_sizes():
    tables = paper_tables()
    for row in (
        "| SigLIP2 vision tower | 0 | 413,534,448 |",
        "| captioner | 0 | 494,032,768 |",
        "| pixel transformer | 176,547,840 | 768 |",
        "| visual tokenizer | 0 | 596,453,440 |",
        "| all | 8,085,378,560 | 596,453,440 |",
    ):
        assert row in tables.splitlines(), row
