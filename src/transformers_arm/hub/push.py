"""Publishes a folder as a repo of the Hub: checked whole, with ARM's code beside the weights, in one commit.

A folder is a complete ARM, a tokenizer alone, or a LoRA adapter of ARM. What would not serve those who download it, or
mislead them, is refused before anything is sent: see `staged`. Knows nothing about how folders and cards are made.
"""

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import diffusers
import transformers
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from ..configuration_arm import ArmConfig, ArmVQConfig
from ..extras import require
from ..renderers_arm import DETOKENIZER_FOLDER
from .card import CARD, check_licence, doubt_of_origin, read_card, said_by, unbacked_figures
from .files import PIPELINE, WEIGHTS, checked_files, read_json
from .remote_code import add_remote_code
from .secrets import check_secrets
from .trial import try_arm, try_tokenizer
from .weights import ADAPTER, ADAPTER_WEIGHTS, adapter_base, check_adapter, check_models, check_values

logger = logging.getLogger(__name__)
NEEDED = {  # of each kind of folder
    ArmConfig.model_type: ("generation_config.json", "processor_config.json", f"{DETOKENIZER_FOLDER}/{PIPELINE}"),
    ArmVQConfig.model_type: ("preprocessor_config.json",),
    "adapter": (ADAPTER_WEIGHTS,),
}
CARD_REPO = re.compile(r'^repo = "[^"\n]*"', re.MULTILINE)
NOT_TRIED = "was not tried: whether it draws, edits and answers is not known"


def kind_of(folder: Path) -> str:
    """The key of `NEEDED` that a folder's files tell.

    Raises:
        ValueError: they tell none of them.
    """
    if (folder / ADAPTER).is_file():
        return "adapter"
    found = read_json(folder / "config.json").get("model_type") if (folder / "config.json").is_file() else None
    if found not in NEEDED:
        raise ValueError(
            f"{folder} is no ARM (config.json says model_type {found!r}), no tokenizer of ARM's (arm_vq) and no "
            f"adapter ({ADAPTER}); name the folder of one of them."
        )
    return found


def checked(folder: Path, token: str | None, tell: Callable[[str], object]) -> tuple[str, dict[str, Path]]:
    """Checks all of a folder that can be without a trial; returns its kind and the files that are published.

    Raises:
        ValueError: the folder is not fit to be published.
    """
    files, left_out = checked_files(folder)
    kind = kind_of(folder)
    if missing := [name for name in NEEDED[kind] if name not in files]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which this kind of folder ({kind}) is published with.")
    check_secrets(files)
    for name, why in left_out.items():
        tell(f"{name} is left out: {why}.")
    card = read_card(folder)
    if kind == "adapter":
        check_adapter(folder, adapter_base(folder, card)[0], token)
    if unbacked := unbacked_figures(folder):
        raise ValueError(
            f"{len(unbacked)} figures in {folder / CARD} are not backed by a result file: {'. '.join(unbacked[:5])}. "
            "Measure them, and write the card from what was written."
        )
    check_licence(card, files, HfApi(token=token))
    # What reads all weights comes last.
    check_models(folder, files)
    check_values(files)
    if doubt := doubt_of_origin(card, files):
        tell(doubt)
    return kind, files


def copy_to(copies: Path, folder: Path, files: dict[str, Path], kind: str, repo_id: str) -> None:
    """Makes what will be published of a folder's files, as `staged` says."""
    for name, file in files.items():
        (copies / name).parent.mkdir(parents=True, exist_ok=True)
        copy = os.symlink if file.suffix == WEIGHTS else shutil.copyfile
        copy(file.resolve(), copies / name)
    if kind == "adapter":
        named = adapter_base(folder, read_card(folder))[1]
        content = {**read_json(copies / ADAPTER), "base_model_name_or_path": named}
        (copies / ADAPTER).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    else:
        add_remote_code(copies)
    text = (copies / CARD).read_text(encoding="utf-8")
    (copies / CARD).write_text(CARD_REPO.sub(f'repo = "{repo_id}"', text), encoding="utf-8")


@contextmanager
def quietly() -> Iterator[None]:
    """Without the bars and warnings of loaders: here, what is wrong is an error."""
    logs = transformers.utils.logging, diffusers.utils.logging
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, level, had_bars in before:
            log.set_verbosity(level)
            if had_bars:
                log.enable_progress_bar()


def try_out(folder: Path, copies: Path, kind: str, tell: Callable[[str], object]) -> None:
    """Uses what will be published of a folder as who pulls it would; an adapter, where its base is a folder here.

    Raises:
        ValueError: it does not do what it is for, or needs more memory than there is.
    """
    if kind == ArmVQConfig.model_type:
        try_tokenizer(copies)
    elif kind == ArmConfig.model_type:
        try_arm(copies)
    elif Path(base := read_json(folder / ADAPTER)["base_model_name_or_path"]).is_dir():
        try_arm(Path(base), adapter=copies)
    else:
        tell(f"{folder} {NOT_TRIED}. It is tried where its base, {base}, is a folder.")


