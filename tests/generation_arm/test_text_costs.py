"""Text costs what stock Qwen2's costs: as few values read, as many products, and the same tokens as if ARM looked."""

import copy

import pytest
import torch
from dispatched import Waits
from generation_requests import EOS, GREEDY, PAD, left_padded, opened, opening_bias, parse, prompts
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import CompileConfig, GenerationMixin, Qwen2Config, Qwen2ForCausalLM, WatermarkingConfig
from transformers.generation import SuppressTokensLogitsProcessor
from transformers.generation.streamers import BaseStreamer

from transformers_arm.grammar_arm import ImageGrammarLogitsProcessor, TextGrammarLogitsProcessor, image_spans

WAYS = {
    "greedy": GREEDY,
    "sampled": {"do_sample": True, "top_k": 0},
    "warped": {"do_sample": True, "temperature": 1.5, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1},
    "beams": {"num_beams": 3},
    "static": {"cache_implementation": "static", **GREEDY},
}
ASSISTED = {"lookup": {"prompt_lookup_num_tokens": 3}, "assistant": {}}


def waits_a_token(model, ids, more=8, **arguments):
    found = []
    for tokens in (2, 2 + more):
        with Waits() as waits:
            model.generate(ids, max_new_tokens=tokens, eos_token_id=None, pad_token_id=PAD, **arguments)
        found.append(waits.found)
    return {name: (found[1][name] - found[0][name]) / more for name in found[1] if found[1][name] != found[0][name]}


def looking(model, ids, **arguments):
    """Text as the grammar of images and a head that looks at each id write it."""
    grammar = ImageGrammarLogitsProcessor(model.config, images=False)
    with torch.no_grad():
        return GenerationMixin.generate(model, ids, logits_processor=[grammar], **arguments)


def after_an_image(config):
    image = opened(config, prompts(2), 1, 2).tolist()
    token, closing = config.visual_token_offset + 3, config.vision_end_token_id
    return torch.tensor([row + [token, token + 1, closing] + row[:3] for row in image])


@pytest.mark.parametrize("way", WAYS)
def test_a_token_of_text_waits_as_often_as_stock_qwen2_s(shared, qwen2, way):
    for ids in (prompts(2), after_an_image(shared.config)):
        ours = waits_a_token(shared, ids, **WAYS[way])
        assert ours == waits_a_token(qwen2, ids.clamp(max=300), **WAYS[way]) and ours["_local_scalar_dense"] >= 1


@pytest.mark.parametrize("way", ["greedy", "sampled"])
def test_a_token_beyond_an_opened_image_waits_once_more(shared, qwen2, way):
    start = opened(shared.config, prompts(2), 5, 5)
    for mode in ("text", "interleaved"):
        ours = waits_a_token(shared, start, generation_mode=mode, **WAYS[way])
        theirs = waits_a_token(qwen2, prompts(2), **WAYS[way])
        assert sum(ours.values()) == sum(theirs.values()) + 1


@pytest.mark.parametrize("way", WAYS)
def test_text_takes_as_many_products_as_stock_qwen2_s(shared, qwen2, way):
    counts = []
    for model in (shared, qwen2):
        with FlopCounterMode(display=False) as flops:
            model.generate(prompts(2), max_new_tokens=9, eos_token_id=None, pad_token_id=PAD, **WAYS[way])
        counts.append(flops.get_total_flops())
    assert counts[0] == counts[1] > 0


def without_what_opens_images(config):
    spans = [torch.arange(*span) for span in image_spans(config)]
    return SuppressTokensLogitsProcessor(torch.cat([span for span in spans if span[0] < config.visual_token_offset]))


@pytest.mark.parametrize("way", ["sampled", "warped"])
def test_text_is_sampled_by_the_numbers_that_stock_qwen2_takes(shared, qwen2, way):
    found = []
    arguments = {"max_new_tokens": 20, "eos_token_id": None, "pad_token_id": PAD, **WAYS[way]}
    for model, processors in ((shared, []), (qwen2, [without_what_opens_images(shared.config)])):
        torch.manual_seed(3)
        found.append(model.generate(prompts(2), logits_processor=processors, **arguments))
    assert torch.equal(*found)


