"""Checkpoints and final folders are complete or absent, in one process, in two and on two nodes."""

import json
import multiprocessing
import os
import signal
import subprocess
from pathlib import Path

import pytest
from short_trainings import COMPLETE, Killed, assert_same_training, checkpoints
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint
from two_processes import run_two_processes

from transformers_arm.training.saving import Staging, save_folder
from transformers_arm.training.trainer import train
from transformers_arm.worlds.shapes.pictures import ShapesDataset

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("method", ["save_model", "_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_save_killed_half_way_leaves_only_complete_checkpoints(
    new_trainer, uninterrupted, tmp_path, monkeypatch, method
):
    plain = getattr(Trainer, method)

    def dies_at_step_4(self, output_dir, **kwargs):
        plain(self, output_dir, **kwargs)
        if self.state.global_step == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, method, dies_at_step_4)
        with pytest.raises(Killed):
            train(new_trainer(tmp_path))
    assert (tmp_path / "_saving" / "0" / "checkpoint-4" / "model.safetensors").exists()  # what was written of it
    assert checkpoints(tmp_path) == ["checkpoint-2"]
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-2")
    assert COMPLETE <= {path.name for path in (tmp_path / "checkpoint-2").iterdir()}

    resumed = new_trainer(tmp_path, seed=1)
    train(resumed)
    assert_same_training(resumed, uninterrupted)
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    for name in checkpoints(tmp_path):
        assert COMPLETE <= {path.name for path in (tmp_path / name).iterdir()}
    assert not (tmp_path / "_saving").exists()


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many bytes, or gives it another size; left out where that takes rights one lacks."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def of_size(size):
        options = f"size={size}" + (",remount" if folder.is_mount() else "")
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        ).returncode:
            pytest.skip("mounting a tmpfs takes root")
        return folder

    yield of_size
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_during_a_checkpoint_loses_nothing(new_trainer, uninterrupted, small_disk):
    first = Path(uninterrupted.args.output_dir) / "checkpoint-2"
    size = sum(file.stat().st_size for file in first.rglob("*"))
    disk = small_disk(int(1.5 * size))
    with pytest.raises(
        OSError, match="step 4 could not be written to .* GB are free: .*Earlier checkpoints are whole"
    ):
        train(new_trainer(disk))
    assert checkpoints(disk) == ["checkpoint-2"] and not (disk / "_saving").exists()
    assert COMPLETE <= {path.name for path in (disk / "checkpoint-2").iterdir()}

    small_disk(10 * size)
    resumed = new_trainer(disk, seed=1)
    train(resumed)
    assert_same_training(resumed, uninterrupted)


class Part:
    """Writes a file, in a folder of many; the process may be killed as it does."""

    def __init__(self, text, killed=False):
        self.text, self.killed = text, killed

    def save_pretrained(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            (Path(folder) / f"{number}.txt").write_text(self.text)
            if self.killed and number == 1:
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["while it writes", "before it renames", "while it deletes the old one"])
def test_a_process_killed_while_it_saves_leaves_no_half_of_a_folder(new_trainer, tmp_path, monkeypatch, moment):
    trainer, folder = new_trainer(tmp_path / "run"), tmp_path / "vq_model"
    save_folder(trainer, folder, {"": (Part("old"),)})
    kill = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731

    def save_again():
        if moment == "before it renames":
            monkeypatch.setattr(Staging, "_rename", kill)
        if moment == "while it deletes the old one":
            monkeypatch.setattr(os, "rmdir", kill)  # of what is in it the files are gone then
        save_folder(trainer, folder, {"": (Part("new", killed=moment == "while it writes"),)})

    process = multiprocessing.get_context("fork").Process(target=save_again)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    found = {file.name: file.read_text() for file in folder.iterdir()}
    assert found == dict.fromkeys(["0.txt", "1.txt", "2.txt"], "new" if "deletes" in moment else "old")
    save_folder(trainer, folder, {"": (Part("newer"),)})
    assert {file.read_text() for file in folder.iterdir()} == {"newer"}
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "vq_model"}


