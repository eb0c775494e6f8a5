"""A folder that is fit to be published, and a Hub to publish it on."""

import shutil

import pytest
from push_folders import copied, write_card


@pytest.fixture
def folder(arm_folder, tmp_path):
    """A complete ARM that is fit to be published; each test may spoil it."""
    folder = copied(arm_folder, tmp_path / "arm-untrained")
    write_card(folder)
    return folder


@pytest.fixture
def owner(hub, monkeypatch):
    """The server, with its owner logged in and no repos."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.repos.clear()
    hub.requests.clear()
    shutil.rmtree(hub.contents)
    hub.contents.mkdir()
    return hub
