"""What generate, edit and ask are asked, and how they tell what comes of it: prompts, typed or of a file, each with as
many seeds as results are wanted of it; a line for each result, or JSON.

Knows nothing about what a result is.
"""

import argparse
import json
import re
import sys
from typing import NamedTuple

from .shared import Once, user_path

SEEDS = 2**63  # that torch takes
LINES = re.compile(r"\r\n|\r|\n")  # what `str.splitlines` takes for ends of lines may be text


class Request(NamedTuple):
    prompt: str
    seed: int


class PromptFile(Once):
    """An option that names a file of prompts, beside which none has to be typed.

    Args:
        typed: the argument that takes those.
    """

    def __init__(self, *arguments, typed: argparse.Action, **options):
        super().__init__(*arguments, **options)
        self.typed = typed

    def __call__(self, parser, namespace, values, option_string=None):
        super().__call__(parser, namespace, values, option_string)
        self.typed.required = False


def add_requests(command: argparse.ArgumentParser, prompt: str, example: str) -> None:
    """The options that `requests` and `tell` read.

    Args:
        prompt: what a prompt is called here.
    """
    typed = command.add_argument("prompts", nargs="+", metavar=prompt, help=f"e.g. {example}; or --prompts")
    help_of_file = "file of more, one a line, in UTF-8; - is standard input"
    options = {"dest": "file", "metavar": "FILE", "action": PromptFile, "typed": typed}
    command.add_argument("--prompts", **options, help=help_of_file)
    help_of_seed = f"of the first result of each {prompt}; the next have those that follow (default: %(default)s)"
    command.add_argument("--seed", type=int, default=0, help=help_of_seed)
    command.add_argument("--count", type=int, default=1, help=f"results of each {prompt} (default: %(default)s)")
    command.add_argument("--json", action="store_true", help="print a JSON object a line")


def checked_seeds(seed: int, count: int = 1) -> range:
    """So many seeds, each of which torch takes; raises ValueError if one is none."""
    if not 0 <= seed <= seed + count - 1 < SEEDS:
        raise ValueError(f"Seed {seed} and those that follow must be in 0..{SEEDS - 1}.")
    return range(seed, seed + count)


def requests(arguments: argparse.Namespace) -> list[Request]:
    """Every prompt with each of its seeds, in order.

    Raises:
        ValueError: no number of results, seeds outside their bounds, an empty prompt, or a file that holds none.
        OSError: the file cannot be read.
    """
    count = arguments.count
    if count < 1:
        raise ValueError(f"--count {count} is no number of results; state 1 or more.")
    seeds = checked_seeds(arguments.seed, count)
    typed = arguments.prompts or ()
    for number, prompt in enumerate(typed, 1):
        if not prompt.strip():
            which = f"Number {number} of what is typed" if len(typed) > 1 else "What is typed"
            raise ValueError(f"{which} is empty; write what is wanted, or leave it out.")
    prompts = [*typed, *(() if arguments.file is None else prompts_of(arguments.file))]
    return [Request(prompt, each) for prompt in prompts for each in seeds]


def prompts_of(file: str) -> list[str]:
    """The lines of a file, or of standard input, that are not blank; raises as `requests`."""
    name = "standard input" if file == "-" else file
    try:
        content = sys.stdin.buffer.read() if file == "-" else user_path(file).read_bytes()
        lines = LINES.split(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is no text in UTF-8 ({error.reason} at byte {error.start}); save it as that."
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such file: {file}") from error
    if prompts := [line for line in lines if line.strip()]:
        return prompts
    raise ValueError(f"{name} holds no prompts; write one a line.")


def check_lengths(pipe, asked: list[Request]) -> None:
    """Raises a ValueError if a prompt alone takes more positions than the model has: it would run for hours."""
    from ..fetching_arm import shown
    from ..written_text_arm import written_text_encoder

    encode, most = written_text_encoder(pipe.processor.tokenizer), pipe.model.config.max_position_embeddings
    for prompt in dict.fromkeys(request.prompt for request in asked):
        if len(prompt) >= most and (length := len(encode(prompt))) >= most:  # a token has a character at least
            raise ValueError(
                f"The prompt {shown(prompt)!r} has {length:,} tokens, and the model {most:,} positions; shorten it."
            )


def tell(arguments: argparse.Namespace, line: str, **result) -> None:
    """Prints a result at once: its line, or with --json an object."""
    from tqdm.auto import tqdm

    with tqdm.external_write_mode():  # a bar makes room
        print(json.dumps(result) if arguments.json else line, flush=True)
