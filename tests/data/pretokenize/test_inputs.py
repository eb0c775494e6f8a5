"""Tars, folders and single files are read; what cannot be used is counted and costs no more."""

import base64
import csv
import gzip
import io
import json
import tarfile
import zipfile

import pytest
from datasets import Dataset, Features, load_dataset
from pretokenize_datasets import NOWHERE, ROW, drawn_rows, load, write_parquet

from transformers_arm.cli import main
from transformers_arm.data.columns import check_dataset, undecoded
from transformers_arm.data.input_files import InputFile, find_sources
from transformers_arm.data.pretokenize import pretokenize


def write_tar(file, samples):
    """Samples are dicts of what stands behind the dot -> bytes."""
    file.parent.mkdir(exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for number, sample in enumerate(samples):
            for name, content in sample.items():
                header = tarfile.TarInfo(f"{number:05d}.{name}")
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))


def drawn_samples(count, seed=0):
    """Rows of `drawn_rows` that have an image, as a tar has them."""
    rows = [row for row in drawn_rows(4 * count, seed) if row["task"] == "text_to_image"]
    return [{"png": row["image"]["bytes"], "txt": row["prompt"].encode()} for row in rows]


# --- bad rows and files ----------------------------------------------------------------------------------------------


def test_tars_that_end_early_give_the_rows_before_and_cost_no_other(arm_folder, tmp_path, capsys):
    folder = tmp_path / "tars"
    for name, seed in (("0", 0), ("1", 1), ("2", 2), ("3", 3)):
        write_tar(folder / f"{name}.tar", drawn_samples(6, seed))
    whole = (folder / "0.tar").read_bytes()
    ends = [member.offset_data + 512 for member in tarfile.open(folder / "0.tar") if member.name.endswith(".txt")]
    (folder / "0.tar").write_bytes(whole[: ends[2] + 600])  # in the fourth picture
    (folder / "1.tar").write_bytes((folder / "1.tar").read_bytes()[: -10240 + 4096])  # still closed
    cut = [member.offset_data + 512 for member in tarfile.open(folder / "2.tar") if member.name.endswith(".txt")]
    (folder / "2.tar").write_bytes((folder / "2.tar").read_bytes()[: cut[4]])  # between two rows
    (folder / "3.tar").write_bytes(b"")
    status = main(["tokenize", str(folder), "--output", str(tmp_path / "codes"), "--vq", arm_folder, "--workers", "2"])
    assert status == 0
    report = json.loads((tmp_path / "codes" / "report.json").read_text())
    early = [(file["file"], file["rows"], file["problem"]) for file in report["ended_early"]]
    assert early == [
        ("0.tar", 3, "ReadError: unexpected end of data"),
        ("2.tar", 4, "ReadError: the blocks that close a tar are missing"),
        ("3.tar", 0, "ReadError: the blocks that close a tar are missing"),
    ]
    assert "0.tar ended early, after 3 rows" in capsys.readouterr().out
    samples = drawn_samples(6)[:3] + drawn_samples(6, 1) + drawn_samples(6, 2)[:4]
    assert load(tmp_path / "codes")["prompt"] == [sample["txt"].decode() for sample in samples]


def test_bad_rows_of_a_tar_are_skipped_one_by_one(new_worker):
    samples = [
        {"jpg": sample["png"], "json": json.dumps({"text": {"en": sample["txt"].decode()}}).encode()}
        for sample in drawn_samples(7)
    ]
    del samples[1]["jpg"]
    samples[2]["json"] = b"{"
    samples[3]["json"] = b"\xff\xfe"
    samples[4]["json"] = b'{"text": "not by language"}'
    samples[5]["json"] = b'{"text": {"en": "half \\ud800"}}'
    worker = new_worker(["prompt", "image"], rename={"jpg": "image", "png": "image", "json.text.en": "prompt"})
    file = worker.job.output / "tars" / "0.tar"
    write_tar(file, samples)
    results, tally = worker.window(NOWHERE, InputFile("0.tar", "webdataset", str(file)).rows(), 0)
    prompts = [sample["txt"].decode() for sample in drawn_samples(7)]
    assert [result["prompt"] for result in results] == [prompts[0], prompts[6]]
    assert tally.skipped == {"image: missing": 1, "prompt: undecodable": 3, "prompt: half a character": 1}
    assert (tally.rows, tally.written) == (7, 2)
    assert [example["problem"][:5] for example in tally.examples] == [f"Row {n}" for n in (1, 2, 3, 4, 5)]


def test_too_many_skipped_rows_stop_the_run_and_a_larger_share_lets_it_end(arm_folder, tmp_path):
    rows = drawn_rows(8)
    rows[0]["image"] = rows[1]["image"] = None
    write_parquet(tmp_path / "rows" / "0.parquet", rows)
    arguments = [str(tmp_path / "rows"), tmp_path / "codes", arm_folder]
    with pytest.raises(
        ValueError, match="2 of 8 rows cannot be used, more than max_skipped 0.1 allows.*\n.*Row 0, column 'im"
    ):
        pretokenize(*arguments, workers=1)
    assert pretokenize(*arguments, workers=1, max_skipped=0.25)["written"] == 6
    assert len(load(tmp_path / "codes")) == 6


