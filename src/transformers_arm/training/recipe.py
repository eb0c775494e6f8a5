"""Recipes as types: read from YAML, replaced in part on a command line, and refused where anything in them is wrong.

    recipe = read_recipe(Conversations, "arm_tiny/pretrain", ["training.max_steps=10"])

A section's fields are the arguments of whatever takes it (`section`), written down once, where they are used. pydantic
checks them: sections nest, which the parsers of transformers and TRL do not know, and its errors say where they are.
Knows no stage.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import reduce
from importlib import resources
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import docstring_parser
import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, create_model

SHIPPED = resources.files("transformers_arm") / "recipes"
KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class RecipeError(ValueError):
    """What is wrong with a recipe, a line for each thing: its place, what it must be, and the fix."""


class Section(BaseModel):
    """Fields of a recipe; only those that were stated are passed on."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    def stated(self) -> dict[str, Any]:
        """The fields that the recipe states, by name; sections as they are."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def plain(self, *without: str) -> dict[str, Any]:
        """The fields that the recipe states, for what takes them: all the way down as YAML had them."""
        return self.model_dump(exclude_unset=True, exclude=set(without), warnings=False)

    def problems(self) -> Iterator[tuple[str, str]]:
        """What types cannot say of the fields: (place in this section, what is wrong and the fix)."""
        yield from ()


def described(taker: Callable) -> dict[str, str]:
    """What the docstring of a callable or class, or a dataclass's `help`, says of each argument; of what makes
    instances of a class, its class too.
    """
    made = getattr(taker, "__self__", None)
    texts = described(made) if inspect.isclass(made) else {}
    for each in docstring_parser.parse(inspect.getdoc(taker) or "").params:
        for name in each.arg_name.split(","):
            texts[name.strip()] = " ".join((each.description or "").split())
    for name, each in getattr(taker, "__dataclass_fields__", {}).items():
        if text := each.metadata.get("help"):
            texts[name] = " ".join(text.split())
    return texts


def type_hints(taker: Callable) -> dict[str, Any]:
    """The types of a callable's or a class's arguments; those that only a library's type checker knows are Any."""
    if inspect.isclass(taker) and not is_dataclass(taker):
        taker = taker.__init__
    try:
        return get_type_hints(taker)
    except NameError:
        named = {}
        for kind in reversed(inspect.getmro(taker)):
            for name, hint in inspect.get_annotations(kind).items():
                named[name] = Any if is_unresolved(hint) else hint
        return named


def is_unresolved(hint: Any) -> bool:
    """Whether a type, or one within it, is the name of one."""
    if isinstance(hint, (str, ForwardRef)):
        return True
    return get_origin(hint) is not Literal and any(map(is_unresolved, get_args(hint)))


