"""Pictures in what somebody types: a word that ends as the name of one is the picture of that file or address.

Knows nothing about what becomes of them.
"""

import os
import re

from .shared import open_picture

SUFFIX = r"\.(?:png|jpe?g|webp|gif|bmp|tiff?|ppm|avif)"
PICTURE = re.compile(
    rf"""
    (?<![^\s(\[]) (?![(\[])         # where a word begins, after brackets
    (?:
        "([^"]+{SUFFIX})"           # a name in quotes
        | '([^']+{SUFFIX})'
        | ((?!["'])(?:\\.|[^\s\\])+{SUFFIX})  # a word, with backslashes before spaces, as in dropped files
    )
    (?=[?!.,;:)\]]*(?:\s|$))         # and nothing but punctuation until it ends
    """,
    re.IGNORECASE | re.VERBOSE,
)
ESCAPED = re.compile(r"\\([^\w\\])")


def parts_of(typed: str) -> list[dict]:
    """The content of a message: texts, and pictures where they are named.

    Raises:
        ValueError, OSError: a picture that is not there, or none; says how to write its name as a text.
    """
    parts, end = [], 0
    for match in PICTURE.finditer(typed):
        name = match[1] or match[2] or ESCAPED.sub(r"\1", match[3])
        parts += text_of(typed[end : match.start()].strip())
        try:
            parts.append({"type": "image", "image": open_picture(os.path.expanduser(name))})
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}; a name with spaces stands in quotes, and /text before what you say keeps it as text"
            ) from error
        end = match.end()
    return parts + text_of(typed[end:].strip() if end else typed)


def text_of(text: str) -> list[dict]:
    return [{"type": "text", "text": text}] if text else []
