"""Folders are read whole, whatever their files are called; and what is stated as a split is one."""

import csv
import json
import logging
import shutil

import datasets
import pytest
from datasets import Dataset
from picture_rows import drawing

from transformers_arm.data.columns import check_dataset, undecoded
from transformers_arm.data.folders import load_files
from transformers_arm.data.input_files import find_sources, open_dataset
from transformers_arm.data.mixture import Source
from transformers_arm.training.callbacks import load_rows
from transformers_arm.training.reinforcement import requests_of_run
from transformers_arm.training.stages import read_stage

NAMES = [
    *("train.png", "bullet-train.png", "test-tube.png", "validation.png", "dev_2.png", "eval.PNG", "val 1.Jpg"),
    *("a, b.png", 'so-called "cat".png', "it's.png", "b[1].png", "st*r?.png", "😀.png", "sp ace.png", "%20 #1.png"),
    *("test/a.png", "data/train/b.png", "validation/test/c.png", "[c]/d.png", ".hidden in [d]/😀, e.png"),
]
VISIBLE = [name for name in NAMES if not name.startswith(".")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def draw(folder, names=VISIBLE):
    """Pictures of one pixel that differ by their place."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawing(1, 1, seed=number).save(folder / name, "PNG")
    return folder


def tell(folder, names, file="metadata.csv", column="file_name"):
    """Metadata of pictures, whose prompts are their names."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / file, "w", newline="") as written:
        if file.endswith("csv"):
            csv.writer(written).writerows([(column, "prompt"), *((name, name) for name in names)])
        else:
            written.writelines(json.dumps({column: name, "prompt": name}) + "\n" for name in names)
    return folder


def dataset_of(folder):
    """A section of a recipe."""
    return {"dataset": {"path": "imagefolder", "data_dir": str(folder)}}


def names_of(rows, folder):
    return sorted(row["image"]["path"].removeprefix(f"{folder.resolve()}/") for row in rows)


WAYS = {
    "load_files": lambda folder, **more: load_files("imagefolder", data_dir=str(folder), **more),
    "a folder": lambda folder, **more: load_files(str(folder), **more),
    "a stream": lambda folder, **more: load_files("imagefolder", data_dir=str(folder), streaming=True, **more),
    "a recipe": lambda folder: Source.from_recipe(dataset_of(folder)).dataset,
    "samples": lambda folder: load_rows(dataset_of(folder)["dataset"]),
    "grpo": lambda folder: requests_of_run(
        read_stage(
            "grpo",
            "arm_tiny/grpo_text_to_image",
            [f"data={json.dumps(dataset_of(folder))}", "evaluation=null", "rewards=[{reward: 'json:dumps'}]"],
        ),
        None,
    ),
    "tokenize": lambda folder: find_sources(str(folder), None, "train")[0].rows(),
}


def rows_by(way, folder):
    found = WAYS[way](folder)
    return list(undecoded(found) if hasattr(found, "cast_column") else found)


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("metadata", ["metadata.csv", "metadata.jsonl", None])
def test_no_picture_is_a_split_by_any_way_that_names_its_folder(tmp_path, way, metadata, caplog):
    folder = draw(tmp_path / "my [pictures], *")
    if metadata:
        tell(folder, VISIBLE, metadata)
    rows = rows_by(way, folder)
    assert names_of(rows, folder) == sorted(VISIBLE) and not caplog.records
    if metadata:
        assert all(row["image"]["path"].endswith(row["prompt"]) for row in rows)


def test_pictures_of_all_names_are_opened(tmp_path):
    dataset = WAYS["load_files"](tell(draw(tmp_path / "pictures"), VISIBLE))
    assert check_dataset(dataset) == {"text_to_image": len(VISIBLE)}


@pytest.mark.parametrize("way", ["load_files", "a stream", "tokenize"])
def test_nested_metadata_is_kept(tmp_path, way):
    folder = tmp_path / "pictures"
    for part in ("people", "test", "a/b"):
        tell(draw(folder / part, ["cat.png", "train.png"]), ["cat.png", "train.png"])
    rows = rows_by(way, folder)
    assert names_of(rows, folder) == sorted(
        f"{part}/{name}.png" for part in ("people", "test", "a/b") for name in ("train", "cat")
    )
    assert all(row["prompt"] in row["image"]["path"] for row in rows)
    if way == "a stream":  # whose order no other process may have differently
        assert [row["image"]["path"] for row in rows] == sorted(row["image"]["path"] for row in rows)
        assert WAYS[way](folder).num_shards == 3


def test_edits_of_a_folder_name_pictures_called_as_splits(tmp_path, caplog):
    folder = draw(tmp_path / "edits", ["train.png", "test.png", "dev.png"])
    (folder / "metadata.csv").write_text("image_file_name,source_image_file_name,prompt\ntrain.png,test.png,redder\n")
    dataset = load_files("imagefolder", data_dir=str(folder))
    assert check_dataset(dataset) == {"editing": 1}
    assert "1 pictures are in no row" in caplog.text and "dev.png" in caplog.text


@pytest.mark.parametrize("way", ["load_files", "a stream", "a recipe", "tokenize"])
def test_pictures_that_no_row_names_are_counted_and_the_first_named(tmp_path, way, caplog):
    folder = tell(draw(tmp_path / "pictures", [f"{number:02}.png" for number in range(15)]), ["00.png", "01.png"])
    assert len(rows_by(way, folder)) == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "13 pictures are in no row" in caplog.text and "/02.png'" in caplog.text and "/12.png" not in caplog.text


def test_so_are_those_in_an_archive_and_one_that_datasets_cannot_name(tmp_path, caplog):
    folder = tell(
        draw(tmp_path / "pictures", ["train.png", "test.png", "more.png"]), ["train.png", "test.png"], "metadata.jsonl"
    )
    archive = shutil.make_archive(tmp_path / "zips" / "pictures [1]", "zip", folder)
    for found in (
        find_sources(archive, None, "train")[0].content,
        open_dataset(path="imagefolder", data_files=archive),
    ):
        assert sorted(found["prompt"]) == ["test.png", "train.png"]
    assert caplog.text.count("1 pictures are in no row") == 2 and "zip://more.png::" in caplog.text
    load_files("imagefolder", data_dir=str(draw(tmp_path / "plain", ["a::b.png", "c.png"])))
    assert "a::b.png" in caplog.records[-1].getMessage()


NO_BLANKS = pytest.mark.skipif(int(datasets.__version__.split(".")[0]) < 5, reason="`datasets` refuses the folder")


@pytest.mark.parametrize(
    "name, said", [("test.png", "test.png"), pytest.param("", "there is no pict", marks=NO_BLANKS)]
)
def test_metadata_that_names_no_picture_or_one_that_is_not_there_costs_its_row(tmp_path, name, said):
    folder = draw(tmp_path / "pictures", ["train.png", "b.png"])
    (folder / "metadata.csv").write_text(f"file_name,prompt\ntrain.png,a\n{name},b\nb.png,d\n")
    with pytest.raises(ValueError, match=f"1 of 3 rows cannot be used:\nRow 1.*{said}"):
        check_dataset(load_files("imagefolder", data_dir=str(folder)))


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", [".", "data"])
def test_folders_called_as_splits_that_hold_all_are_splits(tmp_path, below):
    folder = tmp_path / "pictures"
    tell(draw(folder / below / "train", ["a.png", "test.png"]), ["a.png", "test.png"])
    tell(draw(folder / below / "test", ["c.png"]), ["c.png"])
    (folder / "README.md").write_text("Pictures of mine.\n")
    (folder / "LICENSE").write_text("mine")
    (folder / "classes.txt").write_text("a")
    for way in ("load_files", "a folder", "a stream"):
        assert sorted(row["prompt"] for row in WAYS[way](folder)) == ["a.png", "test.png"]
        assert [row["prompt"] for row in WAYS[way](folder, split="test")] == ["c.png"]
    assert len(WAYS["load_files"](folder, split="train+test")) == 3
    assert set(WAYS["load_files"](folder, split=None)) == {"train", "test"}
    with pytest.raises(ValueError, match="validation"):
        WAYS["load_files"](folder, split="validation")


def test_a_folder_called_as_a_split_alone_is_the_whole_unless_it_is_asked_for(tmp_path):
    folder = draw(tmp_path / "pictures", ["test/a.png", "test/b.png"])
    assert len(load_files(str(folder))) == len(load_files(str(folder), split="test")) == 2


def test_a_readme_s_splits_and_stated_files_are_as_stated(tmp_path):
    folder = draw(tmp_path / "pictures", ["train.png", "b.png", "c.png"])
    assert len(load_files("imagefolder", data_files={"train": f"{folder}/[bc].png"})) == 2
    configs = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: test, path: train.png}\n---\n"
    (folder / "README.md").write_text(configs)
    assert len(load_files(str(folder), split="test")) == 1


