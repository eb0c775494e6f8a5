"""The command line writes what it says, and where it cannot, says why and writes nothing."""

import os
import shutil
import sys

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from transformers_arm.cli import main

PROMPT = "a red circle above a blue square"


def written(folder):
    return sorted(path.name for path in folder.iterdir())


def test_generate_writes_a_picture(arm, tmp_path):
    assert arm("generate", PROMPT)[:2] == (0, "generated.png\n")
    assert Image.open(tmp_path / "generated.png").size == (48, 48)
    assert written(tmp_path) == ["generated.png"]


def test_generate_numbers_several_pictures(arm, tmp_path):
    status, out, _ = arm("generate", PROMPT, "--count", 2, "--output", "two.jpg", "--height", 32, "--width", 64)
    assert (status, out) == (0, "two-1.jpg\ntwo-2.jpg\n")
    pictures = [Image.open(tmp_path / name) for name in ("two-1.jpg", "two-2.jpg")]
    assert [(picture.format, picture.size) for picture in pictures] == [("JPEG", (64, 32))] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_previews_of_pictures_are_saved_as_their_rows_come(arm, source, tmp_path):
    (tmp_path / "seen").mkdir()
    options = ("--previews", "seen", "--preview-steps", 1)
    status, out, _ = arm("generate", PROMPT, "--count", 3, "--batch-size", 2, *options, "--preview-every", 2)
    names = [f"generated-{number}" for number in (1, 2, 3)]
    seen = [f"seen/{name}-row2.png" for name in names]
    printed = [*seen[:2], f"{names[0]}.png", f"{names[1]}.png", seen[2], f"{names[2]}.png"]
    assert (status, out.split()) == (0, printed)
    status, out, _ = arm("edit", source, "make it blue", *options)
    assert (status, out.split()) == (0, [*(f"seen/edited-row{row}.png" for row in (1, 2, 3)), "edited.png"])
    assert {Image.open(file).size for file in (tmp_path / "seen").iterdir()} == {(48, 48)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--preview-every", 2),
            "--preview-every and --preview-steps are of previews; name a folder",
        ),
        (("--previews", "nowhere"), "There is no folder nowhere to write preview.png into; make it first."),
        (("--previews", ".", "--preview-steps", 0), "preview_steps 0 must be a whole number, 1 or more."),
        (
            ("--previews", ".", "--preview-every", 4),
            "preview_every 4 is more than the 3 rows of a picture",
        ),
    ],
)
def test_previews_that_cannot_be_are_refused(arm, source, tmp_path, options, message):
    for command in (("generate", PROMPT), ("edit", source, "make it blue")):
        status, out, said = arm(*command, *options)
        assert (status, out) == (1, "") and message in said
    assert written(tmp_path) == ["source.png"]


def test_the_seed_brings_a_picture_back(arm, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        assert arm("generate", PROMPT, "--seed", seed, "--output", f"{name}.png", "--guidance-scale", 1)[0] == 0
    one, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other


def test_pictures_drawn_at_once_are_those_of_the_seeds_that_follow(arm, tmp_path):
    fixed = ("--guidance-scale", 1)
    assert arm("generate", PROMPT, "--seed", 1, "--output", "one.png", "--count", 3, "--batch-size", 2, *fixed)[0] == 0
    assert arm("generate", PROMPT, "--seed", 3, "--output", "third.png", *fixed)[0] == 0
    assert Image.open(tmp_path / "one-3.png").tobytes() == Image.open(tmp_path / "third.png").tobytes()


def test_the_checkpoint_is_named_before_or_after_the_subcommand(arm, arm_folder, tmp_path):
    for name, after in (("1.png", ()), ("2.png", ("--checkpoint", arm_folder))):
        assert arm("generate", PROMPT, "--output", name, *after)[0] == 0
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


@pytest.mark.parametrize(
    "command",
    [("memory",), ("parameters",), ("env",), ("push", ".", "--repo", "org/arm"), ("train", "sft", "--config", "x")],
)
def test_a_command_without_a_checkpoint_refuses_one(arm_folder, capsys, command):
    with pytest.raises(SystemExit, match="2"):
        main(["--checkpoint", arm_folder, *command])
    assert f"error: {command[0]} takes no --checkpoint." in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("--checkpoint", "a", "generate", PROMPT, "--checkpoint", "b"),
        ("--checkpoint", "a", "--checkpoint", "b", "generate", PROMPT),
        ("tokenize", "rows", "--output", "codes", "--vq", "a", "--checkpoint", "b"),
    ],
)
def test_a_checkpoint_is_named_once(capsys, command):
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "--checkpoint is given twice" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_device_and_dtype_are_the_models(arm, tmp_path, monkeypatch, dtype):
    from transformers_arm import ArmForCausalLM

    seen, generate = [], ArmForCausalLM.generate

    def watched(self, *args, **kwargs):
        seen.append((self.device.type, str(self.dtype).rpartition(".")[2]))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(ArmForCausalLM, "generate", watched)
    status, _, err = arm("generate", PROMPT, "--device", "cpu", "--dtype", dtype)
    assert status == 0 and not [line for line in err.splitlines() if line.strip() and "%|" not in line]
    assert seen == [("cpu", "float32" if dtype == "auto" else dtype)]


