"""What may train: adapters in the decoder, never the visual tokenizer, and no trainer that does not know ARM."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_arm import assemble, assert_close, assert_same_weights, logits_of, mixed, pixels, with_placeholders
from transformers import AutoTokenizer

import transformers_arm
from transformers_arm.modeling_arm import ArmForCausalLM, ArmModel

# --- the tokenizer inside is frozen ----------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["assembled", "loaded", "base"])
def test_the_visual_tokenizer_is_frozen_and_stays_in_evaluation_mode(tiny_arm_backbones, origin, tmp_path):
    model = assemble(tiny_arm_backbones)
    if origin != "assembled":
        model.save_pretrained(tmp_path)
        model = (ArmForCausalLM if origin == "loaded" else ArmModel).from_pretrained(tmp_path)
    vq_model = model.vq_model
    codes = vq_model.encode(pixels(2)).codes
    for when in (None, True, False, True):
        if when is not None:
            model.train(when)
            assert model.training == when
        assert not any(module.training for module in vq_model.modules())
        assert not any(parameter.requires_grad for parameter in vq_model.parameters())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "vq_model" not in name}
    before = {name: value.clone() for name, value in vq_model.state_dict().items()}
    assert torch.equal(vq_model.encode(pixels(2)).codes, codes)
    model(torch.tensor([with_placeholders(model.config, [(2, 3)])]), pixel_values=pixels(1))[0].sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in vq_model.state_dict().items())


# --- adapters --------------------------------------------------------------------------------------------------------


def with_lora(model, targets):
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))


def train_steps(model, config, steps=3):
    """Some steps on a picture and text, as the Trainer makes them."""
    ids = torch.tensor([with_placeholders(config, [(2, 3)])])
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, pixel_values=pixels(1), labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def adapted_modules(model):
    return [name.removeprefix("base_model.model.") for name, m in model.named_modules() if hasattr(m, "lora_A")]


def test_lora_targets_are_all_linear_layers_of_the_decoder(model):
    layers = [f"model.layers.{i}." for i in range(2)]
    parts = [*(f"self_attn.{n}_proj" for n in "qkvo"), *(f"mlp.{n}_proj" for n in ("gate", "up", "down"))]
    expected = sorted(layer + part for layer in layers for part in parts)
    assert sorted(adapted_modules(with_lora(model, ArmForCausalLM.LORA_TARGETS))) == expected


def test_adapters_can_be_switched_off_saved_and_merged(model, shared, tmp_path):
    ids = mixed(model.config)
    adapted = train_steps(with_lora(model, model.LORA_TARGETS), shared.config)
    on = logits_of(adapted, ids)
    with adapted.disable_adapter():
        assert torch.equal(logits_of(adapted, ids), logits_of(shared, ids))
    assert (on - logits_of(shared, ids)).abs().max() > 1e-2

    adapted.save_pretrained(tmp_path)
    assert {
        name.split(".lora")[0].split(".", 2)[2] for name in load_file(tmp_path / "adapter_model.safetensors")
    } == set(adapted_modules(adapted))
    loaded = PeftModel.from_pretrained(copy.deepcopy(shared), tmp_path).eval()
    assert_close(logits_of(loaded, ids), on)

    shared.save_pretrained(tmp_path / "base")
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path)
    assert_close(logits_of(ArmForCausalLM.from_pretrained(tmp_path), ids), on)

    merged = adapted.merge_and_unload()
    assert type(merged) is ArmForCausalLM and merged.state_dict().keys() == shared.state_dict().keys()
    assert_close(logits_of(merged, ids), on, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    assert_close(logits_of(ArmForCausalLM.from_pretrained(tmp_path / "merged"), ids), on, atol=1e-4)


@pytest.mark.parametrize("targets", [ArmForCausalLM.LORA_TARGETS, ["q_proj", "v_proj"], "all-linear"], ids=str)
def test_training_adapters_leaves_the_visual_tokenizer_as_it_is(model, shared, targets):
    """Also where bare names put adapters into it: nothing trains them, and untrained ones change nothing."""
    images = pixels(8)
    adapted = train_steps(with_lora(model, targets), shared.config)
    vq_model = adapted.get_base_model().vq_model
    expected = shared.vq_model.encode(images)
    assert torch.equal(vq_model.encode(images).codes, expected.codes)
    assert torch.equal(vq_model.encode(images).z_q, expected.z_q)
    assert not any(parameter.requires_grad for parameter in vq_model.parameters())
    assert all((p == 0).all() for name, p in vq_model.named_parameters() if "lora_B" in name)
    assert any((p != 0).any() for name, p in adapted.named_parameters() if "lora_B" in name)
    merged = adapted.merge_and_unload()
    assert_same_weights(merged.vq_model, shared.vq_model)


# --- trainers that do not know ARM -----------------------------------------------------------------------------------


@pytest.fixture
def trl(tiny_arm_backbones, tmp_path):
    """Constructors of TRL's trainers, with all they need but the model; `subclass_of` makes them."""
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    quick = {
        **{"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True},
        **{"per_device_train_batch_size": 2},
    }
    pair = {"prompt": ["a", "b"], "chosen": ["c", "d"], "rejected": ["e", "f"]}
    trainers = {
        "sft": (SFTTrainer, {"args": SFTConfig(**quick), "train_dataset": {"text": ["a circle", "a square"]}}),
        "dpo": (DPOTrainer, {"args": DPOConfig(**quick), "train_dataset": pair}),
        "grpo": (
            GRPOTrainer,
            {
                "args": GRPOConfig(**quick, num_generations=2),
                "train_dataset": {"prompt": ["a", "b"]},
                "reward_funcs": lambda completions, **kwargs: [0.0] * len(completions),
            },
        ),
    }
    tokenizer = AutoTokenizer.from_pretrained(tiny_arm_backbones["text"])

    def construct(name, model, tags=None, **kwargs):
        trainer_class, arguments = trainers[name]
        if tags is not None:
            trainer_class = type("Ours", (trainer_class,), {"_tag_names": tags})
        arguments = arguments | {"train_dataset": Dataset.from_dict(arguments["train_dataset"])}
        return trainer_class(model=model, processing_class=tokenizer, **arguments, **kwargs)

    return construct


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("sft", "ArmSFTTrainer"),
        ("dpo", r"ArmTrainer \(trainers/sft.py\)"),
        ("grpo", "ArmGRPOTrainer"),
    ],
)
@pytest.mark.parametrize("given_as", ["model", "folder", "adapted"])
def test_stock_trl_trainers_are_refused_as_they_are_made(trl, shared, tmp_path, name, ours, given_as):
    model, arguments = copy.deepcopy(shared), {}
    if given_as == "folder" or name == "dpo":  # whose reference model is loaded by its name
        shared.save_pretrained(tmp_path / "model")
        model = str(tmp_path / "model")
    if given_as == "adapted":
        arguments["peft_config"] = LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, task_type="CAUSAL_LM")
    with pytest.raises(TypeError, match=f"softmax over all .* rows of ARM's head.*use transformers_arm's {ours}"):
        trl(name, model, **arguments)


def test_a_trl_subclass_that_knows_arm_says_so_by_its_tags(trl, model):
    trainer = trl("grpo", model, tags=["trl", "grpo", "arm"])
    assert {"trl", "grpo", "arm"} <= set(trainer.model.model_tags)


def test_other_tags_are_taken(model):
    model.add_model_tags("image-editing")
    model.add_model_tags(["arm", "custom"])
    assert model.model_tags == ["image-editing", "arm", "custom"]
    with pytest.raises(TypeError):
        model.add_model_tags("trl")


def test_no_part_of_the_package_needs_trl_to_load_a_model():
    sources = Path(transformers_arm.__file__).parent.glob("modeling_*.py")
    assert all("import trl" not in path.read_text() and "from trl" not in path.read_text() for path in sources)