# --- other files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_names_of_files_of_rows_are_splits_if_they_leave_none_out(tmp_path, kind):
    def write(name):
        (tmp_path / "rows").mkdir(exist_ok=True)
        getattr(Dataset.from_dict({"text": [name]}), f"to_{kind}")(tmp_path / "rows" / f"{name}.{kind}")

    def texts(**more):
        folder = str(tmp_path / "rows")
        return [
            [row["text"] for row in open_dataset(**each, **more)]
            for each in ({"path": kind, "data_dir": folder}, {"path": folder})
        ]

    write("train-00000"), write("test")
    (tmp_path / "rows" / "notes.md").write_text("none of the rows")
    assert texts() == [["train-00000"]] * 2 and texts(split="test") == [["test"]] * 2
    write("cat")
    assert texts() == [["cat", "test", "train-00000"]] * 2


def test_tars_of_any_ending_are_read(tmp_path):
    (draw(tmp_path / "a", ["a.png"]) / "a.txt").write_text("a")
    for ending, kind in (("tar", "tar"), ("tar.gz", "gztar"), ("tgz", "gztar")):
        made = shutil.make_archive(tmp_path / "made" / ending, kind, tmp_path / "a")
        (tmp_path / "tars").mkdir(exist_ok=True)
        shutil.move(made, tmp_path / "tars" / f"test.{ending}")
    assert len(list(open_dataset(path="webdataset", data_dir=str(tmp_path / "tars"), streaming=True))) == 3


def test_tars_called_as_splits_are_read_with_the_others(tmp_path):
    for name in ("bullet-train", "cat", "test-tube"):
        folder = draw(tmp_path / name, [f"{name}.png"])
        (folder / f"{name}.txt").write_text(name)
        shutil.make_archive(tmp_path / "tars" / name, "tar", folder)
    rows = open_dataset(path="webdataset", data_dir=str(tmp_path / "tars"), streaming=True)
    assert [row["__key__"] if "__key__" in row else row["txt"]["bytes"].decode() for row in rows] == [
        "bullet-train",
        "cat",
        "test-tube",
    ]
    assert [source.name for source in find_sources(str(tmp_path / "tars"), None, "train")] == [
        "bullet-train.tar",
        "cat.tar",
        "test-tube.tar",
    ]
