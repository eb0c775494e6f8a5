"""ARMs from tiny backbones, with tied and untied embeddings."""

import copy

import pytest
from tiny_arm import assemble
from transformers import AutoTokenizer, Qwen2ForCausalLM


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def backbones(request, tiny_arm_backbones, tmp_path_factory):
    """Keywords of `from_backbones`; Qwen2 with and without an embedding of its own for the head."""
    if not request.param:
        return tiny_arm_backbones
    tied = Qwen2ForCausalLM.from_pretrained(tiny_arm_backbones["text"], tie_word_embeddings=True)
    tied.tie_weights()
    folder = tmp_path_factory.mktemp("tied")
    tied.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_arm_backbones["text"]).save_pretrained(folder)
    return tiny_arm_backbones | {"text": str(folder)}


@pytest.fixture(scope="module")
def both(backbones):
    """An ARM with tied or untied embeddings. Treat it as read-only."""
    return assemble(backbones)


@pytest.fixture(scope="module")
def shared(tiny_arm_backbones):
    """An ARM. Treat it as read-only."""
    return assemble(tiny_arm_backbones)


@pytest.fixture
def model(shared):
    """An ARM to be changed."""
    return copy.deepcopy(shared)
