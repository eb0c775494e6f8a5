"""Remote code: a folder with its code draws, edits and answers without the package as it does with it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_imports

from transformers_arm.hub.remote_code import add_remote_code

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "checkpoints" / "arm-tiny"
NEEDED = {
    *(
        "attention_arm.py",
        "configuration_arm.py",
        "decoding_arm.py",
        "generation_arm.py",
        "grammar_arm.py",
        "image_tokens_arm.py",
        "loading_arm.py",
        "loss_arm.py",
        "modeling_arm.py",
        "modeling_arm_vq.py",
        "processing_arm.py",
        "prompts_arm.py",
        "sampling_arm.py",
        "short_steps_arm.py",
        "written_text_arm.py",
    ),
    *("fetching_arm.py", "image_processing_arm.py", "pipeline_arm.py", "diffusers_pipeline_arm.py"),
    *("interleaved_pipeline_arm.py", "previews_arm.py", "rendering_arm.py"),
    *("detokenizer_arm.py", "detokenizer_arm_pixel.py", "pixel_transformer_arm.py"),
    *("connector_arm.py", "detokenizer_arm_flux.py", "detokenizer_arm_flux2.py", "detokenizer_arm_latent.py"),
    *("detokenizer_arm_sana.py", "edits_arm.py", "renderers_arm.py"),
}
RENDERER = {
    *("attention_arm.py", "configuration_arm.py", "connector_arm.py", "detokenizer_arm.py", "detokenizer_arm_flux.py"),
    *("detokenizer_arm_flux2.py", "detokenizer_arm_latent.py", "detokenizer_arm_pixel.py", "detokenizer_arm_sana.py"),
    *("loading_arm.py", "modeling_arm_vq.py", "pixel_transformer_arm.py", "remote_renderers_arm.py"),
}
PACKAGE_IS_MISSING = 'import sys\nsys.modules["transformers_arm"] = None\n'
PACKAGE_IS_THERE = "import sys\nimport transformers_arm\n"

# What both worlds do with a folder. `draw` and `edit` are made in each world's own way.
LOAD = """
import json
import torch
from diffusers import DiffusionPipeline
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText,
    AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer, pipeline,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module as remote_class

folder, *others = sys.argv[1:]
trusted = {"trust_remote_code": True}
MODELS = (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM)


def name(thing):
    module = type(thing).__module__
    return ["remote" if module.startswith("transformers_modules.") else module, type(thing).__name__]


def auto_classes(folder, **options):
    loaded = {auto.__name__: name(auto.from_pretrained(folder, **options)) for auto in MODELS}
    for auto in (AutoConfig, AutoTokenizer, AutoImageProcessor, AutoProcessor):
        loaded[auto.__name__] = name(auto.from_pretrained(folder, **options))
    for auto in (AutoConfig, AutoModel, AutoImageProcessor):
        loaded["vq_" + auto.__name__] = name(auto.from_pretrained(folder, subfolder="vq_model", **options))
    return loaded
"""
DRAW = """
import hashlib


def digest(picture):
    return hashlib.sha256(picture.tobytes()).hexdigest()


def remote_pipeline(name):
    pipeline_class = remote_class("pipeline_arm." + name, folder)
    return pipeline("image-text-to-text", model=folder, pipeline_class=pipeline_class, **trusted)


def seed():
    return torch.Generator().manual_seed(1)  # of 0 a byte lies between two, and memory rounds it


def drawn(draw, edit, ask):
    picture = draw("a red circle left of a blue square", generator=seed())
    edited = edit(picture, "make the red circle green", generator=seed())
    content = [{"type": "image", "image": edited}, {"type": "text", "text": "what shape is the green object?"}]
    answer = ask(text=[{"role": "user", "content": content}], return_full_text=False)[0]["generated_text"]
    return {"picture": digest(picture), "edited": digest(edited), "answer": answer}
"""


def fresh_process(code, *arguments, cache, package):
    """What a fresh process prints as JSON in its last line."""
    preamble = PACKAGE_IS_THERE if package else PACKAGE_IS_MISSING
    environment = {**os.environ, "HF_HOME": str(cache), "HF_MODULES_CACHE": str(cache / "modules")}
    ran = subprocess.run(
        [sys.executable, "-c", preamble + LOAD + DRAW + code, *map(str, arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def copy_of_shipped(folder):
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("backbones"))
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def without_auto_maps(value):
    if isinstance(value, dict):
        return {key: without_auto_maps(each) for key, each in value.items() if key != "auto_map"}
    return value


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = copy_of_shipped(tmp_path_factory.mktemp("published") / "arm-tiny")
    add_remote_code(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer_alone(tmp_path_factory):
    """The tokenizer with its detokenizer, as a folder of their own."""
    folder = tmp_path_factory.mktemp("tokenizer") / "arm-tiny-tokenizer"
    shutil.copytree(SHIPPED / "vq_model", folder)
    shutil.copytree(SHIPPED / "detokenizer", folder / "detokenizer")
    add_remote_code(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def with_the_package(published, cache):
    """What a process with the package makes of the folder; it trusts no remote code, then the folder's."""
    code = """
result = {"loaded": auto_classes(folder), "trusting": auto_classes(folder, **trusted)}
ask = pipeline("image-text-to-text", model=folder)
result |= drawn(pipeline("text-to-image", model=folder), pipeline("image-editing", model=folder), ask)
both = [remote_pipeline("ArmTextToImagePipeline"), remote_pipeline("ArmImageEditingPipeline")]
result["remote_pipelines"] = drawn(*both, pipeline("image-text-to-text", model=folder, **trusted))
print(json.dumps(result))
"""
    return fresh_process(code, published, cache=cache, package=True)


