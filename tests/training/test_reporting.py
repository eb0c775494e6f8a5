"""What a training shows: scores, pictures and texts reach files and reporters, and take nothing from its own logs."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from transformers_arm.evaluation.sheets import LABEL_LINES, LINE_HEIGHT, picture_sheet
from transformers_arm.training.reporting import log_samples, log_scores
from transformers_arm.training.trainer import ArmTrainer, training_arguments

SHEET = Image.effect_noise((60, 40), 60).convert("RGB")
LINES = ["one", "two"]


class Straight(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, labels):
        return {"loss": (self.slope * x - labels).square().mean()}


class Showing(TrainerCallback):
    """Logs all there is to log after the second step."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            log_scores(self.trainer, {"eval_score": 0.25})
            log_samples(self.trainer, "looks", SHEET, LINES)


@pytest.fixture
def train(tmp_path):
    """Trains four steps with everything logged after the second, and reports to what is named."""

    def run(report_to):
        settings = {"use_cpu": True, "max_steps": 4, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
        arguments = training_arguments(settings | {"report_to": report_to}, output_dir=str(tmp_path / "run"))
        data = [{"x": torch.tensor(float(x)), "labels": torch.tensor(1.0)} for x in range(32)]
        trainer = ArmTrainer(Straight(), arguments, train_dataset=data)
        trainer.add_callback(Showing(trainer))
        trainer.train()
        return trainer

    return run


def test_tensorboard_gets_scores_pictures_and_texts(train, tmp_path):
    train("tensorboard")
    (file,) = (tmp_path / "run").glob("runs/*/events.*")
    events = EventAccumulator(str(file)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval/score")] == [(2, 0.25)]
    (image,) = events.Images("looks")
    assert image.step == 2
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), np.asarray(SHEET))
    (text,) = events.Tensors("looks/text_summary")
    assert (text.step, text.tensor_proto.string_val[0]) == (2, b"one\n\ntwo")


@pytest.mark.parametrize("library", ["trackio", "wandb"])
def test_other_reporters_get_pictures_and_texts(train, tmp_path, monkeypatch, library):
    for name, value in {"TRACKIO_DIR": tmp_path, "WANDB_DIR": tmp_path, "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, str(value))
    pytest.importorskip(library)
    train(library)
    (picture,) = (path for path in tmp_path.rglob("*.png") if "media" in path.parts)
    assert np.array_equal(np.asarray(Image.open(picture).convert("RGB")), np.asarray(SHEET))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]  # a row of a database, or a file of its own
    assert any("looks_texts" in path.name or b"looks_texts" in path.read_bytes() for path in files)


def test_losses_of_the_same_step_are_logged_as_well(train):
    history = train("none").state.log_history
    assert [log["step"] for log in history if "loss" in log] == [1, 2, 3, 4]
    assert {"step": 2, "eval_score": 0.25} in history


def test_files_hold_pictures_and_texts_whoever_reports(train, tmp_path):
    train("none")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "run" / "looks" / "step-0000002.png")), np.asarray(SHEET))
    assert (tmp_path / "run" / "looks" / "step-0000002.txt").read_text() == "one\ntwo\n"


def test_a_sheet_has_a_row_of_pictures_below_each_label():
    red, blue = (Image.new("RGB", (70, 50), color) for color in ("red", "blue"))
    rows = [[red, blue], [blue.resize((20, 30))]]
    assert picture_sheet(rows).size == (140, 100)
    label = LABEL_LINES * LINE_HEIGHT
    sheet = picture_sheet(rows, ["a word " * 50, "\u732b"])
    assert sheet.size == (140, 2 * (50 + label))
    for number, row in enumerate([["red", "blue"], ["blue", "white"]]):
        top = label + number * (50 + label)
        for left, color in zip((0, 70), row, strict=True):  # no letter reaches into a picture
            tile = np.asarray(sheet.crop((left, top, left + 70, top + 50)))
            assert np.array_equal(tile, np.asarray(Image.new("RGB", (70, 50), color)))
    assert np.asarray(sheet.crop((0, 0, 140, label))).min() < 100
