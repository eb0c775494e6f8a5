"""Writes the card of a model, a tokenizer, an RL model or a LoRA adapter, with the result files that back its figures.

A result file is JSON as `evaluation.results.write_result` writes it: `command`, `date`, `hardware`, maybe `items` and
`seed`, and the numbers: `scores` by name, with `must` and `aim` by the same names if there are bounds, or a `table` of
`before`, `after` and `gain`. `FILE:FIELD` takes what lies there, names joined by "/". Another file is the recipe:
`stages`, a list of `stage`, `command`, `seed`, `steps` and `minutes`, and a `remark`.

Knows nothing about weights and nothing about uploads.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..configuration_arm import ArmConfig, ArmVQConfig
from ..loading_arm import class_named
from ..sampling_arm import IMAGE_EDITING
from ..whole_files import whole_file, write_whole
from .card import CARD, FROM_SCRATCH, known_licence
from .files import PIPELINE, RESULT_KEYS, read_json
from .origins import shown_backbones

TEMPLATES = Path(__file__).parent / "templates"
WORLD = "embedded-world"  # the data set's name of figures that are of drawn shapes
KINDS = {
    "model": {"pipeline_tag": "any-to-any", "library_name": "transformers", "tags": ["arm"]},
    "rl": {"pipeline_tag": "any-to-any", "library_name": "transformers", "tags": ["arm", "grpo"]},
    "tokenizer": {
        "pipeline_tag": "image-feature-extraction",
        "library_name": "transformers",
        "tags": ["arm", "image-tokenizer"],
    },
    "adapter": {"pipeline_tag": "any-to-any", "library_name": "peft", "tags": ["arm", "lora"]},
}
NO_NAMES: Mapping[str, str] = {}
UNFILLED = "[More Information Needed]"  # of the Hub's template, where nobody has written anything yet
RELATIONS = {"rl": "finetune", "adapter": "adapter"}  # to the base model, where the Hub would not see it by itself

# What a figure is about, by its name: the Hub's task, and the heading of its table. The first that fits counts.
TASKS = (
    (r"^text_", "text-generation", "Text alone"),
    (r"understanding|question|vqa|pope|mmbench|mmmu", "image-text-to-text", "Understanding"),
    (r"edit", "image-to-image", "Editing"),
    (r"generation|captions|geneval|dpg|wise", "text-to-image", "Drawing"),
    (
        r"psnr|ssim|rfid|zero_shot|codebook|perplexity|read_back|tokens_per|bits_per",
        "image-feature-extraction",
        "Tokenizer and detokenizer",
    ),
    (r"", "any-to-any", "Other"),
)
# What tells more of a score, by the end of its name: the ends of an interval, and what has a column of its own.
INTERVAL = ("_low", "_high")
BESIDE = {
    "weakest part": ("_weakest",),
    "by a second judge": ("_judge_right", "_judge_target"),
    "by the commonest answer": ("_majority",),
}
# What stands among scores and is none.
COUNTS = {
    *("pictures", "skipped", "skipped_reasons", "codebook_size", "zero_shot_pictures", "zero_shot_candidates"),
    *("items", "seed"),
}
# Names that say more than the keys of result files; other keys are shown with blanks for underscores.
NAMES = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "rfid": "rFID (few pictures make it too high)",
    "zero_shot": "zero-shot accuracy of z_q",
    "siglip_zero_shot": "zero-shot accuracy of the frozen SigLIP",
    "tokens_per_picture": "tokens a picture",
}


class Figure(NamedTuple):
    """A measured number: its key, its field in the result file, and its row of a comparison if it stands in one."""

    key: str
    field: str
    value: float
    compared: dict[str, float] | None = None

    def name(self, names: Mapping[str, str]) -> str:
        """The figure in words, those of `names` and ours."""
        *parents, last = self.key.split("/")
        return ": ".join([*parents, {**NAMES, **names}.get(last, last.replace("_", " "))])

    @property
    def task(self) -> tuple[str, str]:
        """The Hub's task, and the heading of its table."""
        return next(task for pattern, *task in TASKS if re.search(pattern, self.key.lower()))


