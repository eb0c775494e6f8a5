"""A server on loopback that speaks the Hub's protocol for model repos, as far as `huggingface_hub` asks.

Repos have commits, branches and tags; files are stored by their content, so what has arrived is never sent again.
Gated and private repos, wrong names and wrong parents are answered as the Hub does, and `failing` breaks what a test
names: a request is refused, or its connection dropped in the middle of a file. Left out: datasets and spaces, xet
(clients need HF_HUB_DISABLE_XET=1), CDN redirects, multipart uploads, pull requests, pages of lists, discussions,
settings. Of ARM it knows only the name of the package, to hide it from a process.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

sys.path.append(str(Path(__file__).parent / "helpers"))  # for those who run this file from elsewhere

from hub_repos import (  # noqa: E402
    GIT_ATTRIBUTES,
    Call,
    Fault,
    File,
    HubError,
    Reply,
    Repo,
    Request,
    card_metadata,
    entries,
    git_oid,
    is_large,
    pointer_oid,
)

MODEL = r"/api/models/(?P<repo_id>[^/]+/[^/]+)"


class HubServer:
    """The server, running inside a `with`; every repo belongs to the owner of `token`.

    Args:
        folder: where it keeps content, and the caches of processes that `run` starts.

    Attributes:
        endpoint: what clients need as HF_ENDPOINT.
        token: may do everything. `stranger_token` is of a user who may read public repos; others are invalid.
        requests: all that was asked and answered, in order.
    """

    token = "hf_owner"
    stranger_token = "hf_stranger"

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.contents = self.folder / "contents"
        self.contents.mkdir(parents=True)
        self.users = {self.token: "owner", self.stranger_token: "stranger"}
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()

    def __enter__(self) -> "HubServer":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def add_repo(
        self, repo_id: str, folder: str | os.PathLike, revision="main", gated=False, private=False, title="Upload"
    ) -> str:
        """Makes exactly a folder's files the head of a branch, of a new repo if there is none; returns the sha."""
        paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        files = {path.relative_to(folder).as_posix(): self.store(path.read_bytes()) for path in paths}
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(repo_id, private, gated))
            return repo.commit(revision, title, files).sha

    def read(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        """A file of a repo."""
        return (self.contents / self.repos[repo_id].at(revision).files[path].sha256).read_bytes()

    @contextlib.contextmanager
    def failing(
        self, method: str, path: str, *, status: int | None = None, after=0, skip=0, times: float = float("inf")
    ) -> Iterator[None]:
        """Breaks requests inside the `with`.

        Args:
            method, path: which ones: "PUT", and a regular expression searched in the path.
            status: what they are answered; None drops the connection.
            after: bytes of a file that are sent before the connection drops; nothing else is even carried out.
            skip, times: how many of them pass before the first that breaks, and how many break.
        """
        fault = Fault(method, path, status, after, skip, times)
        self.faults.append(fault)
        try:
            yield
        finally:
            self.faults.remove(fault)

    def run(
        self,
        code: str,
        *,
        offline: bool = False,
        package: bool = True,
        token: str | None = None,
        cache: str | os.PathLike | None = None,
    ) -> subprocess.CompletedProcess:
        """Runs Python code in a fresh process whose Hub this is.

        Args:
            code: what it runs; its output is captured as text, and its return code is not checked.
            offline: reach no server.
            package: whether `import transformers_arm` works there.
            token: whom it is logged in as; None: nobody.
            cache: its HF_HOME, where downloads and remote code go; None: one that all runs share.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache or self.folder / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }
        environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        environment |= {"HF_TOKEN": token} if token else {}
        if not package:
            code = 'import sys\nsys.modules["transformers_arm"] = None\n' + code
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )

    def store(self, content: bytes, large: bool | None = None) -> File:
        """Keeps content; None decides what is large as the Hub does."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not (self.contents / sha256).is_file():
            aside = self.contents / f"{sha256}.{threading.get_ident()}"
            aside.write_bytes(content)
            aside.rename(self.contents / sha256)
        large = is_large(len(content), content[:512]) if large is None else large
        return File(sha256, len(content), pointer_oid(sha256) if large else git_oid(content), large)

    def repo(self, user: str | None, repo_id: str, write: bool = False) -> Repo:
        """A repo that a user may read, or write; to others private repos look like missing ones."""
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and user != "owner"):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != "owner":
            status, message = (403, "You have no rights to write to this repo") if user else (401, "Please log in")
            raise HubError(status, message)
        return repo

    def answer(self, method: str, path: str, headers: Mapping, body: bytes) -> Reply:
        """What a request gets; `path` is the quoted one."""
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.users:
            raise HubError(401, "Invalid credentials in Authorization header")
        for verb, pattern, function in ROUTES:
            if verb == method.replace("HEAD", "GET") and (found := pattern.fullmatch(urlsplit(path).path)):
                names = {name: unquote(value or "") for name, value in found.groupdict().items()}
                with self.lock:
                    return function(self, self.users.get(token), Call(path, headers, body), **names)
        raise HubError(404, f"This server has no {method} {path}")