def test_what_a_killed_save_left_is_neither_resumed_nor_kept(new_trainer, tmp_path):
    left = tmp_path / "_saving" / "checkpoint-5"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    trainer = new_trainer(tmp_path, max_steps=2)
    train(trainer)
    assert trainer.state.global_step == 2 and checkpoints(tmp_path) == ["checkpoint-2"]
    assert not left.exists()


def test_a_checkpoint_of_the_same_step_is_replaced_as_a_whole(new_trainer, tmp_path):
    old = tmp_path / "checkpoint-2"
    old.mkdir()
    (old / "old.txt").write_text("of an earlier run")
    new_trainer(tmp_path, max_steps=2).train()
    assert not (old / "old.txt").exists() and COMPLETE <= {path.name for path in old.iterdir()}


@pytest.mark.parametrize(("limit", "kept"), [(1, [6]), (2, [5, 6])])
def test_the_limit_of_checkpoints_is_kept(new_trainer, tmp_path, limit, kept):
    train(new_trainer(tmp_path, save_steps=1, save_total_limit=limit))
    assert checkpoints(tmp_path) == [f"checkpoint-{step}" for step in kept]


def test_the_best_checkpoint_is_kept_under_its_final_name(new_trainer, tmp_path):
    trainer = new_trainer(
        tmp_path,
        eval_dataset=ShapesDataset(4, batch_size=4, seed=9),
        max_steps=4,
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        save_total_limit=1,
        prediction_loss_only=True,
    )
    trainer.can_return_loss = True  # though the inputs hold no labels
    train(trainer)
    best = trainer.state.best_model_checkpoint
    assert best == str(tmp_path / f"checkpoint-{trainer.state.best_global_step}") and Path(best).is_dir()
    assert json.loads((Path(best) / "trainer_state.json").read_text())["best_model_checkpoint"] == best


# --- two processes ---------------------------------------------------------------------------------------------------

TWO = """
import json, resource, sys, time
from pathlib import Path

import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor, TrainerCallback

import transformers_arm
from transformers_arm.training.saving import newest_checkpoint, save_model
from transformers_arm.training.trainer import ArmTrainer, training_arguments

folder, output, rank = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
processor = AutoProcessor.from_pretrained(folder)
rows = [{"input_ids": ids, "labels": ids} for ids in torch.arange(64).view(8, 8).tolist()]


def disk(bytes):
    # Larger files cannot be written: a real failure of the disk, for this process alone.
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, resource.RLIM_INFINITY))


class Full(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            disk(4096)


def new_trainer(name, *, fails=None, **settings):
    model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32)
    settings = {
        **{"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 1, "use_cpu": True, "report_to": "none"},
        **{"disable_tqdm": True, "logging_steps": 100, "save_on_each_node": True},
        **settings,
    }
    trainer = ArmTrainer(
        model, training_arguments(settings, output_dir=str(output / name)), train_dataset=rows, eval_dataset=rows[:2],
        processing_class=processor, callbacks=[Full()] if fails == rank else [],
    )
    trainer.can_return_loss = True
    return trainer


told = {}


def telling(name, call):
    start = time.monotonic()
    try:
        told[name] = call()
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"
    finally:
        disk(resource.RLIM_INFINITY)
    told[name + ", seconds"] = time.monotonic() - start


def train(trainer, **settings):
    trainer.train(**settings)
    return trainer.state.global_step


def go_on(name):
    newest = newest_checkpoint(output / name)
    trainer = new_trainer(name, max_steps=3)
    trainer.train(resume_from_checkpoint=newest)
    return [Path(newest).name, trainer.state.global_step, trainer.model.lm_head.weight.double().sum().item()]

BODY
output.mkdir(exist_ok=True)
(output / f"told-{rank}.json").write_text(json.dumps(told))
torch.distributed.destroy_process_group()
"""

ON_NODES = """
own = f"node-{rank}"
telling("own", lambda: train(new_trainer(own)))
telling("own, on", lambda: go_on(own))
telling("shared", lambda: train(new_trainer("shared")))
telling("shared, on", lambda: go_on("shared"))
telling("apart", lambda: train(new_trainer(f"apart-{rank}", save_on_each_node=False)))
telling("apart, newest", lambda: newest_checkpoint(output / f"apart-{rank}"))
telling("own model", lambda: save_model(new_trainer(own), output / own / "model", processor))
"""


