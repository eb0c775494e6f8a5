"""A server for judges, and judges that ask it."""

import pytest
from judge_endpoint import SECRET, serving

from transformers_arm.rewards.judge import VLMJudge


@pytest.fixture
def endpoint():
    with serving() as server:
        yield server


@pytest.fixture
def new_judge(endpoint):
    """A judge with short pauses that failures do not stop."""

    def new(**arguments):
        quick = {"api_key": SECRET, "timeout": 20, "backoff": 0.01, "max_failure_share": 1}
        return VLMJudge("judge-model", endpoint.url, **(quick | arguments))

    return new
