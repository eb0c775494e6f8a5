"""A server as a whole: keys, what it is, what it counts, and what it says to what is no request."""

import asyncio
import http.client
import json
import time
import urllib.error
import urllib.request
from urllib.parse import urlparse

import openai
import pytest
from arm_server import KEY, picture_of
from openai import AsyncOpenAI

PROMPT = "a red circle above a blue square"


@pytest.mark.parametrize("key", ["sk-other", "", KEY + "x", KEY[:-1], "\N{SNOWMAN}".encode().decode("latin-1")])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/images/generations", "/metrics", "/nowhere"])
def test_nothing_is_answered_without_the_key(server, key, path):
    status, headers, body = server.send("GET", path, key=key)
    assert status == 401 and headers["www-authenticate"] == "Bearer"
    error = json.loads(body)["error"]
    assert error["code"] == "invalid_api_key" and (not key or key not in error["message"])


def test_openais_client_knows_a_wrong_key(server):
    with pytest.raises(openai.AuthenticationError):
        server.client(api_key="sk-other").models.list()


def test_health_needs_no_key(server):
    assert json.loads(urllib.request.urlopen(f"{server.url}/health").read()) == {"status": "ok"}


def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert model == client.models.retrieve("arm-tiny")
    assert (model.id, model.patch_size, model.size, model.max_side) == ("arm-tiny", 16, "48x48", 2048)
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.models.retrieve("other")


def test_metrics_count(server, client):
    before = {name: server.metric(name) for name in ("requests_total", "pictures_total", "tokens_total")}
    client.images.generate(prompt=PROMPT, n=2)
    assert server.metric("pictures_total") == before["pictures_total"] + 2
    assert server.metric("tokens_total") > before["tokens_total"] + 18
    assert server.metric("requests_total") >= before["requests_total"] + 1
    _, _, text = server.send("GET", "/metrics")
    assert b'requests_total{route="/v1/images/generations",status="200"}' in text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("POST", "/v1/images/generations/", 404, "not_found"),
        ("GET", "/v1/nowhere", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/v1/images/generations", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/images/variations", 404, "not_found"),
    ],
)
def test_what_there_is_not_is_told_in_openais_shape(server, method, path, status, code):
    got, _, body = server.send(method, path, b"{}" if method == "POST" else None)
    error = json.loads(body)["error"]
    assert (got, error["code"], error["type"]) == (status, code, "invalid_request_error")


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b'{"prompt": "\\ud800"}', b"[" * 60_000, b'{"n": 1e400}']
    + [
        b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "seed": NaN}',
        b'{"\\ud800": 1, "prompt": "a"}',
    ],
)
def test_rubbish_is_refused(server, path, body):
    status, _, answer = server.send("POST", path, body)
    error = json.loads(answer)["error"]
    assert status == 400 and error["type"] == "invalid_request_error"
    assert "Traceback" not in error["message"]


@pytest.mark.parametrize("stated", [True, False])
def test_bodies_beyond_the_bound_are_refused(server, stated):
    size = 3_000_000
    body = b'{"prompt": "' + b"a" * size + b'"}'
    given = body if stated else (body[start : start + 65536] for start in range(0, size, 65536))
    status, _, answer = server.send("POST", "/v1/images/generations", given)
    assert status == 413 and json.loads(answer)["error"]["code"] == "request_too_large"


def test_a_full_line_says_when_to_come_again_and_loses_nothing(server):
    async def run():
        async with server.client(AsyncOpenAI) as client:
            coming = [client.images.generate(prompt=PROMPT, n=4, extra_body={"seed": n}) for n in range(24)]
            return await asyncio.gather(*coming, return_exceptions=True)

    results = asyncio.run(run())
    refused = [each for each in results if isinstance(each, openai.RateLimitError)]
    drawn = [each for each in results if not isinstance(each, Exception)]
    assert refused and drawn and len(refused) + len(drawn) == 24
    assert all(len(each.data) == 4 and picture_of(each.data[3].b64_json) for each in drawn)
    assert int(refused[0].response.headers["retry-after"]) >= 1 and refused[0].body["code"] == "queue_full"


def test_openais_client_comes_again_by_itself(server):
    async def run():
        async with server.client(AsyncOpenAI, max_retries=20) as client:
            return await asyncio.gather(*(client.images.generate(prompt=PROMPT) for _ in range(16)))

    assert len(asyncio.run(run())) == 16


def test_a_client_that_goes_away_frees_its_place(server):
    """Whether it waits for a stream or for all, its pictures are not drawn."""
    drawn = server.metric("pictures_total")
    size = "512x512"  # each takes a while
    body = {"prompt": PROMPT, "n": 10, "size": size}
    connections = []
    for stream in (True, False):
        connection = http.client.HTTPConnection(urlparse(server.url).netloc, timeout=60)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/images/generations", json.dumps(body | {"stream": stream}), headers)
        connections.append(connection)
    _until(lambda: server.metric("waiting") + server.metric("running") >= 20)
    for connection in connections:
        connection.close()
    _until(lambda: server.metric("waiting") + server.metric("running") == 0)
    assert server.metric("pictures_total") < drawn + 20
    assert server.client().images.generate(prompt=PROMPT).data


def _until(reached, seconds=60):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.05)
