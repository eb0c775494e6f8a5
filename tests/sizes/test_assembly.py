"""Assembly writes the folder that `from_backbones` would make and save, whole or not at all, in little memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    pipeline,
)

from transformers_arm import (
    ArmConfig,
    ArmForCausalLM,
    ArmImageProcessor,
    ArmModel,
    ArmProcessor,
    ArmVQConfig,
    ArmVQForPreTraining,
    ArmVQModel,
)
from transformers_arm.cli import main
from transformers_arm.sizes.assembly import assemble, check_sizes
from transformers_arm.sizes.presets import arm_7b_config
from transformers_arm.training.backbones import ADDED_TOKENS, SPECIAL_TOKENS, new_tokenizer

ROOT = Path(__file__).parents[2]
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
# config.json of Qwen/Qwen2.5-7B.
QWEN2_5_7B = {
    **{"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28},
    **{"num_key_value_heads": 4, "vocab_size": 152_064, "tie_word_embeddings": False, "rms_norm_eps": 1e-6},
    **{"max_position_embeddings": 131_072, "bos_token_id": 151_643, "eos_token_id": 151_643, "dtype": "bfloat16"},
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def backbones(request, tiny_arm_backbones, tmp_path_factory):
    """`tiny_arm_backbones`, also with a Qwen2 whose head is its embedding, in several shards."""
    if not request.param:
        return tiny_arm_backbones
    folder = tmp_path_factory.mktemp("tied") / "text"
    tied = Qwen2ForCausalLM.from_pretrained(tiny_arm_backbones["text"], tie_word_embeddings=True)
    tied.tie_weights()
    tied.save_pretrained(folder, max_shard_size="60KB")
    AutoTokenizer.from_pretrained(tiny_arm_backbones["text"]).save_pretrained(folder)
    assert len(list(folder.glob("model-0000?-of-*.safetensors"))) > 2
    return tiny_arm_backbones | {"text": str(folder)}


@pytest.fixture(scope="module")
def folder(backbones, tmp_path_factory):
    """An assembled ARM, in several shards. Treat it as read-only."""
    return assemble(tmp_path_factory.mktemp("assembled") / "arm", **backbones, max_shard_size="200KB")


def known_tokens(backbones):
    return len(AutoTokenizer.from_pretrained(backbones["text"]))


def weights_of(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]), name


# --- what is in the folder -------------------------------------------------------------------------------------------


def test_a_folder_is_what_from_backbones_makes_and_saves(folder, backbones, tmp_path):
    ArmForCausalLM.from_backbones(**backbones).save_pretrained(tmp_path, max_shard_size="200KB")
    ArmProcessor.from_backbones(**backbones).save_pretrained(tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert len([name for name in names if name.startswith("model-0000")]) > 2
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_on_text_the_loaded_model_has_the_logits_of_its_qwen2(folder, backbones):
    qwen2 = Qwen2ForCausalLM.from_pretrained(backbones["text"]).eval()
    model, known = AutoModelForMultimodalLM.from_pretrained(folder).eval(), known_tokens(backbones)
    assert type(model) is ArmForCausalLM
    ids = torch.randint(0, known, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(ids).logits, qwen2(ids).logits
        assert torch.equal(model.model(ids).last_hidden_state, qwen2.model(ids).last_hidden_state)
    assert torch.equal(ours[..., :known], theirs[..., :known]) and theirs.std() > 0.1


def test_rows_of_known_tokens_are_the_checkpoints_bit_for_bit(folder, backbones):
    ours, known = weights_of(folder), known_tokens(backbones)
    for name, theirs in weights_of(Path(backbones["text"])).items():
        rows = slice(known if name in VOCABULARY else None)
        assert torch.equal(ours[name][rows], theirs[rows])
    for name, theirs in weights_of(Path(backbones["vq"])).items():
        assert torch.equal(ours[f"model.vq_model.{name}"], theirs)


def test_new_rows_have_the_norms_of_the_known_ones_of_their_matrix(tiny_arm_backbones, tmp_path):
    text = shutil.copytree(tiny_arm_backbones["text"], tmp_path / "text")
    changed, known = weights_of(text), known_tokens(tiny_arm_backbones)
    changed[VOCABULARY[0]] *= 7
    changed[VOCABULARY[1]] *= 0.3
    changed[VOCABULARY[0]][known:] = 1e3  # rows that nothing trained, as a checkpoint has: they do not count
    save_file(changed, text / "model.safetensors", {"format": "pt"})
    weights = weights_of(assemble(tmp_path / "arm", text=str(text), vq=tiny_arm_backbones["vq"]))
    for name in VOCABULARY:
        norms = weights[name].norm(dim=1)
        assert norms[known:].mean() == pytest.approx(norms[:known].mean().item(), rel=0.03)
        assert len(weights[name][known:].unique(dim=0)) == len(norms) - known
    assert not torch.equal(*(weights[name][known:] / weights[name][known:].std() for name in VOCABULARY))


def test_new_rows_are_those_of_the_seed(tiny_arm_backbones, tmp_path):
    one, again, other = (
        weights_of(assemble(tmp_path / name, **tiny_arm_backbones, seed=seed))
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    )
    assert_equal(one, again)
    assert [name for name in one if not torch.equal(one[name], other[name])] == sorted(VOCABULARY)


def test_the_source_s_dtype_is_kept_and_another_can_be_asked_for(tiny_arm_backbones, tmp_path):
    text = tmp_path / "text"
    Qwen2ForCausalLM.from_pretrained(tiny_arm_backbones["text"], dtype=torch.bfloat16).save_pretrained(text)
    AutoTokenizer.from_pretrained(tiny_arm_backbones["text"]).save_pretrained(text)
    backbones = tiny_arm_backbones | {"text": str(text)}
    for dtype, found in (("auto", torch.bfloat16), (torch.float32, torch.float32), ("float16", torch.float16)):
        folder = assemble(tmp_path / str(dtype), **backbones, dtype=dtype)
        written = {name: value for name, value in weights_of(folder).items() if value.is_floating_point()}
        assert {(".vq_model." in name, value.dtype) for name, value in written.items()} == {
            *((False, found), (True, torch.float32)),
        }
        assert json.loads((folder / "config.json").read_text())["dtype"] == str(found).removeprefix("torch.")
        assert_equal(weights_of(folder), ArmForCausalLM.from_backbones(**backbones, dtype=dtype).state_dict())


def test_a_tokenizer_with_its_training_parts_gives_its_tokenizer(tiny_backbones, tiny_arm_backbones, tmp_path):
    sizes = {"num_projection_layers": 1, "fsq_levels": [2] * 10, "pixel_num_layers": 1, "pixel_hidden_size": 32}
    whole = ArmVQForPreTraining.from_backbones(**tiny_backbones, **sizes, pixel_num_heads=2)
    whole.save_pretrained(tmp_path / "vq")
    ArmImageProcessor.from_pretrained(tiny_arm_backbones["vq"]).save_pretrained(tmp_path / "vq")
    backbones = {"text": tiny_arm_backbones["text"], "vq": str(tmp_path / "vq")}
    model = AutoModelForMultimodalLM.from_pretrained(assemble(tmp_path / "arm", **backbones))
    assert_equal(model.vq_model.state_dict(), whole.vq_model.state_dict())
    assert model.config.vq_config.captioner_config is None and model.config.vq_config.text_config is None


@pytest.mark.parametrize("device_map", [None, "cpu", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_model_loads_it(folder, device_map, dtype):
    model, info = AutoModel.from_pretrained(folder, device_map=device_map, dtype=dtype, output_loading_info=True)
    assert type(model) is ArmModel and not info["missing_keys"] and not info["mismatched_keys"]
    dtypes = {name.startswith("vq_model."): parameter.dtype for name, parameter in model.named_parameters()}
    assert dtypes == {False: dtype, True: torch.float32}
    found, written = model.state_dict(), weights_of(folder)
    assert_equal(found, {name: written[f"model.{name}"].to(value.dtype) for name, value in found.items()})


def test_a_device_map_may_put_a_part_elsewhere(folder, tmp_path):
    ids = torch.arange(20)[None]
    parts = {"embed_tokens": "cpu", "layers.0": "cpu", "layers.1": "disk", "norm": "disk", "vq_model": "disk"}
    spread = AutoModel.from_pretrained(folder, device_map=parts | {"rotary_emb": "cpu"}, offload_folder=tmp_path)
    assert spread.layers[1].mlp.up_proj.weight.is_meta
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder)(ids).last_hidden_state
        assert torch.equal(spread(ids).last_hidden_state, expected)


def test_it_is_ready_to_draw_answer_and_train(tmp_path):
    shipped = ROOT / "checkpoints" / "arm-tiny"
    parts = {"text": str(shipped / "backbones" / "qwen2"), "vq": str(shipped / "vq_model")}
    folder = assemble(tmp_path / "arm", **parts, detokenizer=shipped / "detokenizer")
    assert pipeline("text-to-image", model=str(folder))("a red circle").size == (48, 48)
    model, processor = AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.generation_config.image_generation["guidance_scale"] == 1.5
    messages = [{"role": "user", "content": [{"type": "text", "text": "a red circle"}]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert loss.isfinite() and model.lm_head.weight.grad.any()
    assert not any(parameter.requires_grad for parameter in model.vq_model.parameters())


# --- arm-7b ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen2_5_tokenizer(tmp_path_factory):
    """Folder of a tokenizer with as many tokens as Qwen2.5's, and its special tokens at their ids."""
    small = json.loads(new_tokenizer(["a red circle left of a blue square"] * 9, 300)._tokenizer.to_str())
    vocabulary, merges = small["model"]["vocab"], [tuple(pair) for pair in small["model"]["merges"]]
    vocabulary = {token: number for token, number in vocabulary.items() if not token.startswith("<|")}
    vocabulary |= {f"unused{number}": number for number in range(len(vocabulary), 151_643)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_tokens(SPECIAL_TOKENS, special_tokens=True)
    tokenizer.add_tokens(ADDED_TOKENS)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def arm_7b_parts(qwen2_5_tokenizer, tmp_path):
    """Folders of what says how large Qwen2.5-7B and the paper's tokenizer are, without weights."""
    text = shutil.copytree(qwen2_5_tokenizer, tmp_path / "Qwen2.5-7B")
    Qwen2Config(**QWEN2_5_7B).save_pretrained(text)
    ArmVQConfig().save_pretrained(tmp_path / "vq")
    ArmImageProcessor(size={"height": 512, "width": 512}).save_pretrained(tmp_path / "vq")
    return {"text": str(text), "vq": str(tmp_path / "vq")}


def test_arm_7b_is_assembled_of_qwen2_5_7b_and_has_its_parameters(arm_7b_parts):
    config = ArmConfig.from_backbones(**arm_7b_parts)
    check_sizes(config, "arm-7b")
    with torch.device("meta"):
        model = ArmForCausalLM(config)
    tokenizer = sum(parameter.numel() for parameter in model.vq_model.parameters())
    width, mlp, channels = 1152, 4304, 16
    block = 4 * (width + 1) * width + (width + 1) * mlp + (mlp + 1) * width + 2 * 2 * width
    projections = 12 * block + 3 * 2 * width + (width + 1) * channels + (channels + 1) * width
    assert tokenizer == 413_534_448 + projections
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_085_378_560 + tokenizer


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_size": 1536, "num_attention_heads": 12}, "hidden_size 1536 instead of 3584, num_attention_heads 12"),
        ({"vocab_size": 151_936}, "visual_token_offset 151936 instead of 152064"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings True instead of False"),
    ],
)
def test_parts_of_other_sizes_are_no_arm_7b(arm_7b_parts, tmp_path, changed, message):
    Qwen2Config(**{**QWEN2_5_7B, **changed}).save_pretrained(arm_7b_parts["text"])
    with pytest.raises(ValueError, match=f"This is no arm-7b: .*{message}"):
        assemble(tmp_path / "arm", **arm_7b_parts, preset="arm-7b")


