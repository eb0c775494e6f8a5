"""Texts without the credentials that addresses, servers and errors put into them.

Knows nothing about what is asked of a server.
"""

import base64
import html
import json
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote_plus, unquote, urlsplit, urlunsplit

HIDDEN = "<hidden>"

_ADDRESS = re.compile(r"""//[^\s"'<>]+""")
_SHORT = 6  # shorter secrets are looked for between words only, or "x" would hide half of every sentence


def without_credentials(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` in which addresses have neither user, password nor query, and each of `secrets` is "<hidden>".

    A secret is also found as URLs, JSON, Python and HTML write it.
    """
    text = _ADDRESS.sub(_bare, text)
    for secret in sorted(set(secrets) - {""}, key=len, reverse=True):  # one may begin with another
        pattern = "".join(map(_any_writing, secret))
        if len(secret) < _SHORT:
            pattern = rf"(?<!\w){pattern}(?!\w)"
        text = re.sub(pattern, HIDDEN, text)
    return text


def _bare(address: re.Match) -> str:
    """An address without what may be a user, password or query: rather too much than half a password."""
    path, mark, query = address[0].removeprefix("//").rpartition("@")[2].partition("?")
    return f"//{path}{mark}{HIDDEN if query else ''}"


def _any_writing(character: str) -> str:
    """A pattern for a character, as itself or escaped."""
    escaped = "".join(f"%(?:25)*{byte:02x}" for byte in character.encode())
    plain = {character, quote_plus(character), json.dumps(character)[1:-1], repr(character)[1:-1], f"\\{character}"}
    plain |= {html.escape(character)}
    return f"(?:{'|'.join(map(re.escape, sorted(plain, key=len, reverse=True)))}|(?i:{escaped}))"


class Address:
    """An http(s) address, and apart from it the credentials that stood in it.

    Args:
        url: may have a user and password, which authenticate by HTTP's Basic scheme, and a query, which may be a key.
        what: the argument's name, for messages.

    Attributes:
        bare: without user, password and query; what a log may say.
        query: as it was, "" if there is none.
        user: user and password, or None.

    Raises:
        ValueError: no http(s) address.
    """

    def __init__(self, url: str, what: str):
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and parts.hostname and not re.search(r"\s", url)
            parts.port  # noqa: B018 - raises where it is no number
        except (ValueError, AttributeError, TypeError):  # whose text may quote half a password
            is_address = False
        if not is_address:
            # Without a scheme nothing tells where a password ends.
            shown = without_credentials(re.sub(r"\S*@", "", url)) if isinstance(url, str) else type(url).__name__
            raise ValueError(f"{what} is {shown!r}; give an http(s) URL such as http://localhost:8000/v1.")
        user, _, host = parts.netloc.rpartition("@")
        name, _, password = user.partition(":")
        self.bare = urlunsplit((parts.scheme, host, parts.path, "", ""))
        self.query = parts.query
        self.user = (unquote(name), unquote(password)) if name or password else None

    @property
    def secrets(self) -> set[str]:
        """What must not be shown."""
        fields = parse_qsl(self.query, keep_blank_values=True)
        found = {value or name for name, value in fields if len(value or name) >= _SHORT}  # not the 2 of ?version=2
        if self.user is not None:
            user, password = self.user
            found |= {password or user, base64.b64encode(f"{user}:{password}".encode()).decode()}
        return found