def test_edit_writes_a_picture_of_its_sources_size(arm, source, tmp_path):
    options = ("--output", "new.webp", "--image-guidance-scale", 1.5, "--temperature", 0.5)
    assert arm("edit", source, "make the red circle green", *options)[:2] == (0, "new.webp\n")
    assert Image.open(tmp_path / "new.webp").size == (100, 80)
    assert written(tmp_path) == ["new.webp", "source.png"]


def test_edit_leaves_what_the_mask_does_not_select(arm, source, tmp_path):
    mask = Image.new("L", (100, 80))
    mask.paste(255, (0, 0, 10, 10))
    mask.save(tmp_path / "mask.png")
    assert arm("edit", source, "make the red circle green", "--mask", "mask.png")[:2] == (0, "edited.png\n")
    edited = Image.open(tmp_path / "edited.png")
    red = Image.new("RGB", (100, 80), "red")
    assert edited.crop((50, 0, 100, 80)).tobytes() == red.crop((50, 0, 100, 80)).tobytes()
    assert edited.crop((0, 0, 10, 10)).tobytes() != red.crop((0, 0, 10, 10)).tobytes()


def test_ask_prints_the_bare_answer(arm, source, monkeypatch):
    import torch

    from transformers_arm import ArmForCausalLM, ArmProcessor

    def generate(self, input_ids, **kwargs):
        tokenizer = ArmProcessor.from_pretrained(self.name_or_path).tokenizer
        return torch.cat([input_ids, tokenizer("red<|im_end|>", return_tensors="pt")["input_ids"]], 1)

    monkeypatch.setattr(ArmForCausalLM, "generate", generate)
    assert arm("ask", source, "what color is the circle?")[:2] == (0, "red\n")


