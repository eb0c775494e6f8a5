"""Stands before the routes: lets in who has a key, reads bodies within limits, and ends the work for clients that are
too slow or gone.

Knows nothing about what is asked for.
"""

import asyncio
import hmac
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError
from .limits import Limits

OPEN = {"/health"}  # what needs no key


class Left(Exception):
    """The client is gone."""


class Guard:
    """A middleware of ASGI; see `Limits` for what it holds requests to."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self.app, self.limits, self.open = app, limits, 0
        self.keys = [key.encode() for key in limits.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        try:
            if scope["path"] in OPEN:  # whose bodies nobody reads
                return await Exchange(receive, send, b"", self.limits.send_seconds).run(self.app, scope)
            self._check_key(headers)
            self._check_room()
        except ApiError as error:
            return await self._refuse(error, scope, receive, send)
        self.open += 1  # those alone that have a key
        try:
            await self._let_in(headers, scope, receive, send)
        finally:
            self.open -= 1

    async def _refuse(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.TimeoutError, OSError):
            await asyncio.wait_for(error.response(scope, receive, send), self.limits.send_seconds)

    async def _let_in(self, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await asyncio.wait_for(self._body(headers, receive), self.limits.upload_seconds)
        except Left:
            return
        except asyncio.TimeoutError:
            message = f"The request did not arrive within {self.limits.upload_seconds:g} s; send it faster, or less."
            await self._refuse(ApiError(408, message, code="request_timeout"), scope, receive, send)
        except ApiError as error:
            await self._refuse(error, scope, receive, send)
        else:
            await Exchange(receive, send, body, self.limits.send_seconds).run(self.app, scope)

    def _check_room(self) -> None:
        if self.open >= self.limits.max_requests:
            message = f"As many requests are here as may, {self.limits.max_requests}; try again later."
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": "1"})

    def _check_key(self, headers: Headers) -> None:
        if not self.keys:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        # Each of them, as long as it takes: nothing tells how much of a key was right.
        if not any([hmac.compare_digest(given, key) for key in self.keys]):
            raise ApiError(
                401,
                "There is no API key, or a wrong one; send 'Authorization: Bearer KEY'.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        stated, most = headers.get("content-length", ""), self.limits.max_body
        body, more = bytearray(), True
        too_large = ApiError(413, f"The request is larger than {most:,} bytes; send less.", code="request_too_large")
        if stated.isdecimal() and int(stated) > most:
            raise too_large
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Left
            body += message.get("body", b"")
            if len(body) > most:
                raise too_large
            more = message.get("more_body", False)
        return bytes(body)


class Exchange:
    """A request that has arrived, and its response: what answers it ends when the client leaves, or stops reading."""

    def __init__(self, receive: Receive, send: Send, body: bytes, send_seconds: float):
        self._receive, self._send, self._body, self.send_seconds = receive, send, body, send_seconds
        self.left, self.complete = asyncio.Event(), False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        work = asyncio.ensure_future(app(scope, self.receive, self.send))
        watch = asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            if not (work.done() or self.complete):
                self.left.set()
                work.cancel()
        try:
            await work
        except BaseException:
            if not self.left.is_set():
                raise

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await self.left.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        try:
            await asyncio.wait_for(self._send(message), self.send_seconds)
        except (asyncio.TimeoutError, OSError):
            self.left.set()
            raise
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)
