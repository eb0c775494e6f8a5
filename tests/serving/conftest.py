"""One server of arm-tiny, as a process, for all that does not need limits of its own."""

import pytest
from arm_server import arm_server

# Bounds that tests reach quickly.
OPTIONS = ("--max-batch", "4", "--queue", "6", "--max-body", "2000000", "--max-pixels", "1000000")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with arm_server(tmp_path_factory.mktemp("server") / "log", *OPTIONS) as server:
        yield server


@pytest.fixture
def client(server):
    return server.client()


@pytest.fixture(scope="session")
def draw():
    """The pipeline that tells what a server's pictures have to be."""
    from arm_server import ARM_TINY
    from transformers import pipeline

    import transformers_arm  # noqa: F401  registers the pipelines

    return pipeline("text-to-image", model=str(ARM_TINY), device="cpu")
