"""What a run logs beside its loss: parts over all processes and steps, how fast it is; parts of held-out rows, too."""

import json
import time
from pathlib import Path

import pytest
import torch
from mixture_sources import drawn, texts
from tiny_arm import mixed, text
from two_processes import ARM_TINY, run_two_processes

from transformers_arm import ArmForCausalLM, ArmProcessor
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.packing import PackedMixture
from transformers_arm.data.validation import validation_sets
from transformers_arm.training.logs import Means, over_processes
from transformers_arm.training.resumable_data import MixtureTrainer
from transformers_arm.training.trainer import ArmTrainer, training_arguments

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 2}


def rows_of(config, lengths=(9, None, 12, None, 7, 15, None, 9)):
    """Rows of text alone, of these lengths, and rows with pictures (None); the first and every other one are text."""
    ids = [text(length, seed) if length else mixed(config, seed)[0].tolist() for seed, length in enumerate(lengths)]
    end = config.vision_end_token_id
    return [{"input_ids": row, "labels": [-100 if token == end else token for token in row]} for row in ids]


def losses_of(model, rows):
    """Sums of the losses of text and image tokens of rows, and how many those are."""
    sums, counts = {"text": 0.0, "image": 0.0}, {"text": 0, "image": 0}
    with torch.no_grad():
        for row in rows:
            ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
            each = model.eval()(ids, labels=labels, output_token_losses=True).token_losses[0, :-1]
            images = labels[0, 1:] >= model.config.visual_token_offset
            for kind, chosen in (("image", images), ("text", ~images)):
                sums[kind] += each[chosen].nansum().item()
                counts[kind] += int((~each[chosen].isnan()).sum())
    return sums, counts


def assert_logged(log, sums, counts, prefix="loss"):
    """The parts are means over all tokens, and the loss is what the parts make together."""
    for kind in ("text", "image"):
        assert log[f"{prefix}_{kind}"] == pytest.approx(sums[kind] / counts[kind], abs=1e-4)
    whole = sum(sums.values()) / sum(counts.values())
    assert log[prefix] == pytest.approx(whole, abs=1e-4)


@pytest.fixture
def new_trainer(tiny_arm_backbones, tmp_path):
    def make(trainer_class=ArmTrainer, rows=None, **settings):
        model = ArmForCausalLM.from_backbones(**tiny_arm_backbones)
        rows = rows_of(model.config) if rows is None else rows
        settings = QUIET | {"max_steps": 2, "per_device_train_batch_size": 1, "learning_rate": 0.0} | settings
        arguments = training_arguments(settings, output_dir=str(tmp_path))
        return trainer_class(model, arguments, train_dataset=rows, eval_dataset={"held": rows})

    return make


def test_parts_are_weighted_by_their_tokens_over_accumulated_batches(new_trainer):
    trainer = new_trainer(gradient_accumulation_steps=8, max_steps=1, logging_steps=1)
    trainer.train()
    assert_logged(trainer.state.log_history[0], *losses_of(trainer.model, trainer.train_dataset))


def test_held_out_rows_have_parts_and_a_mean_over_all_their_tokens(new_trainer):
    trainer = new_trainer(per_device_eval_batch_size=1)
    metrics = trainer.evaluate()
    assert_logged(metrics, *losses_of(trainer.model, trainer.train_dataset), "eval_held_loss")
    assert "eval_held_loss_text" in trainer.state.log_history[-1]
    assert trainer._parts.counts == {}


