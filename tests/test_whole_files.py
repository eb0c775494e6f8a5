"""A file is written whole or not at all, and what is no file is written to as it is."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Barrier

import pytest
from PIL import Image

from transformers_arm.whole_files import provisional, whole_file, write_whole


def test_a_file_appears_when_it_is_whole(tmp_path):
    file = tmp_path / "picture.png"
    with whole_file(file) as aside:
        Image.new("RGB", (4, 4), "red").save(aside)
        assert not file.exists() and aside.parent == tmp_path
    assert Image.open(file).size == (4, 4)
    assert os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_what_was_there_stays_when_writing_ends_early(tmp_path, error):
    write_whole(tmp_path / "scores.json", "before")
    with pytest.raises(error), whole_file(tmp_path / "scores.json") as aside:
        aside.write_text("hal")
        raise error
    assert (tmp_path / "scores.json").read_text() == "before"
    assert os.listdir(tmp_path) == ["scores.json"]


def test_a_link_stays_one_and_its_file_keeps_its_mode(tmp_path):
    file, link = tmp_path / "1.txt", tmp_path / "newest.txt"
    file.write_text("before")
    file.chmod(0o640)
    link.symlink_to("1.txt")
    write_whole(link, "\N{SNOWMAN}")
    assert link.is_symlink() and file.read_text(encoding="utf-8") == "\N{SNOWMAN}"
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_named(tmp_path):
    (tmp_path / "full.png").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"full\.png cannot be written: No space left on device\. Make room"):
        with whole_file(tmp_path / "full.png") as aside:
            Image.new("RGB", (4, 4)).save(aside)
    assert not os.path.isfile("/dev/full")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere/scores.json cannot be written: No such file or directory"):
        write_whole(tmp_path / "nowhere" / "scores.json", "{}")


def test_threads_write_one_file(tmp_path):
    file, everybody = tmp_path / "scores.json", Barrier(8)

    def write(number):
        with whole_file(file) as aside:
            aside.write_text(str(number) * 1000)
            everybody.wait(30)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set(file.read_text())) == 1 and os.listdir(tmp_path) == ["scores.json"]


def test_an_error_of_another_file_is_told_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file or directory: '.*source.png'"):
        with whole_file(tmp_path / "copy.png") as aside:
            Image.open(tmp_path / "source.png").save(aside)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, None])
@pytest.mark.parametrize("was", [None, "before"])
def test_what_is_not_done_leaves_a_file_as_it_was(tmp_path, was, error):
    (tmp_path / "link.txt").symlink_to("file.txt")
    if was is not None:
        write_whole(tmp_path / "file.txt", was)
    names = sorted(os.listdir(tmp_path))
    with pytest.raises(error) if error else nullcontext(), provisional(tmp_path / "link.txt"):
        write_whole(tmp_path / "link.txt", "not done")
        assert (tmp_path / "file.txt").read_text() == "not done"
        if error:
            raise error
    assert sorted(os.listdir(tmp_path)) == names
    assert was is None or (tmp_path / "file.txt").read_text() == was


@pytest.mark.parametrize("was", [None, "before"])
def test_what_is_done_stays_whatever_comes_after_it(tmp_path, was):
    if was is not None:
        write_whole(tmp_path / "file.txt", was)
    with pytest.raises(ValueError), provisional(tmp_path / "file.txt") as done:
        write_whole(tmp_path / "file.txt", "done")
        done()
        raise ValueError
    assert os.listdir(tmp_path) == ["file.txt"] and (tmp_path / "file.txt").read_text() == "done"
