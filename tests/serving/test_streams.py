"""What goes wrong after a request was taken is told in OpenAI's shape, in a stream and without one."""

from contextlib import contextmanager

import openai
import pytest
from openai import OpenAI
from running_app import running_app

from transformers_arm.serving.app import new_app
from transformers_arm.serving.arm_engine import ArmEngine
from transformers_arm.serving.limits import Limits

PROMPT = "a red circle above a blue square"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}]}


@contextmanager
def client_of(draw, **limits):
    engine = ArmEngine(draw, name="tiny")
    with running_app(new_app(engine, Limits(**limits))) as url:
        yield OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2)


def test_what_takes_too_long_is_given_up_and_not_tried_again(draw, caplog):
    with client_of(draw, seconds=0.001) as client:
        with pytest.raises(openai.InternalServerError, match="longer than the 0.001 s") as refused:
            client.images.generate(prompt=PROMPT)
        assert refused.value.status_code == 504 and refused.value.response.headers["x-should-retry"] == "false"
        with pytest.raises(openai.APIError, match="longer than the 0.001 s"):
            list(client.images.generate(prompt=PROMPT, stream=True))
        with pytest.raises(openai.APIError, match="longer than the 0.001 s"):
            list(client.chat.completions.create(**ASKED, stream=True))


def test_a_failure_of_the_model_tells_nothing_of_the_machine(draw, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("CUDA error at /usr/lib/libtorch.so")

    monkeypatch.setattr(draw.model, "generate", broken)
    with client_of(draw) as client:
        for asking in (lambda: client.images.generate(prompt=PROMPT), lambda: client.chat.completions.create(**ASKED)):
            with pytest.raises(openai.InternalServerError, match="the server's log says why") as failed:
                asking()
            assert failed.value.body["code"] == "model_failed" and "CUDA" not in failed.value.response.text
        with pytest.raises(openai.APIError, match="the server's log says why"):
            list(client.images.generate(prompt=PROMPT, stream=True, partial_images=1))
        monkeypatch.undo()
        assert client.images.generate(prompt=PROMPT).data
    assert "CUDA error at /usr/lib/libtorch.so" in caplog.text


def test_a_bug_tells_nothing_of_the_machine(draw, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise KeyError("/usr/lib/secret")

    monkeypatch.setattr("transformers_arm.serving.image_routes.encoded", broken)
    with client_of(draw) as client:
        with pytest.raises(openai.InternalServerError, match="log says what") as failed:
            client.images.generate(prompt=PROMPT)
        assert failed.value.status_code == 500 and "secret" not in failed.value.response.text
        assert failed.value.body["type"] == "server_error"
        with pytest.raises(openai.APIError, match="log says what") as failed:
            list(client.images.generate(prompt=PROMPT, stream=True))
        assert failed.value.body["type"] == "server_error" and "secret" not in str(failed.value.body)
    assert "/usr/lib/secret" in caplog.text
