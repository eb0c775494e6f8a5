"""`transformers-arm serve` refuses what it cannot serve before a model is loaded."""

import socket

import pytest

from transformers_arm.cli import main

ARM_TINY = "checkpoints/arm-tiny"


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    def load(*args):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("transformers_arm.cli.serve.load_pipeline", load)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-batch", "0"], "--max-batch 0 must be 1 or more"),
        (["--queue", "-1"], "--queue -1 must be 1 or more"),
        (["--max-body", "0"], "--max-body 0 must be 1 or more"),
        (["--timeout", "0"], "--timeout 0.0 must be 1 or more"),
        (["--timeout", "nan"], "--timeout nan must be 1 or more"),
        (["--port", "65536"], "--port 65536 must be in 0..65535"),
        (["--api-key", ""], "not empty"),
        (["--api-key", "a key "], "without spaces around it"),
        (["--api-key", "clé"], "printable ASCII"),
        (["--host", "192.0.2.1"], "Nobody can listen at 192.0.2.1"),
        (["--host", "no.such.host.invalid"], "Nobody can listen at no.such.host.invalid"),
    ],
)
def test_what_is_out_of_bounds_is_refused(capsys, options, said):
    assert main(["serve", ARM_TINY, *options]) == 1
    printed = capsys.readouterr()
    assert said in printed.err and not printed.out and len(printed.err.splitlines()) == 1


def test_a_port_that_is_taken_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", ARM_TINY, "--port", str(port)]) == 1
    assert f"Nobody can listen at 127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err


def test_a_folder_without_a_model_is_named(capsys, tmp_path):
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "holds no config.json" in capsys.readouterr().err


def test_a_model_is_named_once(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--checkpoint", ARM_TINY, "serve", ARM_TINY])
    assert "--checkpoint is given twice" in capsys.readouterr().err


def test_a_key_may_come_from_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_ARM_API_KEY", " spaces ")
    assert main(["serve", ARM_TINY]) == 1
    assert "An API key is printable ASCII" in capsys.readouterr().err
