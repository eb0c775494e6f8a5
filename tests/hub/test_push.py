"""What is not fit to be published is refused before anything is sent; what is, arrives in one commit or not at all."""

import json
import pickle
import re
import shutil
import zipfile

import pytest
import torch
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from safetensors.torch import load_file, save_file

from transformers_arm import ArmForCausalLM
from transformers_arm.cli import main
from transformers_arm.evaluation.results import write_result
from transformers_arm.hub.card import base_models, known_licence, read_card, unbacked_figures
from transformers_arm.hub.push import push, staged

TABLE = """
# A model

| score | measured | before |
|---|---|---|
| one | 0.874 | +- 0.012 |
| gain, of 2.13.0 and Qwen2.5, `9.99` | **-0.022** | 1,234.5 |
"""


def write_card(folder, text=TABLE, *, value=0.8737, field="scores/one", command=None, **data):
    """A card whose figures are those of results/scores.json, which is written too."""
    numbers = {"scores": {"one": 0.8737, "spread": [0.0123]}, "gain": -0.0218, "seconds": 1234.5, "nothing": None}
    write_result(folder / "results" / "scores.json", **numbers)
    result = json.loads((folder / "results" / "scores.json").read_text())
    backing = {"file": "results/scores.json", "field": field, "date": result["date"]}
    metric = EvalResult(
        task_type="text-to-image",
        dataset_type="shapes",
        dataset_name="shapes",
        metric_type="accuracy",
        metric_value=value,
        metric_args={**backing, "command": command or result["command"]},
    )
    metadata = ModelCardData(**{"license": "apache-2.0", "model_name": "a model", "eval_results": [metric], **data})
    ModelCard(f"---\n{metadata.to_yaml()}\n---\n{text}").save(folder / "README.md")


