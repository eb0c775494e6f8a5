"""What was pushed draws, edits and answers when it is pulled: what would not is refused before anything is sent."""

import json
import shutil
from pathlib import Path

import pytest
from push_folders import copied, edit_json, refused, write_card
from safetensors.torch import load_file, save_file

from transformers_arm import ArmConfig, ArmForCausalLM, ArmProcessor
from transformers_arm.cli import main
from transformers_arm.hub import trial
from transformers_arm.hub.push import push, staged
from transformers_arm.hub.trial import check_chat, memory_of, try_arm, try_tokenizer
from transformers_arm.processing_arm import CHAT_TEMPLATE

# Chats


@pytest.fixture(scope="module")
def parts(arm_folder):
    return ArmProcessor.from_pretrained(arm_folder), ArmConfig.from_pretrained(arm_folder)


def test_arms_own_template_is_fit_for_chats(parts):
    check_chat(*parts)


MARKS = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{%- endfor %}", "{%- endfr %}", "endfr"),
        (MARKS, "", "placeholder|picture"),
        (MARKS, "<|image_pad|>", "the picture is not where it belongs"),
        (MARKS, "<|vision_start|><|image_pad|>", "the picture is not where it belongs"),
        (MARKS, MARKS * 2, "placeholder"),
        ("{{- part.text }}", "{{- part.text[:-1] }}", "."),
        ("{{- part.text }}", "", "the user's text is not where it belongs"),
        ("{{- part.text }}", "{{- part.text | upper }}", "."),
        ("{{- message.content }}", "", "the system's text is not where it belongs"),
        ("{%- for message in messages %}", "{%- for message in messages[:3] %}", "question|images"),
        ("{%- for message in messages %}", "{%- for message in messages[::-1] %}", "not where it belongs"),
        ("{%- if add_generation_prompt %}", "{%- if false %}", "add_generation_prompt adds nothing"),
    ],
)
def test_a_broken_template_is_told_by_its_ids(parts, arm_folder, old, new, message):
    assert old in CHAT_TEMPLATE
    processor = ArmProcessor.from_pretrained(arm_folder, chat_template=CHAT_TEMPLATE.replace(old, new))
    with pytest.raises(Exception, match=message):  # jinja has errors of its own
        check_chat(processor, parts[1])


def test_a_processor_of_another_model_is_told(parts):
    processor, config = parts
    fields = config.to_dict()
    with pytest.raises(ValueError, match="vision_end_token_id is .* to the processor, 7 to the model"):
        check_chat(processor, ArmConfig(**{**fields, "vision_end_token_id": 7}))
    fields["vq_config"]["vision_config"].update(patch_size=8)
    with pytest.raises(ValueError, match="patches have 16 px to the processor, 8 to the model"):
        check_chat(processor, ArmConfig(**fields))


# Folders


def rewritten(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def with_number(name, number):
    def change(tensors):
        tensors[name].view(-1)[3:5] = number

    return change


def zeroed(tensors):
    for tensor in tensors.values():
        tensor.zero_()


MODEL, PIXELS = "model.safetensors", "detokenizer/transformer/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            MODEL,
            with_number("model.norm.weight", float("nan")),
            "model.safetensors holds 2 numbers in model.norm.weight",
        ),
        (
            MODEL,
            with_number("lm_head.weight", float("inf")),
            "model.safetensors holds 2 numbers in lm_head.weight, of ",
        ),
        (PIXELS, with_number("null_condition", -float("inf")), f"{PIXELS} holds 2 numbers in null_condition"),
        (
            "vq_model/model.safetensors",
            with_number("projection.weight", float("nan")),
            "vq_model/model.* that are NaN",
        ),
        (PIXELS, zeroed, "All weights in .*transformer are zero"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(folder, file, change, message):
    name = "projection.weight"
    if file.startswith("vq") and name not in load_file(folder / file):
        change = with_number(
            sorted(key for key, each in load_file(folder / file).items() if each.is_floating_point())[0], float("nan")
        )
    rewritten(folder / file, change)
    refused(folder, message, trial=False)


def with_a_scheduler_that_asks_for_more(folder):
    edit_json(folder / "detokenizer" / "scheduler" / "scheduler_config.json", use_dynamic_shifting=True)


def with_a_head_that_says_nothing(folder):
    rewritten(folder / MODEL, lambda tensors: tensors["lm_head.weight"].zero_())


def with_a_head_that_is_too_loud(folder):
    rewritten(folder / MODEL, lambda tensors: tensors["lm_head.weight"].fill_(3e38))


def with_impossible_sampling(folder):
    edit_json(folder / "generation_config.json", image_generation={"top_k": -3})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "chat_template.jinja").write_text("{{ nothing"),
            "Rendering a chat fails with arm-unt",
        ),
        (with_a_scheduler_that_asks_for_more, "Rendering a token fails with arm-untrained, .*mu"),
        (with_impossible_sampling, "Drawing fails with arm-untrained, as it would for who downloads it: .*top_k"),
        (with_a_head_that_says_nothing, "Answering fails with .*logits are all the same"),
        (with_a_head_that_is_too_loud, "fails with arm-untrained"),
    ],
)
def test_what_loads_and_does_not_work_is_refused(folder, spoil, message):
    spoil(folder)
    refused(folder, message)


