"""Fifty clients at once, a thousand requests; a server that is killed. Slow: minutes on a quiet machine."""

import asyncio
import random
import signal
import time
from contextlib import aclosing

import openai
import pytest
from arm_server import arm_server, file_of, picture_of, url_of
from openai import AsyncOpenAI
from PIL import Image, ImageChops
from pipeline_requests import picture

from transformers_arm.serving.arm_engine import ArmEngine
from transformers_arm.serving.engine import ConversationRequest, Picture, PictureRequest, Sampling, Text

pytestmark = pytest.mark.slow

CLIENTS, REQUESTS = 50, 1000
PROMPTS = ["a red circle above a blue square", "a small green triangle", "a yellow star left of a gray ring", "a ring"]
STORY = "tell a story of a red circle above a blue square"
KINDS = 12
ROUNDED = 4  # levels of 255


def request_of(number: int):
    """Of twelve kinds, by grid, guidance, task and length: what a client sends, and the engine's request."""
    prompt, seed, kind = PROMPTS[number % 4], number % 48, number % KINDS
    source = picture(seed=number % 3)
    own, sampling, size = {"seed": seed, "codes": True}, Sampling(), None
    if kind in (1, 2):
        size = (64, 32) if kind == 1 else (32, 64)
    if kind == 3:
        own["guidance_scale"], sampling = 1.0, Sampling(guidance_scale=1.0)
    if kind == 4:
        own["temperature"], sampling = 0.0, Sampling(temperature=0.0)
    if kind in (5, 6):
        images = [source, picture(seed=9)][: kind - 4]
        return ("edit", {"prompt": prompt, "extra_body": own}, images), PictureRequest(prompt, images, seed=seed)
    if kind in (7, 8):
        pictures = kind == 8
        content = [{"type": "image_url", "image_url": {"url": url_of(source)}}, {"type": "text", "text": STORY}]
        asked = {"messages": [{"role": "user", "content": content}], "seed": seed, "max_tokens": 60}
        asked |= {"modalities": ["text", "image"]} if pictures else {}
        message = {"role": "user", "content": [{"type": "image", "image": source}, {"type": "text", "text": STORY}]}
        return ("chat", asked, None), ConversationRequest([message], pictures=pictures, seed=seed, max_tokens=60)
    given = {"prompt": prompt, "extra_body": own} | ({"size": f"{size[0]}x{size[1]}"} if size else {})
    if kind == 9:
        given |= {"stream": True, "partial_images": 2}
    return ("draw", given, None), PictureRequest(prompt, size=size, seed=seed, sampling=sampling)


async def sent(client: AsyncOpenAI, number: int):
    """What came of a request, in a form that can be compared: codes, or parts of an answer."""
    (kind, given, images), _ = request_of(number)
    if kind == "chat":
        answer = await client.chat.completions.create(model="arm-tiny", **given)
        content = answer.choices[0].message.content
        if isinstance(content, str):
            return content
        return [part["text"] if part["type"] == "text" else opened(part["image_url"]["url"]) for part in content]
    if kind == "edit":
        response = await client.images.edit(image=[file_of(each) for each in images], **given)
    elif "stream" in given:
        events = [event async for event in await client.images.generate(**given)]
        assert [event.type.rpartition(".")[2] for event in events] == ["partial_image"] * 2 + ["completed"]
        return events[-1].codes
    else:
        response = await client.images.generate(**given)
    return response.data[0].codes


def opened(url: str) -> Image.Image:
    return picture_of(url.partition("base64,")[2])


def same(given, expected) -> bool:
    """Whether codes, texts and parts of answers are the same; and pictures, of which an answer tells no codes, up to
    rounding: another code changes a patch.
    """
    if isinstance(expected, Image.Image):
        given = given if isinstance(given, Image.Image) else Image.new("RGB", (0, 0))
        changes = given.size == expected.size and ImageChops.difference(given, expected).getextrema()
        return bool(changes) and max(high for _, high in changes) <= ROUNDED
    if isinstance(expected, list):
        return len(given) == len(expected) and all(map(same, given, expected))
    return given == expected


