"""`transformers-arm ask`: answers questions about a picture."""

import argparse
import os
import time

from .requests import add_requests, check_lengths, requests, tell
from .shared import add_model, load_pipeline, open_picture

HELP = "answer questions about a picture"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", type=os.path.expanduser, help="image file or address")
    add_requests(command, "question", '"what color is the circle?"')
    help_of_temperature = "to sample answers at; 0 takes the likeliest words (default: as the folder says, mostly 0)"
    command.add_argument("--temperature", type=float, help=help_of_temperature)
    add_model(command)


def sampling(arguments: argparse.Namespace) -> dict:
    """Arguments of `generate`, those that the command line gives; raises a ValueError for what is no temperature."""
    from ..sampling_arm import ImageSampling, with_likeliest

    if arguments.temperature is None:
        return {}
    stated = {"do_sample": True} | with_likeliest({"temperature": arguments.temperature})
    ImageSampling(**stated)  # which checks it
    return stated if stated["do_sample"] else {"do_sample": False}


def run(arguments: argparse.Namespace) -> None:
    """Answers, and tells each answer as it comes.

    Raises:
        ValueError, OSError: no questions, no picture, no model, or answers that would all be the same.
    """
    import torch
    from tqdm.auto import tqdm

    from .progress import WrittenTokens

    asked, options, picture = requests(arguments), sampling(arguments), open_picture(arguments.image)
    pipe = load_pipeline("image-text-to-text", arguments)
    check_lengths(pipe, asked)
    if arguments.count > 1 and not options.get("do_sample", pipe.model.generation_config.do_sample):
        raise ValueError(
            f"--count {arguments.count} answers would be the same, for the model writes the likeliest words; state "
            "--temperature."
        )
    for question, seed in tqdm(asked, desc="answering", unit=" answers", disable=None, leave=False):
        torch.manual_seed(seed)
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        written, begun = WrittenTokens(), time.perf_counter()
        options["streamer"] = written
        answered = pipe(text=[{"role": "user", "content": content}], return_full_text=False, generate_kwargs=options)
        answer, seconds = answered[0]["generated_text"], round(time.perf_counter() - begun, 3)
        own = {"answer": answer, "tokens": written.tokens, "seconds": seconds}
        tell(arguments, answer, image=arguments.image, prompt=question, seed=seed, **own)
