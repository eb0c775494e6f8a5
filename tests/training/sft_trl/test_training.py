"""TRL's SFT around ARM: its routed loss, packed documents left apart, adapters, checkpoints, what TRL must keep."""

import inspect
import json
import random
import runpy
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from sft_rows import dataset_of, losses, rows
from transformers import HfArgumentParser, Trainer, pipeline
from trl import SFTConfig, SFTTrainer

from transformers_arm import ArmForCausalLM
from transformers_arm.training import sft_trl
from transformers_arm.training.sft_trl import ArmSFTConfig, ArmSFTTrainer
from transformers_arm.worlds.shapes.captions import full_caption
from transformers_arm.worlds.shapes.draw import render_scene
from transformers_arm.worlds.shapes.edits import sample_editing_pair

ROOT = Path(__file__).parents[3]

# --- loss ------------------------------------------------------------------------------------------------------------


def batch_loss(trainer, examples):
    """The loss of a batch, and how many labels it has."""
    batch = trainer.data_collator(examples)
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model.eval(), dict(batch))
    return loss.item(), int((batch["labels"] != -100).sum())


def test_the_loss_is_the_model_s_own(new_trainer):
    trainer = new_trainer(dataset_of(rows()))
    for example in trainer.train_dataset:
        ids, labels = (torch.tensor([example[name]]) for name in ("input_ids", "labels"))
        expected = trainer.model.eval()(ids, labels=labels).loss.item()
        assert batch_loss(trainer, [example])[0] == pytest.approx(expected, abs=1e-6)


def test_packed_documents_are_left_apart(new_trainer):
    dataset = dataset_of(rows(8))
    alone, packed = new_trainer(dataset), new_trainer(dataset, config={"packing": True, "max_length": 150})
    assert packed.model.config._attn_implementation == "sdpa"
    assert len(packed.train_dataset) < 8 and sum(map(len, packed.train_dataset["seq_lengths"])) == 8
    singles = [batch_loss(alone, [example]) for example in alone.train_dataset]
    summed, labels = sum(loss * count for loss, count in singles), sum(count for _, count in singles)
    assert batch_loss(packed, list(packed.train_dataset)) == (pytest.approx(summed / labels, abs=1e-5), labels)
    for example in packed.train_dataset:  # as one document it would be another loss
        if len(example["seq_lengths"]) > 1:
            joined = batch_loss(packed, [{**example, "seq_lengths": [sum(example["seq_lengths"])]}])[0]
            assert abs(joined - batch_loss(packed, [example])[0]) > 1e-4


def test_packing_trains_in_fewer_rows_and_logs_the_parts_of_the_loss(new_trainer):
    trainer = new_trainer(dataset_of(rows(8)), config={"packing": True, "max_length": 150})
    trainer.train()
    log = trainer.state.log_history[0]
    assert {"loss", "loss_text", "loss_image", "num_tokens", "grad_norm"} <= set(log)
    assert not {"entropy", "mean_token_accuracy"} & set(log)
    assert log["num_tokens"] == sum(len(row["input_ids"]) for row in trainer.train_dataset)


def test_accumulating_gradients_changes_no_loss(new_trainer):
    dataset, config = dataset_of(rows()), {"max_steps": 1, "learning_rate": 0.0}
    together = new_trainer(dataset, config=config)
    apart = new_trainer(dataset, config=config | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4})
    for trainer in (together, apart):
        trainer.train()
    assert losses(apart) == pytest.approx(losses(together), abs=1e-5)


