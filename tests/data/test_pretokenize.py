"""Datasets of pictures become datasets of codes that train alike; what cannot be used is counted and costs no more."""

import csv
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value, load_dataset

from transformers_arm import ArmForCausalLM, ArmImageProcessor, ArmProcessor
from transformers_arm.cli import main
from transformers_arm.data.columns import check_dataset, row_conversation, undecoded
from transformers_arm.data.input_files import InputFile
from transformers_arm.data.pretokenize import Job, Tokenizing, arranged, pretokenize, summary
from transformers_arm.data.visual_tokenizer import load_tokenizer, weights_fingerprint
from transformers_arm.training.sft_trl import ArmSFTConfig, ArmSFTTrainer
from transformers_arm.worlds.shapes.captions import full_caption
from transformers_arm.worlds.shapes.draw import render_scene
from transformers_arm.worlds.shapes.edits import sample_editing_pair

ROW = {"task": Value("string"), "prompt": Value("string"), "answer": Value("string")}
ROW = Features(ROW | {"source_image": Image(), "source_images": List(Image()), "image": Image()})


def png(picture):
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def drawn_rows(count, seed=0):
    """Rows of the four tasks in turn, edits of one source and of two; pictures as files named after row and column."""
    rng, rows = random.Random(seed), []
    for number in range(count):
        pair = sample_editing_pair(rng)
        source, target = (
            {"bytes": png(render_scene(scene)), "path": f"{number}-{name}.png"}
            for name, scene in (("source", pair.source), ("target", pair.target))
        )
        of_task = {
            "text_to_image": {"prompt": full_caption(pair.source), "image": source},
            "editing": {"prompt": pair.instruction, "image": target}
            | ({"source_image": source} if number % 8 < 4 else {"source_images": [source, target]}),
            "image_to_text": {"prompt": "what is it?", "image": source, "answer": full_caption(pair.source)},
            "text": {"prompt": f"count to {number}", "answer": "one, two"},
        }
        task = list(of_task)[number % 4]
        rows.append(dict.fromkeys(ROW) | {"task": task} | of_task[task])
    return rows


def write_parquet(file, rows):
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, ROW.arrow_schema), file)  # `to_parquet` would fetch addresses


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


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def load(folder):
    cache = str(folder.with_name(f"{folder.name}-cache"))
    return load_dataset("parquet", data_dir=str(folder), split="train", cache_dir=cache)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A folder of parquet files: good rows, rows among which three are bad, and a file that was cut off."""
    folder = tmp_path_factory.mktemp("datasets") / "mixture"
    write_parquet(folder / "0.parquet", drawn_rows(16))
    bad = drawn_rows(16, seed=1)
    bad[4]["image"]["bytes"] = bad[4]["image"]["bytes"][:-40]  # text-to-image
    bad[5]["source_image"] = bad[5]["source_images"] = None  # editing
    bad[6]["prompt"] = None  # image-to-text
    write_parquet(folder / "1.parquet", bad)
    write_parquet(folder / "2.parquet", drawn_rows(8, seed=2))
    (folder / "2.parquet").write_bytes((folder / "2.parquet").read_bytes()[:-1000])
    return folder


@pytest.fixture(scope="module")
def codes(mixture, arm_folder):
    """The mixture's codes, and the report."""
    folder = mixture.with_name("codes")
    return folder, pretokenize(str(mixture), folder, arm_folder, workers=2, rows_per_file=5)


@pytest.fixture
def new_worker(arm_folder, tmp_path):
    """Makes a worker of this process, of which nothing but its pool is missing."""

    def make(columns, *, rename=None, task=None, tokenizer=arm_folder, totals=(0, 0), max_skipped=0.1):
        job = Job(
            output=tmp_path,
            tokenizer=str(tokenizer),
            columns=columns,
            rename=rename or {},
            task=task,
            rows_per_file=4,
            batch_size=3,
            max_skipped=max_skipped,
            device="cpu",
            dtype="float32",
        )
        context = get_context("spawn")
        return Tokenizing(job, context.Array("q", totals), context.Event(), 0)

    return make


NOWHERE = InputFile("here", "none", "here")


# --- training --------------------------------------------------------------------------------------------------------


