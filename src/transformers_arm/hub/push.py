"""Publishes a folder as a repo of the Hub: checked whole, with ARM's code beside the weights, in one commit.

A folder is a complete ARM, a tokenizer alone, or a LoRA adapter of ARM. What could mislead those who download it is
refused before anything is sent: weights that do not load, pickles, figures that nothing backs, a licence that its
origins do not allow. Weights are judged by the heads of their files and never read. Knows nothing about how folders
and cards are made.
"""

import json
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from importlib import import_module
from inspect import signature
from pathlib import Path

import diffusers
import torch
import transformers
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import AutoProcessor, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # the other name asks for torchvision

from ..configuration_arm import ArmConfig, ArmVQConfig
from ..extras import require
from ..modeling_arm import ArmForCausalLM
from ..modeling_arm_vq import ArmVQModel
from ..modeling_arm_vq_pretraining import ArmVQForPreTraining
from .card import CARD, base_models, check_licence, read_card, read_json, said_by, unbacked_figures
from .remote_code import add_remote_code

ADAPTER, PIPELINE = "adapter_config.json", "model_index.json"
WEIGHTS = ".safetensors"
NEEDED = {  # of each kind of folder
    ArmConfig.model_type: ("generation_config.json", "processor_config.json", f"detokenizer/{PIPELINE}"),
    ArmVQConfig.model_type: ("preprocessor_config.json",),
    "adapter": ("adapter_model.safetensors",),
}
LEFT_OUT = (".*", "__pycache__", "runs", "checkpoint-*")  # names, at any depth
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
PICKLE_STARTS = (b"PK\3\4", *(bytes([0x80, protocol]) for protocol in range(2, 6)))  # torch's are zips of pickles
HUB_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
CARD_REPO = re.compile(r'^repo = "[^"\n]*"', re.MULTILINE)
MAX_FILE_BYTES = 50 * 10**9  # the Hub's limit
OUR_MODELS = {model.__name__: model for model in (ArmForCausalLM, ArmVQModel, ArmVQForPreTraining)}
LOADERS = {
    "generation_config.json": GenerationConfig,
    "preprocessor_config.json": AutoImageProcessor,
    "processor_config.json": AutoProcessor,
    "tokenizer_config.json": AutoTokenizer,
}
PACKAGE = __package__.partition(".")[0]
LIBRARIES = ("diffusers", "transformers", PACKAGE)


def published_files(folder: str | os.PathLike) -> dict[str, Path]:
    """What of a folder is published: paths in the repo and files, in order. `LEFT_OUT` says what is not.

    Raises:
        ValueError: there is no such folder, or a link leads out of it, to a folder or to nothing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} to publish{', but a file' if folder.exists() else ''}.")
    root, files = folder.resolve(), {}
    for place, folders, names in os.walk(folder):
        kept = [name for name in folders + names if not any(fnmatch(name, pattern) for pattern in LEFT_OUT)]
        folders[:] = sorted(set(folders) & set(kept))
        for path in (Path(place) / name for name in sorted(kept)):
            inside = path.exists() and path.resolve().is_relative_to(root)
            if path.is_symlink() and (path.is_dir() or not inside):
                raise ValueError(f"{path} links to {path.resolve()}; put what it points to in its place (`cp -RL`).")
            if not path.is_dir():
                files[path.relative_to(folder).as_posix()] = path
    return files


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


def check_contents(files: dict[str, Path]) -> None:
    """Raises ValueError for a file that nobody should be handed: a pickle, one with a token in it, a too large one."""
    for name, file in files.items():
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(
                f"{name} has {file.stat().st_size / 1e9:.1f} GB, the Hub takes {MAX_FILE_BYTES / 1e9:.0f} GB a file; "
                'save the model again with save_pretrained(max_shard_size="5GB").'
            )
        if file.suffix == WEIGHTS:
            continue  # opened as what they say they are in `check_models`
        with file.open("rb") as opened:
            size = file.stat().st_size  # mapped, not read: it may be larger than memory
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            is_pickle = file.suffix.lower() in PICKLES or content[:4].startswith(PICKLE_STARTS)
            has_token = content.find(b"\0") < 0 and HUB_TOKEN.search(content)
        if is_pickle:
            raise ValueError(f"{name} is a pickle or a zip, which can run code; remove it, or save it as safetensors.")
        if has_token:
            raise ValueError(f"{name} holds what looks like a token of the Hub; remove it there, and revoke it.")


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Makes whatever a loader raises a ValueError that names what does not load."""
    try:
        yield
    except Exception as error:  # each library has its own ways to say so
        raise ValueError(f"{what} does not load: {error}") from error


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Names and shapes of all tensors in a folder's safetensors files, from their heads; they must be whole.

    Raises:
        ValueError: a file is cut off or is none, or it takes an index to tell which is loaded, and that is another's.
    """
    shapes, places = {}, {}
    files, indices = sorted(folder.glob(f"*{WEIGHTS}")), sorted(folder.glob(f"*{WEIGHTS}.index.json"))
    if len(files) > 1 and not indices:
        raise ValueError(f"{folder} holds {', '.join(file.name for file in files)} and no index; keep one of them.")
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                shapes |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}
                places |= dict.fromkeys(opened.keys(), file.name)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file} is no whole safetensors file ({error}); save or download it again.") from error
    for index in indices:
        if read_json(index).get("weight_map") != places:
            raise ValueError(f"{index} is not the index of the {WEIGHTS} files beside it; save the model again.")
    return shapes


def check_tensors(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    """Raises ValueError if a folder's tensors are not exactly those of a model, on the meta device, in its shapes."""
    shapes = tensor_shapes(folder)
    missing, unexpected = sorted(expected.keys() - shapes), sorted(shapes.keys() - expected)
    wrong = [name for name in expected if name in shapes and shapes[name] != list(expected[name].shape)]
    refuse_tensors(folder, missing, unexpected, wrong)