def test_evaluation_takes_rows_too(new_trainer):
    dataset = dataset_of(rows())
    trainer = new_trainer(dataset, config={"packing": True, "max_length": 100}, eval_dataset=dataset)
    first = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate(dataset)["eval_loss"] == pytest.approx(first) and first > 1
    predictions = trainer.predict(trainer.eval_dataset).predictions
    assert predictions.shape[-1] == trainer.model.config.vocab_size


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"assistant_only_loss": True}, "only what the assistant says carries loss"),
        ({"completion_only_loss": False}, "only what the assistant says carries loss"),
        ({"loss_type": "dft"}, "it takes the softmax over ARM's whole head"),
        ({"label_smoothing_factor": 0.1}, "it takes the softmax over ARM's whole head"),
        ({"use_liger_kernel": True}, "it replaces the forward"),
        ({"chat_template_path": "x.jinja"}, "ARM's layout of a conversation is fixed"),
        ({"eos_token": "x"}, "ARM's layout of a conversation is fixed"),
        ({"eval_packing": True}, "its documents would see each other"),
        ({"packing": True, "packing_strategy": "wrapped"}, "it cuts pictures"),
        ({"packing": True, "packing_strategy": "bfd_split"}, "it cuts pictures"),
        pytest.param(
            *({"truncation_mode": "keep_end"}, "it cuts the pictures that are asked about"),
            marks=pytest.mark.filterwarnings("ignore::FutureWarning"),
        ),
    ],
)
def test_options_that_make_no_sense_for_arm_are_refused_with_the_reason(tmp_path, option, reason):
    name = list(option)[-1]
    with pytest.raises(ValueError, match=f"{name}={option[name]!r} makes no sense for ARM: {reason}"):
        ArmSFTConfig(str(tmp_path), use_cpu=True, **option)


def test_conditions_to_drop_are_json_on_a_command_line(tmp_path):
    arguments = ["--output_dir", str(tmp_path), "--use_cpu", "--condition_dropout", '{"text": 0.1}']
    (config,) = HfArgumentParser(ArmSFTConfig).parse_args_into_dataclasses(arguments)
    assert config.condition_dropout == {"text": 0.1} and config.max_length is None


def test_unknown_conditions_other_configs_and_other_losses_are_refused(tmp_path, new_trainer, new_model):
    dataset = dataset_of(rows())
    with pytest.raises(ValueError, match="condition_dropout names caption; it takes text, image, both"):
        ArmSFTConfig(str(tmp_path), use_cpu=True, condition_dropout={"caption": 0.1})
    with pytest.raises(TypeError, match="args is a SFTConfig; pass an ArmSFTConfig"):
        ArmSFTTrainer(new_model(), SFTConfig(str(tmp_path), use_cpu=True), train_dataset=dataset)
    with pytest.raises(ValueError, match="takes no compute_loss_func: ARM has its own ids and loss"):
        new_trainer(dataset, compute_loss_func=print)
    with pytest.raises(TypeError, match="The model is a Linear, and no ArmForCausalLM"):
        new_trainer(dataset, model=torch.nn.Linear(1, 1))


# --- adapters, checkpoints -------------------------------------------------------------------------------------------


def test_lora_trains_the_decoder_and_nothing_else(new_trainer, new_model, tmp_path):
    config = {"max_steps": 3, "learning_rate": 1e-2, "save_strategy": "steps", "gradient_checkpointing": True}
    lora = LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, r=4)
    trainer = new_trainer(dataset_of(rows()), config=config, peft_config=lora)
    trainer.train()
    trained = trainer.model.get_base_model().state_dict()
    assert all(
        torch.equal(trained.get(name, trained.get(name.replace("_proj.", "_proj.base_layer."))), value)
        for name, value in new_model().state_dict().items()
    )
    trainable = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert trainable and all("lora_" in name and "vq_model" not in name for name in trainable)
    assert losses(trainer)[-1] < losses(trainer)[0]
    again = PeftModel.from_pretrained(new_model(), tmp_path / "checkpoint-3")
    example = trainer.train_dataset[0]
    inputs = {name: torch.tensor([example[name]]) for name in ("input_ids", "labels")}
    with torch.no_grad():
        assert again.eval()(**inputs).loss.item() == pytest.approx(
            trainer.model.eval()(**inputs).loss.item(), abs=1e-5
        )


def test_adapters_in_the_frozen_tokenizer_are_refused(new_trainer):
    with pytest.raises(ValueError, match="target_modules=ArmForCausalLM.LORA_TARGETS"):
        new_trainer(dataset_of(rows()), peft_config=LoraConfig(target_modules=["q_proj"]))