def edit_json(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def copied(source, folder):
    return shutil.copytree(source, folder, ignore=shutil.ignore_patterns("backbones"))


@pytest.fixture
def folder(arm_folder, tmp_path):
    """A complete ARM that is fit to be published; each test may spoil it."""
    folder = copied(arm_folder, tmp_path / "arm-untrained")
    write_card(folder)
    return folder


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


@pytest.fixture
def owner(hub, monkeypatch):
    """The server, with its owner logged in and no repos."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.repos.clear()
    hub.requests.clear()
    shutil.rmtree(hub.contents)
    hub.contents.mkdir()
    return hub


def refused(folder, message):
    with pytest.raises(ValueError, match=message), staged(folder, "org/arm"):
        pass


def files_of(hub, repo_id, revision="main"):
    return hub.repos[repo_id].at(revision).files


def sent(hub, method, part):
    return [request for request in hub.requests if request.method == method and part in request.path]


# What is published


def test_all_files_arrive_in_one_commit_with_the_code_beside_them(owner, folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    commit = push(folder, "owner/arm")
    there = files_of(owner, "owner/arm")
    names = {path.relative_to(folder).as_posix() for path in before}
    assert names < there.keys() and {".gitattributes", "modeling_arm.py", "pipeline_arm.py"} <= there.keys()
    assert owner.read("owner/arm", "model.safetensors") == (folder / "model.safetensors").read_bytes()
    assert "auto_map" in json.loads(owner.read("owner/arm", "config.json"))
    assert [made.title for made in owner.repos["owner/arm"].commits.values()] == [
        "initial commit",
        "Upload arm-untrained",
    ]
    assert commit.oid == owner.repos["owner/arm"].branches["main"] and commit.oid in commit.commit_url
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_second_push_without_a_change_makes_no_commit(owner, folder):
    first = push(folder, "owner/arm")
    owner.requests.clear()
    assert push(folder, "owner/arm").oid == first.oid
    assert len(owner.repos["owner/arm"].commits) == 2
    assert not sent(owner, "PUT", "/lfs/") and not sent(owner, "POST", "/commit/")


def test_files_that_are_gone_are_deleted_in_the_same_commit(owner, folder):
    (folder / "pictures").mkdir()
    (folder / "pictures" / "old.txt").write_text("old")
    push(folder, "owner/arm")
    shutil.rmtree(folder / "pictures")
    push(folder, "owner/arm", message="Without pictures")
    assert "pictures/old.txt" not in files_of(owner, "owner/arm") and ".gitattributes" in files_of(owner, "owner/arm")
    assert [made.title for made in owner.repos["owner/arm"].commits.values()][-1] == "Without pictures"
    assert len(owner.repos["owner/arm"].commits) == 3


def test_what_training_and_tools_left_behind_is_not_published(owner, folder):
    for name in (".git/config", ".notes", "__pycache__/x.pyc", "runs/events", "checkpoint-5/optimizer.pt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(pickle.dumps("x"))
    push(folder, "owner/arm")
    tops = {name.partition("/")[0] for name in files_of(owner, "owner/arm")}
    assert not tops & {".git", ".notes", "__pycache__", "runs", "checkpoint-5"}


def test_sharded_weights_arrive_with_their_index(owner, folder):
    (folder / "model.safetensors").rename(folder / "whole.safetensors")
    tensors = load_file(folder / "whole.safetensors")
    (folder / "whole.safetensors").unlink()
    model = ArmForCausalLM.from_pretrained(None, config=str(folder), state_dict=tensors)
    model.save_pretrained(folder, max_shard_size="2MB")
    push(folder, "owner/arm")
    shards = [name for name in files_of(owner, "owner/arm") if name.startswith("model-")]
    assert len(shards) > 2 and "model.safetensors.index.json" in files_of(owner, "owner/arm")


def test_a_tokenizer_alone_is_published(owner, arm_folder, tmp_path):
    folder = copied(f"{arm_folder}/vq_model", tmp_path / "vq")
    write_card(folder)
    push(folder, "owner/vq")
    assert {"modeling_arm_vq.py", "model.safetensors"} <= files_of(owner, "owner/vq").keys()
    assert "modeling_arm.py" not in files_of(owner, "owner/vq")


def test_a_new_repo_can_be_private(owner, folder):
    push(folder, "owner/secret", private=True)
    assert owner.repos["owner/secret"].private
    assert push(folder, "owner/secret").oid == owner.repos["owner/secret"].branches["main"]
    push(folder, "owner/open")
    with pytest.raises(ValueError, match="owner/open is public; make it private in its settings"):
        push(folder, "owner/open", private=True)


# Revisions


def test_a_revision_is_a_branch_with_exactly_these_files_and_main_stays(owner, folder):
    (folder / "old.txt").write_text("old")
    main_commit = push(folder, "owner/arm").oid
    (folder / "old.txt").unlink()
    (folder / "new.txt").write_text("new")
    commit = push(folder, "owner/arm", revision="v1").oid
    assert owner.repos["owner/arm"].branches == {"main": main_commit, "v1": commit}
    assert "new.txt" in files_of(owner, "owner/arm", "v1") and "old.txt" not in files_of(owner, "owner/arm", "v1")
    assert not sent(owner, "PUT", "/lfs/")[5:]  # the weights are there: model, tokenizer, detokenizer
    (folder / "new.txt").write_text("newer")
    push(folder, "owner/arm", revision="v1")
    assert owner.read("owner/arm", "new.txt", "v1") == b"newer"
    assert owner.repos["owner/arm"].branches["main"] == main_commit


def test_a_tag_is_refused(owner, folder):
    push(folder, "owner/arm")
    HfApi().create_tag("owner/arm", tag="v1")
    (folder / "new.txt").write_text("new")
    with pytest.raises(ValueError, match="v1 is a tag of owner/arm, and tags don't move"):
        push(folder, "owner/arm", revision="v1")
    assert "v1" not in owner.repos["owner/arm"].branches


# Interruptions


def test_an_interrupted_push_leaves_nothing_and_the_next_one_sends_only_what_is_missing(owner, folder):
    with owner.failing("PUT", "/lfs/", status=403, skip=2), pytest.raises(PermissionError, match="write to owner/arm"):
        push(folder, "owner/arm")
    assert files_of(owner, "owner/arm").keys() == {".gitattributes"}
    arrived = {request.path for request in sent(owner, "PUT", "/lfs/") if request.status == 200}
    owner.requests.clear()
    push(folder, "owner/arm")
    now = {request.path for request in sent(owner, "PUT", "/lfs/")}
    assert arrived and now and not arrived & now
    assert owner.read("owner/arm", "model.safetensors") == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("revision", [None, "v1", "v2"])
def test_a_failed_commit_leaves_the_repo_as_it_was(owner, folder, revision):
    push(folder, "owner/arm")
    push(folder, "owner/arm", revision="v1")
    branches = dict(owner.repos["owner/arm"].branches)
    (folder / "new.txt").write_text("new")
    with owner.failing("POST", "/commit/", status=400), pytest.raises(OSError, match="did not take owner/arm"):
        push(folder, "owner/arm", revision=revision)
    assert owner.repos["owner/arm"].branches == branches


def test_a_commit_of_somebody_else_on_a_new_branch_is_not_deleted_with_it(owner, folder, monkeypatch):
    push(folder, "owner/arm")
    (folder / "new.txt").write_text("new")
    create_branch = HfApi.create_branch

    def theirs_next(self, repo_id, **keywords):
        create_branch(self, repo_id, **keywords)
        self.upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id=repo_id, revision="v1")

    monkeypatch.setattr(HfApi, "create_branch", theirs_next)
    with pytest.raises(OSError, match="A commit has happened since.* Push again"):
        push(folder, "owner/arm", revision="v1")
    assert owner.read("owner/arm", "theirs.txt", "v1") == b"theirs"


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(owner, folder, monkeypatch):
    push(folder, "owner/arm")
    (folder / "new.txt").write_text("new")
    preupload = HfApi.preupload_lfs_files

    def theirs_first(self, *arguments, **keywords):
        monkeypatch.undo()
        monkeypatch.setenv("HF_TOKEN", owner.token)
        preupload(self, *arguments, **keywords)
        HfApi().upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id="owner/arm")

    monkeypatch.setattr(HfApi, "preupload_lfs_files", theirs_first)
    with pytest.raises(OSError, match="A commit has happened since.* Push again"):
        push(folder, "owner/arm")
    assert "theirs.txt" in files_of(owner, "owner/arm") and "new.txt" not in files_of(owner, "owner/arm")


# What the Hub refuses


def test_without_rights_the_error_names_repo_and_fix(owner, folder, monkeypatch):
    with pytest.raises(PermissionError, match="write to owner/arm: .*`hf auth login`, or set HF_TOKEN"):
        push(folder, "owner/arm", token=owner.stranger_token)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="write to owner/arm: .*`hf auth login`"):
        push(folder, "owner/arm")
    with pytest.raises(PermissionError, match="write to owner/arm"):
        push(folder, "owner/arm", token="hf_wrong")
    assert not owner.repos


def test_without_a_connection_the_error_names_the_repo(hub, folder, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="cannot be reached for owner/arm"):
        push(folder, "owner/arm")
    monkeypatch.undo()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="cannot be reached for owner/arm"):
        push(folder, "owner/arm")


def test_an_impossible_name_is_refused(owner, folder):
    with pytest.raises(ValueError, match="a/b/c"):
        push(folder, "a/b/c")
    assert not owner.requests


# What does not load


def without_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_another_tensor(folder):
    tensors = {**load_file(folder / "model.safetensors"), "extra": torch.zeros(1)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_another_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def cut_off(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def with_a_detokenizer_of_another_size(folder):
    edit_json(folder / "detokenizer" / "transformer" / "config.json", num_layers=3)


def with_a_foreign_component(folder):
    edit_json(folder / "detokenizer" / "model_index.json", scheduler=["os", "system"])


def with_a_pipeline_as_component(folder):
    edit_json(folder / "detokenizer" / "model_index.json", scheduler=["diffusers", "DiffusionPipeline"])


def without_a_component(folder):
    shutil.rmtree(folder / "detokenizer" / "transformer")
    edit_json(folder / "detokenizer" / "model_index.json", transformer=[None, None])


def with_a_component_from_elsewhere(folder):
    shutil.move(folder / "detokenizer" / "scheduler", folder.parent / "scheduler")
    index = json.loads((folder / "detokenizer" / "model_index.json").read_text())
    index["../../scheduler"] = index.pop("scheduler")
    (folder / "detokenizer" / "model_index.json").write_text(json.dumps(index))


def with_an_index_of_other_files(folder):
    index = {"weight_map": {"a": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def with_weights_twice(folder):
    shutil.copyfile(folder / "model.safetensors", folder / "model_ema.safetensors")


def with_weights_of_nothing(folder):
    (folder / "more").mkdir()
    save_file({"a": torch.zeros(1)}, folder / "more" / "a.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_a_tensor, "The weights in .* lack 1 tensors, model.norm.weight first"),
        (with_another_tensor, "have beyond the model 1 tensors, extra first"),
        (with_another_shape, "have in other shapes 1 tensors, model.norm.weight first"),
        (cut_off, "model.safetensors is no whole safetensors file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "does not load: .*no file named model.safetensors"),
        (with_an_index_of_other_files, "index.json is not the index of the .safetensors files beside it"),
        (with_weights_twice, "holds model.safetensors, model_ema.safetensors and no index; keep one of them"),
        (with_weights_of_nothing, "more/a.safetensors belongs to no model"),
        (lambda folder: edit_json(folder / "config.json", architectures=["ArmModels"]), "does not load: .*ArmModels"),
        (lambda folder: (folder / "vq_model" / "model.safetensors").unlink(), "vq_model does not load"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON"),
        (lambda folder: edit_json(folder / "config.json", model_type="qwen2"), "is no ARM .config.json says .*qwen2"),
        (lambda folder: (folder / "config.json").unlink(), "is no ARM .config.json says model_type None"),
        (lambda folder: (folder / "processor_config.json").unlink(), "lacks processor_config.json"),
        (lambda folder: (folder / "generation_config.json").unlink(), "lacks generation_config.json"),
        (lambda folder: shutil.rmtree(folder / "detokenizer"), "lacks detokenizer/model_index.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "processor_config.json does not load"),
        (lambda folder: (folder / "generation_config.json").write_text("no"), "generation_config.json does not load"),
        (with_a_detokenizer_of_another_size, "weights in .*transformer have beyond the model"),
        (with_a_foreign_component, "takes scheduler from 'os', which is none of"),
        (with_a_pipeline_as_component, "scheduler does not load: DiffusionPipeline is a pipeline"),
        (without_a_component, "components scheduler in .* are not those of ArmPixelDetokenizer: see transformer"),
        (with_a_component_from_elsewhere, "not those of ArmPixelDetokenizer: see ../../scheduler, scheduler"),
        (lambda folder: (folder / "detokenizer" / "model_index.json").write_text("[]"), "index.json does not load"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is no ARM .config.json says model_type None"),
        (lambda folder: shutil.rmtree(folder / "detokenizer" / "scheduler"), "scheduler does not load"),
        (shutil.rmtree, "There is no folder"),
    ],
)
def test_what_does_not_load_is_refused_and_nothing_is_sent(owner, folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        push(folder, "owner/arm")
    assert not owner.requests


# What nobody should be handed


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "notes.txt", "vq_model/harmless.json"])
def test_pickles_are_refused_by_name_and_by_content(folder, name):
    (folder / name).write_bytes(pickle.dumps({"a": 1}))
    refused(folder, f"{name} is a pickle or a zip, which can run code")


def test_what_torch_saves_is_refused_under_any_name(folder):
    torch.save({"a": torch.zeros(1)}, folder / "weights.data")
    assert zipfile.is_zipfile(folder / "weights.data")
    refused(folder, "weights.data is a pickle or a zip")


def test_a_pickle_called_safetensors_is_refused(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}, protocol=2) + bytes(20))
    refused(folder, "model.safetensors is no whole safetensors file")


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "elsewhere.txt").write_text("private")
    (folder / "notes.txt").symlink_to(tmp_path / "elsewhere.txt")
    refused(folder, "notes.txt links to .*elsewhere.txt; put what it points to in its place")


def test_a_link_to_a_folder_is_refused(folder):
    (folder / "again").symlink_to(folder / "vq_model")
    refused(folder, "again links to .*vq_model")


def test_a_link_to_nothing_is_refused(folder):
    (folder / "notes.txt").symlink_to(folder / "gone.txt")
    refused(folder, "notes.txt links to .*gone.txt; put what it points to in its place")


def test_a_token_is_refused_and_not_told(folder):
    token = "hf_" + "a1B2" * 8
    (folder / "notes.md").write_text(f"export HF_TOKEN={token}")
    with pytest.raises(ValueError, match="notes.md holds what looks like a token") as error, staged(folder, "org/arm"):
        pass
    assert token not in str(error.value)


def test_a_file_beyond_the_hubs_limit_is_refused(folder):
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(51 * 10**9)  # a hole: it takes no space
    refused(folder, r'model.safetensors has 51.0 GB, the Hub takes 50 GB a file; .*max_shard_size="5GB"')


# Cards


def test_figures_that_results_hold_are_backed(folder):
    assert unbacked_figures(folder) == []


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"text": TABLE.replace("0.874", "0.875")}, "0.875"),
        ({"text": TABLE.replace("-0.022", "0.022")}, "0.022"),
        ({"text": TABLE.replace("1,234.5", "1,243.5")}, "1,243.5"),
        ({"text": TABLE.replace("0.012", "0.0124")}, "0.0124"),
        ({"text": "a | b\n---|---\n0.5 | 1\n"}, "0.5"),
        ({"text": TABLE.replace("0.874", "__0.875__")}, "0.875"),
        ({"text": TABLE.replace("0.874", "_.875_")}, ".875"),
        ({"text": "It is right in 0.875 of all cases."}, "0.875: no result file .*as code"),
        ({"text": "It is right in 87.37% of all cases."}, "87.37: no result file"),
        ({"value": 0.874}, r"accuracy 0.874: results/scores.json says 0.8737 in scores/one"),
        ({"field": "scores/two"}, "results/scores.json has no field scores/two"),
        ({"field": "nothing"}, "results/scores.json says None in nothing"),
        ({"command": "python else.py"}, "results/scores.json has another command"),
    ],
)
def test_figures_without_a_result_are_named(folder, card, message):
    write_card(folder, **card)
    (found,) = unbacked_figures(folder)
    assert re.search(message, found)
    refused(folder, "1 figures in .*README.md are not backed by a result file")


def test_a_metric_of_a_file_that_is_no_result_is_not_backed(folder):
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("file: results/scores.json", "file: config.json"))
    assert unbacked_figures(folder) == ["accuracy 0.8737: there is no result file config.json"]


def test_what_is_no_measurement_is_not_looked_up(folder):
    prose = "apache-2.0, as arXiv 2606.11188 says in section 3.1, with `top_p` of `0.75`"
    write_card(folder, f"| a | `0.5` [x](a/1.5.png) |\n```\n| 0.25 |\n```\n{prose}\n")
    assert unbacked_figures(folder) == []


def test_settings_of_the_folder_stand_in_prose_but_not_among_measurements(folder):
    edit_json(folder / "generation_config.json", image_generation={"temperature": 0.4375})
    write_card(folder, "Drawn at a temperature of 0.4375.\n")
    assert unbacked_figures(folder) == []
    write_card(folder, "| exact | 0.4375 |\n")
    assert len(unbacked_figures(folder)) == 1


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("license: [", "metadata of .* cannot be read"),
        ("tags: [arm]", "states the licence None; its metadata needs one `license:`"),
        ("license: [mit, apache-2.0]", "states the licence .*needs one"),
        ("license: other", "`license: other`; its metadata needs license_name and license_link"),
        ("license: other\nlicense_name: [a]\nlicense_link: b", "its metadata needs license_name and license_link"),
        ("license: mit\nbase_model: {name: Qwen/Qwen2.5-3B}", "names the base_model .*needs an id on the Hub"),
        ("license: mit\nbase_model: [{name: Qwen/Qwen2.5-3B}]", "names the base_model .*needs an id on the Hub"),
        ("license: mit\nmodel-index:\n- results: 3", "metadata of .* cannot be read"),
    ],
)
def test_a_card_without_valid_metadata_is_refused(folder, metadata, message):
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n# A model\n")
    refused(folder, message)


def test_a_folder_without_a_card_is_refused(folder):
    (folder / "README.md").unlink()
    refused(folder, "has no README.md; write its model card")


# Licences

FLUX = {"license": "other", "license_name": "flux-1-dev-non-commercial-license", "license_link": "LICENSE.md"}


@pytest.mark.parametrize(
    ("base", "licence"),
    [
        ("Qwen/Qwen2.5-7B", "apache-2.0"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "apache-2.0"),
        ("Qwen/Qwen2.5-3B", "qwen-research"),
        ("Qwen/Qwen2.5-Coder-3B", "qwen-research"),
        ("Qwen/Qwen2.5-72B-Instruct", "qwen"),
        ("google/siglip2-so400m-patch16-512", "apache-2.0"),
        ("black-forest-labs/FLUX.1-dev", "flux-1-dev-non-commercial-license"),
        ("black-forest-labs/FLUX.1-schnell", "apache-2.0"),
        ("Efficient-Large-Model/Sana_600M_512px_diffusers", "nscl-v2-custom"),
    ],
)
def test_licences_of_what_arm_is_built_from_are_known(base, licence):
    assert licence in known_licence(base)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (
            {"base_model": "black-forest-labs/FLUX.1-dev"},
            "apache-2.0, but .*FLUX.1-dev .README.md shows it",
        ),
        ({"base_model": ["Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-3B"]}, "built from Qwen/Qwen2.5-3B .*under qwen-research"),
        ({"base_model": "Qwen/Qwen2.5-72B", **FLUX}, "built from Qwen/Qwen2.5-72B .*under qwen;"),
        ({"base_model": "Efficient-Large-Model/Sana_1600M_1024px"}, "nscl-v2-custom or nvidia-open-model-license"),
    ],
)
def test_a_licence_that_an_origin_does_not_allow_is_refused(folder, card, message):
    write_card(folder, **card)
    refused(folder, message)


@pytest.mark.parametrize(
    "card",
    [
        {"base_model": ["Qwen/Qwen2.5-7B", "google/siglip2-so400m-patch16-512"]},
        {"base_model": "Qwen/Qwen2.5-7B", "license": "mit"},
        {"base_model": ["Qwen/Qwen2.5-7B", "black-forest-labs/FLUX.1-dev"], **FLUX},
        {
            "base_model": ["Qwen/Qwen2.5-3B", "black-forest-labs/FLUX.1-dev"],
            **FLUX,
            "license_name": "flux-1-dev-non-commercial-license, qwen-research",
        },
    ],
)
def test_a_licence_that_all_origins_allow_is_taken(folder, card):
    write_card(folder, **card)
    with staged(folder, "org/arm"):
        pass


@pytest.mark.parametrize(
    ("config", "base"),
    [
        ({"_class_name": "FluxTransformer2DModel", "guidance_embeds": True}, "black-forest-labs/FLUX.1-dev"),
        ({"_class_name": "SanaTransformer2DModel", "num_layers": 20}, "Efficient-Large-Model/Sana_1600M_1024px"),
    ],
)
def test_what_a_detokenizer_shows_of_its_origin_counts(folder, config, base):
    transformer = folder / "detokenizer" / "prior"
    transformer.mkdir()
    (transformer / "config.json").write_text(json.dumps(config))
    refused(folder, f"built from {base} .detokenizer/prior/config.json shows it")


def test_the_hub_is_asked_for_the_licence_of_other_bases(owner, folder, tmp_path):
    for name, licence in (("closed", "cc-by-nc-4.0"), ("open", "mit"), ("silent", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n" if licence else "# Nothing\n")
        owner.add_repo(f"other/{name}", tmp_path / name)
    write_card(folder, base_model="other/closed")
    refused(folder, "built from other/closed .*under cc-by-nc-4.0")
    write_card(folder, base_model="other/silent")
    refused(folder, "other/silent, a base_model in README.md, states no licence")
    write_card(folder, base_model="other/none")
    refused(folder, "The licence of other/none, a base_model in README.md, cannot be found")
    write_card(folder, base_model="../other/open")
    refused(folder, "The licence of ../other/open")
    for card in ({"base_model": "other/open"}, {"base_model": "other/closed", "license": "cc-by-nc-4.0"}):
        write_card(folder, **card)
        with staged(folder, "org/arm"):
            pass
    assert base_models(read_card(folder).data) == ["other/closed"]


def test_what_a_base_on_the_hub_was_built_from_counts_too(owner, folder, tmp_path):
    (tmp_path / "base").mkdir()
    names = "base_model: [black-forest-labs/FLUX.1-dev, gone/model]"
    (tmp_path / "base" / "README.md").write_text(f"---\nlicense: apache-2.0\n{names}\n---\n")
    owner.add_repo("other/base", tmp_path / "base")
    write_card(folder, base_model="other/base")
    refused(folder, "built from black-forest-labs/FLUX.1-dev .the card of other/base shows it")
    write_card(folder, base_model="other/base", **FLUX)
    with staged(folder, "org/arm"):
        pass


def test_a_base_under_several_licences_allows_what_holds_them_all(owner, folder, tmp_path):
    both = "flux-1-dev-non-commercial-license, qwen-research"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text(f"---\nlicense: other\nlicense_name: {both}\n---\n")
    owner.add_repo("other/base", tmp_path / "base")
    write_card(folder, base_model="other/base", **FLUX)
    refused(folder, "built from other/base")
    write_card(folder, base_model="other/base", **{**FLUX, "license_name": both})
    with staged(folder, "org/arm"):
        pass


# Adapters

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


# The command


def test_the_command_prints_where_the_commit_is(owner, folder, capsys):
    command = ["push", str(folder), "--repo", "owner/arm", "--private", "--revision", "v1", "--message", "First"]
    assert main(command) == 0
    repo = owner.repos["owner/arm"]
    assert capsys.readouterr().out == f"{owner.endpoint}/owner/arm/commit/{repo.branches['v1']}\n"
    assert repo.private and repo.at("v1").title == "First"


def test_a_dry_run_lists_the_files_and_sends_nothing(owner, folder, capsys):
    assert main(["push", str(folder), "--repo", "owner/arm", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size:>15,}  model.safetensors" in lines
    assert lines[-1].endswith(f" bytes in {len(lines) - 1} files; nothing was sent")
    assert any(line.endswith("  modeling_arm.py") for line in lines)
    assert not owner.requests


def test_the_command_tells_what_is_wrong(owner, folder, capsys):
    (folder / "training_args.bin").write_bytes(b"x")
    assert main(["push", str(folder), "--repo", "owner/arm"]) == 1
    assert capsys.readouterr().err.endswith("remove it, or save it as safetensors.\n")
    assert not owner.requests


def test_the_published_card_loads_from_the_repo_whatever_it_was_written_for(folder):
    card = folder / "README.md"
    card.write_text(card.read_text() + '\n```python\nrepo = "checkpoints/arm"  # here\nload(repo)\n```\n')
    written = card.read_text()
    with staged(folder, "org/arm") as copies:
        assert (copies / "README.md").read_text() == written.replace('"checkpoints/arm"', '"org/arm"')
    assert card.read_text() == written
