"""Published ARMs, loaded by repo id in fresh processes, from a server that speaks the Hub's protocol."""

import hashlib
import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from transformers_arm import ArmForCausalLM, ArmPipeline, ArmProcessor, ArmTextToImagePipeline
from transformers_arm.hub.remote_code import add_remote_code
from transformers_arm.renderers_arm import load_detokenizer
from transformers_arm.sizes.adapters import lora_config
from transformers_arm.training.parts import detokenizer_of

TESTS = Path(__file__).parents[1]
SHIPPED = TESTS.parent / "checkpoints" / "arm-tiny"
CLIENT = TESTS / "hub_client.py"
REFUSED = [
    ('pipeline("text-to-image", model="org/arm", revision="v9")', "OSError: v9 is not a valid .*/org/arm"),
    ('load_detokenizer("org/arm", revision="v9")', "OSError: The detokenizer of org/arm could not .* rev id: v9"),
    ('pipeline("text-to-image", model="org/nothing")', "OSError: org/nothing is not .* `hf auth login`"),
    ('pipeline("text-to-image", model="org/private")', "OSError: org/private is not .* `hf auth login`"),
    ('pipeline("text-to-image", model="org/no-weights")', "org/no-weights does not appear to have a file named"),
    ('pipeline("text-to-image", model="org/no-processor")', "OSError: Can't load .* for 'org/no-processor'"),
    (
        'pipeline("image-editing", model="org/no-detokenizer")',
        "FileNotFoundError: org/no-detokenizer holds no detokenizer/model_index.json; name a complete ARM folder",
    ),
    (
        'load_detokenizer("org/no-detokenizer", local_files_only=True)',
        "org/no-detokenizer holds no detokenizer/model_index.json among what was downloaded of it",
    ),
    ('pipeline("text-to-image", model="org/gated")', "OSError: .* gated repo.* 401 .* org/gated .* Please log in"),
    ('AutoProcessor.from_pretrained("org/gated")', "OSError: .* gated repo.* 401 .* org/gated .* Please log in"),
    ('load_detokenizer("org/gated")', "OSError: The detokenizer of org/gated could not .* `hf auth login`.* 401 "),
    (
        'pipeline("text-to-image", model="org/gated", token="hf_stranger")',
        "OSError: .* gated repo.* 403 .* org/gated .* not in the authorized list",
    ),
    (
        'load_detokenizer("org/gated", token="hf_stranger")',
        "OSError: The detokenizer of org/gated could not .* 403 .* not in the authorized list",
    ),
    (
        'pipeline("text-to-image", model="org/gated", token="hf_nobody")',
        "OSError: .* org/gated: .*Invalid credentials",
    ),
]
LOADED = {  # one after the other
    'pipeline("text-to-image", model="org/gated", token="hf_owner")': "ArmTextToImagePipeline",
    'ArmPipeline.from_pretrained("org/gated", token="hf_owner")': "ArmPipeline",
    'pipeline("image-editing", model="org/gated", local_files_only=True)': "ArmImageEditingPipeline",
}
ATTEMPT = """
import json

from transformers import AutoProcessor, pipeline
from transformers_arm import ArmPipeline
from transformers_arm.renderers_arm import load_detokenizer


def attempt(call):
    try:
        return type(eval(call)).__name__
    except Exception as error:
        return f"{type(error).__name__}: {error}"


print(json.dumps({call: attempt(call) for call in CALLS}))
"""