def test_an_interrupted_training_goes_on_along_the_same_curve_and_the_tokenizer_stays_frozen(
    new_trainer, new_model, tmp_path
):
    dataset = dataset_of(rows(8))
    config = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    straight = new_trainer(dataset, config=config, output_dir=tmp_path / "straight")
    straight.train()
    resumed = new_trainer(dataset, config=config, output_dir=tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert losses(resumed) == pytest.approx(losses(straight), abs=1e-4)
    original = new_model().vq_model.state_dict()
    for trainer in (straight, resumed):
        for name, value in trainer.model.vq_model.state_dict().items():
            assert torch.equal(value, original[name]) and not trainer.model.vq_model.training
    assert sorted(path.name for path in (tmp_path / "straight").glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    assert not (tmp_path / "straight" / "_saving").exists()
    loaded = ArmForCausalLM.from_pretrained(tmp_path / "straight" / "checkpoint-4")
    assert torch.equal(loaded.lm_head.weight, straight.model.lm_head.weight)
    tags = (tmp_path / "straight" / "README.md").read_text()
    assert "arm" in tags and "sft" in tags


# --- the example -----------------------------------------------------------------------------------------------------


def test_the_example_fine_tunes_arm_tiny_on_a_folder_and_the_pipeline_draws(tmp_path, monkeypatch):
    pictures, output = tmp_path / "pictures", tmp_path / "tuned"
    pictures.mkdir()
    rng, metadata = random.Random(1), []
    for number in range(8):
        scene = sample_editing_pair(rng).source
        PIL.Image.fromarray(render_scene(scene)).save(pictures / f"{number}.png")
        metadata.append({"file_name": f"{number}.png", "prompt": f"the {full_caption(scene)}"})
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, metadata)))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "argv", ["example", str(pictures), str(output), "--steps", "12"])
    trainer = runpy.run_path(str(ROOT / "examples" / "sft_image_folder.py"))["trainer"]
    assert len(trainer.train_dataset) == 8
    batch = trainer.data_collator(list(trainer.train_dataset))
    tuned, start = ArmForCausalLM.from_pretrained(output), ArmForCausalLM.from_pretrained("checkpoints/arm-tiny")
    with torch.no_grad():
        before, after = (model.eval()(batch["input_ids"], labels=batch["labels"]).loss for model in (start, tuned))
    assert after < 0.8 * before
    assert pipeline("text-to-image", model=str(output))(metadata[0]["prompt"]).size == (48, 48)
    settings = [ArmForCausalLM.from_pretrained(each).generation_config for each in ("checkpoints/arm-tiny", output)]
    assert settings[0].to_dict() == settings[1].to_dict()


# --- what we rely on in TRL ------------------------------------------------------------------------------------------


def parameters(method):
    return list(inspect.signature(method).parameters)


def test_trl_s_private_parts_are_those_we_build_on():
    prepare = ["self", "dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"]
    assert parameters(SFTTrainer._prepare_dataset) == parameters(ArmSFTTrainer._prepare_dataset) == prepare
    compute_loss = ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]
    assert parameters(SFTTrainer.compute_loss) == parameters(Trainer.compute_loss) == compute_loss
    step = ["self", "model", "inputs", "prediction_loss_only", "ignore_keys"]
    assert parameters(SFTTrainer.prediction_step) == parameters(sft_trl.RoutedLossMixin.prediction_step) == step
    assert parameters(SFTTrainer._save_checkpoint) == ["self", "model", "trial"]
    assert parameters(Trainer._get_output_dir) == ["self", "trial"]
    assert SFTTrainer._tag_names == ["trl", "sft"] and ArmSFTTrainer._tag_names == ["trl", "sft", "arm"]
    assert SFTConfig._VALID_DICT_FIELDS is not ArmSFTConfig._VALID_DICT_FIELDS


def test_trl_s_head_is_put_over_the_model_s_forward_and_taken_off_again(new_trainer, monkeypatch):
    put = []
    plain = sft_trl.SFTTrainer.__init__

    def watched(self, model, *args, **kwargs):
        plain(self, model, *args, **kwargs)
        put.append(vars(model).get("forward"))

    monkeypatch.setattr(sft_trl.SFTTrainer, "__init__", watched)
    trainer = new_trainer(dataset_of(rows()))
    assert put[0].__name__ == "forward" and "fused_lm_head" in put[0].__func__.__code__.co_varnames
    assert "forward" not in vars(trainer.model)
    assert trainer._total_train_tokens == 0 and set(trainer._metrics) == {"train", "eval"}
    assert trainer._is_vision_dataset is False and trainer._signature_columns in (
        None,
        ["input_ids", "labels", "seq_lengths"],
    )


def test_trl_s_own_trainer_is_still_refused(new_model, processor, tmp_path):
    config = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    encoded = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}])
    with pytest.raises(TypeError, match="TRL's own trainer"):
        SFTTrainer(new_model(), config, train_dataset=encoded, processing_class=processor)
