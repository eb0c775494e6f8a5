"""What stands before the routes, before an application that has no model: clients that are slow, silent or gone."""

import asyncio
import json
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlparse

import pytest
from running_app import running_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from transformers_arm.serving.guard import Guard
from transformers_arm.serving.limits import Limits

LARGE = 2**26
LIMITS = Limits(max_body=1000, max_requests=3, upload_seconds=1.0, send_seconds=1.0)


class Flood(StreamingResponse):
    """A response without end, which notes when it was given up."""

    def __init__(self, ended: list[str]):
        async def pieces():
            while True:
                yield b"a" * 2**20

        super().__init__(pieces())
        self.ended = ended

    async def __call__(self, *given):
        try:
            await super().__call__(*given)
        finally:
            self.ended.append("flood")


class Application:
    """Answers, and notes what becomes of its answers."""

    def __init__(self):
        self.ended, self.begun = [], threading.Event()
        routes = [
            Route(f"/{each.__name__}", each, methods=["POST"])
            for each in (self.echo, self.wait, self.flood, self.large)
        ]
        self.app = self.guard = Guard(Starlette(routes=routes), LIMITS)

    async def echo(self, request: Request):
        return PlainTextResponse(await request.body())

    async def wait(self, request: Request):
        try:
            self.begun.set()
            await asyncio.sleep(60)
        finally:
            self.ended.append("wait")

    async def large(self, request: Request):
        return PlainTextResponse(b"a" * LARGE)

    async def flood(self, request: Request):
        return Flood(self.ended)

    def await_end(self, name: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while name not in self.ended:
            assert time.monotonic() < end, f"{name} has not ended"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def application():
    return Application()


@pytest.fixture(scope="module")
def address(application):
    with running_app(application.app) as url:
        yield urlparse(url).hostname, urlparse(url).port


def head(path, length=0):
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()


def everything(connection):
    connection.settimeout(20)
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_bodies_reach_the_application_whole(address):
    with socket.create_connection(address) as connection:
        connection.sendall(head("/echo", 6) + b"abc")
        time.sleep(0.1)
        connection.sendall(b"def")
        assert everything(connection).endswith(b"abcdef")


def test_a_body_that_does_not_come_is_given_up(address):
    with socket.create_connection(address) as connection:
        connection.sendall(head("/echo", 6) + b"abc")
        answer = everything(connection)
    assert b" 408 " in answer and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


def test_as_many_requests_are_taken_as_may_be_at_a_time(application, address):
    application.ended.clear()
    waiting = [socket.create_connection(address) for _ in range(LIMITS.max_requests)]
    for connection in waiting:
        connection.sendall(head("/wait"))
    while application.guard.open < LIMITS.max_requests:
        time.sleep(0.02)
    with socket.create_connection(address) as connection:
        connection.sendall(head("/echo", 6))  # refused before its body comes
        answer = everything(connection)
    assert b" 429 " in answer and b"retry-after: 1" in answer
    for connection in waiting:
        connection.close()
    application.await_end("wait")
    while application.guard.open:
        time.sleep(0.02)
    test_bodies_reach_the_application_whole(address)


@pytest.fixture(scope="module")
def hasty(application):
    """Where connections have half a second."""
    with running_app(application.app, idle=0.5) as url:
        yield urlparse(url).hostname, urlparse(url).port


@pytest.mark.parametrize("sent", [b"", b"POST /echo HTTP/1.1\r\nHost"])
def test_a_connection_that_asks_for_nothing_is_closed(hasty, sent):
    with socket.create_connection(hasty) as connection:
        connection.sendall(sent)
        assert everything(connection) == b""


def test_a_connection_is_kept_while_it_is_answered_and_closed_if_it_asks_no_more(hasty):
    asked = head("/echo", 6).replace(b"Connection: close\r\n", b"")
    with socket.create_connection(hasty) as connection:
        connection.sendall(asked)
        time.sleep(0.8)
        connection.sendall(b"abcdef")
        time.sleep(0.2)
        connection.sendall(asked[:9])
        assert everything(connection).endswith(b"abcdef")


def test_a_connection_that_does_not_read_the_end_of_its_answer_is_closed(hasty):
    with socket.create_connection(hasty) as connection:
        connection.sendall(head("/large"))
        time.sleep(2)
        connection.settimeout(20)
        received = 0
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += len(piece)
    assert received < LARGE


@pytest.mark.parametrize("key", ["", "Authorization: Bearer other\r\n"])
def test_who_has_no_key_takes_no_place(application, key):
    guard = Guard(application.app.app, Limits(api_keys=("right",), max_requests=1, upload_seconds=5.0))
    with running_app(guard) as url:
        address = urlparse(url).hostname, urlparse(url).port
        others = [socket.create_connection(address) for _ in range(4)]
        for number, connection in enumerate(others):
            path = b"/health" if number % 2 else b"/echo"
            connection.sendall(
                head("/echo", 6).replace(b"/echo", path).replace(b"Host", key.encode() + b"Host") + b"a"
            )
        time.sleep(0.2)
        with socket.create_connection(address) as connection:
            right = b"Authorization: Bearer right\r\nHost"
            connection.sendall(head("/echo", 6).replace(b"Host", right) + b"abcdef")
            assert everything(connection).endswith(b"abcdef")
        for connection in others:
            connection.close()


def test_a_client_that_leaves_while_its_body_comes_is_forgotten(address):
    with socket.create_connection(address) as connection:
        connection.sendall(head("/echo", 6) + b"abc")
    test_bodies_reach_the_application_whole(address)


def test_work_for_a_client_that_left_ends(application, address):
    with socket.create_connection(address) as connection:
        connection.sendall(head("/wait"))
        assert application.begun.wait(20)
    application.await_end("wait")


def test_work_for_a_client_that_reads_nothing_ends(application, address):
    with socket.create_connection(address) as connection:
        connection.sendall(head("/flood"))
        application.await_end("flood")


def test_a_slow_client_holds_up_no_other(application, address):
    application.ended.clear()
    with socket.create_connection(address) as slow:
        slow.sendall(head("/flood"))
        before = time.monotonic()
        test_bodies_reach_the_application_whole(address)
        assert time.monotonic() - before < 10
        application.await_end("flood")
