"""From an engine's events to responses: in time, counted, and as server-sent events."""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from .engine import ConversationRequest, Engine, EngineError, Event, Events, PictureRequest, Usage
from .errors import NO_RETRY, ApiError, of_engine, shortened, unexpected
from .limits import Limits
from .metrics import Metrics

logger = logging.getLogger(__name__)
T = TypeVar("T")


def told_usage(usage: Usage, read: str, written: str) -> dict:
    """Tokens by kind, as responses have them; `read` and `written` are what they call the two sides."""
    told = {}
    for side, texts, images in (
        (read, usage.input_text, usage.input_images),
        (written, usage.output_text, usage.output_images),
    ):
        told[f"{side}_tokens"] = texts + images
        told[f"{side}_tokens_details"] = {"text_tokens": texts, "image_tokens": images}
    return told | {"total_tokens": told[f"{read}_tokens"] + told[f"{written}_tokens"]}


@dataclass(frozen=True)
class Served:
    """What the routes work with, for one request.

    Args:
        end: when its time is over, on the event loop's clock.
    """

    engine: Engine
    limits: Limits
    metrics: Metrics
    end: float = math.inf

    @classmethod
    def of(cls, request: Request) -> "Served":
        """That of an application, for a request that has just arrived."""
        served = request.app.state.served
        return replace(served, end=asyncio.get_running_loop().time() + served.limits.seconds)

    async def in_time(self, coming: Awaitable[T]) -> T:
        """What comes; raises ApiError once the request's time is over."""
        try:
            return await asyncio.wait_for(coming, self.end - asyncio.get_running_loop().time())
        except asyncio.TimeoutError:
            message = f"This took longer than the {self.limits.seconds:g} s that a request has here; ask for less."
            raise ApiError(504, message, code="timeout", headers=NO_RETRY) from None

    def check_model(self, name: str | None) -> None:
        """Raises ApiError if a request is for another model."""
        own = self.engine.about.model
        if name not in (None, own):
            message = f"There is no model {shortened(name)!r} here; take {own!r}, or leave model out."
            raise ApiError(404, message, parameter="model", code="model_not_found")

    async def events(self, request: PictureRequest | ConversationRequest) -> Events:
        drawing = isinstance(request, PictureRequest)
        return await (self.engine.draw(request) if drawing else self.engine.converse(request))

    async def timed(self, events: Events) -> AsyncIterator[Event]:
        """The events, each counted; an ApiError in place of those that come too late."""
        while True:
            try:
                event = await self.in_time(anext(events))
            except StopAsyncIteration:
                return
            self.metrics.count(event)
            yield event


class ServerSentEvents(StreamingResponse):
    """A stream of messages, each (name of its event or None, data), made from an engine's events.

    What fails after the response has begun is told by a last message, as OpenAI's clients raise it. When the response
    ends, in any way, the engine's events are closed.
    """

    def __init__(self, events: Events, messages: AsyncIterator[tuple[str | None, dict | str]]):
        self.events, self.messages = events, messages
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._lines(), media_type="text/event-stream", headers=headers)

    async def _lines(self) -> AsyncIterator[str]:
        try:
            async for name, data in self.messages:
                yield _line(name, data)
        except ApiError as error:
            yield _line("error", error.body)
        except EngineError as error:
            yield _line("error", of_engine(error).body)
        except Exception:
            logger.exception("A stream failed.")
            yield _line("error", unexpected().body)

    async def __call__(self, scope, receive, send) -> None:
        async with aclosing(self.events):
            await super().__call__(scope, receive, send)


def _line(name: str | None, data: dict | str) -> str:
    data = data if isinstance(data, str) else json.dumps(data)
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"
