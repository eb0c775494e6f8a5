"""Packages come by npm, from a registry on loopback: whole, once, or not at all."""

import hashlib
import io
import json
import shutil
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

import pytest
from emoji_packages import NAMES, PACKAGES

from transformers_arm.worlds.emoji.prepare import NAMES as NAMES_PACKAGE
from transformers_arm.worlds.emoji.prepare import PACKAGES as STYLE_PACKAGES
from transformers_arm.worlds.emoji.prepare import fetch, prepare

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


class Registry(ThreadingHTTPServer):
    """Knows one package, as `npm pack` asks for it; `breaks` cuts its archive off in the middle."""

    def __init__(self, folder, package):
        super().__init__(("127.0.0.1", 0), Handler)
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            archive.add(folder, "package")
            stated = json.dumps({"name": package.package, "version": package.version}).encode()
            info = tarfile.TarInfo("package/package.json")
            info.size = len(stated)
            archive.addfile(info, io.BytesIO(stated))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.archive, self.name, self.breaks, self.asked = content.getvalue(), package.package, False, 0
        shasum = hashlib.sha1(self.archive).hexdigest()
        version = {"name": package.package, "version": package.version}
        version["dist"] = {"tarball": f"{self.url}/archive.tgz", "shasum": shasum}
        latest = {"latest": package.version}
        self.known = {"name": package.package, "dist-tags": latest, "versions": {package.version: version}}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked += 1
        if self.path == "/archive.tgz":
            content = self.server.archive
        elif unquote(self.path) == f"/{self.server.name}":
            content = json.dumps(self.server.known).encode()
        else:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cut = self.server.breaks and self.path == "/archive.tgz"
        self.wfile.write(content[: len(content) // 2 if cut else None])
        self.close_connection = True


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry that has emojibase's names, and that npm asks once and not again."""
    with Registry(PACKAGES / NAMES, NAMES_PACKAGE) as registry:
        settings = {"registry": registry.url, "cache": tmp_path / "cache", "userconfig": tmp_path / "none"}
        for name, value in {**settings, "fetch_retries": 0, "audit": "false"}.items():
            monkeypatch.setenv(f"npm_config_{name}", str(value))
        thread = Thread(target=registry.serve_forever, args=[0.02], daemon=True)
        thread.start()
        yield registry
        registry.shutdown()
        thread.join()


@needs_npm
def test_a_package_comes_whole_and_once(registry, tmp_path):
    folder = fetch(NAMES_PACKAGE, tmp_path / "packages")
    assert folder.name == NAMES and list((tmp_path / "packages").iterdir()) == [folder]
    for file in ("en/data.json", "de/data.json", "LICENSE"):
        assert (folder / file).read_bytes() == (PACKAGES / NAMES / file).read_bytes()
    asked = registry.asked
    assert asked >= 2 and fetch(NAMES_PACKAGE, tmp_path / "packages") == folder and registry.asked == asked


@needs_npm
def test_a_package_that_the_registry_lacks_is_named_and_nothing_is_written(registry, tmp_path):
    with pytest.raises(RuntimeError, match=r"npm cannot get @iconify-json/fluent-emoji-flat@1\.2\.6: .*404"):
        prepare(tmp_path / "data", tmp_path / "packages", styles=["fluent"])
    assert not (tmp_path / "data").exists()
    assert [each.name for each in (tmp_path / "packages").iterdir()] == [NAMES]  # what did come stays


@needs_npm
def test_after_a_fetch_that_broke_off_nothing_is_left_and_the_next_one_works(registry, tmp_path):
    registry.breaks = True
    with pytest.raises(RuntimeError, match=r"npm cannot get emojibase-data@17\.0\.0: "):
        fetch(NAMES_PACKAGE, tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []
    registry.breaks = False
    assert (fetch(NAMES_PACKAGE, tmp_path / "packages") / "en" / "data.json").exists()


def test_without_npm_it_says_what_to_install_or_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    package = STYLE_PACKAGES["noto"]
    with pytest.raises(RuntimeError, match="@iconify-json/noto@1.2.9 comes by npm, which is not installed. Install"):
        fetch(package, tmp_path / "packages")
    assert not (tmp_path / "packages").exists()
    unpacked = tmp_path / "packages" / package.folder
    unpacked.mkdir(parents=True)
    assert fetch(package, tmp_path / "packages") == unpacked
