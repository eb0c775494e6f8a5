"""Trainings on a CPU touch no page twice that they freed, unless told otherwise, and leave their group."""

import os
import subprocess
import sys

import pytest

from transformers_arm.training import process
from transformers_arm.training.grpo import ArmGRPOTrainer
from transformers_arm.training.process import ProcessMixin
from transformers_arm.training.resumable_data import MixtureTrainer
from transformers_arm.training.sft_trl import ArmSFTTrainer
from transformers_arm.training.trainer import ArmTrainer

SCRIPT = """
import os, resource, runpy, sys
from types import SimpleNamespace

class Training:
    def __init__(self, device):
        self.args = SimpleNamespace(device=SimpleNamespace(type=device))

    def train(self):
        b"x" * 2**26  # the heap may grow
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            b"x" * 2**26  # 64 MB, of 16,384 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

class Kept(runpy.run_path(sys.argv[1])["ProcessMixin"], Training):
    pass

print(Kept("cuda").train())
os.environ["MALLOC_TOP_PAD_"] = "1"
print(Kept("cpu").train())
del os.environ["MALLOC_TOP_PAD_"]
print(Kept("cpu").train())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_a_training_on_a_cpu_keeps_what_it_frees_for_the_next_step_unless_the_environment_has_settings():
    environment = {name: value for name, value in os.environ.items() if name not in process.STATED}
    run = [sys.executable, "-c", SCRIPT, process.__file__]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    on_gpu, stated, kept = map(int, done.stdout.split())
    assert min(on_gpu, stated) > 5 * 100 and kept < 50  # pages may be huge


GROUP = """
import atexit, os, sys
from types import SimpleNamespace
import torch.distributed as dist
from transformers_arm.training.process import ProcessMixin

class Training:
    args = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    train = print

atexit.register(lambda: print("in a group:", dist.is_initialized()))  # behind what is registered later
trainer = type("Trainer", (ProcessMixin, Training), {})()
if sys.argv[1:]:
    dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
trainer.train("trains")
trainer.train("trains again")
"""


@pytest.mark.parametrize("group", [True, False])
def test_whoever_trained_in_a_group_leaves_it_before_the_process_ends(tmp_path, group):
    run = [sys.executable, "-c", GROUP, *([str(tmp_path / "store")] if group else [])]
    done = subprocess.run(run, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[-2:] == ["in a group: False", ""]
    assert "trains again" in done.stdout


@pytest.mark.parametrize("trainer", [ArmTrainer, MixtureTrainer, ArmSFTTrainer, ArmGRPOTrainer])
def test_every_trainer_does_both(trainer):
    assert issubclass(trainer, ProcessMixin)