def node_at(result: dict, field: str):
    """What lies at a field: keys, and numbers of list items, joined by "/".

    Raises:
        ValueError: nothing does.
    """
    node = result
    for key in field.split("/"):
        try:
            node = node[int(key)] if isinstance(node, list) else node[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ValueError(f"The field {field!r} leads nowhere: there is no {key!r} on its way.") from None
    return node


def figures_below(node: dict, field: str, key: str = "") -> Iterator[Figure]:
    """The numbers below a node, and of a comparison those `after`. Counts and what stands in lists are no figures.

    Raises:
        ValueError: a key holds a "/", so that no field could name what lies there.
    """
    for name, value in node.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in COUNTS or not (is_number or isinstance(value, dict)):
            continue
        if "/" in name:
            raise ValueError(f"The key {name!r} holds a '/', which joins the keys of a field; rename it.")
        here, below = f"{field}/{name}", f"{key}/{name}" if key else name
        if is_number:
            yield Figure(below, here, value)
        elif {"before", "after", "gain"} <= value.keys():
            yield Figure(below, f"{here}/after", value["after"], value)
        else:
            yield from figures_below(value, here, below)


def row_of(key: str, values: Mapping[str, float]) -> str:
    """The figure in whose row one stands: itself, or the one that it tells more of, by `INTERVAL` and `BESIDE`."""
    for end in chain(INTERVAL, *BESIDE.values()):
        if key.endswith(end) and key.removesuffix(end) in values:
            return row_of(key.removesuffix(end), values)
    return key


def with_interval(key: str, values: Mapping[str, float], ends: Sequence[str] = ("",)) -> str:
    """The figure of a key and one of its `ends`, with its interval if it has one; nothing if there is none."""
    key = next((key + end for end in ends if key + end in values), None)
    if key is None:
        return ""
    interval = [f"{values[key + end]:.3f}" for end in INTERVAL if key + end in values]
    return f"{values[key]:.3f}" + (f" ({' to '.join(interval)})" if interval else "")


def with_spread(compared: dict[str, float], which: str) -> str:
    """A mean of a comparison, with its standard deviation where there is one."""
    spread = compared.get(f"{which}_spread")
    return f"{compared[which]:.3f}" + ("" if spread is None else f" +- {spread:.3f}")


def table_of(
    rows: Sequence[Figure], result: dict, name: str, names: Mapping[str, str], values: Mapping[str, float]
) -> str:
    """A Markdown table: figures with what else `values` tells of them and the file's bounds, or with what they were
    before.
    """
    bounds = [bound for bound in ("must", "aim") if bound in result]
    beside = {what: ends for what, ends in BESIDE.items() if any(row.key + e in values for row in rows for e in ends)}
    header = ["measured", *beside, *bounds]
    if rows[0].compared:
        header = [Path(result.get("before", "before")).name, name, "gain"]
    lines = [f"| | {' | '.join(header)} |", "|---" * (len(header) + 1) + "|"]
    for row in rows:
        if row.compared:
            cells = [with_spread(row.compared, which) for which in ("before", "after")]
            cells.append(f"{row.compared['gain']:+.3f}")
        else:
            limits = [result[bound].get(row.key, "") for bound in bounds]
            cells = [with_interval(row.key, values, ends) for ends in ([""], *beside.values())]
            cells += [limit and f"{limit:g}" for limit in limits]
        lines.append(f"| {row.name(names)} | {' | '.join(cells)} |")
    return "\n".join(lines)


class Report(NamedTuple):
    """What the card says of one result file: where it lies, how it came about, and its figures by task."""

    file: str
    command: str
    date: str
    hardware: str
    measured: str
    tables: dict[str, str]
    figures: list[EvalResult]

    @classmethod
    def read(
        cls, source: Path, file: str, field: str, *, name: str, dataset: str | None, names: Mapping[str, str]
    ) -> "Report":
        """Reads `source`, which will be `file` of the repo; figures are those at `field`, or all if that is empty.

        Raises:
            ValueError: the file lacks its command, date, hardware or data set, or there are no figures at `field`.
        """
        result = read_json(source)
        if missing := sorted(RESULT_KEYS - result.keys()):
            raise ValueError(f"{source} lacks {', '.join(missing)}; write it with evaluation.write_result.")
        options = result.get("options", {})
        dataset = result.get("dataset") or options.get("dataset") or (WORLD if options.get("world") else dataset)
        if not dataset:
            raise ValueError(f"{source} does not say which data set it is about; name it with --dataset.")
        field = field or ("table" if "table" in result else "scores")
        below = list(figures_below(node_at(result, field), field))
        values = {figure.key: figure.value for figure in below}
        found = [figure for figure in below if row_of(figure.key, values) == figure.key]
        if not found:
            raise ValueError(
                f"{source} holds no figures at {field!r}; name a field of numbers, as in FILE:scores/sft."
            )
        tables = {}
        for figure in found:
            tables.setdefault(figure.task[1], []).append(figure)
        proof = {key: result[key] for key in ("command", "date")}
        sizes = [f", {result[key]} items" for key in ("items", "count") if key in result]
        seeds = [result["seed"]] if "seed" in result else result.get("seeds", [])
        return cls(
            file=file,
            command=result["command"],
            date=result["date"],
            hardware=result["hardware"],
            measured="".join(sizes + [f", seed {seed}" for seed in seeds]),
            tables={title: table_of(rows, result, name, names, values) for title, rows in tables.items()},
            figures=[
                EvalResult(
                    task_type=figure.task[0],
                    dataset_type=dataset,
                    dataset_name=dataset,
                    metric_type=re.sub(r"\W+", "_", figure.key),
                    metric_name=figure.name(names),
                    metric_value=figure.value,
                    metric_args={"file": file, "field": figure.field, **proof},
                )
                for figure in found
            ],
        )


def configuration(folder: Path, kind: str, base_models: Sequence[str]):
    """The configuration that the card tells of: ARM's, its tokenizer's, or PEFT's as a dict.

    Raises:
        ValueError: the folder is of another kind, or an adapter's base model, if it is no folder, is not the card's.
    """
    file = folder / ("adapter_config.json" if kind == "adapter" else "config.json")
    if not file.is_file():
        raise ValueError(f"{folder} holds no {file.name}; name a folder of the kind {kind}.")
    content = read_json(file)
    if kind == "adapter":
        base = content.get("base_model_name_or_path") or "none"
        if len(base_models) != 1 or base not in base_models and not Path(base).is_dir():
            raise ValueError(
                f"The adapter's base model is {base} in {file}, but {' and '.join(base_models) or 'none'} on the "
                "card; give --base-model its id on the Hub."
            )
        return content
    configuration_class = ArmVQConfig if kind == "tokenizer" else ArmConfig
    if content.get("model_type") != configuration_class.model_type:
        raise ValueError(
            f"{file} is of the type {content.get('model_type')!r}, but that of a {kind} "
            f"{configuration_class.model_type!r}; name a folder of that kind."
        )
    return configuration_class.from_pretrained(folder)


def check_origin(folder: Path, base_models: Sequence[str], from_scratch: bool) -> None:
    """Raises ValueError unless either the models are named that the weights were built from, or that there are none.

    Nothing in a folder shows that it was trained from scratch, so the card says so only where its author does.
    """
    if base_models and from_scratch:
        raise ValueError(
            f"What was built from {base_models[0]} was not trained from scratch; leave out --base-model or "
            "--from-scratch."
        )
    if not base_models and not from_scratch:
        files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("config.json"))}
        shown = [f"{where} has the shape of {base.name}" for base, where in shown_backbones(files).items()]
        raise ValueError(
            f"Nothing says what {folder} was built from{f', but {shown[0]}' if shown else ''}; name the ids with "
            "--base-model, or state with --from-scratch that no published weights went into it."
        )