ROUTES = []


def route(method: str, pattern: str):
    """Registers the answer to a method and a pattern of quoted paths, whose named groups the function gets."""

    def register(function):
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


@route("GET", "/api/whoami-v2")
def whoami(hub, user, call):
    if user is None:
        raise HubError(401, "Invalid user token.")
    return Reply({"type": "user", "name": user, "orgs": []})


@route("POST", "/api/repos/create")
def create_repo(hub, user, call):
    repo_id = f"{call.json.get('organization') or user}/{call.json['name']}"
    address = {"url": f"{hub.endpoint}/{repo_id}", "id": repo_id}
    if user != "owner":
        message = f"You don't have the rights to create a model under the namespace {repo_id.split('/')[0]!r}"
        raise HubError(403 if user else 401, message)
    if repo_id in hub.repos:
        return Reply(address | {"error": "You already created this model repo"}, 409)
    repo = hub.repos[repo_id] = Repo(repo_id, call.json.get("visibility") == "private", gated=False)
    repo.commit("main", "initial commit", {".gitattributes": hub.store(GIT_ATTRIBUTES)})
    return Reply(address)


@route("POST", "/api/validate-yaml")
def validate_yaml(hub, user, call):
    try:
        metadata = card_metadata(call.json["content"])
    except yaml.YAMLError as error:
        return Reply({"errors": [{"message": str(error)}], "warnings": []}, 400)
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return Reply({"errors": [], "warnings": warnings})


