"""A file that is broken is told from one that cannot be reached, whichever library says so."""

import errno
import lzma
import socket
import tarfile
import urllib.error
import zipfile
import zlib

import aiohttp
import pyarrow as pa
import pytest
import requests
import torch
from huggingface_hub.errors import HfHubHTTPError

from transformers_arm.data import file_errors
from transformers_arm.data.file_errors import Fault, fault_of, read_on, retried, until_broken
from transformers_arm.fetching_arm import httpx


def answered(status):
    """The error of a Hub that answers with this status."""
    request = httpx.Request("GET", "https://huggingface.co/x")
    return HfHubHTTPError("no", response=httpx.Response(status, request=request))


def chained(outer, inner):
    try:
        raise outer from inner
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        *(
            ConnectionResetError(errno.ECONNRESET, "x"),
            TimeoutError(),
            OSError(errno.EIO, "x"),
            socket.gaierror(-3, "x"),
        ),
        *(
            OSError(errno.ESTALE, "x"),
            aiohttp.ClientPayloadError("cut"),
            requests.exceptions.ChunkedEncodingError("x"),
        ),
        *(httpx.ReadTimeout("x"), urllib.error.HTTPError("x", 502, "x", None, None), answered(503), answered(429)),
        chained(ValueError("cannot be read"), aiohttp.ClientPayloadError("cut")),
        chained(ConnectionError("Server Disconnected"), answered(504)),
    ],
    ids=repr,
)
def test_what_may_go_on_is_transient(error):
    assert fault_of(error) is Fault.TRANSIENT


@pytest.mark.parametrize(
    "error",
    [
        *(tarfile.ReadError("x"), zipfile.BadZipFile("x"), zlib.error("x"), lzma.LZMAError("x"), EOFError("x")),
        *(pa.ArrowInvalid("x"), UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), OSError("not a gzipped file")),
    ],
    ids=repr,
)
def test_what_is_cut_off_or_damaged_is_broken(error):
    assert fault_of(error) is Fault.BROKEN


@pytest.mark.parametrize(
    "error",
    [
        *(FileNotFoundError("x"), PermissionError(errno.EACCES, "x"), KeyError("x"), answered(404), answered(401)),
        *(socket.gaierror(socket.EAI_NONAME, "x"), chained(ConnectionError("x"), answered(404))),
        *(urllib.error.HTTPError("x", 403, "x", None, None), chained(ConnectionError("x"), answered(403))),
    ],
    ids=repr,
)
def test_anything_else_is_neither(error):
    assert fault_of(error) is Fault.OTHER


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(errno.ENOSPC, "x"), OSError(errno.EROFS, "x"), MemoryError(), pa.ArrowMemoryError("x")),
        *(
            torch.OutOfMemoryError("x"),
            RuntimeError("CUDA error: unknown error"),
            chained(ValueError("x"), MemoryError()),
        ),
    ],
    ids=repr,
)
def test_what_the_machine_lacks_is_its_own_fault(error):
    assert fault_of(error) is Fault.MACHINE


def test_what_an_address_answered_is_known_by_number():
    """The words of an error tell nobody what to do."""
    for status, fault in ((503, Fault.TRANSIENT), (408, Fault.TRANSIENT), (404, Fault.OTHER)):
        error = ConnectionError("answered")
        error.status = status
        assert fault_of(chained(ValueError("no picture"), error)) is fault


def test_a_call_is_made_again_while_its_error_may_pass(monkeypatch):
    slept, errors = [], []
    monkeypatch.setattr(file_errors.time, "sleep", slept.append)

    def call():
        if errors:
            raise errors.pop(0)
        return "done"

    for left, raised in (
        ([ConnectionError()] * 2, None),
        ([ConnectionError()] * 3, ConnectionError),
        ([EOFError()], EOFError),
    ):
        errors[:], slept[:] = left, []
        if raised is None:
            assert retried(call, (1, 5)) == "done" and slept == [1, 5]
        else:
            with pytest.raises(raised):
                retried(call, (1, 5))
            assert slept == [1, 5][: len(left) - 1]


def failing(places, error):
    """What opens twenty numbers, and fails once before each of these places."""
    left = list(places)

    def open_at(first):
        for number in range(first, 20):
            if number in left:
                left.remove(number)
                raise error
            yield number

    return open_at


def test_rows_come_once_and_in_order_and_pauses_grow(monkeypatch):
    slept = []
    monkeypatch.setattr(file_errors.time, "sleep", slept.append)
    rows = read_on(failing([0, 0, 5, 19], ConnectionError("lost")), "a.tar", first=0)
    assert list(rows) == list(range(20))
    first, second, *_ = file_errors.PAUSES
    assert slept == [first, second, first, first] and list(file_errors.PAUSES) == sorted(file_errors.PAUSES)


def test_it_is_not_tried_for_ever(monkeypatch):
    monkeypatch.setattr(file_errors.time, "sleep", lambda _: None)
    rows = read_on(failing([3] * 100, OSError(errno.EIO, "Input/output error")), "a.tar")
    with pytest.raises(ConnectionError, match="a.tar cannot be read on from row 3, after 5 tries in 86 seconds"):
        list(rows)


def test_what_is_broken_ends_a_file_and_anything_else_is_raised(monkeypatch):
    monkeypatch.setattr(file_errors.time, "sleep", lambda _: None)
    problems = []
    assert list(until_broken(read_on(failing([4], EOFError("cut")), "a.tar"), problems)) == [0, 1, 2, 3]
    assert problems == ["EOFError: cut"]
    with pytest.raises(KeyError) as raised:
        list(until_broken(read_on(failing([4], KeyError("x")), "a.tar"), problems))
    assert raised.value.__notes__ == ["This was in a.tar, behind 4 rows."] and len(problems) == 1