def test_a_watermark_and_a_penalty_of_image_tokens_see_all_rows(shared):
    """Processors of transformers' own that index scores by the ids so far, or know how many there are."""
    arguments = {"max_new_tokens": 8, "eos_token_id": None, "pad_token_id": PAD, "do_sample": True, "top_k": 0}
    ids, watermark = after_an_image(shared.config), WatermarkingConfig(seeding_scheme="lefthash")
    for extra in ({"watermarking_config": watermark}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}):
        written = shared.generate(ids, **arguments, **extra)[:, ids.shape[1] :]
        assert (written < shared.config.visual_token_offset).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_text_and_its_scores_are_those_of_a_model_that_looks_at_each_id(model, way, dtype):
    model.to(dtype)
    rows = [prompts(1, 4)[0].tolist(), after_an_image(model.config)[0].tolist()]
    ids, mask = left_padded(rows)
    arguments = {"attention_mask": mask, "max_new_tokens": 20, "eos_token_id": [EOS, *range(20, 40)], **WAYS[way]}
    arguments |= {"pad_token_id": PAD, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    found = []
    for write in (looking, type(model).generate):
        torch.manual_seed(3)
        found.append(write(model, ids, **arguments))
    looked, written = found
    assert torch.equal(looked.sequences, written.sequences) and len(looked.scores) == len(written.scores) > 1
    assert all(map(torch.equal, looked.scores, written.scores))
    assert all(map(torch.equal, looked.logits, written.logits))
    assert {scores.shape[1] for scores in (*written.scores, *written.logits)} == {model.config.vocab_size}


@pytest.mark.parametrize("sampling", ["greedy", "sampled"])
@pytest.mark.parametrize("way", ASSISTED)
def test_assisted_text_is_that_of_a_model_that_looks_at_each_id(shared, way, sampling):
    for ids in (prompts(1), after_an_image(shared.config)[:1]):
        found = []
        for write in (looking, type(shared).generate):
            assistant = {"assistant_model": copy.deepcopy(shared)} if way == "assistant" else {}
            torch.manual_seed(3)
            arguments = {"max_new_tokens": 24, "eos_token_id": None, **ASSISTED[way], **WAYS[sampling]}
            found.append(write(shared, ids, **arguments, **assistant))
        assert torch.equal(*found)


def test_an_assistant_that_is_no_arm_changes_nothing(shared):
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: getattr(shared.config, name) for name in (*names, "num_key_value_heads")}
    assistant = Qwen2ForCausalLM(Qwen2Config(**sizes)).eval()
    arguments = {"max_new_tokens": 12, "eos_token_id": None, **GREEDY}
    assert torch.equal(
        shared.generate(prompts(1), assistant_model=assistant, **arguments), shared.generate(prompts(1), **arguments)
    )


@pytest.mark.parametrize("opened_by", [1, 2, 3, 5, 7])
def test_an_image_that_a_prompt_of_text_mode_opens_is_finished_beside_text(shared, opened_by):
    config = shared.config
    image = opened(config, prompts(1), 2, 2)[0].tolist()[6:] + [config.visual_token_offset + 1] * 4
    text = prompts(1, 4)[0].tolist()
    ids, mask = left_padded([text + image[:opened_by], text])
    written = shared.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=True, temperature=9.0)
    added = written[:, ids.shape[1] :].tolist()
    opened_one = parse(shared, torch.tensor(image[:opened_by] + added[0]))
    assert len(opened_one) == 1 and (opened_by < 3 or opened_one == [(2, 2)])
    assert parse(shared, torch.tensor(added[1])) == []


@pytest.mark.parametrize("kind", ["decoder and head", "prompt"])
def test_text_of_an_adapted_model_is_that_of_one_that_looks_at_each_id(model, kind):
    if kind == "prompt":
        peft = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    else:
        targets = model.LORA_TARGETS + "|lm_head"
        peft = LoraConfig(target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, peft).eval()
    arguments = {"max_new_tokens": 10, "eos_token_id": None, "pad_token_id": PAD, "do_sample": True}
    arguments |= {"return_dict_in_generate": True, "output_scores": True}  # over all rows, both ways
    found = []
    for grammar in ([], [ImageGrammarLogitsProcessor(model.config, images=False)]):
        torch.manual_seed(3)
        # A loop of one's own, here transformers', is not told that text follows.
        own = {"custom_generate": lambda model, *args, **kwargs: model._sample(*args, **kwargs)} if grammar else {}
        found.append(adapted.generate(input_ids=prompts(2), logits_processor=grammar, **own, **arguments).sequences)
    assert torch.equal(*found)


def test_a_streamer_gets_each_token_of_text(shared):
    class Streamer(BaseStreamer):
        def __init__(self):
            self.parts = []

        def put(self, value):
            self.parts.append(value.flatten())

        def end(self):
            self.parts.append(torch.tensor([-1]))

    streamer = Streamer()
    written = shared.generate(prompts(1), max_new_tokens=8, eos_token_id=None, streamer=streamer, **GREEDY)
    assert torch.cat(streamer.parts).tolist() == [*written[0].tolist(), -1] and len(streamer.parts) == 10


def test_a_step_of_text_is_compiled_whole_and_once(shared):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    arguments = {"cache_implementation": "static", "eos_token_id": None, **GREEDY}
    plain = shared.generate(prompts(2), max_new_tokens=12, **arguments)
    compiling = CompileConfig(fullgraph=True, dynamic=None, backend=backend, mode=None)
    compiling._compile_all_devices = True
    torch._dynamo.reset()
    compiled = shared.generate(prompts(2), max_new_tokens=12, compile_config=compiling, **arguments)
    assert torch.equal(plain, compiled) and len(graphs) == 1


def test_grammars_leave_the_scores_that_came_as_they_were(shared):
    ids, scores = prompts(2), torch.randn(2, shared.config.vocab_size)
    before = scores.clone()
    of_text = TextGrammarLogitsProcessor(shared.config)(ids, scores)
    assert torch.equal(of_text, ImageGrammarLogitsProcessor(shared.config, images=False)(ids, scores))
    assert torch.equal(scores, before) and (of_text == -torch.inf).any() and (of_text == before).any()


@pytest.mark.parametrize("rows", ["text", "images", "both"])
def test_the_head_is_called_once_a_step_whatever_is_written(model, rows):
    """Processes that share a sharded head gather it in each call, and wait for each other."""
    calls = []
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    image = opened(model.config, prompts(1), 4, 4)
    ids = {"text": prompts(2, 9), "images": image.expand(2, -1), "both": torch.cat([image, prompts(1, 9)])}[rows]
    model.generate(ids, max_new_tokens=6, eos_token_id=None, generation_mode="text", **GREEDY)
    assert len(calls) == 6
    model.generate(ids, max_new_tokens=6, eos_token_id=None, generation_mode="interleaved", **opening_bias(model))
    assert len(calls) == 12
