"""What generate and edit share: how they sample, previews, and pictures that are saved as they come."""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ..whole_files import provisional, whole_file
from .requests import Request, add_requests, check_lengths, requests, tell
from .shared import add_model, check_output, load_pipeline, user_path

KEPT = "pictures that were named are whole"


def add_drawing(command: argparse.ArgumentParser, prompt: str, example: str, output: str) -> None:
    """The options that `draw` reads.

    Args:
        prompt, example: as `add_requests` takes them.
        output: name of the picture, unless the user says another.
    """
    add_requests(command, prompt, example)
    help_of_output = "file; of several pictures they are numbered (default: %(default)s)"
    command.add_argument("--output", type=user_path, default=Path(output), help=help_of_output)
    command.add_argument("--batch-size", type=int, default=1, help="pictures drawn together (default: %(default)s)")
    command.add_argument("--guidance-scale", type=float, help="of the text; 1 turns it off (default: the folder's)")
    help_of_temperature = "of the sampling; 0 takes the likeliest codes (default: the folder's)"
    command.add_argument("--temperature", type=float, help=help_of_temperature)
    for side in ("--height", "--width"):
        command.add_argument(side, type=int, help="size to draw at, in px (default: the folder's)")
    command.add_argument("--live", action="store_true", help="have the output show each picture while it is drawn")
    help_of_folder = "folder for pictures as they are while their tokens come; it must be there (default: none)"
    command.add_argument("--previews", type=user_path, metavar="FOLDER", help=help_of_folder)
    command.add_argument("--preview-every", type=int, metavar="ROWS", help="of tokens between previews (default: 1)")
    command.add_argument("--preview-steps", type=int, metavar="STEPS", help="to render a preview (default: 4)")
    add_model(command)


def sampling(arguments: argparse.Namespace) -> dict:
    """Arguments of the drawing pipelines, those that the command line gives.

    Raises:
        ValueError: one of them is outside its bounds, before any model is loaded.
    """
    from ..sampling_arm import IMAGE_GENERATION, ImageSampling, with_likeliest

    names = ("guidance_scale", "image_guidance_scale", "temperature", "height", "width")
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    given = with_likeliest(given)
    ImageSampling(**{name: value for name, value in given.items() if name in IMAGE_GENERATION})  # which checks them
    return given


def previews(arguments: argparse.Namespace, files: list[Path]) -> dict:
    """Arguments of the drawing pipelines that show what is drawn: in the files themselves, or in files of a folder,
    which are named after them and after the rows that are drawn, and told.

    Args:
        files: what each picture of a call will be saved as.

    Raises:
        ValueError: nowhere to show it, or numbers for no previews.
    """
    from ..previews_arm import SETTINGS, check_previews

    folder = arguments.previews
    given = {name: getattr(arguments, name) for name in SETTINGS}
    if folder is None and not arguments.live:
        if any(value is not None for value in given.values()):
            raise ValueError(
                "--preview-every and --preview-steps are of previews; name a folder with --previews, or say --live."
            )
        return {}

    def show(number: int, rows: int, picture) -> None:
        if arguments.live:
            save(picture, files[number])
        if folder is not None:
            file = folder / f"{files[number].stem}-row{rows}.png"
            save(picture, file)
            tell(arguments, file, preview=str(file), rows=rows)

    if folder is not None:
        check_output(folder / "preview.png")
    check_previews(None, {"preview": show, **given})
    return {"preview": show, **given}


def save(picture, file: Path) -> None:
    with whole_file(file) as aside:
        picture.save(aside)


def draw(arguments: argparse.Namespace, task: str, call: Callable[[list[str]], tuple], **told) -> None:
    """Draws what is asked, a batch at a time, and saves and tells each picture as it comes.

    Args:
        task: of the pipeline.
        call: prompts -> what the pipeline is called with.
        told: what --json says of every picture, beside its own.

    Raises:
        ValueError, OSError: no pictures to draw, nowhere to write them, or no model; nothing is written then.
    """
    from ..pipeline_arm import batched
    from ..prompts_arm import checked_batch_size
    from .progress import DrawnTokens

    asked, output = requests(arguments), check_output(arguments.output)
    numbered = [output.with_stem(f"{output.stem}-{number}") for number in range(1, len(asked) + 1)]
    files = [check_output(file) for file in (numbered if len(asked) > 1 else [output])]
    options, size = sampling(arguments), checked_batch_size(arguments.batch_size)
    previews(arguments, files)  # which checks their options
    pipe = load_pipeline(task, arguments)
    pipe.show_progress = False
    check_lengths(pipe, asked)
    with DrawnTokens(pipe.model.config, len(asked)) as tokens:

        def drawn(prompts: list[str], **given) -> list:
            return pipe(*call(prompts), batch_size=size, streamer=tokens, **options, **given)

        def tell_of(file: Path, request: Request, picture, seconds: float) -> None:
            own = {"size": f"{picture.width}x{picture.height}", "tokens": tokens.each, "seconds": seconds}
            tell(arguments, file, file=str(file), **told, **request._asdict(), **own)

        for batch in batched(zip(files, asked, strict=True), size):
            draw_batch(arguments, drawn, batch, tell_of)


def draw_batch(arguments: argparse.Namespace, drawn: Callable, batch: list[tuple], tell_of: Callable) -> None:
    """Draws pictures together; then saves each, and tells of it.

    Args:
        drawn: prompts and arguments of the pipeline -> pictures.
        batch: of each picture its file and its request.
        tell_of: is called with these, the picture, and the seconds that all of them took.
    """
    import torch

    files, asked = zip(*batch, strict=True)
    generators = [torch.Generator().manual_seed(request.seed) for request in asked]
    with ExitStack() as stack:
        keep = {file: stack.enter_context(provisional(file)) for file in files if arguments.live}
        begun = time.perf_counter()
        prompts = [request.prompt for request in asked]
        pictures = drawn(prompts, generator=generators, **previews(arguments, files))
        seconds = round(time.perf_counter() - begun, 3)
        for file, request, picture in zip(files, asked, pictures, strict=True):
            save(picture, file)
            if arguments.live:
                keep[file]()
            tell_of(file, request, picture, seconds)
