"""`transformers-arm card`: writes the card of a folder, with the result files that back its figures."""

import argparse
from pathlib import Path

HELP = "write the card of a folder, which push needs, from its results"
KEPT = "some of its files may be written, and the same command writes them all"
DESCRIPTION = """\
Write the card (README.md) of a model, an RL model, a tokenizer or a LoRA adapter, and copy the result files that back
its figures beside it:

  transformers-arm card model arm-7b --repo lab/arm-7b --license apache-2.0 \\
      --base-model Qwen/Qwen2.5-7B google/siglip2-so400m-patch16-512 --results geneval.json stages.json:scores/sft \\
      --dataset GenEval --training training.json --pictures samples.png --text arm-7b.md

A result file is JSON with command, date and hardware, maybe items and seed, and scores by name, with must and aim by
the same names if there are bounds, or a table of before, after and gain: what the scripts in benchmarks/ write.
FILE:FIELD takes what lies there, names joined by "/". The file of --training has stages, a list of stage, command,
seed, steps and minutes, and a remark. --text is a template that extends the kind's and replaces blocks of it."""
KINDS = ("model", "rl", "tokenizer", "adapter")


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = DESCRIPTION
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("kind", choices=KINDS)
    command.add_argument("folder", type=Path, help="what is going to be published")
    command.add_argument("--repo", required=True, help="its id on the Hub")
    command.add_argument("--license", required=True, help="as the Hub writes it, such as apache-2.0, or other")
    command.add_argument("--license-name", help="of a licence that is not on the Hub's list")
    command.add_argument("--license-link", help="where that can be read")
    command.add_argument("--base-model", nargs="+", default=[], help="ids of what it was built from")
    scratch = "state that no published weights went into it; a card needs this or --base-model"
    command.add_argument("--from-scratch", action="store_true", help=scratch)
    command.add_argument("--datasets", nargs="+", default=[], help="ids of the data it was trained on")
    command.add_argument("--results", nargs="+", default=[], metavar="FILE[:FIELD]", help="files of its figures")
    command.add_argument("--dataset", help="what figures are of, for result files that do not say")
    command.add_argument("--world", help="name of the world that figures are of, which has words for them")
    command.add_argument("--training", type=Path, help="file of its recipe")
    command.add_argument("--pictures", type=Path, nargs="+", default=[], help="pictures to show")
    command.add_argument("--text", type=Path, help="template that extends the kind's and replaces blocks of it")
    command.add_argument("--overwrite", action="store_true", help="replace a README.md that was not written so")


def run(arguments: argparse.Namespace) -> None:
    from ..data.world import find_world
    from ..hub.card_writing import WORLD, write_card

    names = ("repo", "license", "license_name", "license_link", "from_scratch", "datasets", "results", "training")
    names += ("pictures", "text", "overwrite")
    options = {name: getattr(arguments, name) for name in names}
    dataset = arguments.dataset
    if arguments.world is not None:
        options["names"], dataset = find_world(arguments.world).figure_names, dataset or WORLD
    write_card(arguments.folder, arguments.kind, base_models=arguments.base_model, dataset=dataset, **options)
    print(arguments.folder / "README.md")
