"""The grammar holds in every way that transformers has to write: assisted, speculative, in continuous batches."""

import copy

import pytest
import torch
from generation_requests import GREEDY, opening_bias, parse, prompts
from transformers import GenerationConfig

from transformers_arm.grammar_arm import ImageGrammarLogitsProcessor


@pytest.mark.parametrize("mode", ["text", "interleaved"])
def test_an_assistant_of_another_length_changes_nothing(shared, mode):
    options = {"generation_mode": mode, "max_new_tokens": 24, **opening_bias(shared)}
    assistant = copy.deepcopy(shared)
    assistant.generation_config.max_length = 9
    expected = shared.generate(prompts(1), **options, **GREEDY)
    assert torch.equal(shared.generate(prompts(1), **options, **GREEDY, assistant_model=assistant), expected)
    parse(shared, expected[0, 6:])


def test_a_grammar_is_the_call_s_own(shared):
    grammar = ImageGrammarLogitsProcessor(shared.config, images=True)
    config = GenerationConfig(max_length=40)
    config._eos_token_tensor = None
    made = shared._get_logits_processor(config, 6, logits_processor=[grammar])
    assert [each.max_length for each in made if isinstance(each, ImageGrammarLogitsProcessor)] == [40]
    assert grammar.max_length is None


def test_continuous_batches_open_no_image(model):
    config, ids = model.config, prompts(1)
    hidden = model.model(ids).last_hidden_state[0, -1]
    with torch.no_grad():  # it wants to open an image, and nothing else
        model.lm_head.weight.zero_()
        model.lm_head.weight[config.vision_start_token_id] = hidden
    assert model(ids).logits[0, -1].argmax() == config.vision_start_token_id
    settings = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=8)
    written = model.generate_batch([ids[0].tolist(), prompts(1, 4, seed=2)[0].tolist()], settings)
    for each in written.values():
        assert len(each.generated_tokens) == 6 and parse(model, torch.tensor(each.generated_tokens)) == []


def test_continuous_batches_write_what_generate_does(shared):
    settings = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=8)
    written = shared.generate_batch([prompts(1)[0].tolist()], settings)
    (tokens,) = (each.generated_tokens for each in written.values())
    assert tokens == shared.generate(prompts(1), settings)[0, 6:].tolist()
