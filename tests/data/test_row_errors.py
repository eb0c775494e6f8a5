"""Whatever a row raises is that row's error; what the machine raises is not."""

import errno
import json
import pickle

import PIL.Image
import pytest
import torch

from transformers_arm import ArmImageProcessor
from transformers_arm.data.row_errors import RowError, Tally, as_row_error, file_error, row_error


def raised(make, *arguments, **keywords):
    """What comes out at the boundary when this is called inside."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (which one is what is asked)
        with as_row_error(*arguments, **keywords):
            make()
    return caught.value


@pytest.mark.parametrize(
    ("make", "text", "reason"),
    [
        (lambda: {}["role"], "Row 7: KeyError: 'role'. Mend the row, or drop it.", "unusable (KeyError)"),
        (lambda: "x".get("role"), "Row 7: AttributeError: 'str' object has no attribute", "unusable (AttributeError)"),
        (lambda: next(iter([])), "Row 7: StopIteration", "unusable (StopIteration)"),
        (lambda: json.loads("[" * 100_000), "Row 7: RecursionError", "unusable (RecursionError)"),
        (lambda: torch.zeros(2) @ torch.zeros(3), "Row 7: RuntimeError: ", "unusable (RuntimeError)"),
        (lambda: open("no_such_file.png"), "Row 7: FileNotFoundError: ", "unusable (FileNotFoundError)"),
        (lambda: int("x"), "Row 7: invalid literal for int", "unusable"),
        (lambda: "\ud83d".encode(), "Row 7: 'utf-8' codec can't encode character", "unusable"),
    ],
)
def test_whatever_a_row_raises_is_its_row_error(make, text, reason):
    error = raised(make, 7, file="a.parquet")
    assert isinstance(error, RowError) and str(error).startswith(text)
    assert (error.row, error.column, error.file, error.reason) == (7, "", "a.parquet", reason)
    assert error.__cause__ is not None


def test_a_column_that_is_known_is_named():
    error = raised(lambda: {}["role"], 7, "messages")
    assert str(error).startswith("Row 7, column 'messages': KeyError")
    assert (error.column, error.reason) == ("messages", "messages: unusable (KeyError)")


def test_an_error_that_names_its_row_is_kept_and_one_that_does_not_is_given_it():
    def named():
        raise row_error(3, "prompt", "it is blank.", "blank")

    def unnamed():
        raise file_error(12, EOFError("cut off"))

    error = raised(named, 7, file="a.parquet")
    assert str(error) == "Row 3, column 'prompt': it is blank."
    assert (error.row, error.reason, error.file) == (3, "prompt: blank", "a.parquet")
    error = raised(unnamed, 12)
    assert str(error) == "Row 12: the file ends early, after 12 rows (EOFError: cut off). Replace it."
    assert error.reason == "file ends early"


def test_fields_survive_the_way_from_one_process_to_another():
    error = pickle.loads(pickle.dumps(row_error(3, "prompt", "it is blank.", "blank", file="a.parquet")))
    assert (error.row, error.column, error.reason, error.file) == (3, "prompt", "prompt: blank", "a.parquet")


def test_half_a_character_in_an_error_can_be_printed():
    assert str(row_error(3, "image", "\ud83d.png: there is no such file")).encode().endswith(b"file")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        ConnectionError("Server Disconnected"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_what_is_wrong_with_the_machine_costs_no_row(error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        with as_row_error(7, file="a.parquet"), as_row_error(7, "image", file="a.parquet"):
            fail()
    assert caught.value is error
    if isinstance(error, Exception):
        assert error.__notes__ == ["While row 7 of a.parquet was read."]


def test_torch_s_own_want_of_memory_costs_no_row():
    error = raised(lambda: torch.empty(2**60), 7)
    assert not isinstance(error, RowError) and error.__notes__ == ["While row 7 was read."]


def test_what_is_wrong_with_the_machine_is_found_behind_what_says_which_picture_it_was(tmp_path):
    """The image processor wraps what a file raises; too many open files are still none of the row's."""
    resource = pytest.importorskip("resource")
    PIL.Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    limits, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        while True:
            try:
                held.append(open(tmp_path / "a.png", "rb"))
            except OSError:
                break
        error = raised(lambda: ArmImageProcessor()(tmp_path / "a.png"), 7)
    finally:
        for file in held:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert isinstance(error, OSError) and error.errno == errno.EMFILE


def test_a_lost_connection_behind_another_error_is_the_row_s():
    """An address that a row names may be dead; a connection of our own is not."""

    def fail():
        try:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        except OSError as error:
            raise ValueError("http://example.com/a.png does not answer.") from error

    assert isinstance(raised(fail, 7), RowError)


def test_a_tally_counts_by_reason():
    tally = Tally()
    tally.skip("a.parquet", raised(lambda: {}["x"], 7))
    tally.skip("a.parquet", ValueError("other"))
    assert tally.skipped == {"unusable (KeyError)": 1, "unusable": 1}