@pytest.fixture(scope="module")
def without_the_package(published, tokenizer_alone, saved, cache):
    """What a process without the package makes of the folder; it saves its model into `saved`."""
    code = """
tokenizer_alone, saved = others
result = {"loaded": auto_classes(folder, **trusted)}
draw, edit = remote_pipeline("ArmTextToImagePipeline"), remote_pipeline("ArmImageEditingPipeline")
result |= drawn(draw, edit, pipeline("image-text-to-text", model=folder, **trusted))
ArmPipeline = remote_class("diffusers_pipeline_arm.ArmPipeline", folder)
pipe = ArmPipeline.from_pretrained(folder, **trusted)
result["diffusers"] = digest(pipe("a red circle left of a blue square", generator=seed()).images[0])
pipe.save_pretrained(saved)

tokenizer = AutoModel.from_pretrained(tokenizer_alone, **trusted)
image_processor = AutoImageProcessor.from_pretrained(tokenizer_alone, **trusted)
result["tokenizer"] = [name(tokenizer), name(image_processor)]
Detokenizer = remote_class("detokenizer_arm_pixel.ArmPixelDetokenizer", tokenizer_alone)
detokenizer = Detokenizer.from_pretrained(tokenizer_alone + "/detokenizer")
detokenizer.vq_model = tokenizer
picture = draw("a red circle left of a blue square", generator=seed())
codes = tokenizer.encode(image_processor(picture, return_tensors="pt").pixel_values).codes
result["restored"] = list(detokenizer(codes=codes, generator=seed()).images[0].size)
print(json.dumps(result))
"""
    return fresh_process(code, published, tokenizer_alone, saved, cache=cache, package=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tmp_path_factory.mktemp("saved") / "arm-tiny-again"


# --- what is written -------------------------------------------------------------------------------------------------


def test_nothing_but_auto_maps_and_code_is_added(published):
    before, after = contents(SHIPPED), contents(published)
    added = {name for name in after if name not in before}
    assert added == NEEDED | {f"detokenizer/{name}" for name in RENDERER}
    changed = {name for name in before if name in after and before[name] != after[name]}
    assert changed == {
        *("config.json", "processor_config.json"),
        *("vq_model/config.json", "vq_model/preprocessor_config.json", "detokenizer/model_index.json"),
    }
    for name in changed - {"detokenizer/model_index.json"}:
        old, new = (json.loads((folder / name).read_text()) for folder in (SHIPPED, published))
        assert without_auto_maps(new) == old
        assert new["auto_map"] and "custom_pipelines" not in new


def test_a_second_call_changes_no_byte(published):
    before = contents(published)
    assert set(add_remote_code(published)) == {name for name in before if name.endswith(".py")}
    assert contents(published) == before


def test_every_sibling_that_a_file_imports_is_there(published, tokenizer_alone):
    for folder in (published, tokenizer_alone):
        # diffusers copies what the file it is told of imports, and no more.
        read = {f"{name}.py" for name in get_relative_imports(folder / "detokenizer" / "remote_renderers_arm.py")}
        assert (
            read | {"remote_renderers_arm.py"} == {file.name for file in folder.glob("detokenizer/*.py")} == RENDERER
        )
        files = {file.stem: get_relative_imports(file) for file in folder.glob("*.py")}
        assert {sibling for imported in files.values() for sibling in imported} <= set(files)
        named = [
            reference.partition(".")[0]
            for file in folder.rglob("*.json")
            for reference in json.loads(file.read_text()).get("auto_map", {}).values()
        ]
        assert named and set(named) <= set(files)


def test_a_tokenizer_gets_no_code_of_the_language_model(tmp_path):
    shutil.copytree(SHIPPED / "vq_model", tmp_path / "vq")
    assert add_remote_code(tmp_path / "vq") == [
        *("attention_arm.py", "configuration_arm.py", "fetching_arm.py", "image_processing_arm.py"),
        *("loading_arm.py", "modeling_arm_vq.py"),
    ]


@pytest.mark.parametrize("kind", ["another model", "no config", "another tokenizer inside"])
def test_other_folders_are_refused_and_left_alone(kind, tmp_path):
    folder = copy_of_shipped(tmp_path / "arm-tiny")
    qwen2 = SHIPPED / "backbones" / "qwen2" / "config.json"
    if kind == "no config":
        (folder / "config.json").unlink()
    else:
        shutil.copyfile(qwen2, folder / ("config.json" if kind == "another model" else "vq_model/config.json"))
    before = contents(folder)
    with pytest.raises(ValueError, match="names no model of the types arm_vq, arm, but"):
        add_remote_code(folder)
    assert contents(folder) == before


def test_an_interruption_leaves_no_auto_map_that_lacks_its_code(tmp_path):
    folder = copy_of_shipped(tmp_path / "arm-tiny")
    (folder / "processing_arm.py").mkdir()  # cannot be replaced by a file
    before = contents(folder)
    with pytest.raises(OSError):
        add_remote_code(folder)
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert not list(folder.glob(".remote_code*"))


# --- what works with it ----------------------------------------------------------------------------------------------


def test_auto_classes_take_the_folders_code_where_there_is_no_package(without_the_package):
    assert without_the_package["loaded"] == {
        "AutoConfig": ["remote", "ArmConfig"],
        "AutoModel": ["remote", "ArmModel"],
        "AutoModelForCausalLM": ["remote", "ArmForCausalLM"],
        "AutoModelForImageTextToText": ["remote", "ArmForCausalLM"],
        "AutoModelForMultimodalLM": ["remote", "ArmForCausalLM"],
        "AutoTokenizer": ["transformers.models.qwen2.tokenization_qwen2", "Qwen2Tokenizer"],
        "AutoImageProcessor": ["remote", "ArmImageProcessor"],
        "AutoProcessor": ["remote", "ArmProcessor"],
        "vq_AutoConfig": ["remote", "ArmVQConfig"],
        "vq_AutoModel": ["remote", "ArmVQModel"],
        "vq_AutoImageProcessor": ["remote", "ArmImageProcessor"],
    }


def test_auto_classes_take_the_package_where_there_is_one(with_the_package, without_the_package):
    modules = {module for module, _ in with_the_package["loaded"].values()}
    assert "remote" not in modules
    names = {auto: name for auto, (_, name) in without_the_package["loaded"].items()}
    assert {auto: name for auto, (_, name) in with_the_package["loaded"].items()} == names


def test_trusting_remote_code_changes_nothing_where_the_package_is(with_the_package):
    assert with_the_package["trusting"] == with_the_package["loaded"]
    made = {name: with_the_package[name] for name in ("picture", "edited", "answer")}
    assert with_the_package["remote_pipelines"] == made


def test_pictures_and_answers_are_the_same_with_and_without_the_package(with_the_package, without_the_package):
    for name in ("picture", "edited", "answer"):
        assert with_the_package[name] == without_the_package[name]
    assert with_the_package["picture"] != with_the_package["edited"]
    assert with_the_package["answer"] == "circle"


def test_the_diffusers_pipeline_draws_the_same_without_the_package(without_the_package):
    assert without_the_package["diffusers"] == without_the_package["picture"]


def test_the_tokenizer_alone_restores_pictures_without_the_package(without_the_package):
    assert without_the_package["tokenizer"] == [["remote", "ArmVQModel"], ["remote", "ArmImageProcessor"]]
    assert without_the_package["restored"] == [48, 48]


def test_what_was_saved_without_the_package_loads_in_both_worlds(saved, without_the_package, cache):
    from transformers import pipeline

    not_in_use = {"interleaved_pipeline_arm.py"}
    assert {file.name for file in saved.glob("*.py")} >= NEEDED - not_in_use
    index = json.loads((saved / "detokenizer" / "model_index.json").read_text())
    assert index["transformer"] == ["transformers_arm.pixel_transformer_arm", "ArmPixelTransformer"]
    code = """
draw, edit = remote_pipeline("ArmTextToImagePipeline"), remote_pipeline("ArmImageEditingPipeline")
print(json.dumps(drawn(draw, edit, pipeline("image-text-to-text", model=folder, **trusted))))
"""
    made = {name: without_the_package[name] for name in ("picture", "edited", "answer")}
    assert fresh_process(code, saved, cache=cache, package=False) == made
    here = {}
    exec("import torch\nfrom transformers import pipeline\n" + DRAW, here)
    tasks = ("text-to-image", "image-editing", "image-text-to-text")
    assert here["drawn"](*(pipeline(task, model=str(saved)) for task in tasks)) == made


@pytest.mark.slow
def test_any_to_any_and_interleaved_answers_come_without_the_package(published, tmp_path):
    told = fresh_process(
        """
import transformers.pipelines.any_to_any as any_to_any

any_to_any.requires_backends = lambda *_: None  # asks for torchvision
paint = pipeline("any-to-any", model=folder, **trusted)
chat = [{"role": "user", "content": [{"type": "text", "text": "a red circle"}]}]
picture = paint(text=chat, generation_mode="image")[0]["generated_image"]
telling = remote_class("interleaved_pipeline_arm.ArmInterleavedPipeline", folder)
parts = telling(paint.model, processor=paint.processor)("tell a story of a red circle above a blue square")
print(json.dumps([name(paint.model)[0], picture.size, [part["type"] for part in parts]]))
""",
        published,
        cache=tmp_path,
        package=False,
    )
    assert told == ["remote", [48, 48], ["image", "text", "image", "text", "image"]]
