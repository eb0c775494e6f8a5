"""The parts of a model come from where it came from, at its commit; a model in memory is its own reference."""

import copy
import logging
import shutil

import pytest
import torch
from datasets import Dataset
from grpo_requests import MIXED, TINY, brightness, dataset_of, logged, rollout
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from transformers_arm import ArmForCausalLM, ArmGRPOConfig, ArmGRPOTrainer, ArmSFTConfig, ArmSFTTrainer
from transformers_arm.renderers_arm import load_detokenizer
from transformers_arm.training.conversations import load_model, train_on_conversations
from transformers_arm.training.parts import detokenizer_of, given_model, origin_of, processor_of, reference_of
from transformers_arm.training.stages import read_stage

WEIGHTS = ("model.safetensors", "detokenizer/transformer/diffusion_pytorch_model.safetensors")
ROWS = Dataset.from_dict({"input_ids": [[5, 6, 7]] * 4, "labels": [[5, 6, 7]] * 4})


@pytest.fixture(scope="module")
def folders(arm_folder, tmp_path_factory):
    """What a repo holds first, and what it is changed into: weights, detokenizer and the processor's size."""
    folders = {"v1": tmp_path_factory.mktemp("v1") / "arm", "main": tmp_path_factory.mktemp("main") / "arm"}
    for folder in folders.values():
        shutil.copytree(arm_folder, folder)
    for file in WEIGHTS:
        tensors = {name: value * 1.5 for name, value in load_file(folders["main"] / file).items()}
        save_file(tensors, folders["main"] / file, metadata={"format": "pt"})
    for file in ("processor_config.json", "preprocessor_config.json"):
        if (path := folders["main"] / file).is_file():
            path.write_text(
                path.read_text().replace('"height": 48', '"height": 64').replace('"width": 48', '"width": 64')
            )
    return folders


@pytest.fixture(scope="module")
def repo(hub, folders):
    """`org/arm`, whose first commit has the tag v1, and which only its owner may read."""
    sha = hub.add_repo("org/arm", folders["v1"], private=True)
    hub.repos["org/arm"].tags["v1"] = sha
    hub.add_repo("org/arm", folders["main"])
    return "org/arm"


@pytest.fixture
def at_v1(hub, repo, tmp_path):
    """Keywords of a load at v1, by a token, into a cache of its own."""
    return {"revision": "v1", "token": hub.token, "cache_dir": str(tmp_path / "cache"), "dtype": torch.float32}


def is_of(part, folder, file) -> bool:
    """Whether a part's weights are those of a folder's file."""
    found, stored = part.state_dict(), load_file(folder / file)
    return all(torch.equal(found[name], value.float()) for name, value in stored.items() if value.is_floating_point())


def sft_trainer(model, tmp_path, peft_config=None, **settings):
    quick = {"use_cpu": True, "bf16": False, "report_to": "none", "max_steps": 1, "save_strategy": "no"}
    config = ArmSFTConfig(str(tmp_path), **quick, **settings)
    return ArmSFTTrainer(model, config, train_dataset=ROWS, peft_config=peft_config)


def grpo_trainer(model, tmp_path, beta=0.01, peft_config=None, **settings):
    names = ("reference", "detokenizer", "processing_class")
    parts = {name: settings.pop(name) for name in names if name in settings}
    args = ArmGRPOConfig(str(tmp_path), **TINY | {"beta": beta, **settings})
    return ArmGRPOTrainer(model, brightness, args, dataset_of(MIXED), peft_config=peft_config, **parts)


# --- from the Hub ----------------------------------------------------------------------------------------------------


def sizes_of(processor) -> list[int]:
    return [processor.image_processor.size[side] for side in ("height", "width")]


@pytest.mark.parametrize("adapted", [False, True], ids=["", "LoRA"])
@pytest.mark.parametrize("by_name", [False, True], ids=["loaded", "named"])
def test_parts_of_reinforcement_learning_follow_the_model_s_revision_token_and_cache(
    repo, folders, at_v1, tmp_path, by_name, adapted
):
    lora = LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, r=2) if adapted else None
    if by_name:
        trainer = grpo_trainer(repo, tmp_path / "run", model_init_kwargs=at_v1, peft_config=lora)
        assert trainer.args.model_init_kwargs == at_v1  # as it was given
    else:
        trainer = grpo_trainer(ArmForCausalLM.from_pretrained(repo, **at_v1), tmp_path / "run", peft_config=lora)
    assert sizes_of(trainer.processing_class) == [48, 48]
    assert is_of(trainer.detokenizer.transformer, folders["v1"], WEIGHTS[1])
    if adapted:
        assert trainer.ref_model is None
    else:
        assert is_of(trainer.ref_model, folders["v1"], WEIGHTS[0])


