"""What rows may name as pictures follows from where they come from; archives and stores are opened as elsewhere."""

import json
import shutil
import socket
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import PIL.Image
import pytest
from datasets import (
    Dataset,
    Features,
    Image,
    IterableDataset,
    Value,
    concatenate_datasets,
    interleave_datasets,
    load_dataset,
    load_from_disk,
)
from picture_rows import ONE, TWO, drawing, folder_dataset, pictures_in_folder_and_archive, png

from transformers_arm.data import pictures
from transformers_arm.data.columns import check_dataset, row_conversation, undecoded
from transformers_arm.data.pictures import FROM_FOLDERS, FROM_TRUSTED, fetcher_for, read_picture
from transformers_arm.data.row_errors import RowError
from transformers_arm.fetching_arm import FROM_CALLER, FROM_OUTSIDE


@pytest.fixture
def archive(tmp_path):
    return pictures_in_folder_and_archive(tmp_path)[1]


@pytest.fixture
def store():
    """A remote store, in memory: where it is."""
    folder = "memory://store"
    for name, picture in (("one.png", ONE), ("two.png", TWO)):
        with fsspec.open(f"{folder}/{name}", "wb") as file:
            file.write(png(picture))
    return folder


def stored(path):
    return {"bytes": None, "path": str(path)}


def load(kind, tmp_path, **options):
    return load_dataset(kind, split="train", cache_dir=str(tmp_path / "cache"), **options)


# --- what is opened --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_what_datasets_opens_of_an_archive_is_opened(archive, tmp_path, streaming):
    dataset = load("imagefolder", tmp_path, data_files=str(archive), streaming=streaming)
    assert check_dataset(dataset) == {"text_to_image": 3}
    for number, row in enumerate(undecoded(dataset)):
        assert row["image"]["bytes"] is None  # an address, and no bytes
        assert read_picture(row["image"], number, "image", fetcher=fetcher_for(dataset)) == drawing(seed=number)


def test_pictures_of_tars_and_of_archives_within_archives_are_opened(tmp_path):
    plain, archive = pictures_in_folder_and_archive(tmp_path)
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        tar.add(plain / "1.png", "1.png")
    inner = shutil.make_archive(tmp_path / "outer", "zip", tmp_path, "pictures.zip")
    for path in (f"tar://1.png::{tmp_path / 'pictures.tar'}", f"zip://1.png::zip://pictures.zip::{inner}"):
        assert read_picture(stored(path), 0, "image") == drawing(seed=1)


def test_an_archive_is_opened_once_for_all_its_pictures_and_again_when_it_is_another(archive, monkeypatch):
    opened, url_to_fs = [], fsspec.core.url_to_fs
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: opened.append(url) or url_to_fs(url))

    def read(number):
        return read_picture(stored(f"zip://{number}.png::{archive}"), 0, "image")

    assert [read(number) for number in (0, 1, 2, 0)] == [drawing(seed=seed) for seed in (0, 1, 2, 0)]
    assert len(opened) == 1
    with ThreadPoolExecutor(3) as pool:  # each thread has its own, or they would read at each other's place
        numbers = [number % 3 for number in range(60)]
        assert list(pool.map(read, numbers)) == [drawing(seed=number) for number in numbers]
    assert 1 < len(opened) <= 4
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("0.png", png(TWO))
    assert read(0) == TWO


def test_pictures_of_a_remote_store_are_opened_wherever_they_stand(store):
    one, two = f"{store}/one.png", f"{store}/two.png"
    features = Features({"prompt": Value("string"), "source_image": Image(), "image": Image()})
    row = {"prompt": "redder", "source_image": stored(one), "image": stored(two)}
    assert check_dataset(Dataset.from_list([row] * 2, features=features)) == {"editing": 2}
    messages = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a cat"}]
    conversation = row_conversation({"messages": messages, "images": [one, stored(two)]}, 0)
    assert [part["image"] for part in conversation[0]["content"][:2]] == [ONE, TWO]


@pytest.mark.parametrize(
    "name", ["zip://nothing.png::{archive}", "memory://store/nothing.png", "zip://0.png::nothing.zip"]
)
def test_a_member_that_is_missing_is_the_row_s_error(name, archive, store):
    with pytest.raises(RowError, match="Row 5, column 'image': ") as caught:
        read_picture(stored(name.format(archive=archive)), 5, "image")
    assert caught.value.reason == "image: unreadable picture"


@pytest.mark.parametrize("answer", [503, 404, "refused"])
def test_a_store_that_does_not_answer_is_asked_again_and_costs_no_row(answer, tmp_path, monkeypatch):
    """What a store should hold is not lost while it is busy: the run ends, and goes on later."""
    monkeypatch.setattr(pictures, "PAUSES", (0.01, 0.01))
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        port = server.server_port if answer != "refused" else 9
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(RowError if answer == 404 else ConnectionError) as caught:
            read_picture(stored(f"zip://0.png::http://127.0.0.1:{port}/p.zip"), 5, "image")
        server.shutdown()
    if answer == 404:
        assert caught.value.reason == "image: unreadable picture"
    else:
        assert "p.zip cannot be read, after 3 tries" in str(caught.value) and "No row is lost" in str(caught.value)
        assert caught.value.__notes__ == ["While row 5 was read."] and (len(asked) >= 3 or answer == "refused")