def test_ask_answers_with_the_model(arm, source):
    status, out, _ = arm("ask", source, "what color is the circle?")
    assert status == 0
    assert out.endswith("\n") and "<|" not in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("generate", PROMPT, "--output", "nowhere/new.png"), "There is no folder nowhere to write new.png into"),
        (("generate", PROMPT, "--output", "new.tiff"), "new.tiff must end in .png, .jpg or .webp"),
        (("generate", PROMPT, "--output", "."), ". is a folder; name a file"),
        (("generate", PROMPT, "--count", 0), "--count 0 is no number of results"),
        (("generate", PROMPT, "--batch-size", 0), "batch_size 0 must be a whole number of requests"),
        (("generate", PROMPT, "--device", "gpu"), "--device gpu cannot be used: Expected one of cpu, cuda"),
        (("generate", PROMPT, "--revision", "v1"), "is a folder and has no revision v1; leave --revision out"),
        (
            ("generate", PROMPT, "--height", 50),
            "50x48 (height x width) must be multiples of the 16 px patch, 16 to 2048.",
        ),
        (("generate", PROMPT, "--height", 100_000), "100000x48 (height x width) must be multiples of the 16 px patch"),
        (("generate", PROMPT, "--temperature", -1), "temperature -1.0 must be"),
        (("generate", PROMPT, "--temperature", "nan"), "temperature nan must be"),
        (("generate", PROMPT, "--guidance-scale", "inf"), "guidance_scale inf must be"),
        (("generate", PROMPT, "--seed", -1), "Seed -1 and those that follow must be in 0..9223372036854775807"),
        (("generate", PROMPT, "--seed", 2**63 - 1, "--count", 2), "Seed 9223372036854775807 and those"),
        (("edit", "source.png", "x", "--image-guidance-scale", -1), "image_guidance_scale -1.0 must be"),
        (("edit", "nowhere.png", "remove it"), "no such file: nowhere.png"),
        (("edit", "source.png", "remove it", "--output", "new"), "new must end in"),
        (("edit", "notes.png", "remove it"), "notes.png"),
        (("edit", "source.png", "remove it", "--mask", "nowhere.png"), "no such file: nowhere.png"),
        (("edit", "source.png", "remove it", "--mask", "small.png"), "The mask is 48x48 px (height x width), but"),
        (("ask", "nowhere.png", "what is it?"), "no such file: nowhere.png"),
        (("ask", "source.png", "what is it?", "--temperature", -1), "temperature -1.0 must be"),
        (("ask", "HTTP://127.0.0.1:9/none.png", "what is it?"), "does not answer"),
        (("memory", "--config", "nowhere"), "nowhere"),
        (("memory", "--tokens", 0), "0 tokens on 8 GPUs cannot be trained on; both must be 1 or more"),
        (("tokenize", "nowhere", "--output", "codes"), "nowhere"),
        (("tokenize", ".", "--output", "codes", "--rename", "jpg"), "--rename jpg must say their name and ours"),
        (("tokenize", ".", "--output", "codes", "--rename", "jpg=picture"), "Nothing can be renamed to picture"),
        (("tokenize", ".", "--output", "codes", "--vq", "none"), "none holds no config.json"),
        (("demo", "--items", 0), "0 items cannot be scored"),
        (("demo", "--images", "nowhere.png"), "no such file: nowhere.png"),
        (("demo", "--output", "source.png", "--items", 1), "source.png"),
    ],
)
def test_errors_are_told_and_nothing_is_written(arm, source, tmp_path, command, message):
    (tmp_path / "notes.png").write_text("no picture")
    Image.new("L", (48, 48), "white").save(tmp_path / "small.png")
    status, out, err = arm(*command)
    assert (status, out) == (1, "")
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("transformers-arm: ")
    assert written(tmp_path) == ["notes.png", "small.png", "source.png"]


@pytest.mark.parametrize("option", [("--batch-size", 0), ("--temperature", "nan"), ("--seed", 2**64 - 1)])
def test_options_are_checked_before_a_model_is_loaded(arm, option):
    _, _, err = arm("generate", PROMPT, *option)
    assert "Loading" not in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "command", [("generate", PROMPT), ("edit", "source.png", "x"), ("ask", "source.png", "x"), ("demo",)]
)
def test_a_missing_checkpoint_is_named(arm, source, tmp_path, command):
    status, _, err = arm(*command, checkpoint="nowhere")
    assert (status, err) == (
        1,
        "transformers-arm: nowhere holds no config.json; name an ARM folder with --checkpoint.\n",
    )
    assert written(tmp_path) == ["source.png"]


def test_a_repos_id_stands_where_a_folder_does(arm, arm_folder, source, tmp_path, hub):
    hub.add_repo("org/arm", arm_folder)
    assert arm("generate", PROMPT, checkpoint="org/arm")[:2] == (0, "generated.png\n")
    drawn = (tmp_path / "generated.png").read_bytes()
    assert arm("generate", PROMPT)[0] == 0
    assert (tmp_path / "generated.png").read_bytes() == drawn
    assert arm("edit", source, "make the red circle green", checkpoint="org/arm")[:2] == (0, "edited.png\n")
    assert arm("ask", source, "what color is it?", checkpoint="org/arm")[0] == 0
    other = tmp_path.parent / "other"
    shutil.copytree(arm_folder, other)
    (other / "generation_config.json").write_text('{"image_generation": {"guidance_scale": 9.0, "temperature": 2.0}}')
    hub.add_repo("org/arm", other, revision="experiment")
    for revision, is_same in (("main", True), ("experiment", False)):
        options = ("--checkpoint", "org/arm", "--revision", revision)
        assert arm("generate", PROMPT, *options)[:2] == (0, "generated.png\n")
        assert ((tmp_path / "generated.png").read_bytes() == drawn) is is_same
    status, _, err = arm("generate", PROMPT, checkpoint="org/none")
    assert status == 1
    assert "transformers-arm: org/none is not a local folder" in err


