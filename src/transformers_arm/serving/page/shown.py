"""What the page shows of a request while its events come: pictures and their captions, parts of an answer, and a line
that says how far it is, or how fast it was.

Knows nothing about Gradio.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from PIL.Image import Image

from ..engine import About, ConversationRequest, Engine, Finished, Picture, PictureRequest, Preview, Text, Usage

Tiles = list[tuple[Image, str]]


def heading(about: About) -> str:
    """Which model this is, and where, in a line."""
    width, height = about.size
    patch, tokens = f"{about.patch_size}x{about.patch_size}", width * height // about.patch_size**2
    return (
        f"{about.dtype} on {about.device}. {width}x{height} px are {tokens} tokens, {patch} px each; "
        f"up to {about.max_side:,} px a side and {about.max_tokens:,} tokens, prompt included."
    )


class Clock:
    """What a request's line says: how many were served before it, and how fast it was; a time in which others were
    served, too, tells nothing of that.
    """

    def __init__(self, engine: Engine):
        load = engine.load
        self.others, self.began = load.waiting + load.running, time.perf_counter()

    def waiting(self) -> str:
        return f"Waiting; {self.others} before this." if self.others else "Begun."

    def speed(self, usage: Usage) -> str:
        written, seconds = usage.output_text + usage.output_images, time.perf_counter() - self.began
        rate = f", {self.others} others before them." if self.others else f": {written / seconds:.0f} a second."
        return f"{written} tokens in {seconds:.2f} s{rate}"


async def pictures(engine: Engine, request: PictureRequest) -> AsyncGenerator[tuple[Tiles, str], None]:
    """The pictures of a request with a caption each, and the line, anew after each event."""
    clock, tiles, done = Clock(engine), {}, 0
    async with aclosing(await engine.draw(request)) as events:
        yield [], clock.waiting()
        async for event in events:
            match event:
                case Preview():
                    tiles[event.number] = event.image, f"row {event.rows} of {event.of}"
                case Picture():
                    tiles[event.number] = event.image, f"seed {event.seed}"
                    done += 1
            line = f"{done} of {request.count} drawn."
            if isinstance(event, Finished):
                line = clock.speed(event.usage)
            yield [tiles[number] for number in sorted(tiles)], line


async def answer(engine: Engine, request: ConversationRequest) -> AsyncGenerator[tuple[list[dict], str, bool], None]:
    """The parts of an answer, as a message's content has them, the line, and whether that is all, anew after each
    event; the last part may be a preview until all is there.
    """
    clock, parts, drawing, seed = Clock(engine), [], False, None
    async with aclosing(await engine.converse(request)) as events:
        yield [], clock.waiting(), False
        async for event in events:
            line, over = "Writing.", isinstance(event, Finished)
            if drawing and not over:
                parts.pop()
            drawing = isinstance(event, Preview)
            match event:
                case Text():
                    add_text(parts, event.text)
                case Preview():
                    parts.append({"type": "image", "image": event.image})
                    line = f"Drawing: row {event.rows} of {event.of}."
                case Picture():
                    parts.append({"type": "image", "image": event.image})
                    seed = event.seed
                case Finished():
                    line = clock.speed(event.usage)
                    line += "" if seed is None else f" Seed {seed}."
                    line += " Cut short: there is no room for more." if event.reason == "length" else ""
            yield list(parts), line, over


def add_text(parts: list[dict], text: str) -> None:
    """Adds a piece of text to the parts of an answer: to the last one, if that is a text."""
    if parts and parts[-1]["type"] == "text":
        parts[-1] = {"type": "text", "text": parts[-1]["text"] + text}
    else:
        parts.append({"type": "text", "text": text})


async def words(engine: Engine, request: ConversationRequest) -> AsyncGenerator[tuple[str, str], None]:
    """What is text of an answer, and the line, anew after each event."""
    async with aclosing(answer(engine, request)) as updates:
        async for parts, line, _ in updates:
            yield "".join(part["text"] for part in parts if part["type"] == "text").strip(), line
