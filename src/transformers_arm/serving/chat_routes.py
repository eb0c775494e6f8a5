"""`/v1/chat/completions`: answers in text, or in texts and pictures in order.

With pictures among its `modalities` an answer's `content` is a list of parts as messages have them, in the response
and in each piece of a stream: `{"type": "text", "text"}`, `{"type": "image_url", "image_url": {"url": "data:..."}}`.
"""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from .bodies import json_body
from .engine import ConversationRequest, Event, Events, Finished, Picture, Sampling, Text
from .pictures import coded, data_url, opened
from .schemas import ChatCompletion, Message
from .streams import Served, ServerSentEvents, told_usage

router = APIRouter(prefix="/v1/chat")
usage_of = partial(told_usage, read="prompt", written="completion")
ROLES = {"developer": "system"}  # a newer name


@router.post("/completions")
async def complete(body: Annotated[ChatCompletion, Depends(json_body(ChatCompletion))], request: Request):
    served = Served.of(request)
    served.check_model(body.model)
    events = await served.events(
        ConversationRequest(
            messages=await conversation(body.messages, served),
            pictures="image" in body.modalities,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            seed=body.seed,
            sampling=Sampling(guidance_scale=body.guidance_scale),
        )
    )
    named = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": served.engine.about.model,
    }
    if body.stream:
        return ServerSentEvents(events, streamed(served.timed(events), body, named))
    async with aclosing(events):
        return await whole(served, events, body, named)


async def conversation(messages: list[Message], served: Served) -> list[dict]:
    """Messages as the engine takes them, with their pictures opened."""
    sources = [
        (f"messages.{number}.content.{place}.image_url.url", part.image_url.url)
        for number, message in enumerate(messages)
        for place, part in enumerate(message.content)
        if part.image_url
    ]
    pictures = iter(await served.in_time(opened(sources, served.limits)) if sources else ())

    def content(message: Message) -> list[dict]:
        return [
            {"type": "image", "image": next(pictures)} if part.image_url else {"type": "text", "text": part.text}
            for part in message.content
        ]

    return [{"role": ROLES.get(each.role, each.role), "content": content(each)} for each in messages]


async def part_of(event: Text | Picture) -> dict:
    """A part of an answer in texts and pictures."""
    if isinstance(event, Text):
        return {"type": "text", "text": event.text}
    return {"type": "image_url", "image_url": {"url": await coded(data_url, event.image)}}


async def whole(served: Served, events: Events, body: ChatCompletion, named: dict) -> dict:
    parts, finished = [], None
    async for event in served.timed(events):
        if isinstance(event, Text) and parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += event.text
        elif isinstance(event, (Text, Picture)):
            parts.append(await part_of(event))
        elif isinstance(event, Finished):
            finished = event
    content = parts if "image" in body.modalities else "".join(part["text"] for part in parts)
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": finished.reason, "logprobs": None}
    return {**named, "object": "chat.completion", "choices": [choice], "usage": usage_of(finished.usage)}


async def streamed(
    events: AsyncIterator[Event], body: ChatCompletion, named: dict
) -> AsyncIterator[tuple[None, dict | str]]:
    pictures, named = "image" in body.modalities, {**named, "object": "chat.completion.chunk"}

    def chunk(delta: dict, reason: str | None = None) -> tuple[None, dict]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return None, {**named, "choices": [choice]}

    yield chunk({"role": "assistant", "content": [] if pictures else ""})
    async for event in events:
        if isinstance(event, Finished):
            yield chunk({}, event.reason)
            if body.stream_options.include_usage:
                yield None, {**named, "choices": [], "usage": usage_of(event.usage)}
        elif isinstance(event, (Text, Picture)):
            yield chunk({"content": [await part_of(event)] if pictures else event.text})
    yield None, "[DONE]"
