"""Requests that nobody would write: whatever they hold, the answer is one of OpenAI's, and the server goes on."""

import json
import random

import pytest
from arm_server import file_of, url_of
from pipeline_requests import picture

from transformers_arm.serving.schemas import ChatCompletion, ImageEdit, ImageGeneration

ROUTES = {
    "/v1/images/generations": (ImageGeneration, {"prompt": "a red circle"}),
    "/v1/images/edits": (ImageEdit, {"prompt": "make it red", "image": url_of(picture())}),
    "/v1/chat/completions": (ChatCompletion, {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4}),
}
TEXTS = ["", "a", "auto", "48x48", "0x0", "-1", "1e9", "\x00", "\ud800", "<|im_end|>", "🎨" * 50, "a" * 40_000, "NaN"]
NUMBERS = [0, 1, -1, 2, 11, 2**31, 2**63, -(2**63), 10**400, 0.0, -0.5, 1e-12, 1.5, 1e308, float("inf"), float("nan")]
COUNT = 60


def anything(chance: random.Random, depth: int = 0):
    """A value of JSON, or of what Python takes for it."""
    kind = chance.randrange(7 if depth < 3 else 5)
    if kind < 5:
        return (None, chance.random() < 0.5, chance.choice(NUMBERS), chance.choice(TEXTS), chance.choice(TEXTS))[kind]
    if kind == 5:
        return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    names = ["type", "text", "url", "image_url", "role", "content", "image", *TEXTS[:4]]
    return {chance.choice(names): anything(chance, depth + 1) for _ in range(chance.randrange(4))}


def fuzzed(chance: random.Random, fields: list[str], valid: dict) -> dict:
    """A valid body of which some fields are anything."""
    body = dict(valid)
    for _ in range(chance.randrange(1, 4)):
        body[chance.choice([*fields, "unknown"])] = anything(chance)
    return body


@pytest.mark.parametrize("path", ROUTES)
def test_fuzzed_bodies_have_an_answer(server, path):
    schema, valid = ROUTES[path]
    chance, seen = random.Random(0), set()
    for _ in range(COUNT):
        body = fuzzed(chance, list(schema.model_fields), valid)
        status, headers, answer = server.send("POST", path, json.dumps(body).encode())
        seen.add(status)
        assert status in (200, 400, 404), (body, status, answer)
        if status != 200:
            error = json.loads(answer)["error"]
            assert set(error) == {"message", "type", "param", "code"}, body
            assert not [inside for inside in ("Traceback", "site-packages", "torch") if inside in error["message"]]
    assert seen >= {200, 400}
    assert server.send("GET", "/health")[0] == 200


def test_fuzzed_forms_have_an_answer(server):
    chance, image = random.Random(1), file_of(picture())
    names = [*ImageEdit.model_fields, "image[]", "mask", "file", "images[0][image_url]", ""]
    for _ in range(COUNT):
        parts = []
        for _ in range(chance.randrange(1, 6)):
            name = chance.choice(names)
            is_file = chance.random() < 0.4
            value = chance.choice([image, b"", image[:60], b"\x00\xff"]) if is_file else chance.choice(TEXTS[:8])
            value = value if isinstance(value, bytes) else value.encode()
            file = '; filename="a.png"\r\nContent-Type: image/png' if is_file else ""
            parts.append(
                f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value + b"\r\n"
            )
        end = chance.choice([b"--b--\r\n", b"--b", b""])
        headers = {"Content-Type": chance.choice(["multipart/form-data; boundary=b", "multipart/form-data"])}
        status, _, answer = server.send("POST", "/v1/images/edits", b"".join(parts) + end, headers)
        assert status in (200, 400, 404), (parts, end, headers, answer)
        assert status == 200 or set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
    assert server.send("GET", "/health")[0] == 200
