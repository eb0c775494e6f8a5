"""No log, error or traceback holds what authenticates at VLMJudge's server, whatever goes wrong there."""

import asyncio
import base64
import json
import logging
from http.server import ThreadingHTTPServer

import pytest
from judge_endpoint import GOOD, REWARD, SECRET, Handler, picture, score, stall, status

from transformers_arm.rewards.judge import JudgeError, VLMJudge
from transformers_arm.training.reward_calls import AsyncGuardedReward

PASSWORD, QUERY_KEY = "hunter2/ü", "qk-9f8e+7d"
BASIC = base64.b64encode(f"jo:{PASSWORD}".encode()).decode()
OF_KEY = (SECRET,)  # as servers and errors may write them
OF_USER = (PASSWORD, "hunter2%2F%C3%BC", "hunter2%2f%c3%bc", BASIC)
OF_QUERY = (QUERY_KEY, "qk-9f8e%2B7d")
PARTS = (SECRET, "hunter2", BASIC, "qk-9f8e")


@pytest.fixture
def logs(caplog):
    """All records of all loggers, as a handler would write them, tracebacks included."""
    caplog.set_level(logging.DEBUG)
    return lambda: "\n".join(map(logging.Formatter().format, caplog.records))


def with_user(url):
    return url.replace("//", "//jo:hunter2%2F%C3%BC@")


def with_query(url):
    return f"{url}?api_key=qk-9f8e%2B7d&version=2"


def with_both(url):
    return with_query(with_user(url))


ADDRESSES = {str: OF_KEY, with_user: OF_USER, with_query: OF_KEY + OF_QUERY, with_both: OF_USER + OF_QUERY}


def echo(secrets):
    """An error that quotes the request, as proxies do."""

    def answer(handler):
        head = {
            **dict(handler.headers),
            "path": handler.path,
            "known": secrets,
            "url": with_both("http://localhost/v1"),
        }
        handler.send(500, json.dumps(head) + str(head))

    return answer


def moves(handler):
    handler.send(307, "", Location=f"{handler.path}{'&' if '?' in handler.path else '?'}moved=1")


def drop(handler):
    handler.close_connection = True


TROUBLES = {
    "unauthorized": lambda secrets: status(401, json.dumps({"error": {"message": f"No access by {secrets}"}})),
    "echo": echo,
    "moved": lambda secrets: moves,
    "timeout": lambda secrets: stall,
    "dropped": lambda secrets: drop,
    "no JSON": lambda secrets: status(200, f"<html>{secrets}</html>"),
    "malformed": lambda secrets: " ".join(secrets),
    "long": lambda secrets: "x" * 180 + " ".join(secrets) * 50,
}


def held_back(said):
    return not [part for part in PARTS if part in said]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_failure_shows_a_secret(endpoint, logs, caplog, address, trouble):
    secrets = ADDRESSES[address]
    if trouble == "moved":  # whose answer has the query, and httpcore notes each head it gets when it is debugged
        caplog.set_level(logging.INFO)
    key = SECRET if SECRET in secrets else None
    limits = {"retries": 0, "timeout": 0.3 if trouble == "timeout" else 20}
    judge = VLMJudge("judge-model", address(endpoint.url), api_key=key, **limits)
    endpoint.script = [TROUBLES[trouble](secrets)] * 30  # where it is moved it asks again
    rows = {"images": [picture()], "source_images": [[]], "task": ["text_to_image"]}
    guarded = AsyncGuardedReward(judge)
    assert asyncio.run(guarded(prompts=["a red cube"], **rows)) == [None]
    assert isinstance(guarded.stop, JudgeError) and "JudgeError" in logs() and "Traceback" in logs()
    assert guarded.stop.__cause__ is None and guarded.stop.__context__ is None
    said = logs() + str(guarded.stop) + str(guarded.last_error) + repr(judge) + judge.__name__ + judge.base_url
    assert endpoint.url in said and held_back(said)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_closed_port_shows_no_secret(logs, address):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.server_close()
    judge = VLMJudge("m", address(f"http://127.0.0.1:{server.server_port}/v1"), retries=0)
    with pytest.raises(JudgeError, match="ConnectError") as error:
        score(judge)
    assert held_back(logs() + str(error.value))


def test_judgements_that_count_show_none_either(endpoint, logs):
    judge = VLMJudge("judge-model", with_both(endpoint.url))
    assert score(judge) == [pytest.approx(REWARD)]
    assert f"POST {endpoint.url}/chat/completions?<hidden>" in logs()  # httpx says what it asks
    assert held_back(logs())


def test_a_query_and_a_user_reach_the_server(endpoint):
    paths = []

    def note(handler):
        paths.append(handler.path)
        handler.say(GOOD)

    endpoint.script = [note]
    judge = VLMJudge("judge-model", with_both(endpoint.url))
    assert score(judge) == [pytest.approx(REWARD)]
    assert endpoint.headers[0]["authorization"] == f"Basic {BASIC}"
    assert paths == ["/v1/chat/completions?api_key=qk-9f8e%2B7d&version=2"]


def test_a_user_stands_in_place_of_a_key(endpoint, monkeypatch):
    with pytest.raises(ValueError, match=r"Both api_key and a user in base_url \(http:") as error:
        VLMJudge("m", with_user(endpoint.url), api_key=SECRET)
    assert held_back(str(error.value))
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)  # meant for others, perhaps
    assert score(VLMJudge("m", with_user(endpoint.url))) == [pytest.approx(REWARD)]
    assert endpoint.headers[0]["authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    "url",
    [
        "jo:hunter2@host/v1",
        "//jo:hunter2@host",
        "ftp://jo:hunter2@host",
        "http:" + "//jo:hunter2@host:port",
        "http:" + "//jo:hun/hunter2@",
    ],
)
def test_addresses_that_are_none_are_not_quoted_whole(url):
    with pytest.raises(ValueError, match="base_url is .*give an http") as error:
        VLMJudge("m", url)
    assert "hunter2" not in str(error.value) and error.value.__cause__ is None


@pytest.mark.parametrize("key", [f"{SECRET}\n", "sk-é"])
def test_keys_that_no_header_can_carry(key, monkeypatch):
    with pytest.raises(ValueError, match="no header can carry") as error:
        VLMJudge("m", "http://localhost:1/v1", api_key=key)
    assert key.strip() not in str(error.value)
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\n")
    with pytest.raises(ValueError, match="no header can carry"):
        VLMJudge("m", "http://localhost:1/v1")


def test_a_redirect_elsewhere_takes_no_secret_along(endpoint, new_judge):
    there = "http://localhost:" + endpoint.url.rpartition(":")[2]  # another host's name
    endpoint.script = [status(307, "", Location=f"{there}/chat/completions"), GOOD]
    assert score(new_judge()) == [pytest.approx(REWARD)]
    assert "authorization" in endpoint.headers[0] and "authorization" not in endpoint.headers[1]