def arguments_of(taker: Callable, without: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Named arguments of a callable, and of what it `takes` besides: type, and field with default and description."""
    hints = type_hints(taker)
    texts, found = described(taker), {}
    if hasattr(taker, "takes"):
        found = arguments_of(taker.takes, without)
    for name, parameter in inspect.signature(taker).parameters.items():
        if parameter.kind in KINDS and name not in {*without, "self"}:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            if type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
                default = None
            hint = hints.get(name, Any)
            if any(map(is_typeddict, (hint, *get_args(hint)))):
                hint = Any  # pydantic wants those of newer Pythons
            found[name] = (hint, Field(default, description=texts.get(name)))
    return found


def section(name: str, *takers: Callable, without: Iterable[str] = (), **further) -> type[Section]:
    """A section whose fields are the named arguments of callables, and `further` ones as pydantic takes them.

    Args:
        without: arguments that do not come from a recipe.
    """
    found = {}
    for taker in takers:
        found |= arguments_of(taker, without)
    return create_model(name, __base__=Section, **(found | further))


def either(**kinds: type[Section]) -> Any:
    """The type of a section that is of one kind or another: of the first whose key, a field of it, is stated."""

    def kind_of(value: Any) -> str:
        stated = value if isinstance(value, Mapping) else getattr(value, "model_fields_set", ())
        return next((f"<{key}>" for key in kinds if key in stated), f"<{[*kinds][-1]}>")

    tagged = [Annotated[kind, Tag(f"<{key}>")] for key, kind in kinds.items()]
    return Annotated[reduce(or_, tagged), Discriminator(kind_of)]


# --- files -----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and truths: 1e-3 is a number, `no` is a word; a key that stands twice is an error."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node, deep=False):
        seen = {}
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r} stands twice, first in line {seen[name]}; keep one", key.start_mark
                )
            seen[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load_yaml(text: str, where: str) -> Any:
    """What YAML says; raises RecipeError with place and reason where it cannot be read."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{where}{place}: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: {' '.join(str(error).split())}") from error


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package: `arm_tiny/pretrain`, ..."""
    folders = sorted(each for each in SHIPPED.iterdir() if each.is_dir())
    return [
        f"{folder.name}/{file.name.removesuffix('.yaml')}" for folder in folders for file in sorted(folder.iterdir())
    ]


def read_file(name: str) -> tuple[str, str]:
    """A recipe's file and its text, by its path or as one that comes with the package.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    path = Path(name)
    if path.is_file():
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{name} cannot be read: {error}. A recipe is a YAML file.") from error
    known = shipped_recipes()
    if name.removesuffix(".yaml") in known:
        folder, _, file = name.removesuffix(".yaml").partition("/")
        return name, (SHIPPED / folder / f"{file}.yaml").read_text(encoding="utf-8")
    near = difflib.get_close_matches(name, known, 1)
    guess = f" Did you mean {near[0]}?" if near else f" The package brings {', '.join(known)}."
    raise RecipeError(f"There is no recipe {name}: neither a file nor one of the package's.{guess}")


def overridden(values: dict, overrides: Sequence[str]) -> dict:
    """A recipe's values with `section.key=value` replaced or added.

    Raises:
        RecipeError: no such form, a path through what is no section, or one place twice.
    """
    done = set()
    for override in overrides:
        path, separator, text = override.partition("=")
        *parents, key = path.split(".")
        if not separator or not all((*parents, key)):
            raise RecipeError(f"{override!r} is no override; write section.key=value.")
        if path in done:
            raise RecipeError(f"{path} is given twice on the command line; give it once.")
        done.add(path)
        target = values
        for depth, parent in enumerate(parents, 1):
            if isinstance(target, dict) and target.get(parent) is None:
                target[parent] = {}
            target = target[parent] if isinstance(target, dict) else target
            if not isinstance(target, dict):
                at = ".".join(parents[:depth])
                kind = "list" if isinstance(target, list) else "value"
                raise RecipeError(
                    f"{path}: {at} is a {kind}, which has no {key!r}; replace it as a whole, as in '{at}=...'."
                )
        target[key] = load_yaml(text, f"the override {path}")
    return values


# --- checking --------------------------------------------------------------------------------------------------------


def fields_of(kind: type) -> dict[str, Any]:
    """The fields of a section, or of a dataclass that stands in one, with their types."""
    if issubclass(kind, Section):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return {each.name: get_type_hints(kind)[each.name] for each in fields(kind) if each.init}


def sections_in(annotation: Any) -> Iterator[type]:
    """The sections and dataclasses that a type names, at any depth of unions, lists and dicts."""
    if inspect.isclass(annotation) and (issubclass(annotation, Section) or is_dataclass(annotation)):
        yield annotation
    for each in get_args(annotation):
        yield from sections_in(each)


def shown_type(annotation: Any) -> str:
    """A type in few words: `float`, `str | None`, `list of float`."""
    if annotation is Any:
        return "anything"
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(dict.fromkeys(shown_type(each) for each in get_args(annotation)))
    if get_origin(annotation) in (list, tuple, Sequence):
        inner = [shown_type(each) for each in get_args(annotation) if each is not Ellipsis]
        return f"list of {' | '.join(dict.fromkeys(inner))}"
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return "None" if annotation is type(None) else annotation.__name__
    return re.sub(r"\b[\w.]+\.", "", str(annotation))


