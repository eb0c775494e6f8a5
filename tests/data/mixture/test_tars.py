"""Tars as sources: a member that cannot be used costs its row, however the tar is read, and never the rest of it."""

import gzip
import io
import json
import shutil
import tarfile
from itertools import islice

import pytest
from datasets import load_dataset
from mixture_sources import cut, png, said, write_tar

from transformers_arm.data.file_errors import until_broken
from transformers_arm.data.input_files import InputFile
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.readers import IndexedRows

RENAME = {"png": "image", "txt": "prompt", "json.caption": "prompt"}


def samples(count):
    """Samples as dicts of what stands behind the dot -> bytes."""
    return [{"png": png(number)[0], "txt": f"caption {number}".encode()} for number in range(count)]


def write_samples(path, given, mode="w"):
    with tarfile.open(path, mode) as tar:
        for number, sample in enumerate(given):
            members = sample.items() if isinstance(sample, dict) else sample
            for ending, content in members:
                entry = tarfile.TarInfo(f"{number:04}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return str(path)


def by_recipe(streaming):
    def make(path, tmp_path, **fields):
        files = {
            "path": "webdataset",
            "data_files": path,
            "streaming": streaming,
            "cache_dir": str(tmp_path / "cache"),
        }
        return Source.from_recipe({"dataset": files, "shuffle": False, **fields})

    return make


def by_folder(path, tmp_path, **fields):
    """A folder in which `datasets` finds tars, and nothing says so."""
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder)
    return Source.from_recipe({"dataset": {"path": str(folder), "streaming": True}, "shuffle": False, **fields})


def by_dataset(path, tmp_path, **fields):
    """As `datasets` gives it."""
    dataset = load_dataset("webdataset", data_files=path, split="train", streaming=True)
    return Source(dataset, shuffle=False, **fields)


WAYS = {"streamed": by_recipe(True), "indexed": by_recipe(False), "folder": by_folder, "dataset": by_dataset}


def drawn(source, rows):
    """The captions of an epoch, and what was skipped."""
    mixture, captions, state = Mixture({"tars": source}, seed=0, streams=1, max_skipped=1), [], None
    for _, sample, after in mixture.draw(0):
        if after.readers["tars"].epoch:
            break
        captions.append((said(sample[:1]) or ["dropped"])[0])
        state = after
        if len(captions) == rows:
            break
    return captions, state.skipped.get("tars", {})


@pytest.mark.parametrize("way", WAYS)
def test_members_that_cannot_be_decoded_cost_their_row(tmp_path, caplog, way):
    given = samples(24)
    given[9]["txt"] = b"\xff\xfe no text"
    for number, content in ((10, b"{"), (11, b"\xff"), (12, b'["a list"]'), (13, b"7"), (14, b'{"caption": 5}')):
        del given[number]["txt"]
        given[number]["json"] = content
    given[15] = {"png": given[15]["png"], "json": b'{"caption": "caption 15"}'}
    given[16]["png"] = b""
    given[17]["txt"] = b""
    given[18]["png"] = given[18]["png"][:100]
    del given[19]["png"]
    path = write_samples(tmp_path / "0.tar", given)
    source = WAYS[way](path, tmp_path, rename=RENAME, fill={"task": "text_to_image"}, condition_dropout={"text": 0})
    bad = {9, 10, 11, 12, 13, 14, 16, 17, 18, 19}
    captions, skipped = drawn(source, 24 - len(bad))
    text = [caption for caption in captions if caption != "dropped"]
    assert set(text) <= {f"caption {number}" for number in set(range(24)) - bad} and len(captions) == 24 - len(bad)
    assert skipped["prompt: undecodable"] == 3 and sum(skipped.values()) in (len(bad) - 1, len(bad))
    assert "Row 9, column 'prompt': txt cannot be decoded: 'utf-8' codec" in caplog.text
    if way != "indexed":
        assert "0.tar: skipped: Row 9" in caplog.text


def test_tars_by_number_are_drawn_in_a_new_order_every_epoch(tmp_path):
    source = by_recipe(False)(write_samples(tmp_path / "0.tar", samples(12)), tmp_path, rename=RENAME)
    source.shuffle = True
    reader = source.reader("tars")
    assert isinstance(reader, IndexedRows) and len(reader.dataset) == 12
    rows = [read.row["txt"]["bytes"] for read in islice(reader.read(0, 1), 24)]
    assert sorted(rows[:12]) == sorted(rows[12:]) == sorted(sample["txt"] for sample in samples(12))
    assert rows[:12] != rows[12:]


def test_what_is_kept_of_a_tar_is_not_taken_for_a_new_one(tmp_path):
    path = tmp_path / "0.tar"
    write_samples(path, samples(3))
    assert len(by_recipe(False)(str(path), tmp_path).dataset) == 3
    write_samples(path, samples(5))
    assert len(by_recipe(False)(str(path), tmp_path).dataset) == 5


