"""`transformers-arm push`: publishes a folder on the Hub."""

import argparse
from pathlib import Path

HELP = "publish a folder on the Hub, in one commit; run it again to go on after an interruption"
DESCRIPTION = "Publish an ARM, a tokenizer or an adapter on the Hub. Log in with `hf auth login` first."


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description = DESCRIPTION
    command.add_argument("folder", type=Path, help="folder of the model, with its card")
    command.add_argument("--repo", required=True, metavar="ORG/NAME", help="where to; made if there is none")
    command.add_argument("--private", action="store_true", help="make a new repo private")
    command.add_argument("--revision", help="branch, made if there is none (default: main)")
    command.add_argument("--message", help="of the commit (default: Upload and the folder's name)")
    command.add_argument("--dry-run", action="store_true", help="check the folder, list its files, and send nothing")
    command.set_defaults(checkpoint=None)


def run(arguments: argparse.Namespace) -> None:
    from ..hub import push as hub

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
