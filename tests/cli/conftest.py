"""Commands that run in this process, in an empty folder."""

import pytest
from PIL import Image

from transformers_arm.cli import main


@pytest.fixture
def arm(arm_folder, tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder: (exit status, what it printed, what it said of errors)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, checkpoint=arm_folder):
        capsys.readouterr()
        named = "--checkpoint" in arguments or "--vq" in arguments or arguments[0] in ("memory", "parameters", "push")
        status = main([*([] if named else ["--checkpoint", str(checkpoint)]), *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def source(tmp_path):
    Image.new("RGB", (100, 80), "red").save(tmp_path / "source.png")
    return tmp_path / "source.png"
