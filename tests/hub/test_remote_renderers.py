"""`DiffusionPipeline.from_pretrained` on a renderer's folder: by the package where it is imported, by the folder's
code where it is not and the caller trusts it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_renderers import FAMILIES, new_renderer

from transformers_arm import ArmPixelDetokenizer
from transformers_arm.hub.card_writing import detokenizers_of
from transformers_arm.hub.remote_code import add_remote_code
from transformers_arm.hub.weights import check_pipeline
from transformers_arm.renderers_arm import detokenizer_classes, load_detokenizer

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "arm-tiny"
NAMES = ["pixel", "flux2", "flux", "sana"]
WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["transformers_arm"] = None
import torch
from diffusers import DiffusionPipeline

torch.manual_seed(0)
found = {}
for folder in sys.argv[1:]:
    try:
        DiffusionPipeline.from_pretrained(folder)
    except ValueError as error:
        refused = str(error)
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
    z_q = torch.randn(1, 2, 2, pipe.condition_size)
    image = pipe(z_q, num_inference_steps=1, output_type="np").images
    modules = sorted({type(each).__module__.partition(".")[0] for each in (pipe, *pipe.components.values())})
    pipe.save_pretrained(folder + "/again")
    found[folder] = [refused, type(pipe).__name__, modules, image.shape, str(pipe.dtype)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A renderer of each class, in the folder `detokenizer` of a tokenizer."""
    found = {}
    for family in NAMES:
        found[family] = root = tmp_path_factory.mktemp(family)
        shutil.copytree(SHIPPED / "vq_model", root, dirs_exist_ok=True)
        if family == "pixel":
            shutil.copytree(SHIPPED / "detokenizer", root / "detokenizer")
        else:
            new_renderer(family).save_pretrained(root / "detokenizer")
    return found


@pytest.fixture(scope="module")
def published(folders, tmp_path_factory):
    """The same with their code."""
    found = {}
    for family, folder in folders.items():
        found[family] = shutil.copytree(folder, tmp_path_factory.mktemp("published") / family)
        add_remote_code(found[family])
    return found


def class_of(family):
    return FAMILIES[family][0] if family in FAMILIES else ArmPixelDetokenizer


@pytest.mark.parametrize("family", NAMES)
def test_diffusers_knows_the_class_where_the_package_is_imported(family, folders):
    pipe = DiffusionPipeline.from_pretrained(folders[family] / "detokenizer", dtype=torch.bfloat16)
    assert type(pipe) is class_of(family) and pipe.dtype == torch.bfloat16
    image = pipe(torch.randn(1, 2, 2, pipe.condition_size), num_inference_steps=1, output_type="np").images
    assert image.shape == (1, 32, 32, 3)


def test_diffusers_has_its_own_classes_and_no_others():
    assert {getattr(diffusers, name) for name in detokenizer_classes()} == {*detokenizer_classes().values()}
    assert diffusers.FluxPipeline.__module__.startswith("diffusers.")
    for name in ("ArmNothing", "Nothing"):
        with pytest.raises(AttributeError, match=name):
            getattr(diffusers, name)


def test_code_of_the_folder_renders_where_there_is_no_package(published, tmp_path):
    named = {family: str(folder / "detokenizer") for family, folder in published.items()}
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, *named.values()]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    for family, folder in named.items():
        refused, name, modules, shape, dtype = found[folder]
        assert "contains custom code" in refused and "trust_remote_code=True" in refused
        assert name == class_of(family).__name__ and shape == [1, 32, 32, 3] and dtype == "torch.bfloat16"
        assert modules == ["diffusers", "diffusers_modules"]
        assert type(DiffusionPipeline.from_pretrained(f"{folder}/again")) is class_of(family)


@pytest.mark.parametrize("family", NAMES)
def test_the_package_needs_no_trust_in_code_that_it_does_not_run(family, published):
    loaded = [
        load_detokenizer(str(published[family])),
        class_of(family).from_pretrained(published[family] / "detokenizer"),
    ]
    assert [type(each) for each in loaded] == [class_of(family)] * 2
    with pytest.raises(ValueError, match="contains custom code"):  # which diffusers would run
        DiffusionPipeline.from_pretrained(published[family] / "detokenizer")


@pytest.mark.parametrize("family", NAMES)
def test_what_reads_a_folder_reads_it_with_its_code_too(family, published, folders):
    for root in (published[family], folders[family]):
        assert detokenizers_of(root) == {"detokenizer": class_of(family).__name__}
        assert list(check_pipeline(root / "detokenizer" / "model_index.json"))
