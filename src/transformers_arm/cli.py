"""The command line: `transformers-arm generate | edit | ask | demo`."""

import argparse
import sys
from pathlib import Path

CHECKPOINT = Path("checkpoints/arm-tiny")


def _sampling(arguments: argparse.Namespace) -> dict:
    """Arguments of the drawing pipelines: those given on the command line, and a generator of the seed."""
    import torch

    names = ("guidance_scale", "temperature", "height", "width")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return {**given, "generator": torch.Generator().manual_seed(arguments.seed)}


def _pipeline(task: str, arguments: argparse.Namespace):
    from transformers import pipeline

    import transformers_arm  # noqa: F401  registers the pipelines

    return pipeline(task, model=str(arguments.checkpoint), dtype="float32")


def _check_output(file: Path) -> Path:
    """The file to write, known to be writable before anything is drawn."""
    if not file.parent.is_dir():
        raise ValueError(f"There is no folder {file.parent} to write {file.name} into; make it first.")
    if file.is_dir():
        raise ValueError(f"{file} is a folder; name a file.")
    if file.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{file} must end in .png, .jpg or .webp.")
    return file


def generate(arguments: argparse.Namespace) -> None:
    output = _check_output(arguments.output)
    draw = _pipeline("text-to-image", arguments)
    pictures = draw(arguments.prompt, num_images_per_prompt=arguments.count, **_sampling(arguments))
    pictures = pictures if arguments.count > 1 else [pictures]
    for number, picture in enumerate(pictures, 1):
        file = output if len(pictures) == 1 else output.with_stem(f"{output.stem}-{number}")
        picture.save(file)
        print(file)


def edit(arguments: argparse.Namespace) -> None:
    output = _check_output(arguments.output)
    sampling = _sampling(arguments)
    if arguments.image_guidance_scale is not None:
        sampling["image_guidance_scale"] = arguments.image_guidance_scale
    _pipeline("image-editing", arguments)(arguments.image, arguments.instruction, **sampling).save(output)
    print(output)


def ask(arguments: argparse.Namespace) -> None:
    content = [{"type": "image", "image": arguments.image}, {"type": "text", "text": arguments.question}]
    answered = _pipeline("image-text-to-text", arguments)(
        text=[{"role": "user", "content": content}], return_full_text=False
    )
    print(answered[0]["generated_text"])


def demo(arguments: argparse.Namespace) -> None:
    from .demo import run_demo

    run_demo(arguments.checkpoint, arguments.output, arguments.images, count=arguments.items)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="transformers-arm", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="ARM folder (default: %(default)s)")
    commands = parser.add_subparsers(required=True)

    drawing = argparse.ArgumentParser(add_help=False)
    drawing.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    drawing.add_argument("--guidance-scale", type=float, help="of the text; 1 turns it off (default: the folder's)")
    drawing.add_argument("--temperature", type=float, help="of the sampling (default: the folder's)")
    for side in ("--height", "--width"):
        drawing.add_argument(side, type=int, help="size to draw at, in px (default: the folder's)")

    command = commands.add_parser("generate", parents=[drawing], help="draw a picture of a prompt")
    command.add_argument("prompt", help='e.g. "a red circle left of a blue square"')
    command.add_argument("--output", type=Path, default=Path("generated.png"), help="file (default: %(default)s)")
    command.add_argument("--count", type=int, default=1, help="pictures to draw (default: %(default)s)")
    command.set_defaults(run=generate)

    command = commands.add_parser("edit", parents=[drawing], help="edit a picture as an instruction says")
    command.add_argument("image", help="image file or address")
    command.add_argument("instruction", help='e.g. "make the red circle blue"')
    command.add_argument("--output", type=Path, default=Path("edited.png"), help="file (default: %(default)s)")
    command.add_argument("--image-guidance-scale", type=float, help="of the source (default: the folder's)")
    command.set_defaults(run=edit)

    command = commands.add_parser("ask", help="answer a question about a picture")
    command.add_argument("image", help="image file or address")
    command.add_argument("question", help='e.g. "what color is the circle?"')
    command.set_defaults(run=ask)

    command = commands.add_parser("demo", help="pictures, edits, answers, a story, and the scores on held-out items")
    command.add_argument("--images", nargs="+", default=[], help="image files of yours to pass through the tokenizer")
    command.add_argument("--output", type=Path, default=Path("demo"), help="folder to write (default: %(default)s)")
    command.add_argument("--items", type=int, default=200, help="held-out items to score a row (default: %(default)s)")
    command.set_defaults(run=demo)

    arguments = parser.parse_args(argv)
    try:
        if not (arguments.checkpoint / "config.json").is_file():
            raise ValueError(f"{arguments.checkpoint} holds no config.json; name an ARM folder with --checkpoint.")
        arguments.run(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"transformers-arm: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
