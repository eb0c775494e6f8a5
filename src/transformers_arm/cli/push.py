"""`transformers-arm push`: publishes a folder on the Hub."""

import argparse
import sys
from pathlib import Path

HELP = "publish a folder on the Hub, in one commit; run it again to go on after an interruption"
KEPT = "what had arrived is kept, and the same command goes on"
DESCRIPTION = "Publish an ARM, a tokenizer or an adapter on the Hub. Log in with `hf auth login` first."


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = DESCRIPTION
    command.add_argument("folder", type=Path, help="folder of the model, with its card")
    command.add_argument("--repo", required=True, metavar="ORG/NAME", help="where to; made if there is none")
    command.add_argument("--private", action="store_true", help="make a new repo private")
    command.add_argument("--revision", help="branch, made if there is none (default: main)")
    command.add_argument("--message", help="of the commit (default: Upload and the folder's name)")
    no_trial = "do not draw, edit and answer with it first, which takes the memory of its weights"
    command.add_argument("--no-trial", action="store_false", dest="trial", help=no_trial)
    command.add_argument("--dry-run", action="store_true", help="check the folder, list its files, and send nothing")


def run(arguments: argparse.Namespace) -> None:
    from ..hub import push as hub

    def tell(said: str) -> None:
        print(f"transformers-arm: {said}", file=sys.stderr)

    hub.validate_repo_id(arguments.repo)
    if arguments.dry_run:
        with hub.staged(arguments.folder, arguments.repo, trial=arguments.trial, tell=tell) as copies:
            files = [file for file in sorted(copies.rglob("*")) if file.is_file()]
            for file in files:
                print(f"{file.stat().st_size:>15,}  {file.relative_to(copies).as_posix()}")
            print(f"{sum(file.stat().st_size for file in files):>15,}  bytes in {len(files)} files; nothing was sent")
        return
    options = {name: getattr(arguments, name) for name in ("private", "revision", "message", "trial")}
    commit = hub.push(arguments.folder, arguments.repo, tell=tell, **options)
    print(commit.commit_url)