@pytest.mark.parametrize("checkpoint", ["checkpoints/arm-tiny", "mine/arm", "org/arm/vq_model"])
def test_what_is_meant_as_a_folder_is_not_asked_of_the_hub(arm, tmp_path, hub, checkpoint):
    (tmp_path / "mine").mkdir()
    asked = len(hub.requests)
    status, _, err = arm("generate", PROMPT, checkpoint=checkpoint)
    assert (status, err.splitlines()[-1]) == (
        1,
        f"transformers-arm: {checkpoint} holds no config.json; name an ARM folder with --checkpoint.",
    )
    assert len(hub.requests) == asked


@pytest.mark.parametrize("repo", ["a/b/c", "bad..id/x"])
def test_a_dry_run_refuses_what_is_no_repos_id(arm, arm_folder, repo):
    status, out, err = arm("push", arm_folder, "--repo", repo, "--dry-run")
    assert (status, out) == (1, "")
    assert repo in err.splitlines()[-1]


def test_a_checkpoint_of_another_model_is_refused(arm, arm_folder, tmp_path):
    vq_model = f"{arm_folder}/vq_model"
    said = f"transformers-arm: {vq_model} holds a model of type arm_vq, not arm; name an ARM folder.\n"
    for command in (("generate", PROMPT), ("demo",)):
        assert arm(*command, checkpoint=vq_model) == (1, "", said)
    tokenize = ("tokenize", "nowhere", "--output", "codes", "--vq")
    assert "not arm or arm_vq" in arm(*tokenize, f"{arm_folder}/backbones/qwen2")[2]
    assert "holds a model" not in arm(*tokenize, vq_model)[2]
    assert written(tmp_path) == []


def test_damaged_and_missing_weights_are_named_in_a_line(arm, arm_folder, tmp_path):
    other = tmp_path.parent / "damaged"
    shutil.copytree(arm_folder, other)
    weights = load_file(other / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    *_, said = last_lines(arm("generate", PROMPT, checkpoint=other))  # after transformers' own report
    assert said.startswith(f"transformers-arm: {other} lacks 1 of the tensors of ArmForCausalLM: lm_head.weight. Copy")
    os.truncate(other / "model.safetensors", 1000)
    (said,) = last_lines(arm("generate", PROMPT, checkpoint=other))
    assert said.startswith(f"transformers-arm: {other}/model.safetensors is damaged or cut short: ")
    assert written(tmp_path) == []


def last_lines(ended):
    """What a command that failed said, without bars."""
    status, out, err = ended
    assert (status, out) == (1, "")
    return [line for line in err.splitlines() if "%|" not in line]


def test_memory_prints_the_parameters_and_what_training_them_takes(arm, arm_folder):
    status, out, _ = arm("memory", "--tokens", 1024, "--rank", 8)
    assert status == 0 and out.startswith("8,085,378,560 parameters (embedding 779,878,400, layers 6,525,618,176")
    assert "1,024 tokens a micro-batch; ZeRO and FSDP over 8 GPUs; LoRA of rank 8" in out
    small = arm("memory", "--config", arm_folder)[1]
    assert small.startswith(f"{sum(p.numel() for p in language_parameters(arm_folder)):,} parameters")
    assert "| full, bf16 | yes |" in out and out.count("\n") == small.count("\n")


def test_memory_says_what_to_install(arm, monkeypatch):
    for name in ("transformers_arm.sizes.memory", "transformers_arm.sizes.adapters"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "peft", None)
    status, out, err = arm("memory")
    message = "transformers-arm: LoRA needs peft; install it with `pip install transformers-arm[train]`.\n"
    assert (status, out, err) == (1, "", message)


def test_parameters_prints_both_tables(arm):
    status, out, _ = arm("parameters", checkpoint="nowhere")
    assert status == 0 and out.startswith("tokenizer in training\n\n| part | trained | frozen |")
    assert "\n\narm-7b\n\n| part | trained | frozen |" in out


def language_parameters(folder):
    from transformers_arm import ArmForCausalLM

    named = ArmForCausalLM.from_pretrained(folder).named_parameters()
    return [parameter for name, parameter in named if "vq_model" not in name]


def test_a_wrong_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["paint"])
    assert "invalid choice: 'paint'" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    listed = capsys.readouterr().out.partition("{")[2].partition("}")[0].split(",")
    assert {"generate", "edit", "ask", "tokenize", "demo", "init", "memory", "parameters", "push"} <= {
        name.strip() for name in listed
    }