def located(kind: type[Section], location: Sequence) -> tuple[list[str], list[type], Any]:
    """Of an error's location the path as a recipe writes it, the sections it may be in, and the field's type."""
    path, kinds, annotation = [], [kind], kind
    for step in location:
        known = [fields_of(each)[step] for each in kinds if step in fields_of(each)]
        if known:
            annotation, kinds = known[0], [found for each in known for found in sections_in(each)]
            path.append(str(step))
        elif isinstance(step, int) or get_origin(annotation) in (dict, Mapping):
            path.append(str(step))
            annotation = get_args(annotation)[-1] if get_args(annotation) else Any
    return path, kinds, annotation


def explained(kind: type[Section], error: Mapping) -> tuple[str, str]:
    """One of pydantic's errors as a place in the recipe and what is wrong there."""
    path, kinds, annotation = located(kind, error["loc"])
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *parents, last = error["loc"]
        path, kinds, _ = located(kind, parents)
        known = sorted({name for each in kinds for name in fields_of(each)})
        near = difflib.get_close_matches(str(last), known, 1)
        fix = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}."
        return ".".join([*path, str(last)]), f"there is no such field; {fix}"
    if error["type"] in ("missing", "missing_argument"):
        return ".".join(path), "it is missing; state it."
    if error["type"] == "value_error":
        return ".".join(path), error["msg"].removeprefix("Value error, ")
    return ".".join(path), f"{error['input']!r} does not fit: {error['msg']}. It takes {shown_type(annotation)}."


def explained_values(kind: type[Section], values: Any) -> list[tuple[str, str]]:
    """What is wrong with the values of a section: places in it and what is wrong there; nothing if they fit."""
    try:
        fitting = kind.model_validate(values)
    except ValidationError as error:
        return list(dict.fromkeys(explained(kind, each) for each in error.errors()))
    return list(deeper_problems(fitting))


def deeper_problems(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """What sections say is wrong with themselves, at any depth."""
    if isinstance(values, Section):
        for place, line in values.problems():
            yield ".".join(filter(None, (*path, place))), line
        values = values.stated()
    if isinstance(values, Mapping | list):
        for name, each in values.items() if isinstance(values, Mapping) else enumerate(values):
            yield from deeper_problems(each, (*path, str(name)))


def parse(kind: type[Section], values: Any, where: str, others: Mapping[str, type[Section]] | None = None) -> Section:
    """A recipe of a kind.

    Args:
        values: as YAML has them.
        where: what an error calls the recipe.
        others: the other kinds by name, one of which it may be.

    Raises:
        RecipeError: anything in it is wrong, with a line for each thing.
    """
    if not isinstance(values, dict):
        raise RecipeError(
            f"{where} holds a {type(values).__name__}, but a recipe is fields and sections, 'name: value'."
        )
    problems = explained_values(kind, values)
    if problems:
        fits = [name for name, other in (others or {}).items() if not explained_values(other, values)]
        if fits:
            raise RecipeError(f"{where} is a recipe of another stage: {' or '.join(fits)}.")
        raise RecipeError("\n".join(f"{where}: {place + ': ' if place else ''}{line}" for place, line in problems))
    return kind.model_validate(values)


def read_recipe(
    kind: type[Section], name: str, overrides: Sequence[str] = (), others: Mapping[str, type[Section]] | None = None
) -> Section:
    """A recipe by its file or name, with overrides; raises RecipeError as `parse`, `read_file` and `overridden`."""
    where, text = read_file(name)
    values = load_yaml(text, where)
    return parse(kind, overridden(values, overrides) if isinstance(values, dict) else values, where, others)


# --- help ------------------------------------------------------------------------------------------------------------


def field_lines(kind: type[Section], prefix: str = "", seen: tuple = ()) -> Iterator[str]:
    """Every field of a kind of recipe, and of its sections, with type, default and meaning."""
    for name, field in kind.model_fields.items():
        inner = [each for each in dict.fromkeys(sections_in(field.annotation)) if issubclass(each, Section)]
        default = "required" if field.is_required() else f"default {field.default!r}"
        yield f"  {prefix}{name} ({'section' if inner else shown_type(field.annotation)}, {default})"
        if field.description:
            yield f"      {field.description}"
        for each in inner:
            if each not in seen:
                yield from field_lines(each, f"{prefix}{name}.", (*seen, each))
