"""Trainers of ARM: no other loss than the model's own, no logits to evaluate it, and the loss of each source apart."""

import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tiny_arm import mixed
from torch import nn
from transformers import Qwen2ForCausalLM

from transformers_arm import ArmForCausalLM, ArmProcessor, ArmSFTConfig, ArmSFTTrainer
from transformers_arm.training.resumable_data import MixtureTrainer
from transformers_arm.training.routed_loss import losses_of_sources
from transformers_arm.training.trainer import ArmTrainer, training_arguments

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}


@pytest.fixture
def new_model(tiny_arm_backbones):
    return lambda: ArmForCausalLM.from_backbones(**tiny_arm_backbones)


def rows_of(model, count=4):
    """Text, a picture, text; all of one length."""
    ids = [mixed(model.config, seed)[0].tolist() for seed in range(count)]
    return [{"input_ids": row, "labels": list(row)} for row in ids]


@pytest.fixture
def new_trainer(tiny_arm_backbones, new_model, tmp_path):
    """Makes trainers of a class: new_trainer(ArmTrainer, model=..., compute_metrics=..., **arguments)."""

    def make(trainer_class, model=None, rows=None, compute_loss_func=None, compute_metrics=None, **arguments):
        model = model or new_model()
        arm = model if isinstance(model, Qwen2ForCausalLM) else model.get_base_model()
        rows = rows or rows_of(arm)
        settings = {**QUIET, "max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4, **arguments}
        more = {"compute_loss_func": compute_loss_func, "compute_metrics": compute_metrics}
        if trainer_class is ArmSFTTrainer:
            rows = Dataset.from_list(rows)
            more["processing_class"] = ArmProcessor.from_backbones(**tiny_arm_backbones)
            arguments = ArmSFTConfig(str(tmp_path), bf16=False, **settings)
        else:
            arguments = training_arguments(settings, output_dir=str(tmp_path))
        return trainer_class(model, arguments, train_dataset=rows, eval_dataset=rows, **more)

    return make


TRAINERS = pytest.mark.parametrize("trainer_class", [ArmTrainer, MixtureTrainer, ArmSFTTrainer])


# --- other losses ----------------------------------------------------------------------------------------------------


@TRAINERS
@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 makes no sense for ARM: it takes the softmax"),
        ({"use_liger_kernel": True}, "use_liger_kernel=True makes no sense for ARM: it replaces the forward"),
        ({"compute_loss_func": print}, "Trainer takes no compute_loss_func: .*goes into compute_loss of a subclass"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
@pytest.mark.parametrize("adapted", [False, True], ids=["", "LoRA"])
def test_what_would_make_another_loss_out_of_logits_is_refused(
    new_trainer, new_model, trainer_class, setting, reason, adapted
):
    model = new_model()
    if adapted:
        model = get_peft_model(model, LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, r=2))
    with pytest.raises(ValueError, match=reason):
        new_trainer(trainer_class, model, **setting)


def test_a_loss_function_of_the_model_s_is_refused(new_model):
    with pytest.raises(ValueError, match="which no loss_function of logits knows"):
        new_model().loss_function = nn.functional.cross_entropy


def test_models_whose_every_row_can_follow_take_any_loss(new_trainer, new_model, tiny_arm_backbones):
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}] * 4
    qwen2 = Qwen2ForCausalLM.from_pretrained(tiny_arm_backbones["text"])
    trainer = new_trainer(ArmTrainer, qwen2, rows, label_smoothing_factor=0.1)
    trainer.train()
    assert math.isfinite(trainer.evaluate()["eval_loss"])


