"""Rows of pictures in training: a short one counts by its pictures, over accumulated batches and over processes."""

import json
import math
import os
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TrainerCallback

from transformers_arm import ArmVQForPreTraining
from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.data.conversations import NO_DROPOUT
from transformers_arm.data.image_text import ImageTextMixture
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.image_processing_arm import ArmImageProcessor
from transformers_arm.training.resumable_data import MixtureTrainer
from transformers_arm.training.trainer import training_arguments

FEATURES = {f"{name}_loss_weight": 0.0 for name in ("caption", "pixel", "sigmoid")}  # whose loss draws nothing
SIZES = [(32, 32), (32, 32), (32, 32), (32, 16)]


def new_data():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (*SIZES[n % 4], 3), np.uint8) for n in range(32)]
    given = [{"prompt": "noise", "image": Image.fromarray(picture)} for picture in pictures]
    mixture = Mixture({"noise": Source(given, condition_dropout=NO_DROPOUT)}, seed=0, streams=4)
    processor = ArmImageProcessor(size={"height": 32, "width": 32}, keep_aspect_ratio=True)
    return ImageTextMixture(mixture, processor, ImageTextCollator(), pixel_budget=4096, buckets=0, lookahead=2)


def new_trainer(backbones, output_dir, *, model=None, **settings):
    torch.manual_seed(0)
    sizes = {"num_projection_layers": 1, "fsq_levels": [2] * 6}
    model = ArmVQForPreTraining.from_backbones(**backbones, **sizes, **{**FEATURES, **(model or {})})
    always = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    always |= {"per_device_train_batch_size": 1, "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1}
    arguments = training_arguments({**always, **settings}, output_dir=str(output_dir))
    return MixtureTrainer(model, arguments, train_dataset=new_data())


class Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_row_counts_by_its_pictures_among_those_of_a_step(tiny_backbones, tmp_path):
    settings, gradients = {"max_steps": 1, "gradient_accumulation_steps": 4}, Gradients()
    trainer, model = (new_trainer(tiny_backbones, tmp_path, **settings) for _ in range(2))
    trainer.add_callback(gradients)
    model = model.model.train()
    trainer.train()
    batches = [{"pixel_values": batch["pixel_values"]} for batch in islice(new_data().loader(), 4)]
    pictures = [len(batch["pixel_values"]) for batch in batches]
    assert len(set(pictures)) > 1
    losses = [model(**batch).loss for batch in batches]
    mean = sum(count * loss for count, loss in zip(pictures, losses, strict=True)) / sum(pictures)
    mean.backward()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(mean.item(), abs=1e-4)  # as it is rounded
    plain = sum(losses).item() / 4
    assert abs(plain - mean.item()) > 1e-3  # counting rows would have been another loss
    for name, gradient in gradients.found.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, msg=name)
    assert "vq_model.down_projection.weight" in gradients.found


def test_losses_of_captions_that_no_picture_has_are_absent_from_the_log(tiny_backbones, tmp_path):
    weights = {"caption_loss_weight": 1.0, "sigmoid_loss_weight": 5.0}
    trainer = new_trainer(tiny_backbones, tmp_path, max_steps=2, model=weights)  # whose data bring no ids of captions
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2
    for log in logs:
        assert log["loss"] == pytest.approx(log["loss_feature"], abs=1e-4) and math.isfinite(log["grad_norm"])
        assert not {"loss_caption", "loss_sigmoid"} & set(log)


def weights_after(trainer):
    trainer.train()
    return trainer.model.vq_model.state_dict()


@pytest.mark.slow  # processes
def test_two_processes_weigh_their_rows_as_one_with_all_of_them(tiny_backbones, tmp_path):
    expected = new_trainer(tiny_backbones, tmp_path / "one", max_steps=3, gradient_accumulation_steps=4)
    weights = weights_after(expected)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    command = [*torchrun, json.dumps(tiny_backbones), str(tmp_path / "two")]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found = torch.load(tmp_path / "two" / "weights.pt")
    losses = [log["loss"] for log in expected.state.log_history if "loss" in log]
    assert found.pop("losses") == pytest.approx(losses, abs=2e-4)
    for name, value in found.items():
        if "channel_norm" not in name:  # running statistics of each process
            torch.testing.assert_close(value, weights[name], atol=1e-5, rtol=1e-4, msg=name)


if __name__ == "__main__":
    trainer = new_trainer(json.loads(sys.argv[1]), sys.argv[2], max_steps=3, gradient_accumulation_steps=2)
    weights = weights_after(trainer)
    if trainer.args.process_index == 0:
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        torch.save({**weights, "losses": losses}, f"{sys.argv[2]}/weights.pt")
    torch.distributed.destroy_process_group()