def test_what_an_archive_lacks_leaves_it_open(archive):
    kept = pictures._kept_archive
    read_picture(stored(f"zip://0.png::{archive}"), 5, "image")
    before = kept.cache_info()
    with pytest.raises(RowError):
        read_picture(stored(f"zip://nothing.png::{archive}"), 5, "image")
    read_picture(stored(f"zip://1.png::{archive}"), 5, "image")
    assert kept.cache_info().misses == before.misses and kept.cache_info().currsize == before.currsize


@pytest.mark.parametrize("name", ["nowhere://a.png", "::", "://", "zip://::", "memory://"])
def test_an_address_that_is_none_is_the_row_s_error(name):
    with pytest.raises(RowError, match="Row 5, column 'image': "):
        read_picture(stored(name), 5, "image")


def test_what_a_store_gives_stays_within_the_fetcher_s_limits(store, archive):
    """Of an archive's member no more is unpacked than may be read."""
    for name in (f"{store}/one.png", f"zip://0.png::{archive}"):
        assert read_picture(stored(name), 5, "image", fetcher=FROM_FOLDERS)
        with pytest.raises(RowError, match="more than max_bytes 1,000"):
            read_picture(stored(name), 5, "image", fetcher=replace(FROM_FOLDERS, max_bytes=1000))
        with pytest.raises(RowError, match="48x48 pixels .* more than max_pixels 2,000"):
            read_picture(stored(name), 5, "image", fetcher=replace(FROM_FOLDERS, max_pixels=2000))
        with pytest.raises(RowError, match="is none of JPEG"):
            read_picture(stored(name), 5, "image", fetcher=replace(FROM_FOLDERS, formats=("JPEG",)))


# --- who may name what -----------------------------------------------------------------------------------------------


def rows_file(kind, folder, row):
    """A file of one row that `datasets` reads."""
    file = folder / f"rows.{kind}"
    if kind == "parquet":
        Dataset.from_list([row]).to_parquet(file)
    else:
        file.write_text(
            json.dumps(row) + "\n" if kind == "json" else f"prompt,image\n{row['prompt']},{row['image']}\n"
        )
    return str(file)


@pytest.mark.parametrize("kind", ["parquet", "json", "csv"])
@pytest.mark.parametrize(
    "name", ["{folder}/plain/0.png", "zip://0.png::{folder}/pictures.zip", "memory://store/one.png"]
)
def test_rows_of_files_name_what_lies_here_only_where_the_caller_says_so(kind, name, archive, store, tmp_path):
    file = rows_file(kind, tmp_path, {"prompt": "a cat", "image": name.format(folder=tmp_path)})
    dataset = load(kind, tmp_path, data_files=file)
    with pytest.raises(
        ValueError, match="1 of 1 .*\nRow 0, column 'image': .*is a path.* Pass local_files=True if you"
    ):
        check_dataset(dataset)
    assert check_dataset(dataset, local_files=True) == {"text_to_image": 1}
    as_pictures = dataset.cast_column("image", Image())  # a feature makes no path more trusted
    with pytest.raises(ValueError, match="1 of 1 .*\nRow 0, column 'image': .* Pass local_files=True if you"):
        check_dataset(as_pictures)


def test_bytes_in_the_rows_of_files_need_no_trust(tmp_path):
    row = {"prompt": "a cat", "image": {"bytes": png(ONE), "path": "0.png"}}
    dataset = load("parquet", tmp_path, data_files=rows_file("parquet", tmp_path, row))
    assert check_dataset(dataset) == {"text_to_image": 1}


def test_who_named_a_picture_is_told_by_where_the_rows_come_from(archive, tmp_path):
    def made():
        yield {"prompt": "a cat"}

    file = rows_file("csv", tmp_path, {"prompt": "a cat", "image": "0.png"})
    cache = str(tmp_path / "cache")
    memory = Dataset.from_list([{"prompt": "a cat"}])
    for dataset in (
        memory,
        memory.map(lambda row: row),
        memory.to_iterable_dataset(),
        Dataset.from_generator(made, cache_dir=cache),
        IterableDataset.from_generator(made),
        [{"prompt": "a cat"}],
    ):
        assert fetcher_for(dataset) == FROM_CALLER
    folder = load("imagefolder", tmp_path, data_files=str(archive))
    for dataset in (folder, folder.shuffle(seed=0).select([0]), folder.rename_column("image", "source_image")):
        assert fetcher_for(dataset) == FROM_FOLDERS
    for streaming in (False, True):
        rows = load("csv", tmp_path, data_files=file, streaming=streaming)
        assert fetcher_for(rows) == fetcher_for(rows.take(1)) == FROM_OUTSIDE
        assert fetcher_for(rows, local_files=True) == FROM_TRUSTED
    assert (
        not FROM_FOLDERS.private_hosts and not FROM_TRUSTED.private_hosts
    )  # addresses in a folder's metadata are somebody else's


