"""A dataset with bad rows, its codes, and a worker that makes codes in this process."""

from multiprocessing import get_context

import pytest
from pretokenize_datasets import drawn_rows, write_parquet

from transformers_arm.data.pretokenize import Job, Tokenizing, pretokenize


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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
            local_files=False,
            rows_per_file=4,
            batch_size=3,
            max_skipped=max_skipped,
            device="cpu",
            dtype="float32",
        )
        context = get_context("spawn")
        return Tokenizing(job, context.Array("q", totals), context.Event(), 0)

    return make
