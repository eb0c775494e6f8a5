"""What a Hub holds and says: repos with commits, branches and tags, requests, replies and errors.

Knows nothing about a server; `hub_server` is one.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml

LFS_FROM = 10 * 2**20  # bytes; smaller files are large ones to the Hub, too, if they are binary
GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class Request(NamedTuple):
    """What a client asked and what it got: `path` is decoded and has no query."""

    method: str
    path: str
    status: int


class Reply(NamedTuple):
    body: object = b""  # bytes are sent as they are, the rest as JSON
    status: int = 200
    headers: Mapping[str, str] = {}


class HubError(Exception):
    """An answer that is an error: the status, and what the Hub puts into X-Error-Code and X-Error-Message."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply = Reply({"error": message}, status, headers)


class File(NamedTuple):
    """A file of a commit. `oid` is git's name for it: of a large file, git's name for the pointer to it."""

    sha256: str
    size: int
    oid: str
    large: bool

    @property
    def description(self) -> dict:
        entry = {"type": "file", "size": self.size, "oid": self.oid}
        if self.large:  # trees say "oid", model infos say "sha256"
            entry["lfs"] = {"oid": self.sha256, "sha256": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


class Commit(NamedTuple):
    sha: str
    parent: str | None
    title: str
    date: str
    files: dict[str, File]


@dataclass
class Repo:
    id: str
    private: bool
    gated: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, File]) -> Commit:
        """Makes `files` the head of a branch, all at once; the branch is made if there is none."""
        parent, date = self.branches.get(branch), datetime.datetime.now(datetime.timezone.utc)
        sha = hashlib.sha1(repr((self.id, parent, title, date, sorted(files.items()))).encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, f"{date:%Y-%m-%dT%H:%M:%S.%fZ}", files)
        self.branches[branch] = sha
        return self.commits[sha]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a sha names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]


@dataclass
class Fault:
    """What goes wrong with requests of a method whose path matches; see `HubServer.failing`."""

    method: str
    path: str
    status: int | None
    after: int
    skip: int
    times: float

    def strikes(self, method: str, path: str) -> bool:
        if method != self.method or not re.search(self.path, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return self.times >= 0


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def card_metadata(text: str) -> dict:
    """The metadata at the top of a card; raises yaml.YAMLError where it is none."""
    found = re.match(r"---\n(.*?)\n---(\n|$)", text, re.DOTALL)
    metadata = yaml.safe_load(found[1]) if found else {}
    if not isinstance(metadata, dict):
        raise yaml.YAMLError("The metadata must be a mapping.")
    return json.loads(json.dumps(metadata, default=str))  # dates are no JSON


class Call(NamedTuple):
    """The rest of a request: what routes may look at beside the user and their names in the path."""

    path: str
    headers: Mapping
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)


def is_large(size: int, sample: bytes) -> bool:
    return size > LFS_FROM or b"\0" in sample


def pointer_oid(sha256: str) -> str:
    """A name for the pointer to a large file, which git has in place of it."""
    return git_oid(f"oid sha256:{sha256}\n".encode())


def folders_of(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: index + 1]) for index in range(len(parts))]


def entries(commit: Commit) -> dict[str, dict]:
    """What lies in a commit, path by path: its files and their folders."""
    folders = {folder for path in commit.files for folder in folders_of(path)}
    found = {folder: {"type": "directory", "oid": git_oid(folder.encode()), "size": 0} for folder in folders}
    found |= {path: file.description for path, file in commit.files.items()}
    return {path: {"path": path, **found[path]} for path in sorted(found)}