def test_a_tar_that_ends_early_is_named_where_it_must_be_whole(tmp_path):
    write_tar(tmp_path / "0.tar", 8)
    cut(tmp_path / "0.tar", 7000)
    with pytest.raises(ValueError, match="0.tar ends early, after 3 rows .ReadError.* or state streaming: true"):
        by_recipe(False)(str(tmp_path / "0.tar"), tmp_path)


def tar_as_far_as_it_goes(path):
    problems = []
    return list(until_broken(InputFile(path.name, "webdataset", str(path)).rows(), problems)), problems


@pytest.mark.parametrize("compression", ["gz", "xz"])
def test_a_compressed_tar_that_is_cut_gives_the_rows_before(tmp_path, caplog, compression):
    path = tmp_path / f"0.tar.{compression}"
    write_samples(path, samples(400), f"w:{compression}")
    cut(path, path.stat().st_size // 2)
    write_samples(tmp_path / "1.tar", samples(3))
    source = by_recipe(True)([str(path), str(tmp_path / "1.tar")], tmp_path, rename=RENAME)
    reads = list(islice(source.reader("tars").read(0, 1), 410))
    first = [read for read in reads if not read.state.epoch]
    ended = [read for read in first if read.file == str(path)]
    assert 20 < len(ended) < 400 and len(first) == len(ended) + 3
    assert [read.number for read in ended] == list(range(len(ended)))
    assert "the file ends early, after" in str(ended[-1].row)


@pytest.mark.parametrize("field", [100, 124, 150])
def test_a_damaged_header_ends_a_tar_aloud(tmp_path, field):
    """One flipped byte of the mode, the size or the checksum; `tarfile` takes each for the end."""
    path = tmp_path / "0.tar"
    write_samples(path, samples(20))
    with tarfile.open(path) as tar:
        place = tar.getmembers()[16].offset + field
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)
    rows, problems = tar_as_far_as_it_goes(path)
    assert len(rows) == 7, "the row before may lack the member whose header is damaged"
    assert len(problems) == 1 and problems[0].endswith(f", at byte {place - field}")


@pytest.mark.parametrize("compression", ["gz", "bz2"])
def test_a_compressed_tar_that_is_cut_anywhere_says_so(tmp_path, compression):
    path = tmp_path / f"0.tar.{compression}"
    write_samples(path, samples(30), f"w:{compression}")
    content = path.read_bytes()
    for kept in range(len(content) // 3, len(content) - 200, len(content) // 80):
        path.write_bytes(content[:kept])
        rows, problems = tar_as_far_as_it_goes(path)
        assert len(problems) == 1 and len(rows) < 30


def test_compressed_members_are_unpacked_and_broken_ones_cost_their_row(tmp_path):
    given = [{"png": png(n)[0], "txt.gz": gzip.compress(f"caption {n}".encode())} for n in range(6)]
    given[2]["txt.gz"] = b"no gzip"
    given[3]["txt.gz"] = given[3]["txt.gz"][:-9]
    source = by_recipe(True)(
        write_samples(tmp_path / "0.tar", given),
        tmp_path,
        rename={"png": "image", "txt.gz": "prompt"},
        condition_dropout={"text": 0, "image": 0, "both": 0},
    )
    captions, skipped = drawn(source, 4)
    assert captions == [f"caption {number}" for number in (0, 1, 4, 5)] and skipped == {"prompt: undecodable": 2}


def test_a_member_that_stands_twice_costs_its_row(tmp_path):
    given = [list(sample.items()) for sample in samples(4)]
    given[1].append(("txt", b"another"))
    source = by_recipe(True)(
        write_samples(tmp_path / "0.tar", given),
        tmp_path,
        rename=RENAME,
        condition_dropout={"text": 0, "image": 0, "both": 0},
    )
    captions, skipped = drawn(source, 3)
    assert captions == [f"caption {number}" for number in (0, 2, 3)] and sum(skipped.values()) == 1


@pytest.mark.parametrize("way", WAYS)
def test_tars_name_no_file_of_this_machine_unless_they_are_trusted(tmp_path, way):
    (tmp_path / "mine.png").write_bytes(png(0)[0])
    given = [{"json": json.dumps({"file": str(tmp_path / "mine.png")}).encode(), "txt": b"a caption"}] * 2
    path = write_samples(tmp_path / "0.tar", given)
    fields = {"rename": {"json.file": "image", "txt": "prompt"}}
    with pytest.raises(ValueError, match="Pass local_files=True if you trust"):
        mixture = Mixture({"tars": WAYS[way](path, tmp_path, **fields)}, seed=0, streams=1, max_skipped=0)
        next(mixture.draw(0))
    trusted = WAYS[way](path, tmp_path, **fields, local_files=True)
    assert next(Mixture({"tars": trusted}, seed=0, streams=1).draw(0))


def test_a_split_that_tars_do_not_have_is_refused(tmp_path):
    files = {"path": "webdataset", "data_files": write_samples(tmp_path / "0.tar", samples(1)), "split": "train[:1]"}
    with pytest.raises(ValueError, match=r"no split 'train\[:1\]'; they have train. Name one of these"):
        Source.from_recipe({"dataset": files})
