"""SIGTERM, a real one, ends a training with a checkpoint from which it goes on as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from short_trainings import COMPLETE, assert_same_training, checkpoints
from transformers import TrainerCallback, TrainerControl, TrainerState
from two_processes import run_two_processes

from transformers_arm import ArmGRPOConfig
from transformers_arm.training.preemption import STATUS, PreemptionCallback
from transformers_arm.training.trainer import train


class SignalAt(TrainerCallback):
    """The signal comes within a step, as often as a launcher may forward it."""

    def __init__(self, step, times=2):
        self.step, self.times = step, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [3, 4, 6])
def test_a_run_that_is_asked_to_end_saves_and_goes_on_exactly(new_trainer, uninterrupted, tmp_path, step, caplog):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train(new_trainer(tmp_path, callbacks=[SignalAt(step)], save_steps=100))
    assert ended.value.code == STATUS == 143 and signal.getsignal(signal.SIGTERM) is before
    assert caplog.text.count("SIGTERM: a checkpoint is written at the end of this step") == 1
    assert f"Ended by SIGTERM with a checkpoint of step {step}" in caplog.text
    assert checkpoints(tmp_path) == [f"checkpoint-{step}"]
    assert COMPLETE <= {path.name for path in (tmp_path / f"checkpoint-{step}").iterdir()}
    resumed = new_trainer(tmp_path, seed=1, save_steps=100)
    train(resumed)
    assert_same_training(resumed, uninterrupted)


def test_a_trainer_of_one_s_own_takes_the_callback_and_says_whether_it_was_stopped(new_trainer, tmp_path):
    preemption = PreemptionCallback()
    trainer = new_trainer(tmp_path, callbacks=[preemption, SignalAt(2)], save_steps=100)
    trainer.train()
    assert preemption.stopped and trainer.state.global_step == 2 and checkpoints(tmp_path) == ["checkpoint-2"]
    other = new_trainer(tmp_path / "other", callbacks=[preemption])
    other.train()
    assert not preemption.stopped and other.state.global_step == 6


def test_several_steps_of_one_generation_end_together(tmp_path):
    settings = {"steps_per_generation": 6, "gradient_accumulation_steps": 2, "save_steps": 3, "use_cpu": True}
    arguments = ArmGRPOConfig(str(tmp_path), **settings)
    callback = PreemptionCallback()
    callback.asked = True
    stops = []
    for step in range(1, 7):
        control = TrainerControl()
        callback.on_step_end(arguments, TrainerState(global_step=step), control)
        stops.append(control.should_training_stop and control.should_save)
    assert stops == [False, False, True, False, False, True]


def test_transformers_way_is_refused(new_trainer, tmp_path):
    with pytest.raises(ValueError, match="enable_jit_checkpoint has each process save by itself"):
        new_trainer(tmp_path, enable_jit_checkpoint=True)


@pytest.mark.slow
def test_a_command_that_is_terminated_goes_on_from_its_last_step(arm_folder, tmp_path):
    """SIGTERM to a process of its own, as a scheduler sends it."""
    settings = ["save_steps=1000", "logging_steps=1", "per_device_train_batch_size=1", "report_to=none"]
    settings = [f"training.{each}" for each in (*settings, "disable_tqdm=true")]
    command = [sys.executable, "-m", "transformers_arm", "train", "sft", "--config", "arm_tiny/sft"]
    command += [f"start_from={arm_folder}", "output_dir=run", "evaluation=null", *settings]
    with open(tmp_path / "printed", "w") as printed:
        options = {"stderr": subprocess.STDOUT, "env": os.environ | {"PYTHONUNBUFFERED": "1"}}
        running = subprocess.Popen(command, cwd=tmp_path, stdout=printed, **options)
        deadline = time.monotonic() + 120
        while (tmp_path / "printed").read_text().count("'loss'") < 3:
            assert running.poll() is None and time.monotonic() < deadline, (tmp_path / "printed").read_text()
            time.sleep(0.02)
        running.send_signal(signal.SIGTERM)
        assert running.wait(120) == 143, (tmp_path / "printed").read_text()
    (name,) = checkpoints(tmp_path / "run")
    step = int(name.removeprefix("checkpoint-"))
    assert step >= 3 and not (tmp_path / "run" / "model").exists()
    assert f"with a checkpoint of step {step}; the same command" in (tmp_path / "printed").read_text()
    again = subprocess.run(
        [*command, f"training.max_steps={step + 2}"], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert again.returncode == 0, again.stderr
    newest = tmp_path / "run" / f"checkpoint-{step + 2}" / "trainer_state.json"
    steps = [log["step"] for log in json.loads(newest.read_text())["log_history"] if "loss" in log]
    assert steps == list(range(1, step + 3)) and (tmp_path / "run" / "model" / "model.safetensors").exists()


TWO = """
import os
import signal
import sys
from pathlib import Path

from transformers import TrainerCallback

from transformers_arm.training.conversations import ConversationsRecipe, new_trainer
from transformers_arm.training.trainer import train

arm, folder, rank = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])


class SignalAt(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if rank == 1 and state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # of two, one alone


def run(name, *callbacks):
    training = {"use_cpu": True, "max_steps": 5, "save_steps": 1000, "per_device_train_batch_size": 1, "seed": 3}
    training |= {"report_to": "none", "disable_tqdm": True, "logging_steps": 1, "learning_rate": 1e-3}
    drawn = {"world": "shapes", "arguments": {"mixture": {"text": 0.5, "text_to_image": 0.5}}}
    data = {"token_budget": 256, "streams": 2, "sources": {"drawn": drawn}}
    recipe = {"output_dir": str(folder / name), "start_from": arm, "data": data, "training": training}
    trainer, _ = new_trainer(ConversationsRecipe(**recipe))
    for callback in callbacks:
        trainer.add_callback(callback)
    try:
        train(trainer)
    except SystemExit as error:
        print("ended with", error.code, "at", trainer.state.global_step)
        return None
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


whole = run("whole")
assert run("stopped", SignalAt()) is None
assert run("stopped") == whole, whole
print("went on")
"""


@pytest.mark.slow
def test_of_several_processes_all_stop_at_the_step_in_which_one_is_asked(tmp_path):
    run_two_processes(TWO, tmp_path)
    for rank in (0, 1):
        output = (tmp_path / f"output-{rank}.txt").read_text()
        assert "ended with 143 at 3" in output and "went on" in output
    assert checkpoints(tmp_path / "stopped") == ["checkpoint-3", "checkpoint-5"]
