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
from decimal import Decimal
from fnmatch import fnmatch
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import MappingProxyType

import diffusers
import torch
import transformers
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
)
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import AutoProcessor, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # the other name asks for torchvision

from .configuration_arm import ArmConfig, ArmVQConfig
from .modeling_arm import ArmForCausalLM
from .modeling_arm_vq import ArmVQModel
from .modeling_arm_vq_pretraining import ArmVQForPreTraining
from .remote_code import add_remote_code

CARD, ADAPTER, PIPELINE = "README.md", "adapter_config.json", "model_index.json"
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
LIBRARIES = ("diffusers", "transformers", __package__)

FENCED_CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
# Code spans, the targets of links, papers and their sections, and names with a version, "apache-2.0".
NO_FIGURES = re.compile(
    r"`[^`\n]*`|\]\([^)\n]*\)|arXiv[ :]\d+\.\d+|[Ss]ections? \d+(\.\d+)*|\b[A-Za-z]\w*-\d+(\.\d+)+"
)
# Names and versions, "Qwen2.5" and "2.13.0", are no figures; in "0.1-0.3" and "+-0.1" the minus is no sign, and in
# "_0.1_" underscores are emphasis.
FIGURE = re.compile(
    r"((?<![\w.+])[-\N{MINUS SIGN}])?(?<![^\W_])(?<![^\W_]_)(?<!\.)((?:\d[\d,]*)?\.\d+(?:e[+-]?\d+)?)(?!\.?\d)"
)

# Of what ARM is built from: the licence by its name on the Hub, or its license_name; the first pattern that fits.
FLUX_DEV, SANA = "black-forest-labs/FLUX.1-dev", "Efficient-Large-Model/Sana_1600M_1024px"
LICENCES = MappingProxyType(
    {
        "qwen/qwen2.5*-3b*": ("qwen-research",),
        "qwen/qwen2.5*-72b*": ("qwen",),
        "qwen/qwen2.5-*": ("apache-2.0",),
        "google/siglip*": ("apache-2.0",),
        "black-forest-labs/flux.1-*dev*": ("flux-1-dev-non-commercial-license",),
        "black-forest-labs/flux.1-schnell": ("apache-2.0",),
        "efficient-large-model/sana*": ("nscl-v2-custom", "nvidia-open-model-license"),  # the card says both
    }
)
PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "unlicense")


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


def read_json(file: Path) -> dict:
    """The object in a JSON file, an empty one where there is only a list or a value; raises ValueError for no JSON."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); write it again.") from error
    return content if isinstance(content, dict) else {}


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
        parameters = signature(getattr(import_module(__package__), pipeline, None) or getattr(diffusers, pipeline))
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
    try:
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    except ModuleNotFoundError as error:
        raise ValueError("Adapters need peft; install it with `pip install transformers-arm[train]`.") from error
    with loading(f"The adapter {folder} on {base}"):
        found = PreTrainedConfig.get_config_dict(base, token=token)[0].get("model_type")
        if found != ArmConfig.model_type:
            raise ValueError(f"{base} holds a {found!r} model, and no ARM.")
        with torch.device("meta"):
            model = ArmForCausalLM(ArmConfig.from_pretrained(base, token=token))
            adapted = PeftModel(model, PeftConfig.from_pretrained(folder))
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    check_tensors(folder, expected)


def read_card(folder: Path) -> ModelCard:
    """A folder's model card.

    Raises:
        ValueError: it is missing, its metadata cannot be read, or it states no licence.
    """
    file = folder / CARD
    if not file.is_file():
        raise ValueError(f"{folder} has no {CARD}; write its model card.")
    try:
        card = ModelCard.load(file)
    except Exception as error:  # YAML has its own
        raise ValueError(f"The metadata of {file} cannot be read: {error}") from error
    licence = card.data.get("license")
    if not licence or not isinstance(licence, str):
        raise ValueError(f"{file} states the licence {licence!r}; its metadata needs one `license:`.")
    named = [card.data.get(key) for key in ("license_name", "license_link")]
    if licence == "other" and not all(isinstance(each, str) and each for each in named):
        raise ValueError(f"{file} says `license: other`; its metadata needs license_name and license_link as well.")
    return card


def base_models(data: ModelCardData) -> list[str]:
    """The Hub ids in a card's metadata of what the model was built from; raises ValueError for anything but ids."""
    named = data.get("base_model") or []
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise ValueError(
            f"{CARD} names the base_model {named!r}; its metadata needs an id on the Hub, or a list of ids."
        )
    return named


def results_of(folder: Path) -> dict[str, dict]:
    """The result files of a folder, as `evaluation.write_result` writes them, in its root or in results/, by path."""
    results = {}
    for file in (*sorted(folder.glob("*.json")), *sorted(folder.glob("results/*.json"))):
        content = read_json(file)
        if {"command", "date", "hardware"} <= content.keys():
            results[file.relative_to(folder).as_posix()] = content
    return results


def numbers_in(value) -> Iterator[Decimal]:
    """All numbers in the content of a JSON file."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(each)
    elif isinstance(value, int | float) and not isinstance(value, bool) and Decimal(value).is_finite():
        yield Decimal(repr(value))


def figures_in(text: str) -> Iterator[tuple[str, Decimal, bool]]:
    """A card's decimal numbers, outside of code: as they are written, what they say, and whether in a table."""
    for line in FENCED_CODE.sub("", text).splitlines():
        for sign, number in FIGURE.findall(NO_FIGURES.sub(" ", line)):
            yield sign + number, Decimal(number.replace(",", "")) * (-1 if sign else 1), "|" in line


