"""`transformers-arm app` refuses what it cannot show before a model is loaded."""

import socket

import pytest

from transformers_arm.cli import main

ARM_TINY = "checkpoints/arm-tiny"


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    def load(*args):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("transformers_arm.cli.app.load_pipeline", load)


@pytest.fixture
def installed(monkeypatch):
    """Whether Gradio is there is no matter: it comes after what is tested here."""
    monkeypatch.setattr("transformers_arm.cli.app.require", lambda *args: None)


def test_a_port_that_is_none_is_refused(capsys, installed):
    assert main(["app", ARM_TINY, "--port", "65536"]) == 1
    assert "--port 65536 must be in 0..65535" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys, installed):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", ARM_TINY, "--port", str(port)]) == 1
    assert f"Nobody can listen at 127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err


def test_a_folder_without_a_model_is_named(capsys, tmp_path):
    assert main(["app", str(tmp_path)]) == 1
    assert "holds no config.json" in capsys.readouterr().err
