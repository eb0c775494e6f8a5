"""Commands: `transformers-arm generate | edit | ask | tokenize | demo | init | memory | parameters | push | env`."""

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

    return pipeline(task, model=arguments.checkpoint.as_posix(), dtype="float32")


def _is_repo_id(checkpoint: Path) -> bool:
    """Whether it can only be meant as ORG/NAME on the Hub: the default is not, nor what lies in a folder of here."""
    from huggingface_hub.utils import validate_repo_id

    if checkpoint == CHECKPOINT or len(checkpoint.parts) != 2 or checkpoint.parent.exists():
        return False
    validate_repo_id(checkpoint.as_posix())
    return True


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
    pipe = _pipeline("image-editing", arguments)
    pipe(arguments.image, arguments.instruction, arguments.mask, **sampling).save(output)
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


def tokenize(arguments: argparse.Namespace) -> None:
    from .data.pretokenize import pretokenize, summary

    renamed = [pair.partition("=") for pair in arguments.rename or ()]
    if wrong := [name for name, _, column in renamed if not column]:
        raise ValueError(f"--rename {' '.join(wrong)} must say their name and ours, as in --rename jpg=image.")
    report = pretokenize(
        arguments.dataset,
        arguments.output,
        arguments.checkpoint,
        config=arguments.config,
        split=arguments.split,
        rename={name: column for name, _, column in renamed} or None,
        task=arguments.task,
        workers=arguments.workers,
        rows_per_file=arguments.rows_per_file,
        batch_size=arguments.batch_size,
        max_skipped=arguments.max_skipped,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    print(summary(report))
    print(arguments.output)


INIT = """Build a ready-to-train ARM folder from a Qwen2.5 checkpoint and a visual tokenizer: weights, configuration,
tokenizer, processor, chat template and generation settings. Text rows are the checkpoint's, bit for bit; rows of shape
and image tokens are drawn anew. The memory it takes is one shard of 2 GB and Python's own.

arm-7b needs 17.4 GB of disk for what it writes, and to be downloaded:

  hf download Qwen/Qwen2.5-7B                         15.2 GB  the language model (--text)

and, for a visual tokenizer (--vq), which trainers/tokenizer.py trains:

  hf download google/siglip2-so400m-patch16-512        4.6 GB  its frozen vision tower, and text tower
  hf download Qwen/Qwen2.5-0.5B                        1.0 GB  the captioner it trains with

There are no public weights of such a tokenizer. To try it out, any Qwen2.5 goes with checkpoints/arm-tiny/vq_model:
leave arm-7b out."""


def memory(arguments: argparse.Namespace) -> None:
    from .configuration_arm import ArmConfig
    from .presets import arm_7b_config

    try:
        from .memory import memory_table
    except ModuleNotFoundError as error:
        raise ValueError(f"LoRA needs {error.name}; install it with `pip install transformers-arm[train]`.") from error

    if arguments.config == "arm-7b":
        config = arm_7b_config()
    elif (Path(arguments.config) / "config.json").is_file():
        config = ArmConfig.from_pretrained(arguments.config)
    else:
        raise ValueError(f"{arguments.config} holds no config.json; name the folder of an ARM, or arm-7b.")
    print(memory_table(config, tokens=arguments.tokens, gpus=arguments.gpus, rank=arguments.rank))


def parameters(arguments: argparse.Namespace) -> None:
    from .parameters import paper_tables

    print(paper_tables())


def env(arguments: argparse.Namespace) -> None:
    from .environment import environment_report

    print(environment_report())


def init(arguments: argparse.Namespace) -> None:
    from .assembly import assemble

    names = ("text", "vq", "detokenizer", "preset", "dtype", "seed")
    print(assemble(arguments.output, **{name: getattr(arguments, name) for name in names}))


def push(arguments: argparse.Namespace) -> None:
    from . import hub

    hub.validate_repo_id(arguments.repo)
    if arguments.dry_run:
        with hub.staged(arguments.folder, arguments.repo) as copies:
            files = [file for file in sorted(copies.rglob("*")) if file.is_file()]
            for file in files:
                print(f"{file.stat().st_size:>15,}  {file.relative_to(copies).as_posix()}")
            print(f"{sum(file.stat().st_size for file in files):>15,}  bytes in {len(files)} files; nothing was sent")
        return
    names = ("private", "revision", "message")
    commit = hub.push(arguments.folder, arguments.repo, **{name: getattr(arguments, name) for name in names})
    print(commit.commit_url)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="transformers-arm", description=__doc__)
    help_of_checkpoint = "ARM folder; generate, edit and ask also take ORG/NAME on the Hub (default: %(default)s)"
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help=help_of_checkpoint)
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
    command.set_defaults(run=generate, from_hub=True)

    command = commands.add_parser("edit", parents=[drawing], help="edit a picture as an instruction says")
    command.add_argument("image", help="image file or address")
    command.add_argument("instruction", help='e.g. "make the red circle blue"')
    command.add_argument("--mask", help="image file of the same size, white where the picture may change")
    command.add_argument("--output", type=Path, default=Path("edited.png"), help="file (default: %(default)s)")
    command.add_argument("--image-guidance-scale", type=float, help="of the source (default: the folder's)")
    command.set_defaults(run=edit, from_hub=True)

    command = commands.add_parser("ask", help="answer a question about a picture")
    command.add_argument("image", help="image file or address")
    command.add_argument("question", help='e.g. "what color is the circle?"')
    command.set_defaults(run=ask, from_hub=True)

    command = commands.add_parser("tokenize", help="turn a dataset of pictures into one of codes, to train from")
    command.add_argument("dataset", help="folder, Hub id, or parquet or tar files; its columns: docs/data.md")
    command.add_argument("--output", type=Path, required=True, help="folder to write, or to go on with")
    command.add_argument(
        *("--checkpoint", "--vq"),
        type=Path,
        default=argparse.SUPPRESS,
        help=f"folder of an ARM or of a tokenizer (default: {CHECKPOINT})",
    )
    command.add_argument("--config", help="which configuration of a Hub dataset")
    command.add_argument("--split", default="train", help="(default: %(default)s)")
    command.add_argument(
        "--rename",
        nargs="+",
        metavar="THEIRS=OURS",
        help="columns, e.g. jpg=image json.caption=prompt (default: for tars, jpg, png, webp=image txt=prompt)",
    )
    command.add_argument("--task", help="of rows that state none: text_to_image, editing, image_to_text or text")
    command.add_argument("--workers", type=int, help="processes (default: one a core, at most 8)")
    command.add_argument("--rows-per-file", type=int, default=5000, help="input rows (default: %(default)s)")
    command.add_argument("--batch-size", type=int, default=32, help="pictures at once (default: %(default)s)")
    command.add_argument("--max-skipped", type=float, default=0.1, help="share of rows (default: %(default)s)")
    command.add_argument("--device", help="(default: cuda where there is one, else cpu)")
    command.add_argument("--dtype", default="float32", help="of the tokenizer: as in training (default: %(default)s)")
    command.set_defaults(run=tokenize)

    command = commands.add_parser("demo", help="pictures, edits, answers, a story, and the scores on held-out items")
    command.add_argument("--images", nargs="+", default=[], help="image files of yours to pass through the tokenizer")
    command.add_argument("--output", type=Path, default=Path("demo"), help="folder to write (default: %(default)s)")
    command.add_argument("--items", type=int, default=200, help="held-out items to score a row (default: %(default)s)")
    command.set_defaults(run=demo)

    command = commands.add_parser("memory", help="what each way to train takes of memory; allocates nothing")
    command.add_argument("--config", default="arm-7b", help="arm-7b, or the folder of an ARM (default: %(default)s)")
    command.add_argument("--tokens", type=int, default=8192, help="of a micro-batch on one GPU (default: %(default)s)")
    command.add_argument("--gpus", type=int, default=8, help="that ZeRO and FSDP shard over (default: %(default)s)")
    command.add_argument("--rank", type=int, default=16, help="of LoRA (default: %(default)s)")
    command.set_defaults(run=memory, checkpoint=None)

    command = commands.add_parser("parameters", help="parameters of the tokenizer in training and of arm-7b, by part")
    command.set_defaults(run=parameters, checkpoint=None)

    command = commands.add_parser("env", help="versions, devices and optional packages, to paste into an issue")
    command.set_defaults(run=env, checkpoint=None)

    command = commands.add_parser(
        "init",
        help="build an untrained ARM from a Qwen2.5 checkpoint and a visual tokenizer; says what to download",
        description=INIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("preset", nargs="?", choices=["arm-7b"], help="refuse parts of other sizes than this model's")
    command.add_argument("--text", required=True, help="Qwen2.5 checkpoint: folder or Hub id")
    command.add_argument("--vq", required=True, help="visual tokenizer, an ArmVQModel: folder or Hub id")
    command.add_argument("--output", type=Path, required=True, help="folder to write, which must not be there yet")
    command.add_argument("--detokenizer", help="folder of a detokenizer to copy into it")
    dtypes = ("auto", "bfloat16", "float16", "float32")
    command.add_argument("--dtype", choices=dtypes, default="auto", help="of the weights (default: the checkpoint's)")
    command.add_argument("--seed", type=int, default=0, help="of the new rows (default: %(default)s)")
    command.set_defaults(run=init, checkpoint=None)

    command = commands.add_parser(
        "push",
        help="publish a folder on the Hub, in one commit; run it again to go on after an interruption",
        description="Publish an ARM, a tokenizer or an adapter on the Hub. Log in with `hf auth login` first.",
    )
    command.add_argument("folder", type=Path, help="folder of the model, with its card")
    command.add_argument("--repo", required=True, metavar="ORG/NAME", help="where to; made if there is none")
    command.add_argument("--private", action="store_true", help="make a new repo private")
    command.add_argument("--revision", help="branch, made if there is none (default: main)")
    command.add_argument("--message", help="of the commit (default: Upload and the folder's name)")
    command.add_argument("--dry-run", action="store_true", help="check the folder, list its files, and send nothing")
    command.set_defaults(run=push, checkpoint=None)

    arguments = parser.parse_args(argv)
    try:
        checkpoint = arguments.checkpoint
        if checkpoint and not (checkpoint / "config.json").is_file():
            if not ("from_hub" in arguments and _is_repo_id(checkpoint)):
                raise ValueError(f"{checkpoint} holds no config.json; name an ARM folder with --checkpoint.")
        arguments.run(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"transformers-arm: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
