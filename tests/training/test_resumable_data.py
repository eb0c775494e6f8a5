"""Training on a packed mixture: interrupted, it goes on with the rows it would have seen; processes act as one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState

from transformers_arm import ArmForCausalLM, ArmProcessor
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.packing import PackedMixture
from transformers_arm.training.resumable_data import MixtureTrainer
from transformers_arm.training.trainer import train, training_arguments

STEPS = 6
WEIGHTS = {"text": 0.05, "image_to_text": 0.10, "text_to_image": 0.70, "interleaved": 0.12, "editing": 0.03}


class Killed(Exception):
    """Stands for whatever ends a process."""


class KillAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def new_trainer(backbones, output_dir, *, seed=0, dropout=0.0, killed_after=None, **arguments):
    """A trainer of a tiny ARM on all tasks of the embedded world and a source with bad rows, as a new process would
    make it; `seed` is of the first weights.
    """
    torch.manual_seed(seed)
    model = ArmForCausalLM.from_backbones(**backbones, attention_dropout=dropout)
    processor = ArmProcessor.from_backbones(**backbones)
    worlds = {
        task: {"world": "shapes", "arguments": {"mixture": {task: 1.0}}, "weight": weight}
        for task, weight in WEIGHTS.items()
    }
    sources = {name: Source.from_recipe(section, seed=0) for name, section in worlds.items()}
    bad = Dataset.from_dict({"prompt": ["a", " ", "c"], "answer": ["red", "green", "blue"]})
    sources["bad"] = Source(bad, weight=0.2)
    mixture = Mixture(sources, seed=0, streams=8, max_skipped=0.5)
    settings = {
        **{"max_steps": STEPS, "save_steps": 2, "logging_steps": 1, "learning_rate": 1e-3, "use_cpu": True},
        "lr_scheduler_type": "constant",
        **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "report_to": "none"},
        **{"disable_tqdm": True, "dataloader_pin_memory": False},
    }
    return MixtureTrainer(
        model,
        training_arguments(settings | arguments, output_dir=str(output_dir)),
        train_dataset=PackedMixture(mixture, processor, model.config, token_budget=176, lookahead=4),
        callbacks=[KillAfter(killed_after)] if killed_after else [],
    )


def curve(folder):
    """What is logged of each step, but how long it took."""
    history = TrainerState.load_from_json(Path(folder) / f"checkpoint-{STEPS}" / "trainer_state.json").log_history
    others = {"epoch", "tokens_per_second_per_process", "data_wait"}
    return {log["step"]: {name: value for name, value in log.items() if name not in others} for log in history}


@pytest.fixture(scope="module")
def uninterrupted(tiny_arm_backbones, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = new_trainer(tiny_arm_backbones, folder, dropout=0.1)  # so that it matters what is drawn besides rows
    train(trainer)
    return trainer.model, curve(folder)


@pytest.mark.parametrize(("killed_after", "workers_before", "workers_after"), [(3, 0, 0), (5, 2, 2), (3, 2, 0)])
def test_an_interrupted_training_goes_on_with_the_rows_it_would_have_seen(
    tiny_arm_backbones, uninterrupted, tmp_path, killed_after, workers_before, workers_after
):
    expected, theirs = uninterrupted
    settings = {"dropout": 0.1, "dataloader_num_workers": workers_before}
    with pytest.raises(Killed):
        train(new_trainer(tiny_arm_backbones, tmp_path, killed_after=killed_after, **settings))
    settings["dataloader_num_workers"] = workers_after
    resumed = new_trainer(tiny_arm_backbones, tmp_path, seed=1, **settings)  # all must come from the checkpoint
    torch.manual_seed(99)
    train(resumed)
    for name, value in expected.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    ours = curve(tmp_path)
    assert ours == theirs and set(ours) == set(range(1, STEPS + 1))


def test_what_was_drawn_and_how_full_rows_were_is_logged(uninterrupted):
    _, logs = uninterrupted
    last = logs[STEPS]
    assert 0.9 < last["row_fill"] <= 1
    assert sum(last[f"documents/{name}"] for name in (*WEIGHTS, "bad")) == pytest.approx(1, abs=1e-3)
    assert sum(last[f"tokens/{name}"] for name in (*WEIGHTS, "bad")) == pytest.approx(1, abs=1e-3)
    assert last["documents/text_to_image"] > 0.4 and last["skipped/bad"] > 0 and last["epoch/bad"] == 0
    assert last["loss_text"] > 0 and last["loss_image"] > 0
    logged = {name for log in logs.values() for name in log}
    assert {f"loss_of_{name}" for name in (*WEIGHTS, "bad")} <= logged


def test_a_checkpoint_that_does_not_say_where_its_data_stood_is_refused(tiny_arm_backbones, tmp_path):
    train(new_trainer(tiny_arm_backbones, tmp_path, max_steps=2))
    file = tmp_path / "checkpoint-2" / "data_state.json"
    state = json.loads(file.read_text())
    state["made_of"]["sources"]["text_to_image"]["weight"] = 0.3
    file.write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"other data: sources.text_to_image.weight was 0.3, is \d"):
        train(new_trainer(tiny_arm_backbones, tmp_path))
    del state["made_of"]["sources"]
    file.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="begun by an earlier version"):
        train(new_trainer(tiny_arm_backbones, tmp_path))
    file.unlink()
    with pytest.raises(ValueError, match="has no data_state.json, so where its data stood is not known"):
        train(new_trainer(tiny_arm_backbones, tmp_path))


def test_two_processes_train_as_one_and_one_goes_on_from_them(tiny_arm_backbones, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(new_trainer(tiny_arm_backbones, one))
    settings = {"max_steps": 4, "per_device_train_batch_size": 1, "dataloader_num_workers": 2}
    arguments = json.dumps([tiny_arm_backbones, str(two), settings])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", __file__, arguments]
    subprocess.run(torchrun, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    train(new_trainer(tiny_arm_backbones, two))
    ours, theirs = curve(two), curve(one)
    assert set(ours) == set(theirs) == set(range(1, STEPS + 1))
    for step, logs in theirs.items():
        assert ours[step]["loss"] == pytest.approx(logs["loss"], abs=2e-4), step
        of_data = {name for name in logs if "/" in name} | {"row_fill"}
        assert len(of_data) > 18 and all(ours[step][name] == logs[name] for name in of_data), step


if __name__ == "__main__":  # one of several processes
    backbones, output_dir, settings = json.loads(sys.argv[1])
    train(new_trainer(backbones, output_dir, **settings))
