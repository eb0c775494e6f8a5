"""The tokenizer in training, small enough to be built by each test that changes it."""

import torch

from transformers_arm import ArmVQForPreTraining

SMALL = {
    "num_projection_layers": 1,
    "fsq_levels": [2] * 6,
    "pixel_num_layers": 1,
    "pixel_hidden_size": 32,
    "pixel_num_heads": 2,
    "decorrelation_loss_weight": 0.1,
    "context_loss_weight": 0.1,
}
LOSSES = ["caption", "pixel", "sigmoid", "feature", "decorrelation", "context"]


def new_model(backbones, seed=0, **config):
    torch.manual_seed(seed)
    return ArmVQForPreTraining.from_backbones(**backbones, **(SMALL | config)).train()


def run(model, batch, seed=0):
    """The output under one state of randomness; a batch norm in training mode moves by it."""
    torch.manual_seed(seed)
    return model(**batch)
