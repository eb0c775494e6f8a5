"""Puts ARM's code into a model's folder, so that transformers loads it with `trust_remote_code=True` alone.

The flat `*_arm*.py` files are copied beside the weights, and `auto_map` in the folder's JSON files says which class is
which. Where this package is installed, Auto classes take its own. A renderer's folder gets its code too, and names it
as diffusers has it: `DiffusionPipeline` loads it alone. Knows nothing about the Hub.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.dynamic_module_utils import get_relative_import_files

from ..configuration_arm import ArmConfig, ArmVQConfig
from ..image_processing_arm import ArmImageProcessor
from ..modeling_arm import ArmForCausalLM, ArmModel
from ..modeling_arm_vq import ArmVQModel
from ..processing_arm import ArmProcessor
from ..renderers_arm import DETOKENIZER_FOLDER, INDEX, detokenizer_class
from .files import PACKAGE, read_json

MODELS = {
    ArmVQConfig.model_type: {"AutoConfig": ArmVQConfig, "AutoModel": ArmVQModel},
    ArmConfig.model_type: {
        "AutoConfig": ArmConfig,
        "AutoModel": ArmModel,
        "AutoModelForCausalLM": ArmForCausalLM,
        "AutoModelForImageTextToText": ArmForCausalLM,
        "AutoModelForMultimodalLM": ArmForCausalLM,
    },
}
RENDERERS = PACKAGE / "remote_renderers_arm.py"
IMAGE_PROCESSOR = {"AutoImageProcessor": ArmImageProcessor}
PROCESSOR = {"AutoProcessor": ArmProcessor}


def module_of(auto_class: type) -> str:
    """The flat file of a class, without `.py`."""
    return auto_class.__module__.rpartition(".")[-1]


def add_auto_map(content: dict, classes: dict[str, type]) -> None:
    """Says in the content of a JSON file which class each Auto class stands for."""
    content["auto_map"] = {auto: f"{module_of(named)}.{named.__name__}" for auto, named in classes.items()}


def mapped_files(folder: Path) -> Iterator[tuple[Path, dict, dict[str, type]]]:
    """The JSON files of a folder that name ARM's classes, with their new content and those classes.

    Raises:
        ValueError: config.json is missing or of another kind of model.
    """
    config = folder / "config.json"
    content = read_json(config) if config.is_file() else {}
    if content.get("model_type") not in MODELS:
        raise ValueError(
            f"{config} names no model of the types {', '.join(MODELS)}, but {content.get('model_type')!r}; name the "
            "folder of an ARM or of its tokenizer."
        )
    classes = MODELS[content["model_type"]]
    add_auto_map(content, classes)
    yield config, content, classes
    for name, classes in (("processor_config.json", PROCESSOR), ("preprocessor_config.json", IMAGE_PROCESSOR)):
        if (folder / name).is_file():
            content = read_json(folder / name)
            add_auto_map(content, classes)
            if "image_processor" in content:
                add_auto_map(content["image_processor"], IMAGE_PROCESSOR)
            yield folder / name, content, classes
    if (folder / "vq_model").is_dir():
        yield from mapped_files(folder / "vq_model")


def add_remote_code(folder: str | os.PathLike) -> list[str]:
    """Makes a folder work without this package: copies its code into it and writes `auto_map` into its JSON files.

    The folder is that of an ARM, or of its tokenizer alone. Nothing else in the JSON files changes, code of an
    earlier call is replaced, and the files get their new content only when all of it has been written. There is no
    `custom_pipelines` among it: with that, `pipeline(task)` would ask for `trust_remote_code` even where this package
    is installed; `pipeline_arm` says how to get pipelines without it.

    Returns:
        The code files, as the folder names them.

    Raises:
        ValueError: the folder, or its `vq_model`, holds no model of ours.
    """
    folder = Path(folder)
    mapped = list(mapped_files(folder))
    roots = {PACKAGE / f"{module_of(named)}.py" for _, _, classes in mapped for named in classes.values()}
    if mapped[0][1]["model_type"] == ArmConfig.model_type:
        roots |= set(PACKAGE.glob("*pipeline_arm.py"))
    contents = {file: content for file, content, _ in mapped}
    places = [(folder, roots)]
    if (renderer := folder / DETOKENIZER_FOLDER).is_dir():
        named = detokenizer_class(renderer)
        roots.add(PACKAGE / f"{module_of(named)}.py")
        places.append((renderer, {RENDERERS}))
        contents[renderer / INDEX] = {**read_json(renderer / INDEX), "_class_name": [RENDERERS.stem, named.__name__]}
    copies = {place / file.name: file for place, of_place in places for file in with_siblings(of_place)}
    with TemporaryDirectory(dir=folder, prefix=".remote_code-") as staging:
        staged = {}
        for number, target in enumerate([*copies, *contents]):
            aside = Path(staging) / str(number)
            if target in copies:
                shutil.copyfile(copies[target], aside)
            else:
                text = json.dumps(contents[target], indent=2, sort_keys=True, ensure_ascii=False)
                aside.write_text(f"{text}\n", encoding="utf-8")
            staged[aside] = target
        # Code first: without what names it, it changes nothing.
        for aside, target in staged.items():
            aside.replace(target)
    return [target.relative_to(folder).as_posix() for target in copies]


def with_siblings(roots: set[Path]) -> list[Path]:
    """Files, and those that they import from beside them."""
    return sorted({Path(file) for root in roots for file in (root, *get_relative_import_files(root))})