@pytest.mark.parametrize("by_name", [False, True], ids=["loaded", "named"])
def test_the_processor_of_fine_tuning_follows_the_model(repo, at_v1, tmp_path, by_name):
    if by_name:
        trainer = sft_trainer(repo, tmp_path / "run", model_init_kwargs=at_v1)
    else:
        trainer = sft_trainer(ArmForCausalLM.from_pretrained(repo, **at_v1), tmp_path / "run")
    assert sizes_of(trainer.processing_class) == [48, 48]


def test_parts_are_of_the_commit_that_was_loaded_when_the_branch_moves_on(hub, folders):
    hub.add_repo("org/moving", folders["v1"])
    model = ArmForCausalLM.from_pretrained("org/moving")
    hub.add_repo("org/moving", folders["main"])
    lora = get_peft_model(model, LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, r=2))
    for each in (model, lora):
        assert sizes_of(processor_of(each)) == [48, 48]
        assert is_of(detokenizer_of(each).transformer, folders["v1"], WEIGHTS[1])


def test_parts_are_as_offline_as_their_model(hub, repo, at_v1):
    model = ArmForCausalLM.from_pretrained(repo, **at_v1)
    detokenizer_of(model)
    processor_of(model)
    asked = len(hub.requests)
    model = ArmForCausalLM.from_pretrained(repo, **at_v1, local_files_only=True)
    assert sizes_of(processor_of(model)) == [48, 48] and detokenizer_of(model) is not None
    assert len(hub.requests) == asked


def recipe_of(start_from, tmp_path, *overrides):
    here = ["training.max_steps=1", "training.per_device_train_batch_size=2", "evaluation=null"]
    return read_stage("sft", "arm_tiny/sft", [f"start_from={start_from}", f"output_dir={tmp_path}", *here, *overrides])


def test_a_recipe_that_starts_from_the_hub_keeps_processor_and_detokenizer(hub, folders, tmp_path):
    hub.add_repo("org/public", folders["main"])
    recipe = recipe_of("org/public", tmp_path)
    assert sizes_of(load_model(recipe)[1]) == [64, 64]
    train_on_conversations(recipe)
    saved = load_detokenizer(str(tmp_path / "model"))
    assert is_of(saved.transformer, folders["main"], WEIGHTS[1])


