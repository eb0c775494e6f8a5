"""Addresses of rows: asked again where that may help, and otherwise the row's error, within the fetcher's limits."""

import base64
import socket
import threading
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from datasets import Dataset
from picture_rows import ONE, png

from transformers_arm.data import pictures
from transformers_arm.data.columns import check_dataset
from transformers_arm.data.pictures import read_picture
from transformers_arm.data.row_errors import RowError
from transformers_arm.fetching_arm import FROM_CALLER, FROM_OUTSIDE

HASTY = replace(FROM_CALLER, max_seconds=0.5)


class Moody(BaseHTTPRequestHandler):
    """`/<answer>/<times>`: what the first so many requests for it get; later ones, and `/ok/0`, a picture."""

    def do_GET(self):
        answer, times = self.path.strip("/").split("/")
        self.server.asked[self.path] += 1
        if self.server.asked[self.path] <= int(times):
            if answer == "reset":
                self.close_connection = True
                return
            if answer == "late":
                self.server.patience.wait(5)
                return
            if answer == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b"half")
                self.close_connection = True
                return
            self.send_error(int(answer))
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(png(ONE))

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(pictures, "PAUSES", (0.01, 0.02, 0.03))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    server.asked, server.patience, server.daemon_threads = Counter(), threading.Event(), True
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.patience.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("answer", ["500", "503", "429", "reset", "cut"])
def test_what_may_pass_is_waited_for(server, answer):
    assert read_picture(f"{server.address}/{answer}/2", 0, "image") == ONE
    assert server.asked == {f"/{answer}/2": 3}


def test_an_answer_that_is_late_is_asked_for_again(server):
    assert read_picture(f"{server.address}/late/1", 0, "image", fetcher=HASTY) == ONE


def test_a_host_that_never_answers_does_not_hold_up_the_others(server):
    began = time.monotonic()
    with pytest.raises(RowError, match="did not answer within max_seconds 0.5; .*, asked 2 times. Is there"):
        read_picture(f"{server.address}/late/9", 0, "image", fetcher=HASTY)
    assert time.monotonic() - began < 3


def test_what_does_not_pass_costs_its_row_and_no_other(server):
    addresses = [f"{server.address}/{path}" for path in ("ok/0", "503/9", "ok/0", "404/9", "ok/0")]
    dataset = Dataset.from_list([{"prompt": "a cat", "image": address} for address in addresses])
    with pytest.raises(ValueError) as caught:
        check_dataset(dataset)
    first, *lines = str(caught.value).splitlines()
    assert first == "2 of 5 rows cannot be used:" and len(lines) == 2
    assert lines[0].startswith("Row 1, column 'image': ") and "503" in lines[0] and "asked 4 times" in lines[0]
    assert lines[1].startswith("Row 3, column 'image': ") and "404" in lines[1] and "asked" not in lines[1]
    assert server.asked["/503/9"] == 4 and server.asked["/404/9"] == 1


def test_a_host_that_is_not_there_is_asked_once():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RowError, match="Row 0, column 'image': .*does not answer") as caught:
        read_picture(f"http://127.0.0.1:{port}/a.png", 0, "image")
    assert caught.value.reason == "image: address without picture" and "asked" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://", "http://[::1/a.png", "http://example.com:x/c.png", "https://:x/a.png", "HTTP://%"]
)
@pytest.mark.parametrize("as_path", [False, True])
def test_a_malformed_address_is_the_row_s_error(address, as_path):
    with pytest.raises(RowError, match="Row 5, column 'image': "):
        read_picture({"bytes": None, "path": address} if as_path else address, 5, "image")


def test_rows_of_files_reach_no_private_host(server):
    with pytest.raises(RowError, match="Row 0, column 'image': .*not on the public internet"):
        read_picture(f"{server.address}/ok/0", 0, "image", fetcher=FROM_OUTSIDE)
    assert not server.asked


def test_base64_is_no_path_and_needs_no_trust():
    text = base64.b64encode(png(ONE)).decode()
    for value in (text, f"data:image/png;base64,{text}"):
        assert read_picture(value, 0, "image", fetcher=FROM_OUTSIDE) == ONE
    with pytest.raises(RowError, match="more than max_bytes 1,000"):
        read_picture(text, 0, "image", fetcher=replace(FROM_OUTSIDE, max_bytes=1000))
