"""A folder to change, and draws that do not depend on the order of tests."""

import shutil
from pathlib import Path

import pytest
import torch

pytest.register_assert_rewrite("pipeline_requests")


@pytest.fixture
def own_folder(arm_folder, tmp_path):
    """A copy of the folder, to change."""
    return Path(shutil.copytree(arm_folder, tmp_path / "own"))


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws without a generator is the same whatever ran before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