def test_a_detokenizer_that_cannot_be_seen_offline_is_warned_of(hub, folders, tmp_path, monkeypatch, caplog):
    hub.add_repo("org/cached", folders["v1"])
    ArmForCausalLM.from_pretrained("org/cached")
    processor_of(ArmForCausalLM.from_pretrained("org/cached"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = ArmForCausalLM.from_pretrained("org/cached")
    with caplog.at_level(logging.WARNING):
        assert detokenizer_of(model, required=False) is None
    assert "will have no detokenizer: org/cached holds no detokenizer/model_index.json among what was" in caplog.text
    with pytest.raises(FileNotFoundError, match="org/cached holds no detokenizer"):
        detokenizer_of(model)


def test_a_folder_without_a_detokenizer_gives_none(arm_folder, tmp_path):
    shutil.copytree(arm_folder, tmp_path / "arm", ignore=shutil.ignore_patterns("detokenizer"))
    assert detokenizer_of(ArmForCausalLM.from_pretrained(tmp_path / "arm"), required=False) is None


# --- made in memory --------------------------------------------------------------------------------------------------


@pytest.fixture
def in_memory(arm_folder):
    """An ARM that was never saved, and the parts that it needs."""
    shipped = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
    model = ArmForCausalLM(copy.deepcopy(shipped.config))
    model.load_state_dict(shipped.state_dict())
    model.config._name_or_path = model.name_or_path = ""
    return model, {"processing_class": processor_of(shipped), "detokenizer": detokenizer_of(shipped)}


def test_a_part_that_nothing_is_known_of_is_asked_for_by_name(in_memory, tmp_path):
    model, parts = in_memory
    with pytest.raises(ValueError, match="came from no folder or Hub repo, .* pass processing_class="):
        grpo_trainer(model, tmp_path)
    with pytest.raises(ValueError, match="pass processing_class="):
        sft_trainer(model, tmp_path)
    with pytest.raises(ValueError, match="pass detokenizer="):
        grpo_trainer(model, tmp_path, processing_class=parts["processing_class"])
    with pytest.raises(ValueError, match="pass tokenizer="):
        origin_of(model, "tokenizer")


def test_a_model_made_in_memory_is_its_own_reference(in_memory, tmp_path):
    model, parts = in_memory
    trainer = grpo_trainer(model, tmp_path, beta=0.1, **parts)
    trainer.train()
    assert logged(trainer, "kl")[0] == pytest.approx(0, abs=1e-6) and logged(trainer, "kl")[1] > 0
    assert trainer.beta == trainer.args.beta == 0.1


def perturbed(arm_folder):
    model = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    return model


def test_a_model_changed_in_memory_is_its_own_reference_and_frozen(arm_folder, tmp_path):
    model = perturbed(arm_folder)
    handed_over = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = grpo_trainer(model, tmp_path, beta=0.1)
    trainer.train()
    assert logged(trainer, "kl")[0] == pytest.approx(0, abs=1e-6)
    reference = trainer.ref_model
    assert all(torch.equal(value, handed_over[name]) for name, value in reference.state_dict().items())
    assert not reference.training and not any(parameter.requires_grad for parameter in reference.parameters())
    assert not torch.equal(trainer.arm.lm_head.weight, reference.lm_head.weight)


def test_policy_and_reference_are_two_models_with_one_tokenizer(arm_folder, tmp_path, monkeypatch):
    model, loads = perturbed(arm_folder), []
    monkeypatch.setattr(ArmForCausalLM, "from_pretrained", classmethod(lambda *args, **_: loads.append(args)))
    trainer = grpo_trainer(model, tmp_path)
    assert not loads
    assert trainer.ref_model.vq_model is trainer.arm.vq_model
    rest = {id(p) for name, p in trainer.arm.named_parameters() if "vq_model" not in name}
    assert not rest & {id(parameter) for parameter in trainer.ref_model.parameters()}


@pytest.mark.parametrize("adapted", [False, True], ids=["", "LoRA"])
@pytest.mark.parametrize("given_as", ["model", "folder"])
def test_a_reference_of_one_s_own_is_what_the_kl_is_to(arm_folder, tmp_path, given_as, adapted):
    base = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
    reference = base if given_as == "model" else arm_folder
    lora = LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, r=2) if adapted else None
    trainer = grpo_trainer(perturbed(arm_folder), tmp_path, reference=reference, peft_config=lora, max_steps=1)
    trainer.train()
    assert logged(trainer, "kl")[0] > 1e-3
    assert torch.equal(trainer.ref_model.model.norm.weight, base.model.norm.weight)
    assert "ref" not in getattr(trainer.model, "peft_config", {})
    output = rollout(trainer)
    assert "ref_per_token_logps" in output


def test_a_reference_that_is_of_no_use_is_refused(arm_folder, tmp_path):
    model = ArmForCausalLM.from_pretrained(arm_folder, dtype=torch.float32)
    with pytest.raises(ValueError, match="beta is 0, so no reference is asked"):
        grpo_trainer(model, tmp_path, beta=0.0, reference=arm_folder)
    with pytest.raises(ValueError, match="reference is the model that is trained; leave it out"):
        grpo_trainer(model, tmp_path, reference=model)
    with pytest.raises(TypeError, match="reference is a Linear; pass an ArmForCausalLM"):
        reference_of(model, torch.nn.Linear(1, 1))
    other = copy.deepcopy(model)
    other.config.vocab_size += 8
    with pytest.raises(ValueError, match="The reference has 1800 ids, of images from 768, the model 1792 from 768"):
        reference_of(model, other)


def test_a_reference_from_another_repo_takes_the_policy_s_token_and_none_of_its_commits(hub, repo, folders, at_v1):
    hub.add_repo("org/other", folders["main"], private=True)
    model = ArmForCausalLM.from_pretrained(repo, **at_v1)
    assert is_of(reference_of(model, "org/other"), folders["main"], WEIGHTS[0])
    assert is_of(reference_of(model, repo), folders["v1"], WEIGHTS[0])  # its own, at its own commit


@pytest.mark.parametrize("make", [grpo_trainer, sft_trainer], ids=["rl", "sft"])
def test_adapters_on_the_head_are_refused_by_trl_s_trainers_and_copies_of_it_are_trained(arm_folder, tmp_path, make):
    lora = {"r": 2, "task_type": "CAUSAL_LM"}
    on_head = LoraConfig(target_modules=["q_proj", "lm_head"], exclude_modules=".*vq_model.*", **lora)
    with pytest.raises(
        ValueError, match=r"TRL's trainers take no adapter on lm_head. .*modules_to_save=\['lm_head'\]"
    ):
        make(arm_folder, tmp_path, peft_config=on_head)
    copied = LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, modules_to_save=["lm_head"], **lora)
    trainer = make(arm_folder, tmp_path, peft_config=copied)
    trainer.train()
    head = trainer.model.get_base_model().lm_head
    assert not torch.equal(head.modules_to_save["default"].weight, head.original_module.weight)


def test_quantization_that_comes_too_late_is_refused(arm_folder, tmp_path):
    model = ArmForCausalLM.from_pretrained(arm_folder)
    with pytest.raises(ValueError, match="loaded already, so quantization_config comes too late"):
        given_model(model, quantization_config={"load_in_4bit": True})
    with pytest.raises(TypeError, match="The model is a Linear, and no ArmForCausalLM"):
        given_model(torch.nn.Linear(1, 1))