def test_training_from_codes_has_exactly_the_loss_of_training_from_pixels(codes, mixture, arm_folder, tmp_path):
    bad = {(1, 4), (1, 5), (1, 6)}
    rows = [row for file in (0, 1) for index, row in enumerate(drawn_rows(16, file)) if (file, index) not in bad]
    pixels, folder = Dataset.from_list(rows, features=ROW), codes[0]
    config = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "seed": 3}
    config |= {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 8, "save_strategy": "no"}
    losses, examples = [], []
    for dataset in (pixels, load(folder)):
        arguments = ArmSFTConfig(str(tmp_path), **config)
        trainer = ArmSFTTrainer(ArmForCausalLM.from_pretrained(arm_folder), arguments, train_dataset=dataset)
        examples.append(list(trainer.train_dataset))
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert examples[0] == examples[1] and len(examples[0]) == 29
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_the_rows_are_the_same_conversations(codes, arm_folder):
    vq_model, image_processor = load_tokenizer(arm_folder)
    written = load(codes[0])
    assert check_dataset(written) == {"text_to_image": 7, "editing": 7, "image_to_text": 7, "text": 8}
    for index, row in enumerate(drawn_rows(16)):
        expected = row_conversation(row, index, lambda picture: image_processor(picture, return_tensors="pt"))
        for turn, other in zip(expected, row_conversation(written[index], index), strict=True):
            assert turn["role"] == other["role"] and len(turn["content"]) == len(other["content"])
            for part, same in zip(turn["content"], other["content"], strict=True):
                if part["type"] == "image":
                    assert torch.equal(vq_model.encode(part["image"].pixel_values).codes[0], same["image"])
                else:
                    assert part == same


def test_conversations_keep_their_pictures_in_their_places(new_worker):
    worker = new_worker(["messages", "images"])
    first, second, third = ({"bytes": png(render_scene(sample_editing_pair(random.Random(n)).source))} for n in "abc")
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "redder"}, {"type": "image"}]}
    told = {"role": "assistant", "content": [{"type": "image", "image": third}, {"type": "text", "text": "done"}]}
    plain = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    rows = [{"messages": [asked, told], "images": [first, second]}, {"messages": plain, "images": None}]
    results, tally = worker.window(NOWHERE, rows, 0)
    worker.write(worker.job.file(0, 0), results, {})
    written = load(worker.job.output)
    assert check_dataset(written) == tally.tasks == {"messages": 2}
    assert written.column_names == ["task", "messages"]
    alone = [
        worker.encode([worker.pixel_values(PIL.Image.open(io.BytesIO(each["bytes"])))])[0]
        for each in (first, second, third)
    ]
    said = [part for turn in row_conversation(written[0], 0) for part in turn["content"]]
    assert [part.get("text") for part in said] == [None, "redder", None, None, "done"]
    for part, expected in zip((said[0], said[2], said[3]), alone, strict=True):
        assert part["image"].flatten().tolist() == expected["codes"].tolist()
    assert row_conversation(written[1], 1)[1]["content"] == [{"type": "text", "text": "hello"}]


def test_pictures_of_several_sizes_keep_their_order_and_grids(new_worker, arm_folder, tmp_path):
    vq_model, _ = load_tokenizer(f"{arm_folder}/vq_model")
    vq_model.save_pretrained(tmp_path / "vq")
    keeping = ArmImageProcessor(size={"height": 64, "width": 64}, keep_aspect_ratio=True)
    keeping.save_pretrained(tmp_path / "vq")
    worker = new_worker(["prompt", "image"], tokenizer=tmp_path / "vq")
    rng = np.random.default_rng(0)
    sizes = [(48, 48), (32, 64), (48, 48), (200, 100), (32, 64), (48, 48), (48, 48)]
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    results, _ = worker.window(NOWHERE, [{"prompt": "x", "image": picture} for picture in pictures], 0)
    for picture, result in zip(pictures, results, strict=True):
        (grid,) = vq_model.encode(keeping(picture, return_tensors="pt").pixel_values).codes
        assert (result["image"]["height"], result["image"]["width"]) == grid.shape
        assert result["image"]["codes"].tolist() == grid.flatten().tolist()
    assert {(result["image"]["height"], result["image"]["width"]) for result in results} == {(3, 3), (2, 4), (5, 2)}


