"""Keys of services in what is going to be published: in texts, beside the pixels of pictures, in the heads of weights.

Knows what keys look like by themselves, one pattern a service, and how they are named where they look like anything;
an error says where one stands and never the key.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import PIL.ExifTags
import PIL.Image

from .files import PICTURES, WEIGHTS, open_picture

MAX_HEAD_BYTES = 10**8  # safetensors' own limit
# Each begins with what it is known by, so that a search is one pass, and looks a bounded number of characters ahead.
# What stands before is looked at afterwards: a pattern that began with that would be tried everywhere.
WORD = r"[A-Za-z0-9_]"
KEYS = MappingProxyType(
    {
        "the Hub": r"hf_(?<!WORD...)[A-Za-z0-9]{30}|api_org_(?<!WORD........)[A-Za-z0-9]{30}",
        "Anthropic": r"sk-ant-(?<!WORD.......)[A-Za-z0-9_-]{20}",
        "OpenAI": r"sk-(?<!WORD...)(?:(?:proj|svcacct|admin|None|or-v1)-[A-Za-z0-9_-]{20}|[A-Za-z0-9]{20})",
        "AWS": r"(?:AKIA|ASIA)(?<!WORD....)[A-Z0-9]{16}(?![A-Za-z0-9])",
        "Google": r"AIza(?<!WORD....)[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}|ya29\.(?<!WORD.....)[A-Za-z0-9_-]{30}",
        "GitHub": r"gh[pousr]_(?<!WORD....)[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{30}",
        "GitLab": r"gl(?:pat|dt|rt|ptt|oas|soat|cbt|ft|agent)-[A-Za-z0-9_-]{20}",
        "Slack": r"xox[abeoprs]-[A-Za-z0-9-]{10}|xapp-\d-[A-Za-z0-9-]{10}|hooks\.slack\.com/services/T[A-Za-z0-9]{6}",
        "Weights & Biases": r"wandb_v\d_[A-Za-z0-9_]{30}"
        r"|(?i:wandb)(?!\.ai/)[^\n]{0,40}?(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])",
        "Stripe": r"[sr]k_live_[A-Za-z0-9]{20}",
        "PyPI": r"pypi-AgE[A-Za-z0-9_-]{40}",
        "npm": r"npm_(?<!WORD....)[A-Za-z0-9]{36}",
        "Replicate": r"r8_(?<!WORD...)[A-Za-z0-9]{37}",
        "Groq": r"gsk_(?<!WORD....)[A-Za-z0-9]{40}",
        "xAI": r"xai-(?<!WORD....)[A-Za-z0-9]{40}",
        "NVIDIA": r"nvapi-(?<!WORD......)[A-Za-z0-9_-]{40}",
        "Perplexity": r"pplx-(?<!WORD.....)[A-Za-z0-9]{40}",
        "Together": r"tgp_v1_[A-Za-z0-9_-]{40}",
        "Fireworks": r"fw_(?<!WORD...)(?=[A-Za-z]{0,21}[0-9])[A-Za-z0-9]{22}",
        "Databricks": r"dapi(?<!WORD....)[0-9a-f]{32}",
        "SendGrid": r"SG\.(?<!WORD...)[A-Za-z0-9_-]{16,64}+\.[A-Za-z0-9_-]{16}",
        "Docker": r"dckr_[po]at_[A-Za-z0-9_-]{20}",
        "DigitalOcean": r"do[opr]_v1_[0-9a-f]{64}",
        "Discord": r"discord(?:app)?\.com/api/webhooks/[0-9]{10,25}/[A-Za-z0-9_-]{30}",
        "Telegram": r"api\.telegram\.org/bot\d{6,12}:[A-Za-z0-9_-]{30}",
        "a cryptographic identity (a private key)": r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY",
        "an address (its password)": r"://[^\s/:@\"'<>{}$*\[\]()`]{1,100}:[^\s/@\"'<>{}$*\[\]()`]{1,200}@[\w\[]",
        "a web service (a JSON web token)": r"eyJ(?<!WORD...)[A-Za-z0-9_-]{10,}+"
        r"\.eyJ[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]{10}",
        # The last one: what comes before has a name to tell. A word for keys, marks, and many characters with a digit.
        "a service (it is named as one)": r"(?i:(?:api|access|auth|secret|account|client|private|subscription)[_-]?"
        r"(?:key|token|secret)|bearer|passw(?:or)?d|[?&;](?:key|token|sig|signature)|[\"']key[\\\"'])"
        r"[ \t:=\\\"'`]{1,10}(?=[A-Za-z_+/%-]{0,60}[0-9])[A-Za-z0-9_+/%-]{24}",
    }
)
PATTERNS: Mapping[str, re.Pattern] = MappingProxyType(
    {service: re.compile(pattern.replace("WORD", WORD).encode()) for service, pattern in KEYS.items()}
)


def key_in(content: bytes) -> tuple[str, int] | None:
    """The service that some text holds a key of, and the line, from 1; None if it holds none."""
    for service, pattern in PATTERNS.items():
        if found := pattern.search(content):
            return service, content.count(b"\n", 0, found.start()) + 1
    return None


def head_of(file: Path) -> bytes:
    """The JSON at the start of a safetensors file: names of tensors and metadata; empty where there is none."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return opened.read(length) if length <= min(file.stat().st_size - 8, MAX_HEAD_BYTES) else b""


def written_in(picture: PIL.Image.Image) -> Iterator[tuple[str, bytes]]:
    """Texts beside a picture's pixels, as they are read by people: what each is, and its content."""
    exif = picture.getexif()
    fields = {**picture.info, **getattr(picture, "text", {}), **exif}
    for place in PIL.ExifTags.IFD:
        fields |= {f"{place.name} {tag}": value for tag, value in exif.get_ifd(place).items()}
    for name, value in fields.items():
        if isinstance(value, str | bytes):
            value = value.encode("utf-8", "replace") if isinstance(value, str) else value
            comment = value.removeprefix(b"UNICODE\0").removeprefix(b"ASCII\0")  # which EXIF says of comments
            yield str(name), comment.replace(b"\0", b"")  # of UTF-16, ASCII remains


def contents_of(name: str, file: Path) -> Iterator[tuple[str | None, bytes]]:
    """What of a file is text, with the part of it that it stands in: None of a file that is text altogether."""
    if name.endswith(WEIGHTS):
        yield "its head", head_of(file)
    elif Path(name).suffix.lower() in PICTURES:
        yield "its bytes", file.read_bytes()
        with open_picture(name, file) as picture:
            yield from written_in(picture)
    else:
        yield None, file.read_bytes()


def check_secrets(files: Mapping[str, Path]) -> None:
    """Raises ValueError if one of some files, paths in the repo and where they are, holds a key of a service."""
    for name, file in files.items():
        for part, content in contents_of(name, file):
            if found := key_in(content):
                service, line = found
                where = f"line {line}" if part is None else part
                raise ValueError(
                    f"{name} holds what looks like a key to {service}, in {where}; remove it there, and revoke it."
                )
