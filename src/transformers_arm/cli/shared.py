"""What several commands share: the model they run, what they read, where they write."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

CHECKPOINT = Path("checkpoints/arm-tiny")
DTYPES = ("auto", "bfloat16", "float16", "float32")


def user_path(name: str) -> Path:
    """A path that somebody typed: `~` is their home, also where the shell left it."""
    return Path(os.path.expanduser(name))


class Once(argparse.Action):
    """An option that is given once."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given twice; give it once.")
        setattr(namespace, self.dest, values)


def add_checkpoint(
    command: argparse.ArgumentParser, *names: str, help: str, kinds: tuple[str, ...] = ("arm",)
) -> None:
    """--checkpoint after the subcommand, too; of a folder of one of these kinds of models."""
    command.add_argument("--checkpoint", *names, type=Path, action=Once, help=help)
    command.set_defaults(kinds=kinds)


def add_model(command: argparse.ArgumentParser, *, positional: bool = False, dtype: str = "float32") -> None:
    """The options that `load_pipeline` reads; the checkpoint may be an argument of its own, MODEL."""
    help_of_checkpoint = f"ARM folder, or ORG/NAME on the Hub (default: {CHECKPOINT})"
    if positional:
        command.add_argument("checkpoint", type=Path, nargs="?", metavar="MODEL", help=help_of_checkpoint)
        command.set_defaults(kinds=("arm",))
    else:
        add_checkpoint(command, help=help_of_checkpoint)
    command.add_argument("--revision", help="branch, tag or commit of a repo on the Hub (default: its main branch)")
    command.add_argument("--device", help="such as cuda:1 (default: an accelerator where there is one, else cpu)")
    default = "the folder's" if dtype == "auto" else dtype
    command.add_argument("--dtype", choices=DTYPES, default=dtype, help=f"of the weights (default: {default})")
    command.set_defaults(from_hub=True)


def add_served(command: argparse.ArgumentParser, port: int) -> None:
    """The model and the options of commands that serve it until they are interrupted; `port` where none is stated."""
    add_model(command, positional=True, dtype="auto")
    command.add_argument("--host", default="127.0.0.1", help="to listen at; 0.0.0.0 is all (default: %(default)s)")
    command.add_argument("--port", type=int, default=port, help="0 takes a free one (default: %(default)s)")


def bind(arguments: argparse.Namespace):
    """A socket where `add_served` says, before a model is loaded.

    Raises:
        ValueError: there is no such port, or nobody can listen there.
    """
    from ..serving.app import bound_socket

    if not 0 <= arguments.port < 2**16:
        raise ValueError(f"--port {arguments.port} must be in 0..{2**16 - 1}.")
    return bound_socket(arguments.host, arguments.port)


def name_of(checkpoint: Path) -> str:
    """What people call a model: its folder's name, or ORG/NAME."""
    return checkpoint.resolve().name if checkpoint.exists() else checkpoint.as_posix()


def check_checkpoint(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Settles which checkpoint a command has: the one before it, the one after it, or the default.

    It is wrong usage to name two, and one for a command without.

    Raises:
        ValueError: it is no folder of such a model, nor a repo where that may be named.
    """
    before = arguments.before
    if "kinds" not in arguments:
        if before is not None:
            parser.error(f"{arguments.command} takes no --checkpoint.")
        return
    if None not in (before, arguments.checkpoint):
        parser.error(f"--checkpoint is given twice, before and after {arguments.command}; give it once.")
    checkpoint = arguments.checkpoint = arguments.checkpoint or before or CHECKPOINT
    revision = getattr(arguments, "revision", None)
    if not (checkpoint / "config.json").is_file():
        if not ("from_hub" in arguments and is_repo_id(checkpoint)):
            raise ValueError(f"{checkpoint} holds no config.json; name an ARM folder with --checkpoint.")
        return
    if revision is not None:
        raise ValueError(f"{checkpoint} is a folder and has no revision {revision}; leave --revision out.")
    try:
        kind = json.loads((checkpoint / "config.json").read_bytes())["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"The config.json of {checkpoint} states no model_type; name an ARM folder.") from error
    if kind not in arguments.kinds:
        kinds = " or ".join(arguments.kinds)
        raise ValueError(f"{checkpoint} holds a model of type {kind}, not {kinds}; name an ARM folder.")


def load_pipeline(task: str, arguments: argparse.Namespace):
    """The pipeline of a task.

    Raises:
        ValueError: a device that torch does not know or that is not there, a checkpoint that lacks tensors.
        SafetensorError: a file of weights is damaged; and what loading raises.
    """
    import torch
    from transformers import pipeline

    if arguments.device is not None:
        try:
            torch.empty(0, device=arguments.device)
        except (RuntimeError, AssertionError) as error:  # as torch says it, by how it was built
            why = str(error).partition("\n")[0]
            raise ValueError(f"--device {arguments.device} cannot be used: {why}") from error
    given = {"revision": arguments.revision} if arguments.revision is not None else {}
    model = arguments.checkpoint.as_posix()
    try:
        with bars_at_terminals():
            return pipeline(task, model=model, dtype=arguments.dtype, device=arguments.device, **given)
    except OSError as error:
        if arguments.checkpoint.exists():
            raise
        said = " ".join(str(error).split())  # of one line
        raise OSError(said if model in said else f"{model} cannot be loaded: {said}") from error
    except ValueError as error:
        *tracebacks, last = str(error).strip().splitlines()  # of each way that transformers tried to load the model
        if not any(line.startswith("Traceback") for line in tracebacks):
            raise
        raise ValueError(last.partition(": ")[2] or last) from error


@contextmanager
def bars_at_terminals() -> Iterator[None]:
    """Has libraries show bars of what they load only where somebody watches."""
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries = (transformers.utils.logging, diffusers.utils.logging)
    shown = [each for each in libraries if each.is_progress_bar_enabled() and not sys.stderr.isatty()]
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()


def check_picture(name: str) -> None:
    """Raises FileNotFoundError if it is neither a file nor an address."""
    from ..fetching_arm import ADDRESS

    if not ADDRESS.match(name) and not name.startswith("data:") and not Path(name).exists():
        raise FileNotFoundError(f"no such file: {name}")


def open_picture(name: str):
    """The picture of a file or an address that the user names; raises as `check_picture`, and what opening raises."""
    from ..fetching_arm import FROM_CALLER

    check_picture(name)
    return replace(FROM_CALLER, animated=False, advises_code=False).open(name)


def is_repo_id(checkpoint: Path) -> bool:
    """Whether it can only be meant as ORG/NAME on the Hub: the default is not, nor what lies in a folder of here."""
    from huggingface_hub.utils import validate_repo_id

    if checkpoint == CHECKPOINT or len(checkpoint.parts) != 2 or checkpoint.parent.exists():
        return False
    validate_repo_id(checkpoint.as_posix())
    return True


def check_output(file: Path) -> Path:
    """The file to write, known to be writable before anything is drawn."""
    if not file.parent.is_dir():
        raise ValueError(f"There is no folder {file.parent} to write {file.name} into; make it first.")
    if not os.access(file.parent, os.W_OK):
        raise ValueError(f"The folder {file.parent} may not be written to; name another one, or allow it.")
    if file.is_dir():
        raise ValueError(f"{file} is a folder; name a file.")
    if file.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{file} must end in .png, .jpg or .webp.")
    return file
