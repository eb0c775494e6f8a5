"""Any number of workers writes the same files, also after a kill, and never among others."""

import json
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pretokenize_datasets import drawn_rows, load, write_parquet

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


@pytest.fixture
def gate():
    """A server whose pictures can be had once `gate.opened` is set: a place in a dataset where a run stands still."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.set()
            self.server.opened.wait(60)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(drawn_rows(1)[0]["image"]["bytes"])

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.opened = threading.Event(), threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.opened.set()
        server.shutdown()


def test_a_killed_command_goes_on_where_it_was_and_ends_with_the_same_files(arm_folder, tmp_path, gate):
    rows, killed = drawn_rows(12), tmp_path / "killed"
    rows[8]["image"] = {"bytes": None, "path": f"http://127.0.0.1:{gate.server_port}/8.png"}
    write_parquet(tmp_path / "rows" / "0.parquet", rows)
    dataset, options = str(tmp_path / "rows"), ["--rows-per-file", "1", "--batch-size", "4", "--workers", "1"]
    command = [
        "-m",
        "transformers_arm",
        "tokenize",
        dataset,
        "--output",
        str(killed),
        "--vq",
        arm_folder,
        *options,
    ]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not gate.asked.wait(0.1):
            assert process.poll() is None
        process.kill()
    gate.opened.set()  # a worker that outlived its parent would now write the rest
    time.sleep(2)
    left = contents(killed)
    parts = {f"train-00000-{part:05d}.parquet" for part in range(8)}
    assert {name for name in left if name.startswith("train-")} == parts
    assert not json.loads(left["report.json"])["complete"]
    times = {name: (killed / name).stat().st_mtime_ns for name in parts}
    for folder in (killed, tmp_path / "straight"):
        pretokenize(dataset, folder, arm_folder, rows_per_file=1, batch_size=4, workers=2)
    assert contents(killed) == contents(tmp_path / "straight") and len(contents(killed)) == 13
    assert {name: (killed / name).stat().st_mtime_ns for name in parts} == times
    assert load(killed)["prompt"] == [row["prompt"] for row in rows]


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


def test_a_folder_that_holds_something_else_is_refused(mixture, arm_folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="holds something else already"):
            pretokenize(str(mixture), taken, arm_folder)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