def test_a_worker_ends_early_where_a_thousand_rows_show_that_too_many_are_skipped(new_worker):
    bad = [{"prompt": None, "image": None}] * 128
    new_worker(["prompt", "image"], totals=(800, 0)).window(NOWHERE, bad, 0)
    new_worker(["prompt", "image"], totals=(1200, 0)).window(NOWHERE, bad, 0)
    with pytest.raises(ValueError, match="138 of 1328 rows cannot be used.*\nhere: Row 0, column 'prompt'"):
        new_worker(["prompt", "image"], totals=(1200, 10)).window(NOWHERE, bad, 0)


def test_codes_are_not_encoded_again(new_worker):
    row = {"prompt": "x", "image": {"codes": [1], "height": 1, "width": 1}}
    _, tally = new_worker(["prompt", "image"]).window(NOWHERE, [row], 0)
    assert tally.skipped == {"image: codes": 1}


# --- other inputs ----------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures_is_shared_by_several_workers(arm_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder, samples = tmp_path / "pictures", drawn_samples(11)
    folder.mkdir()
    with open(folder / "metadata.csv", "w") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption", "url"])
        for number, sample in enumerate(samples):
            (folder / f"{number}.png").write_bytes(sample["png"])
            table.writerow([f"{number}.png", sample["txt"].decode(), "somewhere"])
    (folder / "7.png").write_bytes(b"no picture")
    report = pretokenize(
        str(folder), tmp_path / "codes", arm_folder, rename={"caption": "prompt"}, workers=2, rows_per_file=4
    )
    assert (report["rows"], report["written"], report["complete"]) == (11, 10, True)
    assert "Row 7, column 'image': cannot identify image file" in report["examples"][0]["problem"]
    written = load(tmp_path / "codes")
    assert {name for name, value in written[0].items() if value is not None} == {"task", "prompt", "image"}
    expected = [sample["txt"].decode() for number, sample in enumerate(samples) if number != 7]
    assert written["prompt"] == expected


def test_a_folder_with_its_pictures_in_a_zip_is_shared_by_several_workers(arm_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder, samples = tmp_path / "archived", drawn_samples(6)
    folder.mkdir()
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        lines = ["file_name,prompt"]
        for number, sample in enumerate(samples):
            archive.writestr(f"{number}.png", sample["png"] if number != 2 else b"no picture")
            lines.append(f'{number}.png,"{sample["txt"].decode()}"')
        archive.writestr("metadata.csv", "\n".join(lines))
    arguments = ["--output", str(tmp_path / "codes"), "--vq", arm_folder, "--workers", "2", "--rows-per-file", "2"]
    assert main(["tokenize", str(folder), *arguments, "--max-skipped", "0.5"]) == 0
    assert "5 of 6 rows written (5 text_to_image), 1 skipped" in capsys.readouterr().out
    expected = [sample["txt"].decode() for number, sample in enumerate(samples) if number != 2]
    assert load(tmp_path / "codes")["prompt"] == expected


def test_rows_of_files_name_no_picture_of_this_machine_unless_they_are_trusted(arm_folder, tmp_path):
    (tmp_path / "mine.png").write_bytes(drawn_samples(1)[0]["png"])
    samples = [
        {"json": json.dumps({"file": str(tmp_path / "mine.png")}).encode(), "txt": b"a caption"} for _ in range(3)
    ]
    write_tar(tmp_path / "tars" / "0.tar", samples)
    arguments = [str(tmp_path / "tars"), tmp_path / "codes", arm_folder]
    options = {"rename": {"json.file": "image", "txt": "prompt"}, "workers": 1}
    with pytest.raises(ValueError, match="3 of 3 rows cannot be used.*\n.*Row 0, column 'image'.*local_files=True"):
        pretokenize(*arguments, **options)
    with pytest.raises(ValueError, match="was begun with another options.local_files"):
        pretokenize(*arguments, **options, local_files=True)
    report = pretokenize(arguments[0], tmp_path / "trusted", arm_folder, **options, local_files=True)
    assert report["written"] == 3


def test_what_would_rename_nothing_is_refused(arm_folder, tmp_path):
    write_parquet(tmp_path / "rows" / "0.parquet", drawn_rows(4))
    with pytest.raises(
        ValueError, match="No row has caption or text, which should be 'prompt': they have task, prompt"
    ):
        pretokenize(
            str(tmp_path / "rows"), tmp_path / "codes", arm_folder, rename={"caption": "prompt", "text": "prompt"}
        )
    assert not (tmp_path / "codes").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"workers": 0}, "workers 0 must be at least 1"),
        ({"rows_per_file": 0}, "rows_per_file 0 must be at least 1"),
        ({"max_skipped": 1.5}, "max_skipped 1.5 is a share of the rows and must be in 0..1"),
        ({"task": "edit"}, "task 'edit' is not one of text_to_image, editing"),
        ({"dtype": "int8"}, "dtype 'int8' is not one of float32"),
        ({"rename": {"txt": "caption"}}, "Nothing can be renamed to caption. The columns are task, prompt"),
        ({"split": "test"}, "has no split 'test'; it has train"),
    ],
)
def test_options_out_of_bounds_are_refused_before_anything_is_written(mixture, arm_folder, tmp_path, options, error):
    with pytest.raises(ValueError, match=error):
        pretokenize(str(mixture), tmp_path / "codes", arm_folder, **options)
    assert not (tmp_path / "codes").exists()


