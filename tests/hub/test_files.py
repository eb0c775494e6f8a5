"""What is published is on a list and what its name says; what training leaves behind stays, and is told of."""

import io
import json
import os
import pickle
import socket
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transformers_arm.hub.files import checked_files, is_pickle, listed

RESULT = {"command": "python a.py", "date": "2026-01-01", "hardware": "a CPU", "scores": {}}
GOOD = {
    "README.md": b"# A model\n",
    "LICENSE": b"Do what you want.",
    "LICENSE-APACHE-2.0.txt": b"Apache",
    "NOTICE.md": b"By us.",
    "THIRD_PARTY_NOTICES.txt": b"By others.",
    "ThirdPartyNotices.txt": b"By others.",
    "third-party-licenses.md": b"By others.",
    "config.json": b"{}",
    "vq_model/preprocessor_config.json": b"{}",
    "model-00001-of-00002.safetensors": b"opened elsewhere",
    "model.safetensors.index.json": b"{}",
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
    "results/table.json": b"[1.5]",
    "scores.json": json.dumps(RESULT).encode(),
}


def picture(**saved) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, **saved)
    return content.getvalue()


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        opened.writestr("a.py", "print(1)")
    return content.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_what_a_repo_may_hold_is_published(tmp_path):
    pictures = {
        f"pictures/a.{ending}": picture(format=kind)
        for ending, kind in (("png", "PNG"), ("jpg", "JPEG"), ("JPEG", "JPEG"), ("webp", "WEBP"), ("gif", "GIF"))
    }
    files = {**GOOD, **pictures}
    published, left_out = checked_files(write(tmp_path, files))
    assert published == {name: tmp_path / name for name in files} and not left_out


def test_what_training_and_tools_left_behind_is_left_out_with_a_reason(tmp_path):
    left = [
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "rng_state_1.pth",
        "trainer_state.json",
        "data_state.json",
        "latest",
        "zero_to_fp32.py",
        "vq_model/events.out.tfevents.1.host",
        "samples/step-0000100.png",
        "all_results.json",
        ".gitattributes",
        "train.log",
        "modeling_arm.py",
        "vq_model/modeling_arm_vq.py",
    ]
    folders = ["runs", "checkpoint-5", ".git", "__pycache__", "wandb"]
    write(tmp_path, {**GOOD, **dict.fromkeys(left, pickle.dumps(1)), **{f"{each}/x.pkl": b"" for each in folders}})
    published, left_out = checked_files(tmp_path)
    assert published.keys() == GOOD.keys()
    assert left_out.keys() == {*left, *(f"{each}/" for each in folders)} and all(left_out.values())


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "weights.data", "model.pt", "notes.txt", "codes.npy", "model.h5", "model.onnx", "a.ipynb",
     "a.tar", "a.tar.gz", "a.zip", "run.py", "LICENSE.py", "modeling_other_arm.py", "model.SAFETENSORS", "setup.sh",
     "configuration", "a.parquet", "page.html", "picture.svg", "README", "checkpoint-best/model.pt"],
)  # fmt: skip
def test_what_is_not_on_the_list_is_refused_by_its_name(tmp_path, name):
    write(tmp_path, {**GOOD, name: b"text"})
    with pytest.raises(
        ValueError, match=f"{name} is nothing that a model's repo may hold: .*Move it out of the folder"
    ):
        checked_files(tmp_path)


def test_all_that_is_refused_is_told_at_once(tmp_path):
    bad = {"recipe.yaml": b"a: 1", "video_preprocessor_config.json": b"{}", "LICENSE.txt": b"\xa9", "a.png": b"no"}
    write(tmp_path, {**GOOD, **bad})
    with pytest.raises(ValueError) as error:
        checked_files(tmp_path)
    said = str(error.value)
    assert said.startswith("4 files cannot be published as they are. ")
    for part in (
        "recipe.yaml is nothing that",
        "_config.json is no configuration",
        "LICENSE.txt is no UTF-8",
        "a.png is",
    ):
        assert part in said


def npy() -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return content.getvalue()


def tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as opened:
        opened.addfile(tarfile.TarInfo("a"))
    return content.getvalue()


CONTENTS = {f"pickle of protocol {each}": pickle.dumps({"a": [1, "b"]}, protocol=each) for each in range(6)}
CONTENTS |= {"object array": npy(), "zip": archive(), "tar": tar(), "Latin-1": "é".encode("latin-1")}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
@pytest.mark.parametrize("name", ["config.json", "results/scores.json", "README.md", "LICENSE", "a.png", "a.jpg"])
def test_what_is_not_what_its_name_says_is_refused(tmp_path, name, content):
    write(tmp_path, {name: content})
    with pytest.raises(ValueError, match=f"{name} (is|holds)"):
        checked_files(tmp_path)


def test_texts_are_no_pickles():
    for text in (b"", b".", b"Do what you want.", b"N.", b"# I.\n", b"MIT License.\n", json.dumps(RESULT).encode()):
        assert is_pickle(text) == (text in (b".", b"N."))  # as good as one, and one of None
    assert is_pickle(pickle.dumps(print, protocol=0) + b"\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("unknown.json", b"{}", "unknown.json is no configuration that is known, and no result file"),
        ("config.json", b"3", "config.json holds a int"),
        ("config.json", b"[" * 10**5, "config.json is no JSON"),
        ("a.png", picture(format="JPEG"), "a.png is no whole PNG picture"),
        ("a.jpg", picture(format="PNG"), "a.jpg is no whole JPEG picture"),
        ("a.gif", picture(format="TIFF"), "a.gif is no whole GIF picture"),
        ("a.png", picture(format="PNG")[:-30], "a.png is no whole PNG picture"),
        ("a.png", picture(format="PNG") + archive(), "a.png is a picture and a zip in one"),
    ],
)  # fmt: skip
def test_damaged_and_disguised_files_are_refused(tmp_path, name, content, message):
    write(tmp_path, {name: content})
    with pytest.raises(ValueError, match=message):
        checked_files(tmp_path)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path):
    Image.new("1", (12_000, 10_000)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png is no whole PNG picture: it has 120 million pixels, of which 100 are"):
        checked_files(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes among files")
@pytest.mark.parametrize(
    "name", ["config.json", "README.md", "a.png", "model.safetensors", "notes", "modeling_arm.py"]
)
def test_pipes_and_sockets_are_refused_and_not_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is no regular file, but a pipe"):
        listed(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / "inside").mkdir()
    os.mkfifo(tmp_path / "inside" / ".hidden")  # left out, and not opened either
    (tmp_path / name).symlink_to(tmp_path / "inside" / ".hidden")
    with pytest.raises(ValueError, match=f"{name} is no regular file, but a pipe"):
        checked_files(tmp_path)
    (tmp_path / name).unlink()
    assert listed(tmp_path).left_out == {"inside/.hidden": "hidden"}


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("README.md")
        with pytest.raises(ValueError, match="README.md is no regular file"):
            listed(tmp_path)
