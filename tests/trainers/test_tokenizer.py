"""The tokenizer's training on streamed pairs of pictures and texts: the paper's numbers, bad pairs, resumption."""

import io
import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from transformers.trainer_callback import TrainerState

from transformers_arm.image_processing_arm import ArmImageProcessor
from transformers_arm.modeling_arm_vq import ArmVQModel
from transformers_arm.modeling_arm_vq_pretraining import ArmVQForPreTraining
from transformers_arm.sizes.presets import arm_vq_pretraining_config

ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "trainers" / "tokenizer.py"
RECIPE = ROOT / "src" / "transformers_arm" / "recipes" / "arm_7b" / "tokenizer.yaml"
STEPS = 4


class Killed(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """A working directory with `data/pairs`: tars of pictures of two sizes with captions; one in ten is no picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "pairs").mkdir(parents=True)
    for tar in range(2):
        with tarfile.open(tmp_path / "data" / "pairs" / f"{tar}.tar", "w") as file:
            for number in range(20):
                picture = io.BytesIO()
                size, color = (64, 32) if number % 2 else (32, 48), (9 * number, 99, 12 * tar)
                Image.new("RGB", size, color).save(picture, "jpeg")
                content = b"no picture" if number % 10 == 3 else picture.getvalue()
                for suffix, data in (("jpg", content), ("txt", f"picture {number}".encode())):
                    member = tarfile.TarInfo(f"{tar}-{number:03}.{suffix}")
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))
    return tmp_path


@pytest.fixture
def overrides(tiny_backbones):
    """What makes arm-7b's recipe run on tiny backbones for few steps, as the end of a command line."""
    changed = {f"backbones.{name}": folder for name, folder in tiny_backbones.items()}
    changed |= {"model.pixel_num_layers": 1, "model.pixel_hidden_size": 32, "model.pixel_num_heads": 2}
    changed |= {"image_processor.size": {"height": 32, "width": 32}, "model.num_projection_layers": 1}
    changed |= {"data.pixel_budget": 4 * 32 * 32, "data.streams": 2, "data.max_skipped": 0.2}
    short = {"max_steps": STEPS, "save_steps": 2, "logging_steps": 1, "gradient_accumulation_steps": 1, "bf16": False}
    short |= {"dataloader_num_workers": 0, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    short["warmup_steps"] = 1
    changed |= {f"training.{name}": value for name, value in short.items()}
    return lambda **others: [f"{name}={json.dumps(value)}" for name, value in {**changed, **others}.items()]


@pytest.fixture
def train(pairs, overrides, monkeypatch):
    """Runs trainers/tokenizer.py in this process, as its command line does."""

    def run(output_dir, **others):
        command = overrides(output_dir=output_dir, **others)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [str(TRAINER), "--config", str(RECIPE), *command])
            runpy.run_path(str(TRAINER), run_name="__main__")
        return pairs / output_dir

    return run


def test_the_recipe_has_the_paper_s_numbers():
    recipe = yaml.safe_load(RECIPE.read_text())
    training, weights = recipe["training"], recipe["model"]
    assert [weights[f"{loss}_loss_weight"] for loss in ("caption", "pixel", "sigmoid", "feature")] == [1, 5, 5, 1]
    pictures = recipe["data"]["pixel_budget"] // 512**2 * training["per_device_train_batch_size"]
    batch = 64 * pictures * training["gradient_accumulation_steps"]
    assert batch == 32_768 and training["max_steps"] == pytest.approx(2.2e9 / batch, abs=1)
    assert (training["learning_rate"], training["adam_beta1"], training["adam_beta2"]) == (3e-4, 0.9, 0.95)
    config = arm_vq_pretraining_config()  # what the recipe leaves to its defaults
    assert not {"num_projection_layers", "fsq_levels", "pixel_num_layers", "pixel_hidden_size"} & set(weights)
    assert (config.num_projection_layers, config.fsq_levels, config.pixel_num_layers) == (6, [2] * 16, 24)


def test_streamed_pairs_train_a_tokenizer_and_bad_ones_are_counted(train, pairs):
    folder = train("run")
    history = TrainerState.load_from_json(folder / f"checkpoint-{STEPS}" / "trainer_state.json").log_history
    logs = [log for log in history if "loss" in log]
    assert {"loss_caption", "loss_pixel", "loss_sigmoid", "loss_feature", "epoch/web"} <= set(logs[-1])
    assert logs[-1]["skipped/web"] >= 1
    processor = ArmImageProcessor.from_pretrained(folder / "vq_model")
    assert processor.keep_aspect_ratio and dict(processor.size) == {"height": 32, "width": 32}
    tokenizer = ArmVQModel.from_pretrained(folder / "vq_model")
    pixel_values = processor(Image.new("RGB", (640, 320)), return_tensors="pt").pixel_values
    assert tokenizer.encode(pixel_values).codes.shape == (1, 1, 3)  # of 1.4 x 2.8 patches in the area of 32x32 pixels


def test_an_interrupted_training_goes_on_with_the_pairs_it_would_have_seen(train, monkeypatch):
    expected = ArmVQForPreTraining.from_pretrained(train("whole") / "pretraining")
    plain_step, taken = ArmVQForPreTraining.forward, []

    def dies(self, *args, **kwargs):
        taken.append(None)
        if len(taken) == 4:
            raise Killed
        return plain_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ArmVQForPreTraining, "forward", dies)
        with pytest.raises(Killed):
            train("killed")
    torch.manual_seed(99)
    resumed = ArmVQForPreTraining.from_pretrained(train("killed") / "pretraining")
    for name, value in expected.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_losses_without_weight_need_no_texts_and_no_captioner(train):
    off = {f"model.{loss}_loss_weight": 0 for loss in ("caption", "sigmoid")}
    folder = train("run", **off, **{"backbones.captioner": None})
    trained = ArmVQForPreTraining.from_pretrained(folder / "pretraining")
    assert {name for name, _ in trained.named_children()} == {"vq_model", "pixel_transformer"}


WATCHED = """
import runpy, sys
import torch
from torch import distributed
from transformers_arm import pixel_transformer_arm as modeling

plain_loss = modeling.flow_matching_errors

def watched(transformer, pictures, z_q, **kwargs):
    torch.save([torch.get_rng_state(), pictures.sum()], f"noise-{distributed.get_rank()}.pt")
    return plain_loss(transformer, pictures, z_q, **kwargs)

modeling.flow_matching_errors = watched
trainer = sys.argv.pop(1)
runpy.run_path(trainer, run_name="__main__")
"""


def test_each_process_draws_its_own_noise_for_its_own_pictures(pairs, overrides):
    (pairs / "watched.py").write_text(WATCHED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["watched.py", str(TRAINER), "--config", str(RECIPE), *overrides(output_dir="run")]
    subprocess.run([*torchrun, *command], check=True, cwd=pairs, env=os.environ | {"OMP_NUM_THREADS": "1"})
    noise, pictures = zip(*(torch.load(pairs / f"noise-{rank}.pt") for rank in range(2)), strict=True)
    assert not torch.equal(*noise)
    assert not torch.equal(*pictures)
    ArmVQForPreTraining.from_pretrained(pairs / "run" / "pretraining")  # written by one of them, whole