def refuse_tensors(folder: Path, missing: Iterable[str], unexpected: Iterable[str], wrong: Iterable[str]) -> None:
    """Raises ValueError if there are any such tensors, and names the first ones."""
    found = {"lack": missing, "have beyond the model": unexpected, "have in other shapes": wrong}
    said = [f"{what} {len(names)} tensors, {sorted(names)[0]} first" for what, names in found.items() if names]
    if said:
        raise ValueError(
            f"The weights in {folder} {'; they '.join(said)}. Save or download model and config.json together again."
        )


def check_models(folder: Path, files: dict[str, Path]) -> None:
    """Loads all that lies in a folder, at any depth, but for the weights: those must fit, tensor by tensor.

    Raises:
        ValueError: something does not load, or weights do not fit, are not whole or are of no model.
    """
    checked = {folder} if ADAPTER in files else set()  # `check_adapter` does
    for name, file in files.items():
        if file.name in LOADERS:
            with loading(name):
                LOADERS[file.name].from_pretrained(file.parent, trust_remote_code=False)
        elif file.name == PIPELINE:
            checked |= set(check_pipeline(file))
        elif file.name == "config.json" and "model_type" in read_json(file):
            check_transformers_model(file)
            checked.add(file.parent)
    for name, file in files.items():
        if file.suffix == WEIGHTS and file.parent not in checked:
            raise ValueError(f"{name} belongs to no model: there is no config.json for it; add it, or remove both.")


def check_transformers_model(config: Path) -> None:
    """Raises ValueError if the weights beside a config.json are not exactly those of the model it tells."""
    folder = config.parent
    tensor_shapes(folder)
    with loading(str(folder)):
        name = (read_json(config).get("architectures") or ["no class"])[0]
        model_class = OUR_MODELS.get(name) or getattr(transformers, name)
        keywords = {"device_map": "meta", "ignore_mismatched_sizes": True, "use_safetensors": True}
        _, info = model_class.from_pretrained(folder, output_loading_info=True, **keywords)
    wrong = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    refuse_tensors(folder, info["missing_keys"], info["unexpected_keys"], wrong)


def check_pipeline(index: Path) -> Iterator[Path]:
    """Loads the components of a diffusers pipeline, and yields the folders whose weights it has checked.

    Raises:
        ValueError: a component is missing, is none of this pipeline's, does not load, or is of a library that is not
            ours to import.
    """
    content = read_json(index)
    with loading(str(index)):
        pipeline = content["_class_name"]
        parameters = signature(getattr(import_module(PACKAGE), pipeline, None) or getattr(diffusers, pipeline))
    components = {  # the rest are its settings, and components that it does without
        name: value
        for name, value in content.items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)
    }
    needed = {name for name, parameter in parameters.parameters.items() if parameter.default is parameter.empty}
    if wrong := sorted({*(needed - components.keys()), *(components.keys() - parameters.parameters.keys())}):
        raise ValueError(
            f"The components {', '.join(sorted(components)) or 'none'} in {index} are not those of {pipeline}: see "
            f"{', '.join(wrong)}. Save the pipeline again."
        )
    for name, (library, class_name) in components.items():
        if library.partition(".")[0] not in LIBRARIES:
            raise ValueError(f"{index} takes {name} from {library!r}, which is none of {', '.join(LIBRARIES)}.")
        part = index.parent / name
        with loading(str(part)):
            component = getattr(import_module(library), class_name)
            if issubclass(component, diffusers.DiffusionPipeline):  # whose folder could name any code
                raise ValueError(f"{class_name} is a pipeline, and no component of one.")
            if issubclass(component, diffusers.ModelMixin):
                with torch.device("meta"):
                    model = component.from_config(component.load_config(part))
            elif not issubclass(component, transformers.PreTrainedModel):  # those: `check_transformers_model`
                component.from_pretrained(part)
                continue
        if issubclass(component, diffusers.ModelMixin):
            check_tensors(part, model.state_dict())
            yield part


