"""What is fit to be published arrives in one commit or not at all; errors and the command say what became of it."""

import json
import pickle
import shutil
from functools import partial

import pytest
from huggingface_hub import HfApi
from push_folders import copied, files_of, write_card
from safetensors.torch import load_file

from transformers_arm import ArmForCausalLM
from transformers_arm.cli import main
from transformers_arm.hub import push as hub_push

push = partial(hub_push.push, trial=False)  # what is sent, and how; `test_trial` looks at what is tried before


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
    (folder / "pictures" / "old.md").write_text("old")
    push(folder, "owner/arm")
    shutil.rmtree(folder / "pictures")
    push(folder, "owner/arm", message="Without pictures")
    assert "pictures/old.md" not in files_of(owner, "owner/arm") and ".gitattributes" in files_of(owner, "owner/arm")
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
    (folder / "old.md").write_text("old")
    main_commit = push(folder, "owner/arm").oid
    (folder / "old.md").unlink()
    (folder / "new.md").write_text("new")
    commit = push(folder, "owner/arm", revision="v1").oid
    assert owner.repos["owner/arm"].branches == {"main": main_commit, "v1": commit}
    assert "new.md" in files_of(owner, "owner/arm", "v1") and "old.md" not in files_of(owner, "owner/arm", "v1")
    assert not sent(owner, "PUT", "/lfs/")[5:]  # the weights are there: model, tokenizer, detokenizer
    (folder / "new.md").write_text("newer")
    push(folder, "owner/arm", revision="v1")
    assert owner.read("owner/arm", "new.md", "v1") == b"newer"
    assert owner.repos["owner/arm"].branches["main"] == main_commit


def test_a_tag_is_refused(owner, folder):
    push(folder, "owner/arm")
    HfApi().create_tag("owner/arm", tag="v1")
    (folder / "new.md").write_text("new")
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
    (folder / "new.md").write_text("new")
    with owner.failing("POST", "/commit/", status=400), pytest.raises(OSError, match="did not take owner/arm"):
        push(folder, "owner/arm", revision=revision)
    assert owner.repos["owner/arm"].branches == branches


def test_a_commit_of_somebody_else_on_a_new_branch_is_not_deleted_with_it(owner, folder, monkeypatch):
    push(folder, "owner/arm")
    (folder / "new.md").write_text("new")
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
    (folder / "new.md").write_text("new")
    preupload = HfApi.preupload_lfs_files

    def theirs_first(self, *arguments, **keywords):
        monkeypatch.undo()
        monkeypatch.setenv("HF_TOKEN", owner.token)
        preupload(self, *arguments, **keywords)
        HfApi().upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id="owner/arm")

    monkeypatch.setattr(HfApi, "preupload_lfs_files", theirs_first)
    with pytest.raises(OSError, match="A commit has happened since.* Push again"):
        push(folder, "owner/arm")
    assert "theirs.txt" in files_of(owner, "owner/arm") and "new.md" not in files_of(owner, "owner/arm")


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


# The command


def test_the_command_prints_where_the_commit_is(owner, folder, capsys):
    command = ["push", str(folder), "--repo", "owner/arm", "--private", "--revision", "v1", "--message", "First"]
    assert main(command) == 0
    repo = owner.repos["owner/arm"]
    assert capsys.readouterr().out == f"{owner.endpoint}/owner/arm/commit/{repo.branches['v1']}\n"
    assert repo.private and repo.at("v1").title == "First"


def test_a_dry_run_lists_the_files_and_sends_nothing(owner, folder, capsys):
    assert main(["push", str(folder), "--repo", "owner/arm", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""  # bars and warnings of loaders are not about the folder
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size:>15,}  model.safetensors" in lines
    assert lines[-1].endswith(f" bytes in {len(lines) - 1} files; nothing was sent")
    assert any(line.endswith("  modeling_arm.py") for line in lines)
    assert not owner.requests


def test_the_command_tells_what_is_wrong(owner, folder, capsys):
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert main(["push", str(folder), "--repo", "owner/arm"]) == 1
    assert capsys.readouterr().err.startswith("transformers-arm: pytorch_model.bin is nothing that a")
    assert not owner.requests