@route("POST", MODEL + "/preupload/(?P<revision>[^/]+)")
def preupload(hub, user, call, repo_id, revision):
    files = hub.repo(user, repo_id, write=True).at(revision).files
    answers = []
    for wanted in call.json["files"]:
        large = is_large(wanted["size"], base64.b64decode(wanted["sample"]))
        there = files.get(wanted["path"])
        oid = {} if there is None else {"oid": there.sha256 if there.large else there.oid}
        mode = {"path": wanted["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        answers.append(mode | oid)
    return Reply({"files": answers})


@route("POST", r"/(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
def lfs_batch(hub, user, call, repo_id):
    hub.repo(user, repo_id, write=True)
    objects = []
    for wanted in call.json["objects"]:
        upload = {"actions": {"upload": {"href": f"{hub.endpoint}/lfs/{wanted['oid']}"}}}
        objects.append(wanted | ({} if (hub.contents / wanted["oid"]).is_file() else upload))
    return Reply({"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/(?P<sha256>[0-9a-f]{64})")
def upload(hub, user, call, sha256):
    if hashlib.sha256(call.body).hexdigest() != sha256:
        raise HubError(400, "The content is not what its sha256 says")
    hub.store(call.body)
    return Reply()


@route("POST", MODEL + "/commit/(?P<branch>[^/]+)")
def commit(hub, user, call, repo_id, branch):
    repo = hub.repo(user, repo_id, write=True)
    if branch not in repo.branches:
        raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    header, *operations = (json.loads(line) for line in call.body.splitlines())
    parent = header["value"].get("parentCommit")
    if parent and not repo.branches[branch].startswith(parent):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repo.at(branch).files)
    for operation in operations:
        kind, value = operation["key"], operation["value"]
        path = value["path"]
        if kind == "file":
            files[path] = hub.store(base64.b64decode(value["content"]), large=False)
        elif kind == "lfsFile":
            if not (hub.contents / value["oid"]).is_file():
                raise HubError(400, f"The content of {path} was not uploaded")
            files[path] = File(value["oid"], value["size"], pointer_oid(value["oid"]), large=True)
        else:
            gone = [name for name in files if name == path or name.startswith(f"{path.rstrip('/')}/")]
            if not gone or (kind == "deletedFile") != (gone == [path]):
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            files = {name: file for name, file in files.items() if name not in gone}
    made = repo.commit(branch, header["value"]["summary"], files)
    url = f"{hub.endpoint}/{repo_id}/commit/{made.sha}"
    return Reply({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})


@route("GET", MODEL + "(/revision/(?P<revision>[^/]+))?")
def model_info(hub, user, call, repo_id, revision):
    repo = hub.repo(user, repo_id)
    head = repo.at(revision or "main")
    card = card_metadata(hub.read(repo_id, "README.md", head.sha).decode()) if "README.md" in head.files else {}
    siblings = [
        {"rfilename": path, "blobId": file.oid, **file.description} if "blobs" in call.query else {"rfilename": path}
        for path, file in head.files.items()
    ]
    return Reply(
        {
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.split("/")[0],
            "sha": head.sha,
            "lastModified": head.date,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "tags": card.get("tags", []) + ([f"license:{card['license']}"] if "license" in card else []),
            "cardData": card,
            "siblings": siblings,
        }
        | {name: card[name] for name in ("library_name", "pipeline_tag") if name in card}
    )


@route("GET", MODEL + "/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?")
def tree(hub, user, call, repo_id, revision, folder):
    found = entries(hub.repo(user, repo_id).at(revision))
    if folder and found.get(folder, {}).get("type") != "directory":
        raise HubError(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
    start = f"{folder}/" if folder else ""
    deep = call.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    return Reply(
        [
            entry
            for path, entry in found.items()
            if path.startswith(start) and (deep or "/" not in path.removeprefix(start))
        ]
    )


@route("POST", MODEL + "/paths-info/(?P<revision>[^/]+)")
def paths_info(hub, user, call, repo_id, revision):
    found = entries(hub.repo(user, repo_id).at(revision))
    return Reply([found[path] for path in parse_qs(call.body.decode()).get("paths", []) if path in found])


@route("GET", MODEL + "/refs")
def refs(hub, user, call, repo_id):
    repo = hub.repo(user, repo_id)
    kinds = (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
    return Reply(
        {"converts": [], "pullRequests": []}
        | {
            kind: [{"name": name, "ref": f"refs/{where}/{name}", "targetCommit": sha} for name, sha in names.items()]
            for kind, where, names in kinds
        }
    )


@route("GET", MODEL + "/commits/(?P<revision>[^/]+)")
def commits(hub, user, call, repo_id, revision):
    repo, line = hub.repo(user, repo_id), []
    sha = repo.at(revision).sha
    while sha is not None:
        one = repo.commits[sha]
        line.append({"id": sha, "title": one.title, "message": "", "date": one.date, "authors": [{"user": "owner"}]})
        sha = one.parent
    return Reply(line)


@route("POST", MODEL + "/branch/(?P<branch>[^/]+)")
def create_branch(hub, user, call, repo_id, branch):
    repo = hub.repo(user, repo_id, write=True)
    if branch in repo.branches:
        raise HubError(409, f"Reference already exists: {branch}")
    repo.branches[branch] = repo.at(call.json.get("startingPoint", "main")).sha
    return Reply({}, 201)


@route("POST", MODEL + "/tag/(?P<revision>[^/]+)")
def create_tag(hub, user, call, repo_id, revision):
    repo = hub.repo(user, repo_id, write=True)
    if call.json["tag"] in repo.tags:
        raise HubError(409, f"Tag reference exists already: {call.json['tag']}")
    repo.tags[call.json["tag"]] = repo.at(revision).sha
    return Reply({}, 201)


@route("DELETE", MODEL + "/(?P<kind>branch|tag)/(?P<name>[^/]+)")
def delete_reference(hub, user, call, repo_id, kind, name):
    repo = hub.repo(user, repo_id, write=True)
    if (repo.branches if kind == "branch" else repo.tags).pop(name, None) is None:
        raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return Reply()


@route("GET", "/(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub, user, call, repo_id, revision, path):
    repo = hub.repo(user, repo_id)
    commit = repo.at(revision)
    if repo.gated and user != "owner":
        restricted = f"Access to model {repo_id} is restricted"
        if user is None:
            message = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
            raise HubError(401, message, "GatedRepo")
        message = f"{restricted} and you are not in the authorized list. Visit {hub.endpoint}/{repo_id} to ask for it."
        raise HubError(403, message, "GatedRepo")
    if path not in commit.files:
        raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha})
    file = commit.files[path]
    content = (hub.contents / file.sha256).read_bytes()
    tag = f'"{file.sha256 if file.large else file.oid}"'
    headers = {"ETag": tag, "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    headers |= {"X-Linked-Etag": tag, "X-Linked-Size": str(file.size)} if file.large else {}
    headers |= {"Content-Type": "application/octet-stream" if file.large else "text/plain; charset=utf-8"}
    if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range", "")):
        start, stop = int(asked[1]), min(int(asked[2] or file.size), file.size - 1) + 1
        if start >= file.size:
            raise HubError(416, "Range Not Satisfiable", **{"Content-Range": f"bytes */{file.size}"})
        headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{file.size}"}
        return Reply(content[start:stop], 206, headers)
    return Reply(content, 200, headers)


class Handler(BaseHTTPRequestHandler):
    """HTTP around `HubServer.answer`, and the faults."""

    protocol_version = "HTTP/1.1"

    disable_nagle_algorithm = True

    def handle_request(self):
        hub, body = self.server.hub, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        with hub.lock:
            fault = next((fault for fault in hub.faults if fault.strikes(self.command, path)), None)
        drops = fault is not None and fault.status is None
        if drops and self.command != "GET":
            return self.drop()
        try:
            if fault and fault.status:
                raise HubError(fault.status, "This request was to fail")
            reply = hub.answer(self.command, self.path, self.headers, body)
        except HubError as error:
            reply = error.reply
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        hub.requests.append(Request(self.command, path, reply.status))
        self.send_response(reply.status)
        for name, value in ({"Content-Type": "application/json"} | dict(reply.headers)).items():
            self.send_header(name, quote(value, safe=" \"'/:;,.?!=*()"))  # a header is one line of ASCII
        self.send_header("Content-Length", str(len(content)))
        with contextlib.suppress(ConnectionError):  # the client is free to leave
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else content[: fault.after] if drops else content)
        if drops:
            self.drop()

    def drop(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def log_message(self, *arguments):
        pass  # `requests` is the log
