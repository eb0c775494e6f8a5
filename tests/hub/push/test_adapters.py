"""Adapters are checked against their base, and those published load by their id and draw."""

import json

import pytest
import torch
from push_folders import copied, edit_json, files_of, refused, write_card

from transformers_arm import ArmForCausalLM
from transformers_arm.hub.push import push

DRAW = """
import torch
from transformers import AutoModelForMultimodalLM, pipeline
import transformers_arm
from peft import PeftModel

prompt = "a red circle above a blue square"
ids = torch.arange(8)[None]
base = AutoModelForMultimodalLM.from_pretrained("owner/base")
plain = base(ids).logits
wrapped = PeftModel.from_pretrained(AutoModelForMultimodalLM.from_pretrained("owner/base"), "owner/lora")
by_auto_class = AutoModelForMultimodalLM.from_pretrained("owner/lora")
base.load_adapter("owner/lora")
logits = [model(ids).logits for model in (wrapped, by_auto_class, base)]
assert all(torch.equal(logits[0], each) for each in logits)
assert not torch.allclose(logits[0], plain, atol=1e-3)

def drawn(pipe):
    return pipe(prompt, generator=torch.Generator().manual_seed(0)).tobytes()

draw = pipeline("text-to-image", model="owner/base")
before = drawn(draw)
draw.model.load_adapter("owner/lora")
after = drawn(draw)
assert before != after
assert drawn(pipeline("text-to-image", model="owner/lora")) == after
print("drawn")
"""


@pytest.fixture(scope="module")
def adapter_weights(arm_folder, tmp_path_factory):
    """The folder of a LoRA adapter of `arm_folder`, whose weights are not zero, with trained rows; read-only."""
    from peft import get_peft_model

    from transformers_arm.sizes.adapters import lora_config

    model = ArmForCausalLM.from_pretrained(arm_folder)
    adapted = get_peft_model(model, lora_config(model, r=2, visual_rows=True))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    folder = tmp_path_factory.mktemp("adapter") / "arm-lora"
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink()  # PEFT's own
    return folder


@pytest.fixture
def adapter(adapter_weights, tmp_path):
    """The same with a card, fit to be published beside its base `owner/base`."""
    folder = copied(adapter_weights, tmp_path / "arm-lora")
    write_card(folder, base_model="owner/base")
    return folder


def test_an_adapter_is_published_loads_by_its_id_and_draws(owner, folder, adapter, arm_folder):
    push(folder, "owner/base")
    push(adapter, "owner/lora")
    assert not {"modeling_arm.py", "config.json"} & files_of(owner, "owner/lora").keys()
    assert json.loads(owner.read("owner/lora", "adapter_config.json"))["base_model_name_or_path"] == "owner/base"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == arm_folder
    ran = owner.run(DRAW)
    assert ran.returncode == 0 and ran.stdout.endswith("drawn\n"), ran.stderr


def test_an_adapter_is_checked_against_its_base_on_the_hub(owner, folder, adapter):
    push(folder, "owner/base")
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="owner/base")
    push(adapter, "owner/lora")
    edit_json(adapter / "adapter_config.json", r=3)
    with pytest.raises(ValueError, match="have in other shapes"):
        push(adapter, "owner/lora")
    assert len(owner.repos["owner/lora"].commits) == 2


@pytest.mark.parametrize(
    ("fields", "card", "message"),
    [
        ({"base_model_name_or_path": None}, {}, "must name one base, not None"),
        ({}, {"base_model": None}, "must name one base, not .* and none"),
        ({"base_model_name_or_path": "owner/other"}, {}, "names the base owner/other, .* the base_model owner/base"),
        ({"base_model_name_or_path": "owner/none"}, {"base_model": "owner/none"}, "on owner/none does not load"),
        ({"target_modules": ["q_proj"]}, {}, "have beyond the model"),
        ({"trainable_token_indices": None}, {}, "have beyond the model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(owner, adapter, fields, card, message):
    edit_json(adapter / "adapter_config.json", **fields)
    write_card(adapter, **{"base_model": "owner/base", **card})
    refused(adapter, message)


def test_an_adapter_of_another_model_is_refused(adapter, arm_folder):
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=f"{arm_folder}/backbones/qwen2")
    refused(adapter, "holds a 'qwen2' model, and no ARM")


def test_an_adapter_without_its_weights_is_refused(adapter):
    (adapter / "adapter_model.safetensors").unlink()
    refused(adapter, "lacks adapter_model.safetensors")