# --- whole or not at all ---------------------------------------------------------------------------------------------


def refused(output, message, **parts):
    """Assembling says why it cannot, and leaves nothing."""
    before = sorted(output.parent.iterdir())
    with pytest.raises((ValueError, OSError), match=message):
        assemble(output, **parts)
    assert sorted(output.parent.iterdir()) == before


def test_a_folder_that_is_there_is_left_alone(tiny_arm_backbones, tmp_path):
    (tmp_path / "arm").mkdir()
    refused(tmp_path / "arm", "arm is there already; remove it or name another", **tiny_arm_backbones)
    assert not list((tmp_path / "arm").iterdir())


def test_an_error_while_writing_leaves_nothing(tiny_arm_backbones, tmp_path):
    detokenizer = shutil.copytree(ROOT / "checkpoints" / "arm-tiny" / "detokenizer", tmp_path / "detokenizer")
    (detokenizer / "broken").symlink_to("nowhere")  # copied last, when the weights are written
    refused(tmp_path / "arm", "nowhere|broken", **tiny_arm_backbones, detokenizer=detokenizer)


def test_what_a_killed_run_left_does_not_stay(tiny_arm_backbones, tmp_path):
    (tmp_path / ".arm.assembling").mkdir()
    (tmp_path / ".arm.assembling" / "model-00001-of-00009.safetensors").write_bytes(b"half")
    assemble(tmp_path / "arm", **tiny_arm_backbones)
    assert [path.name for path in tmp_path.iterdir()] == ["arm"]
    assert not list((tmp_path / "arm").glob("model-*"))