def test_rows_of_code_stay_so_through_a_stream_and_its_steps():
    memory = Dataset.from_list([{"prompt": "a cat", "n": number} for number in range(4)])
    stream = memory.to_iterable_dataset(num_shards=2)
    for dataset in (
        stream.map(lambda row: row).shuffle(seed=0).take(2),
        interleave_datasets([stream, IterableDataset.from_generator(lambda: iter([{"prompt": "a dog", "n": 1}]))]),
        concatenate_datasets([memory, memory.select([0])]),
    ):
        assert fetcher_for(dataset) == FROM_CALLER


def test_what_lies_in_files_is_nobody_s_word_for_itself(tmp_path):
    """Whatever is made of a file on the way, and whatever a saved folder says of where it is from."""
    file = rows_file("parquet", tmp_path, {"prompt": "a cat", "image": "0.png"})
    rows, stream = (load("parquet", tmp_path, data_files=file, streaming=streaming) for streaming in (False, True))
    memory = Dataset.from_list([{"prompt": "a dog", "image": "0.png"}])
    memory.save_to_disk(tmp_path / "sent")
    info = tmp_path / "sent" / "dataset_info.json"
    own_word = {}
    for builder in ("generator", "imagefolder"):
        info.write_text(json.dumps(json.loads(info.read_text()) | {"builder_name": builder}))
        own_word[builder] = load_from_disk(tmp_path / "sent")
    (arrow,) = (tmp_path / "sent").glob("*.arrow")
    for dataset in (
        rows.to_iterable_dataset(),
        rows.to_iterable_dataset().map(lambda row: row),
        interleave_datasets([stream, memory.to_iterable_dataset()]),
        concatenate_datasets([rows, memory]),
        *own_word.values(),
        own_word["generator"].to_iterable_dataset(),
        Dataset.from_file(str(arrow)),
        Dataset.from_file(str(arrow)).map(lambda row: row | {"n": 1}),
    ):
        assert fetcher_for(dataset) == FROM_OUTSIDE
        assert fetcher_for(dataset, local_files=True) == FROM_TRUSTED


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("way", ["text", "JSON", "object", "list", "message"])
def test_metadata_of_a_folder_names_no_file_beside_it(way, streaming, tmp_path):
    """Files are named in columns that `datasets` resolves (`file_name`, ...); all other values are just written."""
    folder, secret = tmp_path / "folder", str(tmp_path / "secret.png")
    PIL.Image.new("RGB", (64, 32), "red").save(secret)
    part = {"type": "image", "image": stored(secret)}
    row = {
        "text": {"source_image": secret},
        "JSON": {"source_images": json.dumps([stored(secret)])},
        "object": {"source_image": stored(secret)},
        "list": {"source_images": [stored(secret)]},
        "message": {
            "messages": json.dumps([{"role": "user", "content": [part]}, {"role": "assistant", "content": "x"}])
        },
    }[way]
    dataset = folder_dataset(folder, [row | {"file_name": "a.png", "prompt": "redder"}], streaming=streaming)
    with pytest.raises(
        ValueError, match="1 of 1 rows.*\nRow 0, column '(source_images?|messages)': .*secret.png' is a path"
    ):
        check_dataset(dataset)
    assert check_dataset(dataset, local_files=True)


@pytest.mark.parametrize(
    "name",
    [
        *("zip://0.png::http://127.0.0.1:{port}/p.zip", "zip://0.png::simplecache::http://127.0.0.1:{port}/p.zip"),
        *("simplecache::http://127.0.0.1:{port}/0.png", "ftp://127.0.0.1:{port}/0.png", "zip://0.png::HTTP://x/p.zip"),
        *("sftp://127.0.0.1/0.png", "tar://0.png::zip://p.tar::ftp://127.0.0.1:{port}/p.zip"),
    ],
)
def test_rows_of_trusted_files_ask_no_host_by_the_way_of_an_archive(name):
    """Files are trusted to name what lies here and in stores, and addresses of public hosts, which is checked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        with pytest.raises(
            RowError, match="Row 5, column 'image': .* is opened by '.*', but rows of files name"
        ) as caught:
            value = stored(name.format(port=server.getsockname()[1]))
            read_picture(value, 5, "image", fetcher=FROM_TRUSTED)
        assert caught.value.reason == "image: refused picture"
        with pytest.raises(BlockingIOError):
            server.accept()


def test_paths_of_the_caller_are_opened_whoever_made_the_rows(tmp_path):
    PIL.Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", 0, "image", fetcher=FROM_OUTSIDE).size == (16, 16)
    assert read_picture(str(tmp_path / "a.png"), 0, "image").size == (16, 16)
    with pytest.raises(RowError, match="Row 0, column 'image': .*there is none"):
        read_picture(Path(tmp_path / "b.png"), 0, "image")
