"""`transformers-arm ask`: answers a question about a picture."""

import argparse

from .shared import add_model, check_picture, load_pipeline

HELP = "answer a question about a picture"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", help="image file or address")
    command.add_argument("question", help='e.g. "what color is the circle?"')
    add_model(command)


def run(arguments: argparse.Namespace) -> None:
    from ..image_processing_arm import ArmImageProcessor

    check_picture(arguments.image)
    picture = ArmImageProcessor().fetch_images([arguments.image])[0]
    content = [{"type": "image", "image": picture}, {"type": "text", "text": arguments.question}]
    answered = load_pipeline("image-text-to-text", arguments)(
        text=[{"role": "user", "content": content}], return_full_text=False
    )
    print(answered[0]["generated_text"])
