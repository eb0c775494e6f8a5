"""Where a connection is lost, a file is read on; no row of it is lost, and none comes twice."""

from itertools import islice

import pytest
from datasets import Dataset, load_dataset
from file_server import losing
from mixture_sources import png, write_tar

from transformers_arm.data import file_errors
from transformers_arm.data.input_files import InputFile
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.readers import StreamedRows

RENAME = {"png": "image", "txt": "prompt"}
ROWS = 60


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """`datasets` tries reads again for 100 seconds, and we for 86."""
    monkeypatch.setattr(file_errors, "PAUSES", (0.01,) * 4)
    for name in ("READ", "OPEN"):
        monkeypatch.setattr(f"datasets.config.STREAMING_{name}_MAX_RETRIES", 1)
        for kind in ("", "_SERVER_UNAVAILABLE", "_RATE_LIMIT"):
            monkeypatch.setattr(f"datasets.config.STREAMING_{name}{kind}_RETRY_INTERVAL", 0.01, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same pictures in a parquet of several row groups and in a tar."""
    folder = tmp_path_factory.mktemp("files")
    pictures = [png(number) for number in range(ROWS)]
    rows = {
        "txt": [caption for _, caption in pictures],
        "png": [{"bytes": file, "path": None} for file, _ in pictures],
    }
    Dataset.from_dict(rows).to_parquet(folder / "0.parquet", batch_size=8)
    write_tar(folder / "0.tar", ROWS)
    return folder


@pytest.mark.parametrize("losses", [1, 2])
@pytest.mark.parametrize(("file", "kind"), [("0.parquet", "parquet"), ("0.tar", "webdataset")])
def test_a_lost_connection_is_not_the_end_of_a_file(folder, file, kind, losses):
    whole, size = [png(number)[1] for number in range(ROWS)], (folder / file).stat().st_size
    with losing(folder, lost_at=size // 2, losses=0) as server:
        section = {"path": kind, "data_files": f"{server.url}/{file}", "streaming": True}
        source = Source.from_recipe({"dataset": section, "rename": RENAME, "shuffle": False})
        server.losses = losses
        reads = list(islice(source.reader("web").read(0, 1), ROWS + 1))
        assert server.losses == 0
    numbers = [read.number for read in reads]
    assert numbers == [*range(ROWS), 0] and [read.state.epoch for read in reads] == [0] * ROWS + [1]
    assert [str(source.conversation(read.row, read.number)[0]["content"][0]["text"]) for read in reads[:ROWS]] == whole


@pytest.mark.parametrize("status", [None, 503, 429])
@pytest.mark.parametrize(("file", "kind"), [("0.parquet", "parquet"), ("0.tar", "webdataset")])
def test_a_connection_that_is_lost_again_and_again_stops_the_run_and_is_no_broken_file(folder, file, kind, status):
    size = (folder / file).stat().st_size
    with losing(folder, lost_at=size // 2, losses=0, status=status) as server:
        dataset = load_dataset(kind, data_files=f"{server.url}/{file}", split="train", streaming=True)
        server.losses = 1000
        mixture = Mixture({"web": Source(dataset, rename=RENAME, shuffle=False)}, seed=0, streams=1)
        with pytest.raises(ConnectionError, match=f"{file} cannot be read on from row .* after 5 tries"):
            list(islice(mixture.draw(0), ROWS))
        assert server.losses < 1000 - 4
        server.losses = 0
        assert len(list(islice(mixture.draw(0), ROWS))) == ROWS


def test_a_lost_connection_of_a_tar_is_not_waited_for(folder, monkeypatch):
    """`datasets` would read it again and again, and get nothing."""
    monkeypatch.setattr("datasets.config.STREAMING_READ_MAX_RETRIES", 1000)
    monkeypatch.setattr("datasets.config.STREAMING_READ_RETRY_INTERVAL", 1000)
    with losing(folder, lost_at=20_000, losses=2) as server:
        rows = list(InputFile("0.tar", "webdataset", f"{server.url}/0.tar").rows())
        assert len(rows) == ROWS and server.losses == 0


def test_what_is_forbidden_or_missing_is_not_asked_for_again(folder):
    with losing(folder, lost_at=0, losses=0, status=403) as server:
        reader = Source(
            load_dataset("webdataset", data_files=f"{server.url}/0.tar", split="train", streaming=True)
        ).reader("web")
        server.losses = 1000
        with pytest.raises(ConnectionError) as raised:
            next(reader.read(0, 1))
        assert raised.value.__cause__.status == 403 and "0.tar, behind 0 rows" in raised.value.__notes__[0]
        assert server.losses > 1000 - 4


@pytest.mark.parametrize("losses", [1, 1000])
def test_an_end_that_looks_like_that_of_the_file_is_looked_at_twice(folder, losses):
    """A server that does not say how long a file is: only what ends at the same row again is broken."""
    with losing(folder, lost_at=20_000, losses=losses, says_length=False) as server:
        problems = []
        rows = list(file_errors.until_broken(InputFile("0.tar", "webdataset", f"{server.url}/0.tar").rows(), problems))
    if losses == 1:
        assert len(rows) == ROWS and not problems
    else:
        assert 0 < len(rows) < ROWS and problems == ["ReadError: unexpected end of data"]


def test_pretokenizing_reads_on_as_well(folder):
    for file, kind in (("0.parquet", "parquet"), ("0.tar", "webdataset")):
        with losing(folder, lost_at=(folder / file).stat().st_size // 2, losses=1) as server:
            rows = list(InputFile(file, kind, f"{server.url}/{file}").rows())
            assert len(rows) == ROWS and server.losses == 0


def test_another_process_than_the_first_reads_on(folder):
    """Workers are forked, and inherit locks and sessions."""
    from torch.utils.data import DataLoader, IterableDataset

    class Rows(IterableDataset):
        def __iter__(self):
            return (read.number for read in islice(reader.read(0, 1), ROWS))

    with losing(folder, lost_at=(folder / "0.parquet").stat().st_size // 2, losses=0) as server:
        dataset = load_dataset("parquet", data_files=f"{server.url}/0.parquet", split="train", streaming=True)
        reader = StreamedRows(dataset, key="web", shuffle=False, shuffle_buffer=4)
        server.losses = 1
        assert list(DataLoader(Rows(), batch_size=None, num_workers=1)) == list(range(ROWS))
        assert server.losses == 0
