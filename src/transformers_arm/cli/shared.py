"""What several commands share: the model they run, how it samples, what they read, where they write."""

import argparse
import json
import os
from pathlib import Path

from ..whole_files import whole_file

CHECKPOINT = Path("checkpoints/arm-tiny")
SEEDS = 2**63  # that torch takes
DTYPES = ("auto", "bfloat16", "float16", "float32")


def sampling(arguments: argparse.Namespace, pictures: int = 1) -> dict:
    """Arguments of the drawing pipelines: those given on the command line, and a generator a picture, of the seed and
    those that follow.

    Raises:
        ValueError: one of them is outside its bounds, before any model is loaded.
    """
    import torch

    from ..sampling_arm import IMAGE_GENERATION, ImageSampling

    names = ("guidance_scale", "image_guidance_scale", "temperature", "height", "width")
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    ImageSampling(**{name: value for name, value in given.items() if name in IMAGE_GENERATION})  # which checks them
    seeds = range(arguments.seed, arguments.seed + pictures)
    if not 0 <= seeds[0] <= seeds[-1] < SEEDS:
        raise ValueError(f"--seed {arguments.seed} and the seeds that follow must be in 0..{SEEDS - 1}.")
    return {**given, "generator": [torch.Generator().manual_seed(seed) for seed in seeds]}


def add_sampling(command: argparse.ArgumentParser) -> None:
    """The options that `sampling` reads."""
    command.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    command.add_argument("--guidance-scale", type=float, help="of the text; 1 turns it off (default: the folder's)")
    command.add_argument("--temperature", type=float, help="of the sampling (default: the folder's)")
    for side in ("--height", "--width"):
        command.add_argument(side, type=int, help="size to draw at, in px (default: the folder's)")


def add_previews(command: argparse.ArgumentParser) -> None:
    """The options that `previews` reads."""
    help_of_folder = "folder for pictures as they are while their tokens come; it must be there (default: none)"
    command.add_argument("--previews", type=Path, metavar="FOLDER", help=help_of_folder)
    command.add_argument("--preview-every", type=int, metavar="ROWS", help="of tokens between previews (default: 1)")
    command.add_argument("--preview-steps", type=int, metavar="STEPS", help="to render a preview (default: 4)")


def previews(arguments: argparse.Namespace, files: list[Path]) -> dict:
    """Arguments of the drawing pipelines that save previews, and name each as it is there.

    Args:
        files: what each picture will be saved as; a preview is named after it, and after the rows that are drawn.

    Raises:
        ValueError: nowhere to save them, or numbers for none.
    """
    from ..previews_arm import SETTINGS, check_previews

    folder = arguments.previews
    given = {name: getattr(arguments, name) for name in SETTINGS}
    if folder is None:
        if any(value is not None for value in given.values()):
            raise ValueError("--preview-every and --preview-steps are of previews; name a folder with --previews.")
        return {}

    def save(number: int, rows: int, picture) -> None:
        file = folder / f"{files[number].stem}-row{rows}.png"
        with whole_file(file) as aside:
            picture.save(aside)
        print(file, flush=True)

    check_output(folder / "preview.png")
    check_previews(None, {"preview": save, **given})
    return {"preview": save, **given}


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


def add_model(command: argparse.ArgumentParser) -> None:
    """The options that `load_pipeline` reads."""
    add_checkpoint(command, help=f"ARM folder, or ORG/NAME on the Hub (default: {CHECKPOINT})")
    command.add_argument("--revision", help="branch, tag or commit of a repo on the Hub (default: its main branch)")
    command.add_argument("--device", help="such as cuda:1 (default: an accelerator where there is one, else cpu)")
    command.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)")
    command.set_defaults(from_hub=True)


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
        return pipeline(task, model=model, dtype=arguments.dtype, device=arguments.device, **given)
    except ValueError as error:
        *tracebacks, last = str(error).strip().splitlines()  # of each way that transformers tried to load the model
        if not any(line.startswith("Traceback") for line in tracebacks):
            raise
        raise ValueError(last.partition(": ")[2] or last) from error


def check_picture(name: str) -> None:
    """Raises FileNotFoundError if it is neither a file nor an address."""
    from ..fetching_arm import ADDRESS

    if not ADDRESS.match(name) and not name.startswith("data:") and not Path(name).exists():
        raise FileNotFoundError(f"no such file: {name}")


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
