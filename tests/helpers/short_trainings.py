"""What short trainings of a tiny tokenizer are made of, how they are interrupted, and what is read from them."""

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from vq_pretraining import SMALL

WEIGHTS = {"caption": 0.3, "pixel": 50.0, "sigmoid": 0.7, "feature": 2.0, "decorrelation": 0.1, "context": 0.2}
MODEL = SMALL | {f"{name}_loss_weight": weight for name, weight in WEIGHTS.items()}
COMPLETE = {
    *("model.safetensors", "config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
    *("trainer_state.json", "training_args.bin"),
}


class Killed(Exception):
    """Stands for whatever ends a process."""


class StopAt(TrainerCallback):
    """Ends the training after a step: `politely`, or as a crash would."""

    def __init__(self, step, politely):
        self.step, self.politely = step, politely

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            if not self.politely:
                raise Killed
            control.should_training_stop = True


def checkpoints(folder):
    return sorted(path.name for path in Path(folder).glob("checkpoint-*"))


def curve(trainer):
    names = ("loss", "learning_rate", "grad_norm", *(f"loss_{name}" for name in WEIGHTS))
    return {log["step"]: [log[name] for name in names] for log in trainer.state.log_history if "loss" in log}


def assert_same_training(trainer, expected):
    assert trainer.state.global_step == expected.state.global_step == 6
    for name, value in expected.model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], value, atol=1e-6, rtol=0, msg=name)
    ours, theirs = curve(trainer), curve(expected)
    assert ours.keys() == theirs.keys() == {1, 2, 3, 4, 5, 6}
    for step, values in theirs.items():
        assert ours[step] == pytest.approx(values, abs=2e-4), step  # as rounded in the log
