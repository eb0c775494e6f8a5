"""`transformers-arm chat`: a conversation in the terminal, or through a pipe, a line a message.

Texts are printed as they come; pictures are saved, and named where they stand in the answer.
"""

import argparse
import re
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

from .drawing import save
from .requests import checked_seeds
from .shared import add_model, check_output, load_pipeline, name_of, user_path
from .shell import Terminated, told_errors
from .typed_pictures import parts_of, text_of

HELP = "talk with a model, in texts and pictures"
KEPT = "pictures that were named are whole"
DESCRIPTION = """\
Talk with a model: a line is a message. A word that ends as a picture's name does (.png, .jpg, .webp, ...) is that
picture, a file or an address; a name with spaces stands in quotes. Pictures that the model draws are saved, and
named."""
COMMANDS = """\
/help        print this
/reset       forget the conversation
/seed [N]    seed of the next answer; those after it have the seeds that follow
/text ...    say what follows as it is: names of pictures stay text
/quit        leave, as does the end of the input (Ctrl-D)
Ctrl-C       stop an answer; the conversation is as it was before it"""
COMMAND = re.compile(r"/([A-Za-z]+)(?:\s+(.*))?", re.DOTALL)  # not a path, whose first word goes on


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.description, command.epilog = DESCRIPTION, COMMANDS
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model(command, positional=True)
    command.add_argument("--seed", type=int, default=0, help="of the first answer (default: %(default)s)")
    help_of_output = "file, numbered, of pictures that it draws; none is replaced (default: %(default)s)"
    command.add_argument("--output", type=user_path, default=Path("chat.png"), help=help_of_output)


def run(arguments: argparse.Namespace) -> None:
    """Answers until there is nothing more to read. At a terminal an error ends the answer, else the command.

    Raises:
        ValueError, OSError: no model, nowhere to save pictures; or of an answer, where nobody is there to try again.
    """
    checked_seeds(arguments.seed)
    output = check_output(arguments.output)
    chat = Chat(load_pipeline("interleaved", arguments), arguments.seed, output)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        print(f"{name_of(arguments.checkpoint)}; /help says what there is, Ctrl-D leaves.", file=sys.stderr)
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  lines can be edited, and be longer than a terminal takes
    while (line := read_line(at_terminal)) is not None:
        try:
            if not chat.take(line):
                break
        except (BrokenPipeError, Terminated):
            raise
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            print("\nstopped", file=sys.stderr)
        except told_errors() as error:
            if not at_terminal:
                raise
            print(error, file=sys.stderr)


def read_line(at_terminal: bool) -> str | None:
    """What is typed, or None at the end of the input."""
    try:
        return input("> " if at_terminal and sys.stdout.isatty() else "")
    except EOFError:
        if at_terminal:
            print()
        return None


class Chat:
    """A conversation, and what changes it.

    Args:
        pipe: of the task "interleaved".
        seed: of the next answer.
        output: what pictures are named after.
    """

    def __init__(self, pipe, seed: int, output: Path):
        self.pipe, self.seed, self.output = pipe, seed, output
        self.messages = []

    def take(self, line: str) -> bool:
        """Does what a line says; whether the conversation goes on."""
        name, rest = match.groups("") if (match := COMMAND.fullmatch(line)) else (None, line)
        if name == "quit":
            return False
        if name == "help":
            print(COMMANDS, flush=True)
        elif name == "reset":
            self.messages = []
        elif name == "seed":
            self.state_seed(rest)
        elif name not in (None, "text"):
            raise ValueError(f"There is no /{name}; /help names what there is, and /text says a line as it is.")
        elif rest.strip():
            self.answer(text_of(rest) if name else parts_of(rest))
        return True

    def state_seed(self, seed: str) -> None:
        """Prints the seed of the next answer, or makes it another."""
        if not seed:
            print(self.seed, flush=True)
        elif re.fullmatch(r"[0-9]+", seed.strip()):
            (self.seed,) = checked_seeds(int(seed))
        else:
            raise ValueError(f"{seed} is no seed; write a whole number, 0 or more.")

    def answer(self, content: list[dict]) -> None:
        """Answers a message, prints texts and names pictures; both become part of the conversation at the end."""
        import torch

        from .progress import PrintedTexts

        said, parts = [*self.messages, {"role": "user", "content": content}], []
        printed = PrintedTexts(self.pipe.processor.tokenizer)
        torch.manual_seed(self.seed)  # of texts, where a model samples them
        generator = torch.Generator().manual_seed(self.seed)
        for part in self.pipe.stream(said, text_streamer=printed, generator=generator):
            parts.append(part)
            printed.end_line()
            if part["type"] == "image":
                file = self.free_file()
                save(part["image"], file)
                print(file, flush=True)
        printed.end_line()
        self.messages = [*said, {"role": "assistant", "content": parts}]
        self.seed += 1

    def free_file(self) -> Path:
        """The next number that no picture has."""
        names = (self.output.with_stem(f"{self.output.stem}-{number}") for number in count(1))
        return next(file for file in names if not file.exists())
