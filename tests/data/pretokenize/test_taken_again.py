"""A picture is encoded once, however many rows name it, in whichever window, and the report tells."""

import csv
import json
import random

import numpy as np
import pytest
import torch
from picture_rows import drawing, png

from transformers_arm.data.input_files import find_sources
from transformers_arm.data.picture_codes import PictureCodes
from transformers_arm.data.pretokenize import KNOWN, pretokenize, summary
from transformers_arm.data.visual_tokenizer import load_tokenizer

PICTURES = ["train.png", "test, 1.png", "b [x].png", "😀.jpg", 'say "hi".png', "copy of train.png"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Edits of a few pictures into each other, of which two hold the same: a folder, and the rows."""
    folder = tmp_path_factory.mktemp("emoji") / "pictures"
    folder.mkdir()
    for number, name in enumerate(PICTURES):
        drawing(30 + 7 * (number % 5 % 2), 40, seed=number % 5).convert("RGB" if "jpg" in name else "RGBA").save(
            folder / name
        )
    rows = [(one, other, f"{one} -> {other}") for one in PICTURES for other in PICTURES if one != other]
    random.Random(0).shuffle(rows)
    with open(folder / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("source_image_file_name", "image_file_name", "prompt"), *rows])
    return folder, rows


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def written(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_pictures_of_pairs_are_encoded_once_by_any_number_of_workers_in_any_windows(pairs, arm_folder, tmp_path):
    (folder, rows), options = pairs, {"rows_per_file": 7, "batch_size": 2}
    different = len({(folder / name).read_bytes() for name in PICTURES})
    report = pretokenize(str(folder), tmp_path / "one", arm_folder, workers=1, **options)
    assert (report["rows"], report["written"], len(rows)) == (30, 30, 30)
    counts = {"encoded": different, "taken_again": 60 - different, "in_no_row": 0, "examples_in_no_row": []}
    assert report["pictures"] == counts and different == 5
    assert f"{different} pictures encoded, {60 - different} times one was taken again" in summary(report)
    assert pretokenize(str(folder), tmp_path / "two", arm_folder, workers=2, **options) == report
    assert written(tmp_path / "one") == written(tmp_path / "two") and KNOWN not in written(tmp_path / "one")
    assert pretokenize(str(folder), tmp_path / "one", arm_folder, workers=1, **options) == report  # finished


def test_codes_taken_again_are_those_of_the_picture(pairs, arm_folder, new_worker, tmp_path):
    (source,) = find_sources(str(pairs[0]), None, "train")
    worker, encoded = new_worker(["prompt", "source_image", "image"]), []
    encode = worker.vq_model.get_codes
    worker.vq_model.get_codes = lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    results, tally = worker.window(source, source.rows(), 0)
    again, _ = worker.window(source, source.rows(), 0)
    assert sum(encoded) == 5 and tally.pictures == 60 and len(worker.codes) == 5
    for row, same, (one, other, _) in zip(results, again, pairs[1], strict=True):
        for column, name in (("source_image", one), ("image", other)):
            pixels = worker.pixel_values(pairs[0] / name)
            (expected,) = encode(pixels[None])
            assert np.array_equal(row[column]["codes"], expected.flatten()) and (row[column]["height"]) == len(
                expected
            )
            assert np.array_equal(same[column]["codes"], row[column]["codes"])


def test_what_a_killed_run_encoded_is_taken_again(pairs, arm_folder, tmp_path):
    folder, output = pairs[0], tmp_path / "codes"
    straight = pretokenize(str(folder), tmp_path / "straight", arm_folder, workers=1, rows_per_file=10)
    pretokenize(str(folder), output, arm_folder, workers=1, rows_per_file=10)
    report = json.loads((output / "report.json").read_text())
    (output / "train-00000-00001.parquet").unlink()  # as if it had not come so far
    (output / "report.json").write_text(json.dumps(report | {"complete": False}))
    with torch.no_grad():
        vq_model, image_processor = load_tokenizer(arm_folder)
        pixels = [torch.as_tensor(image_processor(folder / name).pixel_values[0]) for name in PICTURES]
        grids = [vq_model.get_codes(each[None])[0].numpy().astype(np.uint16) for each in pixels]
    entries = [{"codes": grid.ravel(), "height": len(grid), "width": grid.shape[1]} for grid in grids]
    known, given = PictureCodes(output / KNOWN), iter(entries[:5])
    known.of(pixels[:5], lambda alike: [next(given) for _ in alike])
    known.close()
    assert pretokenize(str(folder), output, arm_folder, workers=1, rows_per_file=10) == straight
    assert written(output) == written(tmp_path / "straight")


def test_pictures_in_no_row_are_counted(arm_folder, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("train.png", "test.png", "left.png"):
        (folder / name).write_bytes(png(drawing()))
    (folder / "metadata.csv").write_text("file_name,prompt\ntrain.png,a\ntest.png,b\n")
    report = pretokenize(str(folder), tmp_path / "codes", arm_folder, workers=1)
    left = {"in_no_row": 1, "examples_in_no_row": [str(folder / "left.png")]}
    assert report["pictures"] == {"encoded": 1, "taken_again": 1} | left


def test_two_that_share_a_file_keep_what_the_first_found(tmp_path):
    picture = torch.zeros(3, 2, 2)

    def found(code):
        return [{"codes": np.array([code], np.uint16), "height": 1, "width": 1}]

    one, other = PictureCodes(tmp_path / KNOWN), PictureCodes(tmp_path / KNOWN)

    def late(alike):
        one.of([picture], lambda _: found(1))
        return found(2)

    assert [each["codes"].tolist() for each in other.of([picture, picture], late)] == [[1], [1]]
    assert len(one) == len(other) == 1
    assert other.of([picture.bool()], lambda _: found(3))[0]["codes"].tolist() == [3]  # the same bits, other pixels