def test_a_disk_that_is_too_small_is_told_before_writing(tiny_arm_backbones, tmp_path):
    detokenizer = shutil.copytree(ROOT / "checkpoints" / "arm-tiny" / "detokenizer", tmp_path / "detokenizer")
    with open(detokenizer / "large.safetensors", "wb") as file:
        file.truncate(9 * 10**12)  # a hole: 9 TB by its size, of which none is on the disk
    told = r"9000\.0 GB are to be written, but .* has [\d.]+ GB free"
    refused(tmp_path / "arm", told, **tiny_arm_backbones, detokenizer=detokenizer)


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def cut_off(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def shard_missing(folder):
    model = Qwen2ForCausalLM.from_pretrained(folder)
    without_weights(folder)
    model.save_pretrained(folder, max_shard_size="60KB")
    next(folder.glob("model-00002-of-*")).unlink()


def tensor_missing(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def other_sizes(folder):
    Qwen2Config.from_pretrained(folder, intermediate_size=64).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_weights, "has no model.safetensors and no index of shards"),
        (cut_off, "model.safetensors cannot be read .*; download or save it again"),
        (shard_missing, "model-00002-of-.*.safetensors cannot be read .*; download or save it again"),
        (tensor_missing, "lack 1 tensors, model.layers.1.mlp.up_proj.weight first"),
        (other_sizes, r"gate_proj.weight is \[48, 32\], but the config.json of its checkpoint says \[64, 32\]"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(tiny_arm_backbones, tmp_path, damage, message):
    text = shutil.copytree(tiny_arm_backbones["text"], tmp_path / "text")
    damage(text)
    refused(tmp_path / "arm", message, text=str(text), vq=tiny_arm_backbones["vq"])


def test_parts_of_another_kind_are_refused(tiny_arm_backbones, folder, tmp_path):
    text, vq = tiny_arm_backbones["text"], tiny_arm_backbones["vq"]
    refused(tmp_path / "arm", "holds a 'arm' model where a 'arm_vq' one is needed", text=text, vq=str(folder))
    refused(tmp_path / "arm", "holds a 'arm_vq' model where a 'qwen2' one is needed", text=vq, vq=vq)
    refused(tmp_path / "arm", "holds no model_index.json; name the folder of", text=text, vq=vq, detokenizer=vq)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_what_the_call_writes(tiny_arm_backbones, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = [argument for name, path in tiny_arm_backbones.items() for argument in (f"--{name}", path)]
    detokenizer = ROOT / "checkpoints" / "arm-tiny" / "detokenizer"
    options = ("--output", "arm", "--dtype", "bfloat16", "--seed", "3", "--detokenizer", str(detokenizer))
    assert main(["init", *parts, *options]) == 0
    assert capsys.readouterr().out == "arm\n"
    called = assemble("called", **tiny_arm_backbones, dtype="bfloat16", seed=3, detokenizer=detokenizer)
    files = sorted(path.relative_to(called) for path in called.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to("arm") for path in Path("arm").rglob("*") if path.is_file())
    assert Path("detokenizer/model_index.json") in files
    for file in files:
        assert (called / file).read_bytes() == (Path("arm") / file).read_bytes()
    assert main(["init", *parts, *options]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("transformers-arm: arm is there already")


def test_the_command_refuses_other_sizes_under_the_name_of_arm_7b(tiny_arm_backbones, tmp_path, capsys):
    parts = [argument for name, path in tiny_arm_backbones.items() for argument in (f"--{name}", path)]
    assert main(["init", "arm-7b", *parts, "--output", str(tmp_path / "arm")]) == 1
    assert "This is no arm-7b: hidden_size 32 instead of 3584" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_says_what_to_download(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["init", "--help"])
    out = capsys.readouterr().out
    for line in ("hf download Qwen/Qwen2.5-7B ", "hf download google/siglip2-so400m-patch16-512 "):
        assert line in out
    with torch.device("meta"):
        model = ArmForCausalLM(arm_7b_config()).bfloat16()
        qwen2 = Qwen2ForCausalLM(Qwen2Config(**QWEN2_5_7B)).bfloat16()
    for each, sentence in (
        (model, "arm-7b needs {:.1f} GB of disk"),
        (qwen2, "hf download Qwen/Qwen2.5-7B                         {:.1f} GB"),
    ):
        taken = sum(parameter.numel() * parameter.element_size() for parameter in each.parameters())
        assert sentence.format(taken / 1e9) in out


def test_hub_ids_are_taken_from_the_cache(tiny_arm_backbones, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    for name, folder in tiny_arm_backbones.items():
        cached = tmp_path / "hub" / f"models--somebody--{name}"
        shutil.copytree(folder, cached / "snapshots" / commit)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text(commit)
    command = [sys.executable, "-m", "transformers_arm", "init", "--text", "somebody/text", "--vq", "somebody/vq"]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub")}
    subprocess.run([*command, "--output", str(tmp_path / "arm")], check=True, env=environment)
    assert_equal(weights_of(tmp_path / "arm"), weights_of(assemble(tmp_path / "local", **tiny_arm_backbones)))


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def large_backbones(qwen2_5_tokenizer, tmp_path):
    """Qwen2.5-7B's widths and vocabulary in bf16, three layers deep: 3.6 GB in shards; and a tokenizer of 16 bits."""
    text, layers = shutil.copytree(qwen2_5_tokenizer, tmp_path / "text"), 3
    config = Qwen2Config(**{**QWEN2_5_7B, "num_hidden_layers": layers})
    config.save_pretrained(text)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Qwen2ForCausalLM(config).state_dict().items()}
    shards = [[VOCABULARY[0]], [VOCABULARY[1], "model.norm.weight"]]
    shards += [[name for name in shapes if name.startswith(f"model.layers.{layer}.")] for layer in range(layers)]
    # Drawing all of it would take longer than the rest; the pattern's length divides no number of rows.
    pattern, index = torch.randn(4_000_037, generator=torch.Generator().manual_seed(0)).mul(0.02).bfloat16(), {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights = {name: torch.empty(shapes[name], dtype=torch.bfloat16) for name in names}
        for tensor in weights.values():
            for part in tensor.view(-1).split(len(pattern)):
                part.copy_(pattern[: len(part)])
        save_file(weights, text / file, {"format": "pt"})
        index |= dict.fromkeys(names, file)
    assert index.keys() == shapes.keys()
    (text / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    ArmVQModel(ArmVQConfig(vision_config=vision, num_projection_layers=1)).save_pretrained(tmp_path / "vq")
    ArmImageProcessor(size={"height": 512, "width": 512}).save_pretrained(tmp_path / "vq")
    yield {"text": text, "vq": tmp_path / "vq"}
    shutil.rmtree(tmp_path)  # pytest would keep it, and more than 8 GB are in it


def matrix_of(folder, name):
    file = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]
    with safe_open(folder / file, "pt") as opened:
        return opened.get_tensor(name)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="no way to ask for the memory of one child process")
def test_memory_stays_under_the_largest_shard_and_2_gb(large_backbones, tmp_path):
    parts = [argument for name, path in large_backbones.items() for argument in (f"--{name}", str(path))]
    command = [sys.executable, "-m", "transformers_arm", "init", *parts, "--output", str(tmp_path / "arm")]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    # All pages that it held at once, also those of mapped files (and, until it had started, this process's, which are
    # fewer). macOS counts in bytes.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    sizes = {
        name: [file.stat().st_size for file in Path(folder).glob("*.safetensors")]
        for name, folder in (("read", large_backbones["text"]), ("written", tmp_path / "arm"))
    }
    print(f"peak {peak / 1e9:.2f} GB", {name: [round(size / 1e9, 2) for size in sizes[name]] for name in sizes})
    assert sum(sizes["read"]) > 3e9 and len(sizes["written"]) > 2
    assert peak < min(max(sizes["read"]), max(sizes["written"])) + 2e9 < sum(sizes["read"])
    known = 151_665
    for name in VOCABULARY:
        ours, theirs = matrix_of(tmp_path / "arm", name), matrix_of(large_backbones["text"], name)
        assert ours.shape == (217_600, 3584) and torch.equal(ours[:known], theirs[:known])
        assert ours[-1000:].float().std() == pytest.approx(0.02, rel=0.02)