def hub_links(ids: Sequence[str], path: str = "") -> str:
    """Ids on the Hub as Markdown links; `path` is "datasets/" for data sets."""
    return ", ".join(f"[{each}](https://huggingface.co/{path}{each})" for each in ids)


def licensed(base_models: Sequence[str]) -> str:
    """Links to models, each with its licence where that is known without asking the Hub."""
    shown = []
    for base in base_models:
        names = known_licence(base)
        shown.append(hub_links([base]) + (f" ({', '.join(names)})" if names else ""))
    return ", ".join(shown)


def sampling_of(folder: Path) -> str:
    """How a model's folder samples pictures, in words; empty if it does not say."""
    file = folder / "generation_config.json"
    settings = read_json(file) if file.is_file() else {}
    sections = [
        ", ".join(f"{name} {value}" for name, value in settings.get(section, {}).items() if name not in IMAGE_EDITING)
        for section in ("image_generation", "image_editing")
    ]
    return "; edits with ".join(filter(None, sections))


def detokenizers_of(folder: Path) -> dict[str, str]:
    """The subfolders that hold diffusers pipelines, with the names of their classes."""
    return {file.parent.name: class_named(read_json(file)) for file in sorted(folder.glob(f"*/{PIPELINE}"))}


def filled(template: Path, **values) -> str:
    """A template's text; a name in it that is not among `values` raises."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATES]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"hub_links": hub_links, "licensed": licensed}
    text = environment.get_template(template.name).render(**values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"  # a block that says nothing leaves blank lines behind


def places_of(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where files will lie in `folder`, and where they are.

    Raises:
        ValueError: one is missing, or two have one name.
    """
    if missing := [str(file) for file in files if not file.is_file()]:
        raise ValueError(f"There is no file {missing[0]}; name one that is there.")
    if len({file.name for file in files}) < len(files):
        raise ValueError(f"Of {', '.join(map(str, files))} two have one name; rename one, they go into one folder.")
    return {folder / file.name: file for file in files}