def attempts(hub, calls, **options):
    """What came of each call, all in one fresh process: the name of a class, or the error."""
    done = hub.run(f"CALLS = {calls!r}\n{ATTEMPT}", **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def reports(hub, revisions, package, **options):
    """What loading org/arm leads to, revision by revision, in one fresh process."""
    code = f"""
import json
import runpy

report = runpy.run_path({str(CLIENT)!r})["report"]
print(json.dumps([report("org/arm", revision, {package}) for revision in {revisions!r}]))
"""
    done = hub.run(code, package=package, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def change(folder, name):
    """Makes another commit of a published folder: of all that a load may take from it, something is different."""
    for file in ("model.safetensors", "detokenizer/transformer/diffusion_pytorch_model.safetensors"):
        tensors = {
            key: value * 1.01 if value.is_floating_point() else value
            for key, value in load_file(folder / file).items()
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{# changed #}")
    for file in folder.glob("*.py"):
        file.write_text(file.read_text().replace('REVISION = "v1"', f'REVISION = "{name}"'))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """arm-tiny with its code: what is published at first, and what it is changed into."""
    first, second = (tmp_path_factory.mktemp("published") / name for name in ("first", "second"))
    shutil.copytree(SHIPPED, first)
    for name in add_remote_code(first):
        (first / name).write_text((first / name).read_text() + '\n\nREVISION = "v1"\n')
    shutil.copytree(first, second)
    change(second, "main")
    return {"v1": first, "main": second}


@pytest.fixture(scope="module")
def published(hub, folders):
    """The server, with org/arm, whose first commit has the tag v1."""
    sha = hub.add_repo("org/arm", folders["v1"])
    hub.repos["org/arm"].tags["v1"] = sha
    hub.add_repo("org/arm", folders["main"])
    return hub


@pytest.fixture(scope="module")
def expected(folders):
    """What the folders themselves lead to, here, by the package."""
    report = runpy.run_path(str(CLIENT))["report"]
    return {revision: report(str(folder)) for revision, folder in folders.items()}


@pytest.fixture(scope="module", params=[True, False], ids=["package", "remote_code"])
def package(request):
    return request.param


@pytest.fixture(scope="module")
def downloaded(published, package, tmp_path_factory):
    """The cache that a process has filled, and its reports of main and v1."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, dict(zip(("main", "v1"), reports(published, [None, "v1"], package, cache=cache), strict=True))


def by(package, revision, report):
    """A report of the package's, as it must be when a revision's own code ran instead, and only if it was allowed."""
    refused = "The repository org/arm contains custom code which must be ex"
    return report if package else {**report, "code": [revision], "untrusted": refused}


def whole_files(cache):
    """How many files a cache holds, all of which must be what their names say: a sha256, or git's name of a blob."""
    blobs = list((cache / "hub").glob("models--*/blobs/*"))
    for file in blobs:
        content = file.read_bytes()
        names = hashlib.sha256(content).hexdigest(), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        assert file.name in names
    return len(blobs)


# --- what works ------------------------------------------------------------------------------------------------------


def test_revisions_differ_in_all_that_a_load_takes_from_them(expected):
    first, second = expected["v1"], expected["main"]
    parts = ("weights", "detokenizer", "template", "drawn", "edited")
    assert [part for part in parts if first[part] == second[part]] == []
    assert first["drawn"] == first["drawn by diffusers' names"]


@pytest.mark.parametrize("load", ["transformers", "diffusers"])
def test_all_parts_are_of_one_commit_when_the_branch_moves_on_meanwhile(hub, folders, load, monkeypatch):
    repo = f"org/moving-{load}"
    first = hub.add_repo(repo, folders["v1"])
    plain_load = ArmForCausalLM.from_pretrained.__func__

    def overtaken(cls, *args, **kwargs):
        model = plain_load(cls, *args, **kwargs)
        hub.add_repo(repo, folders["main"])
        return model

    monkeypatch.setattr(ArmForCausalLM, "from_pretrained", classmethod(overtaken))
    if load == "diffusers":
        pipe = ArmPipeline.from_pretrained(repo)
        assert "changed" not in pipe.processor.chat_template
    else:
        model = ArmForCausalLM.from_pretrained(repo)
        pipe = ArmTextToImagePipeline(model, processor=ArmProcessor.from_pretrained(repo))
    assert pipe.model.hub_options["revision"] == first != hub.repos[repo].branches["main"]
    file = folders["v1"] / "detokenizer" / "transformer" / "diffusion_pytorch_model.safetensors"
    found = pipe.detokenizer.transformer.state_dict()
    assert all(torch.equal(found[name], value.float()) for name, value in load_file(file).items())


def test_the_parts_of_an_adapter_are_those_of_its_base_and_not_of_the_adapter_s_commit(hub, folders, tmp_path):
    base = ArmForCausalLM.from_pretrained(folders["v1"])
    get_peft_model(base, lora_config(base, r=2)).save_pretrained(tmp_path)
    commit = hub.add_repo("org/adapter", tmp_path)
    model = ArmForCausalLM.from_pretrained("org/adapter", revision=commit)
    assert model.name_or_path == str(folders["v1"]) and "revision" not in model.hub_options
    assert detokenizer_of(model).transformer.config == load_detokenizer(str(folders["v1"])).transformer.config


def test_a_repo_loads_and_draws_as_its_folder_does(downloaded, expected, package):
    assert downloaded[1]["main"] == by(package, "main", expected["main"])


def test_a_pinned_revision_is_that_of_model_detokenizer_processor_and_code(downloaded, expected, package):
    assert downloaded[1]["v1"] == by(package, "v1", expected["v1"])


def test_the_second_load_needs_no_network(downloaded, published, package):
    cache, online = downloaded
    asked = len(published.requests)
    offline = reports(published, [None, "v1"], package, cache=cache, offline=True)
    assert offline == [online["main"], online["v1"]]
    assert len(published.requests) == asked


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refused(published, folders, tmp_path_factory):
    """What came of each call that a repo must refuse, and of the one that it must not."""
    for name, gone in {
        "no-weights": "model.safetensors",
        "no-processor": "processor_config.json",
        "no-detokenizer": "detokenizer",
    }.items():
        folder = tmp_path_factory.mktemp("incomplete") / name
        shutil.copytree(folders["main"], folder, ignore=shutil.ignore_patterns(gone))
        published.add_repo(f"org/{name}", folder)
    published.add_repo("org/private", folders["main"], private=True)
    published.add_repo("org/gated", folders["main"], gated=True)
    calls = [*(call for call, _ in REFUSED), *LOADED]
    return attempts(published, calls, cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_an_error_names_the_repo_and_what_to_do(refused, call, message):
    assert re.search(message, refused[call].replace("\n", " ")), refused[call]


def test_a_gated_repo_loads_with_a_token_and_from_the_cache_without(refused):
    assert {call: refused[call] for call in LOADED} == LOADED


# --- broken connections ----------------------------------------------------------------------------------------------


DRAW = 'pipeline("text-to-image", model="org/arm")'
DETOKENIZER = 'load_detokenizer("org/arm")'
CACHED_ONLY = 'load_detokenizer("org/arm", local_files_only=True)'


@pytest.fixture(scope="module")
def broken(published, tmp_path_factory):
    """The cache of a process whose connection dropped in every large file, again and again, and what came of it."""
    cache = tmp_path_factory.mktemp("cache")
    with published.failing("GET", r"\.safetensors$", after=100_000):
        return cache, attempts(published, [DRAW, DETOKENIZER, CACHED_ONLY], cache=cache)


def test_a_connection_that_drops_leaves_no_part_of_a_file(broken):
    cache, results = broken
    assert "Could not load model org/arm" in results[DRAW]
    assert "OSError: The detokenizer of org/arm could not be downloaded" in results[DETOKENIZER]
    assert whole_files(cache) > 0
    assert not [*cache.rglob("*.incomplete"), *cache.rglob("*.safetensors")]


def test_what_was_downloaded_in_part_is_not_taken_for_whole(broken):
    assert "OSError: The detokenizer of org/arm could not be downloaded" in broken[1][CACHED_ONLY]


def test_the_next_load_fills_the_gaps_over_a_connection_that_drops_once(broken, published, expected):
    with published.failing("GET", "/model.safetensors$", after=1_000_000, times=1):
        (report,) = reports(published, [None], True, cache=broken[0])
    assert report == expected["main"]
    assert whole_files(broken[0]) >= 10