async def alone(engine: ArmEngine, number: int):
    """The same by an engine that has nothing else to do."""
    _, request = request_of(number)
    drawing = isinstance(request, PictureRequest)
    async with aclosing(await (engine.draw(request) if drawing else engine.converse(request))) as events:
        events = [event async for event in events]
    if drawing:
        return next(event.codes for event in events if isinstance(event, Picture))
    if not request.pictures:
        return "".join(event.text for event in events if isinstance(event, Text))
    parts = []
    for event in events:
        if isinstance(event, Picture):
            parts.append(event.image)
        elif isinstance(event, Text) and parts and isinstance(parts[-1], str):
            parts[-1] += event.text
        elif isinstance(event, Text):
            parts.append(event.text)
    return parts


def test_a_thousand_requests_of_fifty_clients_lose_nothing(tmp_path, draw):
    order = random.Random(0).sample(range(REQUESTS), REQUESTS)
    coming, results, resident = iter(order), {}, {}

    async def client(server):
        # No retries by itself: a request that is lost, or refused with room in the line, is a failure.
        async with server.client(AsyncOpenAI, timeout=600) as openai_client:
            for number in coming:
                results[number] = await sent(openai_client, number)
                if len(results) in (200, REQUESTS):
                    resident[len(results)] = server.resident_bytes()

    async def run(server):
        await asyncio.gather(*(client(server) for _ in range(CLIENTS)))

    with arm_server(tmp_path / "log", "--queue", str(CLIENTS), "--max-batch", "8") as server:
        asyncio.run(run(server))
        assert server.metric("waiting") == server.metric("running") == 0
        assert server.metric("requests_total") >= REQUESTS
    assert sorted(results) == list(range(REQUESTS))
    assert resident[REQUESTS] < 1.05 * resident[200], resident
    engine = ArmEngine(draw)
    distinct = {number: asyncio.run(alone(engine, number)) for number in range(48)}
    engine.close()
    different = [number for number in order if not same(results[number], distinct[number % 48])]
    assert not different, [(number, results[number], distinct[number % 48]) for number in different[:3]]


def test_a_server_that_is_killed_answers_again_when_it_is_started_again(tmp_path):
    given = {"prompt": PROMPTS[0], "extra_body": {"seed": 1, "codes": True}}
    with arm_server(tmp_path / "log") as server:
        before = server.client().images.generate(**given)

        async def killed():
            async with server.client(AsyncOpenAI) as client:
                coming = asyncio.gather(
                    *(client.images.generate(prompt=PROMPTS[1], size="256x256") for _ in range(8)),
                    return_exceptions=True,
                )
                while server.metric("running") == 0:
                    await asyncio.sleep(0.05)
                server.process.send_signal(signal.SIGKILL)
                return await coming

        results = asyncio.run(killed())
        assert all(isinstance(each, openai.APIConnectionError) for each in results), results
    port = server.url.rpartition(":")[2]
    with arm_server(tmp_path / "log", "--port", port) as again:
        assert again.url == server.url
        assert again.client().images.generate(**given).data[0].codes == before.data[0].codes


def test_a_server_that_is_asked_to_end_finishes_what_it_draws(tmp_path):
    with arm_server(tmp_path / "log") as server:

        async def ending():
            async with server.client(AsyncOpenAI) as client:
                coming = asyncio.ensure_future(client.images.generate(prompt=PROMPTS[1], size="128x128"))
                while server.metric("running") == 0:
                    await asyncio.sleep(0.02)
                server.process.send_signal(signal.SIGTERM)
                return await coming

        assert asyncio.run(ending()).data[0].b64_json
        end = time.monotonic() + 60
        while server.process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert server.process.returncode == 143
    assert "Traceback" not in (tmp_path / "log").read_text()