@contextmanager
def staged(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    token: str | None = None,
    trial: bool = True,
    tell: Callable[[str], object] = logger.warning,
) -> Iterator[Path]:
    """Checks a folder, and makes what will be published of it: a folder with ARM's code and links to the weights.

    Its files must be what a repo of this kind may hold, without keys of services (`files`, `secrets`); its weights
    those of its models, and finite (`weights`); its card's figures measured, and its licence one that its origins
    allow (`card`). Then it draws, edits and answers, as for those who pull it (`trial`).

    Args:
        folder: of a complete ARM, a tokenizer or an adapter; nothing in it is changed. An adapter whose base is a
            folder here is published as one of the Hub id that its card names as `base_model`.
        repo_id: what the card's examples will load: its lines `repo = "..."` may name the folder until then, or what
            somebody else could register.
        token: to read private and gated bases with.
        trial: whether it is tried, for which its weights must fit into memory.
        tell: gets, as a sentence, each thing that is left out and what was not tried; by default a warning in the log.

    Raises:
        ValueError: the folder is not fit to be published; the message says why and what to do.
        MissingExtra: accelerate or peft is not installed, with which weights are checked in no memory.
    """
    require("Publishing, which checks weights,", "train", "accelerate", "peft")
    folder = Path(folder)
    with quietly():
        kind, files = checked(folder, token, tell)
    with tempfile.TemporaryDirectory(prefix="arm-hub-") as aside:
        copies = Path(aside) / folder.resolve().name
        copy_to(copies, folder, files, kind, repo_id)
        if trial:
            with quietly():
                try_out(folder, copies, kind, tell)
        else:
            tell(f"{folder} {NOT_TRIED}.")
        yield copies


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Makes errors of the Hub and of the way to it ones that name the repo and what to do."""
    try:
        yield
    except (HTTPError, OfflineModeIsEnabled, RuntimeError) as raised:
        error = raised.__cause__ or raised if isinstance(raised, RuntimeError) else raised  # of an upload's thread
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            raise PermissionError(
                f"The Hub does not let you write to {repo_id}: {said_by(error)}. Log in with `hf auth login`, or set "
                "HF_TOKEN, with a token that may write there."
            ) from raised
        if isinstance(error, (HTTPError, OfflineModeIsEnabled)) and not isinstance(error, HfHubHTTPError):
            raise ConnectionError(
                f"The Hub cannot be reached for {repo_id}: {said_by(error)}. What had arrived is kept: push again to "
                "go on."
            ) from raised
        raise OSError(f"The Hub did not take {repo_id}: {said_by(error)}. Push again to go on.") from raised


def push(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
    trial: bool = True,
    tell: Callable[[str], object] = logger.warning,
) -> CommitInfo:
    """Publishes a folder: afterwards the repo's branch holds exactly its files, ARM's code and .gitattributes.

    All arrives in one commit, the last thing that is sent: what is interrupted before leaves the branch as it was, and
    the next push does not send again what the Hub has. A repo that was made for it stays, empty. Where nothing has
    changed there is no new commit.

    Args:
        folder: see `staged`.
        repo_id: "organisation/name"; made if there is none.
        private: whether a new repo is private.
        revision: branch to publish to, "main" by default. One that is missing starts at main, which stays as it is.
        token: of the Hub; default: the one that is logged in.
        message: of the commit.
        trial, tell: see `staged`.

    Returns:
        The commit, whose `commit_url` people can open; where nothing has changed, the one that is there.

    Raises:
        ValueError: the folder is not fit to be published, `private` is asked of a public repo, or `revision` is a tag.
        PermissionError, ConnectionError, OSError: the Hub refuses, cannot be reached, or fails.
    """
    validate_repo_id(repo_id)
    with staged(folder, repo_id, token=token, trial=trial, tell=tell) as copies, explained(repo_id):
        ModelCard.load(copies / CARD).validate()
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            raise ValueError(f"{repo_id} is public; make it private in its settings first, or leave private out.")
        return upload(api, copies, repo_id, revision or "main", message or f"Upload {copies.name}")


def upload(api: HfApi, folder: Path, repo_id: str, branch: str, message: str) -> CommitInfo:
    """Makes exactly a folder's files the head of a branch; `push` says how.

    Not `HfApi.upload_folder`, which sends several commits where it sees fit.
    """
    refs = api.list_repo_refs(repo_id)
    if branch in {tag.name for tag in refs.tags}:
        raise ValueError(f"{branch} is a tag of {repo_id}, and tags don't move; name a branch, or delete the tag.")
    heads = {head.name: head.target_commit for head in refs.branches}
    is_new = branch not in heads
    start = "main" if is_new else branch
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
    there = set(api.list_repo_files(repo_id, revision=heads[start])) - {".gitattributes"}
    deletions = [CommitOperationDelete(path_in_repo=name) for name in sorted(there - files.keys())]
    # The weights go first, so that a new branch is made only when its commit is all that is left to send.
    api.preupload_lfs_files(repo_id, additions, revision=start)
    if is_new:
        api.create_branch(repo_id, branch=branch, revision=heads[start])
    try:
        return api.create_commit(
            repo_id,
            [*deletions, *additions],
            commit_message=message,
            revision=branch,
            parent_commit=heads[start],
        )
    except BaseException:
        if is_new:
            with suppress(HTTPError):  # where the connection is gone, the branch stays, with main's files
                now = {head.name: head.target_commit for head in api.list_repo_refs(repo_id).branches}
                if now.get(branch) == heads[start]:  # else it holds a commit: somebody's, or ours, unanswered
                    api.delete_branch(repo_id, branch=branch)
        raise
