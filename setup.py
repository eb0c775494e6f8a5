"""What pyproject.toml cannot say: on a package index, with no files beside it, the README's links are whole ones."""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = "https://github.com/transformers-arm/transformers-arm"
PICTURES = (".png", ".jpg", ".gif", ".svg")
# Code comes first, and stays as it is.
CODE_OR_RELATIVE_LINK = re.compile(r"```.*?```|`[^`\n]+`|(?<=\]\()(?!\w+:|#)(?P<link>[^)\s]+)", re.DOTALL)


def with_whole_links(text: str) -> str:
    """A Markdown page of the repository's root, with the addresses that its relative links have on GitHub."""

    def whole(match: re.Match) -> str:
        link = match["link"]
        if link is None:
            return match[0]
        return f"{REPOSITORY}/{'raw' if link.endswith(PICTURES) else 'blob'}/HEAD/{link}"

    return CODE_OR_RELATIVE_LINK.sub(whole, text)


setup(
    long_description=with_whole_links(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