def test_what_works_is_published_and_the_folder_stays_as_it_was(owner, folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told = []
    push(folder, "owner/arm", tell=told.append)
    assert not told
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_a_trial_people_are_told(owner, folder, capsys):
    (folder / "chat_template.jinja").write_text("{{ nothing")
    command = ["push", str(folder), "--repo", "owner/arm", "--dry-run"]
    assert main(command) == 1
    assert "Rendering a chat fails" in capsys.readouterr().err
    (folder / "training_args.bin").write_bytes(b"x")
    assert main([*command, "--no-trial"]) == 0
    said = capsys.readouterr()
    assert f"{folder} was not tried: whether it draws, edits and answers is not known." in said.err
    assert "training_args.bin is left out: a state of training." in said.err and "training_args" not in said.out
    assert not owner.requests


def test_a_model_that_does_not_fit_into_memory_is_refused_with_what_to_do(folder, monkeypatch):
    stored = sum(tensor.numel() for tensor in load_file(folder / MODEL).values())
    rendering = sum(tensor.numel() for tensor in load_file(folder / PIXELS).values())
    assert memory_of(folder) == 4 * (stored + rendering)  # float32
    monkeypatch.setattr(trial, "available_memory", lambda: memory_of(folder) - 1)  # a smaller machine
    refused(folder, r"of memory are free; .*--no-trial \(trial=False\)")
    with staged(folder, "org/arm", trial=False):
        pass
    monkeypatch.undo()
    assert trial.available_memory() > 10**6


def test_memory_that_a_container_may_take_is_the_least_of_its_groups(tmp_path):
    (tmp_path / "membership").write_text("0::/outer/inner\n")
    for name, bound in (("outer", "1000"), ("outer/inner", "900"), ("other", "5")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.max").write_text(f"{bound}\n")
        (tmp_path / name / "memory.current").write_text("700\n")
        (tmp_path / name / "memory.stat").write_text("anon 600\nfile 60\nkernel 40\n")
    assert trial.left_in_groups(tmp_path / "membership", tmp_path) == [260, 360]
    (tmp_path / "outer" / "inner" / "memory.max").write_text("max\n")
    assert trial.left_in_groups(tmp_path / "membership", tmp_path) == [360]
    assert trial.left_in_groups(tmp_path / "none", tmp_path) == []


# Tokenizers and adapters


def test_a_tokenizer_is_tried(arm_folder, tmp_path):
    folder = copied(f"{arm_folder}/vq_model", tmp_path / "vq")
    try_tokenizer(folder)
    write_card(folder)
    edit_json(folder / "preprocessor_config.json", patch_size=12)
    refused(folder, "Encoding a picture fails with vq")


def test_an_adapter_is_tried_on_its_base(arm_folder, tmp_path):
    from peft import get_peft_model

    from transformers_arm.sizes.adapters import lora_config

    base = copied(arm_folder, tmp_path / "base")
    model = ArmForCausalLM.from_pretrained(base)
    get_peft_model(model, lora_config(model, r=2)).save_pretrained(tmp_path / "lora")
    write_card(tmp_path / "lora", base_model="Qwen/Qwen2.5-7B")
    told = []
    with staged(tmp_path / "lora", "org/lora", tell=told.append) as copies:
        assert json.loads((copies / "adapter_config.json").read_text())["base_model_name_or_path"] == "Qwen/Qwen2.5-7B"
    assert not told
    shutil.rmtree(base / "detokenizer")  # then it answers
    try_arm(base, adapter=Path(tmp_path / "lora"))
    (base / "chat_template.jinja").write_text("{{ nothing")
    refused(tmp_path / "lora", "Rendering a chat fails with lora")
