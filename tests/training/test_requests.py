"""Rows to reinforce on are read before training: whatever they raise names them, pictures included."""

import os
import zipfile

import pytest
from datasets import Dataset, Features, Image, Value, load_dataset
from picture_rows import ONE, drawing, pictures_in_folder_and_archive, png

from transformers_arm import ArmImageProcessor
from transformers_arm.data.columns import undecoded
from transformers_arm.data.pictures import fetcher_for
from transformers_arm.data.row_errors import RowError
from transformers_arm.training.requests import read_grid, read_request, usable_requests

PROCESSOR = ArmImageProcessor(size={"height": 48, "width": 48})


def edits(*pictures):
    features = Features({"prompt": Value("string"), "source_image": Image()})
    rows = [{"prompt": "redder", "source_image": picture} for picture in pictures]
    return Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("side", ["48", float("inf"), float("nan"), [48], 40, 0])
def test_a_side_that_is_none_is_the_row_s_error(side):
    with pytest.raises(
        RowError, match="^Row 3, column 'height': .* must be 16..2048 px, a multiple of the 16 px patch"
    ):
        read_grid({"prompt": "a", "height": side}, 3, PROCESSOR)
    assert read_grid({"prompt": "a", "height": 32.0}, 3, PROCESSOR) == (2, 3)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"prompt": "a \ud83d cat"}, "Row 3, column 'prompt': .* half a character"),
        ({"prompt": "redder", "source_images": 7}, "Row 3, column 'source_images': 7 is a int, but must be a list"),
        ({"prompt": "redder", "source_image": "http://[::1/a.png"}, "Row 3, column 'source_image': "),
        ({"prompt": "redder", "source_image": {"bytes": 7}}, "Row 3, column 'source_image': "),
    ],
)
def test_whatever_a_request_raises_is_the_row_s_error(row, error):
    with pytest.raises(RowError, match=error) as caught:
        read_request(row, 3, lambda picture: picture)
    assert caught.value.row == 3


def test_pictures_of_archives_are_sources(tmp_path):
    _, archive = pictures_in_folder_and_archive(tmp_path)
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    dataset = load_dataset("imagefolder", data_files=str(archive), **options).rename_column("image", "source_image")
    usable_requests(dataset, "train_dataset", PROCESSOR)


def test_rows_of_files_name_local_sources_only_where_the_caller_trusts_them(tmp_path):
    drawing(seed=0).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text(f"prompt,source_image\nredder,{tmp_path / 'a.png'}\n")
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    dataset = load_dataset("csv", data_files=str(tmp_path / "rows.csv"), **options)
    usable_requests(dataset, "rows", PROCESSOR, local_files=True)
    assert len(read_request(dataset[0], 0, lambda picture: picture, fetcher_for(dataset, True))[1]) == 1
    with pytest.raises(ValueError, match="rows: Row 0, column 'source_image': .* Pass local_files=True"):
        usable_requests(dataset, "rows", PROCESSOR)
    with pytest.raises(RowError, match="Row 0, column 'source_image': .* Pass local_files=True"):
        read_request(dataset[0], 0, lambda picture: picture, fetcher_for(dataset))


def test_pictures_that_lie_here_are_decoded_and_nothing_elsewhere_is_asked(tmp_path, caplog):
    whole, cut, nothing, pipe = (tmp_path / name for name in ("a.png", "b.png", "c.png", "d.png"))
    whole.write_bytes(png(ONE))
    cut.write_bytes(png(ONE)[:-3000])
    nothing.write_bytes(b"no picture")
    os.mkfifo(pipe)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("a.png", png(ONE))
        archive.writestr("b.png", png(ONE)[:-3000])
    elsewhere = ["http://127.0.0.1:9/a.png", "ftp://127.0.0.1:9/a.png", "zip://a.png::http://127.0.0.1:9/p.zip"]
    good = [str(whole), f"zip://a.png::{tmp_path / 'p.zip'}", *elsewhere]
    bad = [str(cut), str(nothing), str(pipe), f"zip://b.png::{tmp_path / 'p.zip'}", {"bytes": png(ONE)[:-3000]}]
    assert len(usable_requests(edits(*good), "rows", PROCESSOR, max_skipped=0)) == len(good)
    kept = usable_requests(edits(*bad, *good), "rows", PROCESSOR, max_skipped=0.5)
    assert [row["source_image"]["path"] for row in undecoded(kept)] == good
    problems = ("truncated", "none of JPEG", "a folder, a pipe or a device", "truncated", "truncated")
    for number, (line, problem) in enumerate(zip(caplog.messages[:-1], problems, strict=True)):
        assert line.startswith(f"rows, skipped: Row {number}, column 'source_image': ") and problem in line
    told = "rows: 5 of 10 rows are left out (4 source_image: unreadable picture, 1 source_image: refused picture)."
    assert caplog.messages[-1] == told
    with pytest.raises(ValueError, match="5 of 10 rows cannot be used, more than max_skipped 0.4"):
        usable_requests(edits(*bad, *good), "rows", PROCESSOR, max_skipped=0.4)


def test_of_a_stream_what_cannot_be_used_is_left_out(tmp_path, caplog):
    whole, cut = (tmp_path / name for name in ("a.png", "b.png"))
    whole.write_bytes(png(ONE))
    cut.write_bytes(png(ONE)[:-3000])
    stream = edits(str(whole), str(cut), "http://127.0.0.1:9/a.png", str(whole)).to_iterable_dataset()
    kept = list(usable_requests(stream, "rows", PROCESSOR, max_skipped=0.02))
    assert [row["source_image"]["path"] for row in kept] == [str(whole)] * 2
    assert "rows, skipped: Row 1, column 'source_image'" in caplog.text
    with pytest.raises(ValueError, match="2 of 100 rows cannot be used, more than max_skipped 0.01"):
        list(usable_requests(stream, "rows", PROCESSOR, max_skipped=0.01))