def test_the_largest_code_survives(new_worker):
    worker = new_worker(["prompt", "image"])
    grid = {"codes": np.array([65535, 0, 32768, 65534, 1, 2], np.uint16), "height": 2, "width": 3}
    worker.write(worker.job.file(0, 0), [{"task": "text_to_image", "prompt": "x", "image": grid}], {})
    written = load(worker.job.output)
    assert written.features["image"]["codes"] == List(Value("uint16"))
    said = row_conversation(written[0], 0)[1]["content"][0]["image"]
    assert said.dtype == torch.int64 and said.tolist() == [[65535, 0, 32768], [65534, 1, 2]]


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_counts_what_was_skipped_and_names_it(codes):
    folder, report = codes
    assert json.loads((folder / "report.json").read_text()) == report
    assert (report["complete"], report["rows"], report["written"]) == (True, 32, 29)
    assert report["tasks"] == {"text_to_image": 7, "editing": 7, "image_to_text": 7, "text": 8}
    assert report["skipped"] == {"image: unreadable picture": 1, "source_image: missing": 1, "prompt: missing": 1}
    first, second, third = (f"{example['file']}: {example['problem']}" for example in report["examples"])
    assert first.startswith("1.parquet: Row 4, column 'image': 4-source.png: ") and "0x" not in first
    assert second.startswith("1.parquet: Row 5, column 'source_image': an edit has no picture to start from")
    assert third.startswith("1.parquet: Row 6, column 'prompt': it is missing")
    (ended,) = report["ended_early"]
    assert (ended["file"], ended["rows"]) == ("2.parquet", 0) and "Parquet magic bytes not found" in ended["problem"]
    said = summary(report)
    assert said.startswith("29 of 32 rows written (7 text_to_image, 7 editing, 7 image_to_text, 8 text), 3 skipped")
    assert "2.parquet ended early, after 0 rows" in said and "1 prompt: missing" in said


def test_the_report_says_which_tokenizer_made_the_codes(codes, arm_folder):
    made = codes[1]["tokenizer"]
    model = ArmForCausalLM.from_pretrained(arm_folder)
    assert made["weights"] == weights_fingerprint(model.vq_model)
    assert made["image_processor"] == json.loads(
        ArmProcessor.from_pretrained(arm_folder).image_processor.to_json_string()
    )
    assert (made["codebook_size"], made["dtype"]) == (1024, "float32")


def test_the_tokenizer_of_an_arm_is_that_of_its_own_folder(arm_folder):
    (model, processor), (other, same) = load_tokenizer(arm_folder), load_tokenizer(f"{arm_folder}/vq_model")
    assert weights_fingerprint(model) == weights_fingerprint(other) and not model.training and not other.training
    assert processor.to_json_string() == same.to_json_string()
    with torch.no_grad():
        other.down_projection.bias += 1e-3
    assert weights_fingerprint(model) != weights_fingerprint(other)


# --- workers, kills, other options -----------------------------------------------------------------------------------


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
        ("2.tar", 5, "EOFError: the blocks that close a tar are missing"),
        ("3.tar", 0, "ReadError: empty file"),
    ]
    assert "0.tar ended early, after 3 rows" in capsys.readouterr().out
    samples = drawn_samples(6)[:3] + drawn_samples(6, 1) + drawn_samples(6, 2)[:5]
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
    assert tally.skipped == {"image: missing": 1, "prompt: undecodable": 2, "prompt: missing": 1, "unusable": 1}
    assert (tally.rows, tally.written) == (7, 2)
    assert [example["problem"][:5] for example in tally.examples] == [f"Row {n}" for n in (1, 2, 3, 4)] + ["'utf-"]


def test_of_several_names_the_first_that_holds_something_counts_and_absent_ones_add_no_column():
    rename = {"jpg": "image", "png": "image", "webp": "source_image", "json.en": "prompt", "txt": "prompt"}
    columns = ["prompt", "image"]
    made = arranged({"png": "p", "json": {"en": "c"}, "txt": "t"}, 0, columns, rename, "text_to_image")
    assert {name: made[name] for name in columns} == {"image": "p", "prompt": "c"}
    assert made["task"] == "text_to_image" and "source_image" not in made
    made = arranged({"jpg": "j", "png": "p", "json": None, "prompt": "own", "task": "text"}, 0, columns, rename, None)
    assert (made["image"], made["prompt"], made["task"]) == ("j", "own", "text")


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
    assert "7.png: cannot be read: cannot identify image file" in report["examples"][0]["problem"]
    written = load(tmp_path / "codes")
    assert written.column_names == ["task", "prompt", "image"]
    expected = [sample["txt"].decode() for number, sample in enumerate(samples) if number != 7]
    assert written["prompt"] == expected


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