def what_is_wrong(metric: EvalResult, results: dict[str, dict]) -> str | None:
    """What keeps a metric of the model-index from being a figure of a result file; None if nothing does."""
    arguments = metric.metric_args or {}
    file, field = (str(arguments.get(key)) for key in ("file", "field"))
    if file not in results:
        return f"there is no result file {file}"
    if stale := [key for key in ("command", "date") if str(arguments.get(key)) != str(results[file][key])]:
        return f"{file} has another {' and '.join(stale)}"
    number = results[file]
    try:
        for key in field.split("/"):
            number = number[int(key)] if isinstance(number, list) else number[key]
    except (KeyError, IndexError, TypeError, ValueError):
        return f"{file} has no field {field}"
    if isinstance(number, bool) or number != metric.metric_value:
        return f"{file} says {number} in {field}"
    return None


def unbacked_figures(folder: str | os.PathLike) -> list[str]:
    """The figures of a folder's card that its result files do not hold, each with what is wrong.

    A metric of the model-index names its result file and field in `metric_args`, `{"file", "field", "command",
    "date"}`, and is that field's number, measured by that command on that date. A decimal number in a table is the
    rounding of any number of the result files.

    Raises:
        ValueError: as `read_card`.
    """
    folder = Path(folder)
    card, results, unbacked = read_card(folder), results_of(folder), []
    for metric in card.data.eval_results or ():
        if wrong := what_is_wrong(metric, results):
            unbacked.append(f"{metric.metric_name or metric.metric_type} {metric.metric_value}: {wrong}")
    measured = list(numbers_in(list(results.values())))
    settings = list(numbers_in([read_json(file) for file in folder.glob("*config.json")]))
    for written, figure, in_table in figures_in(card.text):
        half = Decimal(5).scaleb(figure.as_tuple().exponent - 1)
        if not any(abs(number - figure) <= half for number in measured + (settings if not in_table else [])):
            fix = "" if in_table else " (what is no measurement can be written as code)"
            unbacked.append(f"{written}: no result file has a number that rounds to it{fix}")
    return unbacked


def shown_bases(files: dict[str, Path]) -> dict[str, str]:
    """Restricted models that weights in the folder come from, as their architecture shows, and where."""
    shown = {}
    for name, file in files.items():
        config = read_json(file) if file.name == "config.json" else {}
        model = config.get("_class_name", "")
        if "Flux" in model and config.get("guidance_embeds"):  # distilled guidance: only dev has it
            shown[FLUX_DEV] = name
        if "Sana" in model and config.get("num_layers", 0) >= 20:  # the smallest that is published
            shown[SANA] = name
    return shown


def known_licence(base: str) -> tuple[str, ...]:
    """The names that the licence of a model goes by, from `LICENCES`; none if it is not there."""
    return next((names for pattern, names in LICENCES.items() if fnmatch(base.lower(), pattern)), ())


def metadata_of(base: str, api: HfApi) -> ModelCardData:
    """The metadata of a model's card on the Hub.

    Raises:
        ValueError: the Hub has no such model.
    """
    try:
        validate_repo_id(base)
        return api.model_info(base).card_data or ModelCardData()
    except (ValueError, HTTPError, OfflineModeIsEnabled) as error:
        raise ValueError(
            f"The licence of {base}, a base_model in {CARD}, cannot be found: {said_by(error)}"
        ) from error


def licence_of(base: str, api: HfApi) -> tuple[str, ...]:
    """The licence of a model: names that it goes by, from `LICENCES` or the Hub.

    Raises:
        ValueError: the Hub has no such model, or it states no licence.
    """
    if names := known_licence(base):
        return names
    data = metadata_of(base, api)
    licence = data.get("license_name") if data.get("license") == "other" else data.get("license")
    if not licence:
        raise ValueError(f"{base}, a base_model in {CARD}, states no licence; ask its authors for one.")
    return (licence.lower(),) if isinstance(licence, str) else tuple(each.lower() for each in licence)


def origins_of(card: ModelCard, files: dict[str, Path], api: HfApi) -> dict[str, str]:
    """What a folder was built from, and what shows it: the card, the files, or for models of `LICENCES` the card of
    one of those.

    Raises:
        ValueError: a base that the card names is not on the Hub.
    """
    origins = {**dict.fromkeys(base_models(card.data), CARD), **shown_bases(files)}
    for base in [each for each in origins if not known_licence(each)]:
        theirs = filter(known_licence, base_models(metadata_of(base, api)))
        origins = {**dict.fromkeys(theirs, f"the card of {base}"), **origins}
    return origins


def licences_in(name: str) -> list[str]:
    """The licences that a license_name holds."""
    return [each for each in re.split(r"[\s,;]+", name) if each]


def check_licence(card: ModelCard, files: dict[str, Path], api: HfApi) -> None:
    """Raises ValueError if the card's licence is not what the models allow that the folder was built from.

    What is built from permissive ones may carry any licence; what is built from others must carry theirs, and from
    several, the license_name must hold all.
    """
    licence = card.data["license"].lower()
    stated = licences_in(card.data["license_name"].lower()) if licence == "other" else [licence]
    for base, where in origins_of(card, files, api).items():
        names = licence_of(base, api)
        if not any({*PERMISSIVE, *stated}.issuperset(licences_in(name)) for name in names):
            raise ValueError(
                f"{CARD} states the licence {', '.join(stated)}, but this was built from {base} ({where} shows it), "
                f"which is under {' or '.join(names)}; state that: `license: other` with this license_name and a "
                "license_link, where the Hub has no such licence."
            )


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
    """
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


def said_by(error: Exception) -> str:
    """What an error says, in one line and without its full stop; of the Hub's errors the server's own words."""
    said = getattr(error, "server_message", None) or (str(error).splitlines() or [repr(error)])[0]
    return said.rstrip(".")


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