def test_a_term_beside_the_loss_goes_into_a_subclass(new_trainer, new_model):
    class Penalised(ArmTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            return (loss + 100, outputs) if return_outputs else loss + 100

    model = new_model()
    plain = new_trainer(ArmTrainer, model).evaluate()["eval_loss"]
    assert new_trainer(Penalised, model).evaluate()["eval_loss"] == pytest.approx(plain + 100, abs=1e-4)


@pytest.mark.parametrize("trainer_class", [ArmTrainer, ArmSFTTrainer])
def test_prompt_learning_which_drawing_would_drop_is_refused(new_trainer, new_model, trainer_class):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match=r"PromptTuningConfig puts embeddings .*such as lora_config\(model\)"):
        new_trainer(trainer_class, get_peft_model(new_model(), config))


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(monkeypatch):
    """Positions that logits were built for."""
    counts, plain = [], ArmForCausalLM.routed_logits

    def counted(self, hidden_states, image_follows):
        counts.append(image_follows.numel())
        return plain(self, hidden_states, image_follows)

    monkeypatch.setattr(ArmForCausalLM, "routed_logits", counted)
    return counts


@TRAINERS
@pytest.mark.parametrize("adapted", [False, True], ids=["", "LoRA"])
def test_evaluating_the_loss_builds_no_logits(new_trainer, new_model, built, trainer_class, adapted):
    model = new_model()
    if adapted:
        model = get_peft_model(model, LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, r=2))
    trainer = new_trainer(trainer_class, model, per_device_eval_batch_size=4)
    loss = trainer.evaluate()["eval_loss"]
    assert not built
    ids = torch.tensor([row["input_ids"] for row in trainer.eval_dataset])
    with torch.no_grad():
        expected = trainer.model.eval()(input_ids=ids, labels=ids).loss
    assert loss == pytest.approx(expected.item(), rel=1e-4)


@TRAINERS
def test_metrics_still_get_the_logits_of_the_whole_vocabulary(new_trainer, built, trainer_class):
    shapes = []

    def accuracy(predictions):
        shapes.append((predictions.predictions.shape, predictions.label_ids.shape))
        return {"accuracy": 1.0}

    trainer = new_trainer(trainer_class, compute_metrics=accuracy)
    assert trainer.evaluate()["eval_accuracy"] == 1.0
    count, length = shapes[0][1]
    assert shapes == [((count, length, trainer.model.config.vocab_size), (4, length))] and sum(built) == 4 * length


@TRAINERS
def test_predictions_are_logits(new_trainer, trainer_class):
    trainer = new_trainer(trainer_class)
    assert trainer.predict(trainer.eval_dataset).predictions.shape[-1] == trainer.model.config.vocab_size


# --- sources ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_a_source_is_the_mean_of_its_labels_that_carry_one():
    nan = torch.nan
    losses = torch.tensor([[1.0, 3.0, nan, 5.0, nan]])  # of the labels at 1..4; the last position has none
    sources = torch.tensor([[0, 0, 0, 2, 1]])
    found = losses_of_sources(losses, sources, ["a", "b", "c", "d"])
    assert found == ({"of_a": 2.0, "of_b": 5.0}, {"of_a": 2, "of_b": 1})


def test_losses_of_sources_are_logged_beside_text_and_images_and_change_no_loss(new_trainer, new_model):
    torch.manual_seed(0)
    rows = rows_of(new_model())
    half = len(rows[0]["input_ids"]) // 2

    def told_apart(rows):
        ids = torch.tensor([row["input_ids"] for row in rows])
        sources = torch.zeros_like(ids)
        sources[:, half:] = 1
        return {"input_ids": ids, "labels": ids, "sources": sources, "source_names": ["first", "second", "none"]}

    logs = []
    for collator in (None, told_apart):
        trainer = new_trainer(ArmTrainer, new_model(), rows)
        if collator:
            trainer.data_collator = collator
        trainer.train()
        logs.append([log for log in trainer.state.log_history if "loss" in log])
        assert math.isfinite(trainer.evaluate()["eval_loss"])
    assert [log["loss"] for log in logs[0]] == [log["loss"] for log in logs[1]]
    names = {name for name in logs[1][0] if name.startswith("loss_")}
    assert names == {"loss_text", "loss_image", "loss_of_first", "loss_of_second"}