def check_adapter(folder: Path, base: str, token: str | None) -> None:
    """Raises ValueError if an adapter is not exactly what its configuration makes of the ARM `base`."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    with loading(f"The adapter {folder} on {base}"):
        found = PreTrainedConfig.get_config_dict(base, token=token)[0].get("model_type")
        if found != ArmConfig.model_type:
            raise ValueError(f"{base} holds a {found!r} model, and no ARM.")
        with torch.device("meta"):
            model = ArmForCausalLM(ArmConfig.from_pretrained(base, token=token))
            adapted = PeftModel(model, PeftConfig.from_pretrained(folder))
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    check_tensors(folder, expected)


def adapter_base(folder: Path, card: ModelCard) -> tuple[str, str]:
    """Where the base of an adapter is, a folder or a Hub id, and the Hub id that its configuration will name.

    Raises:
        ValueError: the adapter names none, or another one than the card.
    """
    base, named = read_json(folder / ADAPTER).get("base_model_name_or_path"), base_models(card.data)
    if not base or len(named) != 1:
        raise ValueError(f"{ADAPTER} and {CARD} must name one base, not {base!r} and {', '.join(named) or 'none'}.")
    if base != named[0] and not Path(base).is_dir():
        raise ValueError(f"{ADAPTER} names the base {base}, {CARD} the base_model {named[0]}; they must be one.")
    return base, named[0]


@contextmanager
def staged(folder: str | os.PathLike, repo_id: str, *, token: str | None = None) -> Iterator[Path]:
    """Checks a folder, and makes what will be published of it: a folder with ARM's code and links to the weights.

    Args:
        folder: of a complete ARM, a tokenizer or an adapter; nothing in it is changed. An adapter whose base is a
            folder here is published as one of the Hub id that its card names as `base_model`.
        repo_id: what the card's examples will load: its lines `repo = "..."` may name the folder until then, or what
            somebody else could register.
        token: to read private and gated bases with.

    Raises:
        ValueError: the folder is not fit to be published; the message says why and what to do.
        MissingExtra: accelerate or peft is not installed, with which weights are checked in no memory.
    """
    require("Publishing, which checks weights,", "train", "accelerate", "peft")
    folder = Path(folder)
    api, files = HfApi(token=token), published_files(folder)
    kind = kind_of(folder)
    if missing := [name for name in NEEDED[kind] if name not in files]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which this kind of folder ({kind}) is published with.")
    check_contents(files)
    card = read_card(folder)
    check_models(folder, files)
    if kind == "adapter":
        base, named = adapter_base(folder, card)
        check_adapter(folder, base, token)
    if unbacked := unbacked_figures(folder):
        raise ValueError(
            f"{len(unbacked)} figures in {folder / CARD} are not backed by a result file: {'. '.join(unbacked[:5])}. "
            "Measure them, and write the card from what was written."
        )
    check_licence(card, files, api)
    with tempfile.TemporaryDirectory(prefix="arm-hub-") as aside:
        copies = Path(aside) / folder.resolve().name
        for name, file in files.items():
            (copies / name).parent.mkdir(parents=True, exist_ok=True)
            copy = os.symlink if file.suffix == WEIGHTS else shutil.copyfile
            copy(file.resolve(), copies / name)
        if kind == "adapter":
            content = {**read_json(copies / ADAPTER), "base_model_name_or_path": named}
            (copies / ADAPTER).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        else:
            add_remote_code(copies)
        text = (copies / CARD).read_text(encoding="utf-8")
        (copies / CARD).write_text(CARD_REPO.sub(f'repo = "{repo_id}"', text), encoding="utf-8")
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

    Returns:
        The commit, whose `commit_url` people can open; where nothing has changed, the one that is there.

    Raises:
        ValueError: the folder is not fit to be published, `private` is asked of a public repo, or `revision` is a tag.
        PermissionError, ConnectionError, OSError: the Hub refuses, cannot be reached, or fails.
    """
    validate_repo_id(repo_id)
    with staged(folder, repo_id, token=token) as copies, explained(repo_id):
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