FAILING = """
settings = {"save_on_each_node": False}
telling("other", lambda: train(new_trainer("other", fails=1, **settings)))
best = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "prediction_loss_only": True}
telling("first", lambda: train(new_trainer("first", fails=0, **best, **settings)))
trainer = new_trainer("run", **settings)
if rank == 0:
    disk(4096)
telling("model", lambda: save_model(trainer, output / "model", processor))
"""


@pytest.fixture(scope="module")
def on_nodes(tmp_path_factory):
    """What two processes on nodes of their own tell, whose disks fail or not, and their folder."""
    folder = tmp_path_factory.mktemp("nodes")
    run_two_processes(TWO.replace("BODY", ON_NODES + FAILING), folder, nodes=2)
    return folder, [json.loads((folder / f"told-{rank}.json").read_text()) for rank in (0, 1)]


def files(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


OF_TWO = COMPLETE - {"rng_state.pth"}


def test_each_node_saves_what_it_goes_on_from(on_nodes):
    folder, told = on_nodes
    for rank in (0, 1):
        assert told[rank]["own"] == 2
        assert {path.name for path in (folder / f"node-{rank}").iterdir()} == {
            *("checkpoint-1", "checkpoint-2", "checkpoint-3", "model")
        }
        assert files(folder / f"node-{rank}" / "checkpoint-2") >= OF_TWO | {f"rng_state_{rank}.pth"}
        assert told[rank]["own, on"][:2] == ["checkpoint-2", 3]
        assert told[rank]["own model"] is None
        assert {"model.safetensors", "processor_config.json"} <= files(folder / f"node-{rank}" / "model")
    assert told[0]["own, on"] == told[1]["own, on"]


def test_nodes_that_share_a_disk_save_one_checkpoint(on_nodes):
    folder, told = on_nodes
    assert [each["shared"] for each in told] == [2, 2]
    assert checkpoints(folder / "shared") == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert not (folder / "shared" / "_saving").exists()
    assert files(folder / "shared" / "checkpoint-2") >= OF_TWO | {"rng_state_0.pth", "rng_state_1.pth"}
    assert told[0]["shared, on"] == told[1]["shared, on"] == told[0]["own, on"]


def test_nodes_that_do_not_save_say_so_and_do_not_start_anew_beside_others_that_go_on(on_nodes):
    folder, told = on_nodes
    assert [each["apart"] for each in told] == [2, 2]
    assert checkpoints(folder / "apart-0") == ["checkpoint-1", "checkpoint-2"]
    assert not list((folder / "apart-1").glob("*saving*")) and not checkpoints(folder / "apart-1")
    output = (folder / "output-1.txt").read_text()
    assert output.count("is not the folder that process 0 saves to: there are no checkpoints here") == 1
    for each in told:
        assert "no checkpoint that all processes have (without any: 1)" in each["apart, newest"]


@pytest.mark.parametrize(("name", "rank"), [("other", 1), ("first", 0)])
def test_a_disk_that_fails_one_process_ends_all_and_loses_no_earlier_checkpoint(on_nodes, name, rank):
    folder, told = on_nodes
    assert told[0][name] == told[1][name]
    assert told[0][name].startswith("OSError: The checkpoint of step 2 could not be written to ")
    assert f"(process {rank} of 2, on " in told[0][name] and "Earlier checkpoints are whole" in told[0][name]
    assert all(each[f"{name}, seconds"] < 60 for each in told)
    assert checkpoints(folder / name) == ["checkpoint-1"] and not (folder / name / "_saving").exists()
    assert files(folder / name / "checkpoint-1") >= OF_TWO | {"rng_state_0.pth", "rng_state_1.pth"}


def test_a_final_folder_that_one_process_cannot_write_is_heard_by_all(on_nodes):
    folder, told = on_nodes
    assert told[0]["model"] == told[1]["model"] and "(process 0 of 2, on " in told[0]["model"]
    assert told[0]["model"].startswith("OSError: The trained model could not be written to ")
    assert not list(folder.glob("*model*"))