class OfX(torch.nn.Module):
    """Its loss has a part, and counts no items."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        loss = (self.slope * x).mean()
        return {"loss": loss, "losses": {"half": loss / 2}}


def test_batches_count_by_their_weight_where_parts_count_nothing(tmp_path):
    trainer = ArmTrainer(OfX(), training_arguments(QUIET, output_dir=str(tmp_path)))
    batches = [{"x": torch.full((2,), x), "weight": weight} for x, weight in ((1.0, 3), (5.0, 1), (100.0, 0))]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    metrics = trainer.evaluation_loop(loader, "Evaluation", prediction_loss_only=True).metrics
    assert (metrics["eval_loss"], metrics["eval_loss_half"]) == (2.0, 1.0)
    trainer = ArmTrainer(OfX(), training_arguments(QUIET, output_dir=str(tmp_path)), eval_dataset=[{"x": 1.0}] * 3)
    assert trainer.evaluate()["eval_loss"] == 1.0


def test_a_mean_of_nothing_is_not_logged():
    means = Means()
    means.add("of_none", torch.tensor(0.0), torch.tensor(0))
    means.add("half", torch.tensor(0.25, dtype=torch.bfloat16), 2)
    means.add("half", torch.tensor(1.0), torch.tensor(2))
    taken = means.take()
    assert over_processes(taken) == {"half": 0.625} and means.take() == {}


class Slow(torch.utils.data.Dataset):
    """Rows that take a while to come."""

    def __init__(self, rows, seconds):
        self.rows, self.seconds = rows, seconds

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return self.rows[index]


def test_speed_waiting_and_the_model_s_share_are_logged(new_trainer, tiny_arm_backbones):
    rows = rows_of(ArmForCausalLM.from_backbones(**tiny_arm_backbones).config)
    started = time.perf_counter()
    trainer = new_trainer(rows=Slow(rows, 0.2), max_steps=4, logging_steps=2, peak_tflops=1e-3)
    trainer.train()
    passed = time.perf_counter() - started
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["step"] for log in logs] == [2, 4]
    for log, lengths in zip(logs, (9 + 32, 12 + 32), strict=True):
        seconds = lengths / log["tokens_per_second_per_process"]
        assert 0.4 <= seconds < passed
        assert 0.4 / seconds - 0.01 <= log["data_wait"] <= 1
        assert 0 < log["model_flops_share"] < 1
    assert trainer.state.total_flos > 0
    flops = sum(log["model_flops_share"] * 41e9 / log["tokens_per_second_per_process"] for log in logs)
    assert flops / 1e3 == pytest.approx(trainer.state.total_flos / 1e3, rel=0.2)  # 41 and 44 tokens


def test_without_a_known_peak_no_share_of_it_is_logged(new_trainer):
    trainer = new_trainer()
    trainer.train()
    (log,) = [log for log in trainer.state.log_history if "loss" in log]
    assert "tokens_per_second_per_process" in log and "model_flops_share" not in log


def test_a_second_training_does_not_count_the_time_between(new_trainer):
    trainer = new_trainer()
    trainer.train()
    time.sleep(0.3)
    began = time.perf_counter()
    trainer.train()
    passed = time.perf_counter() - began
    log = [log for log in trainer.state.log_history if "loss" in log][-1]
    assert 41 / log["tokens_per_second_per_process"] <= passed + 0.05


def test_a_tokenizer_tells_pixels_at_pure_noise_apart(tiny_backbones, tmp_path):
    from short_trainings import MODEL

    from transformers_arm import ArmVQForPreTraining
    from transformers_arm.data.collators import ImageTextCollator
    from transformers_arm.worlds.shapes.pictures import ShapesDataset

    weights = {f"{name}_loss_weight": 0.0 for name in ("caption", "sigmoid")}
    torch.manual_seed(0)
    model = ArmVQForPreTraining.from_backbones(
        vision=tiny_backbones["vision"], **(MODEL | weights | {"pixel_regression_share": 0.75})
    )
    settings = QUIET | {"max_steps": 8, "per_device_train_batch_size": 4, "logging_steps": 8, "learning_rate": 0.0}
    data = ShapesDataset(32, batch_size=4, seed=0)
    trainer = ArmTrainer(
        model,
        training_arguments(settings, output_dir=str(tmp_path)),
        train_dataset=data,
        eval_dataset=data,
        data_collator=ImageTextCollator(),
    )
    first = trainer.evaluate()
    trainer.train()
    state = torch.get_rng_state()
    second = trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), state)  # training goes on as it would have
    (log,) = [log for log in trainer.state.log_history if "loss_pixel" in log]
    shares = [(log["loss_pixel"] - log["loss_pixel_below_noise"]), (log["loss_pixel_at_noise"] - log["loss_pixel"])]
    at_noise = shares[0] / (shares[0] + shares[1])
    assert 0.6 < at_noise < 0.9 and abs(at_noise * 32 - round(at_noise * 32)) < 0.02  # a number of the 32 pictures
    parts = {name: log[f"loss_{name}"] for name in ("pixel", "feature", "decorrelation", "context")}
    whole = sum(MODEL[f"{name}_loss_weight"] * part for name, part in parts.items())
    assert log["loss"] == pytest.approx(whole, rel=1e-4)
    for name in ("eval_loss_pixel_at_noise", "eval_loss_pixel", "eval_loss"):
        assert first[name] > 0
        assert second[name] == pytest.approx(first[name], rel=0.05)  # the batch norm has moved, the noise has not


def held_out_trainer(model, folder, output):
    """A trainer of packed rows, of which some are held out: batches in odd numbers, which two share unevenly."""
    processor = ArmProcessor.from_pretrained(folder)
    sources = {"words": Source(texts(20)), "drawn": Source(drawn(8))}
    mixture = Mixture(sources, seed=0, streams=2, held_out=5)
    rows = PackedMixture(mixture, processor, model.config, token_budget=64)
    arguments = training_arguments(QUIET | {"max_steps": 1}, output_dir=str(output))
    return MixtureTrainer(model, arguments, train_dataset=rows, eval_dataset=validation_sets(rows))


TWO = """
import json, sys
from pathlib import Path