def check_replaceable(file: Path) -> None:
    """Raises ValueError if a README.md holds somebody's words: it is no card of ours, nor what trainers leave behind.

    Trainers say `generated_from_trainer`, and leave the Hub's places to fill in.
    """
    if not file.is_file():
        return
    try:
        card = ModelCard.load(file)
    except Exception:  # of YAML's many kinds: no card of ours
        tags, is_empty = [], False
    else:
        tags, is_empty = card.data.get("tags") or [], UNFILLED in card.text
    if not (is_empty or {"arm", "generated_from_trainer"}.intersection(tags)):
        raise ValueError(
            f"{file} is no card that this wrote, and would be lost; move it away, or replace it with --overwrite "
            "(overwrite=True). What it says can go into the card by --text."
        )


def write_card(
    folder: Path,
    kind: str,
    *,
    repo: str,
    license: str,
    license_name: str | None = None,
    license_link: str | None = None,
    base_models: Sequence[str] = (),
    from_scratch: bool = False,
    datasets: Sequence[str] = (),
    results: Sequence[str | Path] = (),
    dataset: str | None = None,
    training: Path | None = None,
    pictures: Sequence[Path] = (),
    text: Path | None = None,
    names: Mapping[str, str] = NO_NAMES,
    overwrite: bool = False,
) -> ModelCard:
    """Writes `folder`/README.md, last, and what it tells of into `folder`/results and `folder`/pictures.

    Args:
        kind: one of `KINDS`.
        repo: what the card loads, an id on the Hub or a folder; the card's name is its last part.
        license, license_name, license_link: as in the Hub's metadata; a licence that the Hub does not list is "other"
            with a name and a link.
        base_models: ids on the Hub of what the weights were built from; none if there are none.
        from_scratch: whether the author states that there are none; the card and its metadata say so.
        datasets: ids on the Hub of the training data.
        results: files of figures, `FILE` or `FILE:FIELD`.
        dataset: what they were measured on, for files that do not say.
        training: file of the recipe.
        pictures: PNG or JPEG files.
        text: a template that extends the kind's.
        names: of figures, by their keys in result files; a world has some of its own.
        overwrite: whether a README.md that is no such card, and no trainer's, is replaced.

    Raises:
        ValueError: the folder is not of this kind, a licence without name and link, an adapter without its base model,
            a folder of which nothing says what it was built from, a README.md of somebody's own, or a file that is
            missing, broken or lacks something. Nothing is written then.
    """
    if not overwrite:
        check_replaceable(folder / CARD)
    if license == "other" and not (license_name and license_link):
        raise ValueError("The licence 'other' needs its name and a link; give --license-name and --license-link.")
    config = configuration(folder, kind, base_models)
    check_origin(folder, base_models, from_scratch)
    name = repo.rstrip("/").rpartition("/")[-1]
    given = [str(each).partition(":") for each in results]
    files = [Path(file) for file, _, _ in given]
    copies = places_of(files if training is None else [*files, training], folder / "results")
    shown = places_of(pictures, folder / "pictures")
    reports = [
        Report.read(file, f"results/{file.name}", field, name=name, dataset=dataset, names=names)
        for file, (_, _, field) in zip(files, given, strict=True)
    ]
    recipe = {"stages": [], "remark": "", "hardware": "", "date": ""} | (
        {} if training is None else read_json(training)
    )
    body = filled(
        text or TEMPLATES / f"{kind}.md",
        name=name,
        repo=repo,
        config=config,
        detokenizers=detokenizers_of(folder),
        sampling=sampling_of(folder),
        license=license,
        license_name=license_name,
        license_link=license_link,
        base_models=base_models,
        datasets=datasets,
        reports=reports,
        stages=recipe["stages"],
        remark=recipe["remark"],
        hardware=recipe["hardware"],
        date=recipe["date"],
        pictures=list(shown),
    )
    relation = {"base_model_relation": RELATIONS[kind]} if kind in RELATIONS and base_models else {}
    data = ModelCardData(
        license=license,
        license_name=license_name,
        license_link=license_link,
        base_model=list(base_models) or None,
        **({FROM_SCRATCH: True} if from_scratch else {}),
        datasets=list(datasets) or None,
        model_name=name if reports else None,
        eval_results=[figure for report in reports for figure in report.figures] or None,
        **KINDS[kind],
        **relation,
    )
    card = ModelCard.from_template(data, template_str="---\n{{ card_data }}\n---\n\n{{ body }}", body=body)
    for place, file in (copies | shown).items():
        if not (place.exists() and place.samefile(file)):
            place.parent.mkdir(exist_ok=True)
            with whole_file(place) as aside:
                shutil.copyfile(file, aside)
    write_whole(folder / CARD, str(card))
    return card
