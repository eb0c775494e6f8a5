"""Any number of workers writes the same files, also after a kill, and never among others."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from pretokenize_datasets import load, png

from transformers_arm.data.pretokenize import pretokenize


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_one_worker_writes_the_files_of_two(codes, mixture, arm_folder, tmp_path):
    pretokenize(str(mixture), tmp_path / "codes", arm_folder, workers=1, rows_per_file=5)
    assert contents(tmp_path / "codes") == contents(codes[0])
    assert sorted(contents(tmp_path / "codes")) == ["report.json"] + [
        *(f"train-00000-{part:05d}.parquet" for part in range(4)),
        *(f"train-00001-{part:05d}.parquet" for part in range(4)),
        "train-00002-00000.parquet",
    ]


def write_noise(file, count):
    """Pictures that take 12 kB each, with captions, as a tar."""
    with tarfile.open(file, "w") as archive:
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            for ending, content in (("png", png(noise)), ("txt", f"caption {number}".encode())):
                header = tarfile.TarInfo(f"{number:05d}.{ending}")
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))


@pytest.fixture
def gate(tmp_path):
    """A server of a tar that stands still after nine of its rows, until `opened`, once a run has begun to write."""
    write_noise(tmp_path / "0.tar", 14)
    content = (tmp_path / "0.tar").read_bytes()
    with tarfile.open(tmp_path / "0.tar") as archive:
        middle = archive.getmember(
            "00010.png"
        ).offset_data  # readers take 10 kB at a time, and a row ends with the next

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(content[:middle])
            if (tmp_path / "killed" / "report.json").exists():
                self.server.opened.wait(60)
            self.wfile.write(content[middle:])

        def log_message(self, *arguments):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):  # readers may hang up
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        server.opened = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.opened.set()
        server.shutdown()


def test_a_killed_command_goes_on_where_it_was_and_ends_with_the_same_files(arm_folder, tmp_path, gate):
    dataset, killed = f"http://127.0.0.1:{gate.server_port}/0.tar", tmp_path / "killed"
    options = ["--rows-per-file", "1", "--batch-size", "4", "--workers", "1"]
    command = ["-m", "transformers_arm", "tokenize", dataset, "--output", str(killed), "--vq", arm_folder, *options]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (killed / "train-00000-00007.parquet").exists():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(0.5)
        process.kill()
    left = contents(killed)
    gate.opened.set()  # a worker that outlived its parent would now write the rest
    time.sleep(2)
    assert contents(killed) == left
    parts = {name for name in left if name.startswith("train-")}
    assert 8 <= len(parts) < 11 and not json.loads(left["report.json"])["complete"]
    times = {name: (killed / name).stat().st_mtime_ns for name in parts}
    for folder in (killed, tmp_path / "straight"):
        pretokenize(dataset, folder, arm_folder, rows_per_file=1, batch_size=4, workers=2)
    assert contents(killed) == contents(tmp_path / "straight") and len(contents(killed)) == 15
    assert {name: (killed / name).stat().st_mtime_ns for name in parts} == times
    assert load(killed)["prompt"] == [f"caption {number}" for number in range(14)]


def test_a_finished_folder_is_left_alone_and_says_the_same(codes, mixture, arm_folder):
    folder, report = codes
    before = contents(folder)
    assert pretokenize(str(mixture), folder, f"{arm_folder}/vq_model", workers=1, rows_per_file=5) == report
    assert contents(folder) == before


def test_going_on_with_another_tokenizer_or_other_options_is_refused(
    codes, mixture, arm_folder, tiny_arm_backbones, tmp_path
):
    folder, options = codes[0], {"workers": 1, "rows_per_file": 5}
    other_map = shutil.copytree(f"{arm_folder}/vq_model", tmp_path / "vq_model")
    config = json.loads((other_map / "config.json").read_text())
    (other_map / "config.json").write_text(json.dumps(config | {"fsq_activation": "ifsq"}))
    before = contents(folder)
    for tokenizer, changed, named in (
        (tiny_arm_backbones["vq"], {}, "tokenizer.weights"),
        (str(other_map), {}, "tokenizer.quantizer"),
        (arm_folder, {"dtype": "bfloat16"}, "tokenizer.weights, tokenizer.dtype"),
        (arm_folder, {"rows_per_file": 6}, "options.rows_per_file"),
        (arm_folder, {"task": "text", "batch_size": 1}, "options.task, options.batch_size"),
    ):
        with pytest.raises(ValueError, match=f"codes was begun with another {named} "):
            pretokenize(str(mixture), folder, tokenizer, **options | changed)
    assert contents(folder) == before


def test_going_on_with_other_files_is_refused(arm_folder, tmp_path):
    write_noise(tmp_path / "0.tar", 2)
    arguments = [str(tmp_path / "0.tar"), tmp_path / "codes", arm_folder]
    report = pretokenize(*arguments, workers=1)
    write_noise(tmp_path / "0.tar", 30)
    with pytest.raises(ValueError, match="codes was begun with another options.files_fingerprint "):
        pretokenize(*arguments, workers=1)
    write_noise(tmp_path / "0.tar", 2)
    assert pretokenize(*arguments, workers=1) == report


def test_a_folder_that_holds_something_else_is_refused(mixture, arm_folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="holds something else already"):
            pretokenize(str(mixture), taken, arm_folder)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