sys.path[:0] = [{helpers!r}, {here!r}]
from test_logs import QUIET, held_out_trainer, rows_of
from transformers_arm import ArmForCausalLM
from transformers_arm.training.trainer import ArmTrainer, training_arguments

arm_folder, folder, rank = sys.argv[1:]
model = ArmForCausalLM.from_pretrained(arm_folder, dtype="float32")
settings = QUIET | {{"max_steps": 1, "logging_steps": 1, "gradient_accumulation_steps": 4, "learning_rate": 0.0}}
settings |= {{"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}}
rows = rows_of(model.config, (9, None, 12, None, 7, None, 15, None))
trainer = ArmTrainer(
    model,
    training_arguments(settings, output_dir=folder + "/run"),
    train_dataset=rows,
    eval_dataset={{"held": rows, "texts": rows[::2]}},
)
metrics = trainer.evaluate()
trainer.train()
metrics |= held_out_trainer(model, arm_folder, folder).evaluate()
Path(folder, f"logs-{{rank}}.json").write_text(json.dumps([trainer.state.log_history, metrics]))
"""


@pytest.mark.slow
def test_two_processes_log_the_means_over_both_of_parts_that_one_has(tmp_path):
    here = Path(__file__).parent
    run_two_processes(TWO.format(here=str(here), helpers=str(here.parent / "helpers")), tmp_path)
    model = ArmForCausalLM.from_pretrained(ARM_TINY, dtype="float32")
    rows = rows_of(model.config, (9, None, 12, None, 7, None, 15, None))  # pictures go to the second process
    sums, counts = losses_of(model, rows)
    texts, number = losses_of(model, rows[::2])
    trainer = held_out_trainer(model, ARM_TINY, tmp_path)
    assert all(len(rows) % 2 for rows in trainer.eval_dataset.values())
    alone = trainer.evaluate()
    assert {"eval_words_loss", "eval_drawn_loss", "eval_drawn_loss_image"} <= alone.keys()
    for rank in (0, 1):
        history, metrics = json.loads((tmp_path / f"logs-{rank}.json").read_text())
        (log,) = [log for log in history if "loss" in log]
        assert_logged(log, sums, counts)
        assert log["tokens_per_second_per_process"] > 0 and 0 <= log["data_wait"] <= 1
        assert_logged(metrics, sums, counts, "eval_held_loss")
        assert metrics["eval_texts_loss"] == pytest.approx(texts["text"] / number["text"], abs=1e-4)
        assert "eval_texts_loss_image" not in metrics
        for name, value in alone.items():
            if "loss" in name:
                assert metrics[name] == pytest.approx(value, abs=1e-4), name
