"""Photographs are free, of the wheel, and those held out are in no crop; crops are what a training source reads."""

import random
from importlib import metadata
from pathlib import Path

import pytest
from datasets import load_dataset
from photograph_crops import (
    HELD_OUT,
    PHOTOGRAPHS,
    SHAPES,
    Photograph,
    docstring_of,
    draw_crop,
    read_photograph,
    write_crops,
)
from PIL import Image


def first_line(photograph: Photograph) -> str:
    return docstring_of(photograph).splitlines()[0]


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda photograph: photograph.name)
def test_each_is_a_file_of_the_wheel_that_its_docstring_frees(photograph):
    assert f"skimage/data/{photograph.file}" in {file.as_posix() for file in metadata.files("scikit-image")}
    assert "CC0" in photograph.licence or "public domain" in photograph.licence.lower()
    assert photograph.licence in " ".join(docstring_of(photograph).split())
    picture = read_photograph(photograph)
    assert picture.mode == "RGB" and min(picture.size) >= 100


def test_the_documentation_lists_what_the_code_does():
    rows = (Path(__file__).parents[2] / "docs" / "photographs.md").read_text().splitlines()
    listed = {row.split(" | ")[0].removeprefix("| "): row for row in rows if "`skimage.data." in row}
    assert list(listed) == [photograph.name for photograph in PHOTOGRAPHS]
    for photograph in PHOTOGRAPHS:
        width, height = read_photograph(photograph).size
        row = listed[photograph.name]
        assert f" {photograph.file} | {width}x{height} " in row and f'"{photograph.licence}"' in row
        assert ("held out" in row) == photograph.held_out


def test_what_its_docstring_does_not_free_is_not_read():
    coins = Photograph("coins", "coins.png", "released into the public domain")  # "No known copyright restrictions."
    with pytest.raises(ValueError, match="skimage.data.coins does not say 'released into the public domain'"):
        read_photograph(coins)


def test_what_the_wheel_lacks_is_not_downloaded():
    eagle = Photograph("eagle", "eagle.png", "CC0 by the photographer (Dayane Machado)")
    with pytest.raises(FileNotFoundError, match="has no file eagle.png"):
        read_photograph(eagle)


def test_no_crop_is_of_a_held_out_photograph_and_all_others_are_drawn(tmp_path):
    write_crops(tmp_path / "crops", 100)
    crops = load_dataset("imagefolder", data_dir=str(tmp_path / "crops"), split="train", cache_dir=str(tmp_path))
    assert set(crops.column_names) == {"image", "prompt"}
    assert set(crops["prompt"]) == {first_line(each) for each in PHOTOGRAPHS} - {first_line(each) for each in HELD_OUT}
    assert {picture.size for picture in crops["image"]} <= {(width, height) for height, width in SHAPES}


def test_a_crop_does_not_depend_on_how_many_there_are(tmp_path):
    write_crops(tmp_path / "few", 2, seed=3)
    write_crops(tmp_path / "more", 3, seed=3)
    write_crops(tmp_path / "other", 2, seed=4)
    few, more, other = ((tmp_path / name / "000001.png").read_bytes() for name in ("few", "more", "other"))
    assert few == more != other


@pytest.mark.parametrize("size", [(102, 102), (1000, 150)])
def test_a_crop_has_its_size_whatever_the_photograph_s(size):
    photograph, rng = Image.effect_noise(size, 60).convert("RGB"), random.Random(0)
    assert {draw_crop(photograph, 192, 640, rng).size for _ in range(20)} == {(640, 192)}


def test_no_crops_and_a_folder_that_is_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="0 crops cannot be trained on"):
        write_crops(tmp_path / "crops", 0)
    with pytest.raises(ValueError, match="exists, and may hold other crops"):
        write_crops(tmp_path, 1)
