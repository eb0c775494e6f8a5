"""What a model card may say: its figures are those of result files, its licence is one that its origins allow.

Knows the folder that the card lies in and, of licences, the Hub; nothing about weights and nothing about uploads.
"""

import os
import re
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from .figures import Measured, figures_in, numbers_in
from .files import RESULT_KEYS, left_out_as, read_json
from .origins import is_of, shown_backbones, shown_detokenizers

CARD = "README.md"
FROM_SCRATCH = "trained_from_scratch"  # in its metadata, the author's statement

# Of what ARM is built from: the licence by its name on the Hub, or its license_name; the first pattern that fits.
LICENCES = MappingProxyType(
    {
        "qwen/qwen2.5*-3b*": ("qwen-research",),
        "qwen/qwen2.5*-72b*": ("qwen",),
        "qwen/qwen2.5-*": ("apache-2.0",),
        "google/siglip*": ("apache-2.0",),
        "black-forest-labs/flux.1-*dev*": ("flux-1-dev-non-commercial-license",),
        "black-forest-labs/flux.1-schnell": ("apache-2.0",),
        "black-forest-labs/flux.2-klein*-4b*": ("apache-2.0",),
        "black-forest-labs/flux.2-klein*-9b*": ("flux-non-commercial-license",),
        "black-forest-labs/flux.2-dev*": ("flux-dev-non-commercial-license", "flux-non-commercial-license"),
        "efficient-large-model/sana*": ("nscl-v2-custom", "nvidia-open-model-license"),  # the card says both
    }
)
PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "unlicense")


def said_by(error: Exception) -> str:
    """What an error says, in one line and without its full stop; of the Hub's errors the server's own words."""
    said = getattr(error, "server_message", None) or (str(error).splitlines() or [repr(error)])[0]
    return said.rstrip(".")


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


def states_from_scratch(data: ModelCardData) -> bool:
    """Whether a card's metadata state that no published weights went into the model; raises ValueError for no bool."""
    stated = data.get(FROM_SCRATCH)
    if stated is not None and not isinstance(stated, bool):
        raise ValueError(f"{CARD} states {FROM_SCRATCH}: {stated!r}; write true, or leave it out.")
    return bool(stated)


def results_of(folder: Path) -> dict[str, dict]:
    """The result files of a folder that are published, as `evaluation.write_result` writes them, by path.

    They lie in its root or in results/.
    """
    results = {}
    for file in (*sorted(folder.glob("*.json")), *sorted(folder.glob("results/*.json"))):
        content = {} if left_out_as(file.name) else read_json(file)
        if RESULT_KEYS <= content.keys():
            results[file.relative_to(folder).as_posix()] = content
    return results


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
    "date"}`, and is that field's number, measured by that command on that date. A number with decimals or in percent
    (of 99 or 0.99) is the rounding of any number of the result files, in prose also of the folder's configurations.

    Raises:
        ValueError: as `read_card`.
    """
    folder = Path(folder)
    card, results, unbacked = read_card(folder), results_of(folder), []
    for metric in card.data.eval_results or ():
        if wrong := what_is_wrong(metric, results):
            unbacked.append(f"{metric.metric_name or metric.metric_type} {metric.metric_value}: {wrong}")
    measured = list(numbers_in(list(results.values())))
    settings = numbers_in([read_json(file) for file in folder.glob("*config.json")])
    in_tables, in_prose = Measured(measured), Measured([*measured, *settings])
    for figure in figures_in(card.text):
        if not (in_tables if figure.in_table else in_prose).backs(figure):
            fix = "" if figure.in_table else " (what is no measurement can be written as code)"
            unbacked.append(f"{figure.written}: no result file has a number that rounds to it{fix}")
    return unbacked


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


def stated_licence(base: str, data: ModelCardData) -> tuple[str, ...]:
    """The names that the licence of a model goes by, from its card's metadata; raises ValueError if it has none."""
    licence = data.get("license_name") if data.get("license") == "other" else data.get("license")
    if not licence:
        raise ValueError(f"{base}, a base_model in {CARD}, states no licence; ask its authors for one.")
    return (licence.lower(),) if isinstance(licence, str) else tuple(each.lower() for each in licence)


def origins_of(card: ModelCard, files: dict[str, Path], api: HfApi) -> dict[str, tuple[tuple[str, ...], str]]:
    """What a folder was built from: names of its licence, and what shows it: the card, the files, or for models of
    `LICENCES` the card of one of those.

    Raises:
        ValueError: a base that the card names is not on the Hub, or states no licence; or the card tells no origin, or
            two, and the shape of a backbone shows one.
    """
    named, from_scratch, shown = base_models(card.data), states_from_scratch(card.data), shown_backbones(files)
    if named and from_scratch:
        raise ValueError(f"{CARD} names the base_model {named[0]} and states {FROM_SCRATCH}; leave one of them out.")
    found = {**dict.fromkeys(named, CARD), **shown_detokenizers(files)}
    origins = {base: (known_licence(base), where) for base, where in found.items()}
    for base in [base for base, (names, _) in origins.items() if not names]:
        data = metadata_of(base, api)
        origins[base] = stated_licence(base, data), found[base]
        for theirs in filter(known_licence, base_models(data)):
            origins.setdefault(theirs, (known_licence(theirs), f"the card of {base}"))
    for backbone, where in {} if from_scratch else shown.items():
        if not named:
            raise ValueError(
                f"{CARD} names no base_model, and {where} has the shape of {backbone.name}; name what it was built "
                "from in the metadata as `base_model:`, or if no published weights went into it, state "
                f"`{FROM_SCRATCH}: true`."
            )
        if not any(is_of(base, backbone) for base in origins):
            origins[backbone.name] = known_licence(backbone.name), where
    return origins


def doubt_of_origin(card: ModelCard, files: dict[str, Path]) -> str | None:
    """What people should know of a card's word on its origin, where nothing proves it; None where there is nothing."""
    if states_from_scratch(card.data):
        shown = [f"{where} has the shape of {backbone.name}" for backbone, where in shown_backbones(files).items()]
        return f"{CARD} states {FROM_SCRATCH}, but {' and '.join(shown)}." if shown else None
    if not base_models(card.data):
        return f"{CARD} names no base_model and does not state {FROM_SCRATCH}: nothing says what this was built from."
    return None


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
    for base, (names, where) in origins_of(card, files, api).items():
        if not any({*PERMISSIVE, *stated}.issuperset(licences_in(name)) for name in names):
            raise ValueError(
                f"{CARD} states the licence {', '.join(stated)}, but this was built from {base} ({where} shows it), "
                f"which is under {' or '.join(names)}; state that: `license: other` with this license_name and a "
                "license_link, where the Hub has no such licence."
            )