def test_a_dataset_without_our_columns_or_rows_is_refused(arm_folder, tmp_path):
    write_tar(tmp_path / "tars" / "0.tar", [{"cls": b"7"}])
    with pytest.raises(ValueError, match="0.tar has cls, and none of task, prompt.*--rename"):
        pretokenize(str(tmp_path / "tars"), tmp_path / "codes", arm_folder)
    (tmp_path / "tars" / "0.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match="No row of the dataset can be read: ReadError"):
        pretokenize(str(tmp_path / "tars"), tmp_path / "codes", arm_folder)


def test_what_a_later_file_has_and_the_first_lacks_is_written_too(arm_folder, tmp_path):
    drawn, edit, *_ = drawn_rows(4)
    for number, (row, names) in enumerate([(drawn, ["prompt", "image"]), (edit, ["prompt", "source_image", "image"])]):
        row = {name: row[name] for name in names}
        features = Features({name: ROW[name] for name in names})
        Dataset.from_list([row], features=features).to_parquet(tmp_path / f"{number}.parquet")
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    Dataset.from_list([{"messages": said}]).to_parquet(tmp_path / "2.parquet")
    report = pretokenize(str(tmp_path / "*.parquet"), tmp_path / "codes", arm_folder, workers=1)
    assert report["tasks"] == {"text_to_image": 1, "editing": 1, "messages": 1} and report["rows"] == 3
    assert check_dataset(load(tmp_path / "codes")) == report["tasks"]


def picture_and_text(number=0):
    """A picture, and what it is called, as JSON can hold it."""
    picture, text = drawn_samples(1, number)[0].values()
    return {"prompt": text.decode(), "image": "data:image/png;base64," + base64.b64encode(picture).decode()}


def write_single(file):
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.png", drawn_samples(1)[0]["png"])
            archive.writestr("metadata.csv", "file_name,prompt\na.png,a caption")
    elif file.name.endswith(".tgz"):
        write_tar(file.with_suffix(".tar"), drawn_samples(1))
        file.write_bytes(gzip.compress(file.with_suffix(".tar").read_bytes()))
    elif file.name.endswith(".png"):
        file.write_bytes(drawn_samples(1)[0]["png"])
    elif file.name.endswith(".gz"):
        file.write_bytes(gzip.compress(json.dumps(picture_and_text()).encode()))
    else:
        file.write_text({".json": "[{}]"}.get(file.suffix, "{}").format(json.dumps(picture_and_text())))
    return str(file)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.zip", "a.tgz", "*.jsonl"])
def test_a_single_file_of_any_kind_is_a_dataset(arm_folder, tmp_path, monkeypatch, name):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_single(tmp_path / name.replace("*", "a"))
    report = pretokenize(str(tmp_path / name), tmp_path / "codes", arm_folder, workers=1)
    assert report["tasks"] == {"text_to_image": 1}


def test_a_picture_alone_is_a_dataset_and_what_nobody_knows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (source,) = find_sources(write_single(tmp_path / "a.png"), None, "train")
    assert [set(row) for row in source.rows()] == [{"image"}]
    with pytest.raises(ValueError, match="a.unknown is of no kind that `datasets` knows"):
        find_sources(write_single(tmp_path / "a.unknown"), None, "train")


def test_a_broken_line_is_skipped_and_counted(arm_folder, tmp_path):
    lines = [json.dumps(picture_and_text(number)) for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join([lines[0], lines[1][:50], lines[2]]))
    report = pretokenize(str(tmp_path / "rows.jsonl"), tmp_path / "codes", arm_folder, workers=1, max_skipped=0.5)
    assert (report["rows"], report["written"], report["skipped"]) == (3, 2, {"undecodable": 1})
    assert report["examples"][0]["problem"].startswith('Row 1: the line \'{"prompt": ')


def test_single_files_are_datasets_too(arm_folder, tmp_path):
    write_parquet(tmp_path / "rows" / "0.parquet", drawn_rows(4))
    report = pretokenize(str(tmp_path / "rows" / "0.parquet"), tmp_path / "codes", arm_folder, workers=1)
    assert report["written"] == 4
    pixels = undecoded(
        load_dataset(
            "parquet",
            data_files=str(tmp_path / "rows" / "0.parquet"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
    )
    assert load(tmp_path / "codes")["prompt"] == pixels["prompt"]
