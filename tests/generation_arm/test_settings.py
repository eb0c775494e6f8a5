"""What surrounds a call: streamers, outputs, generation configs, adapters and training mode."""

import copy
import json

import pytest
import torch
from generation_requests import GREEDY, PLAIN, draw, opening_bias, prompts, seed
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, GenerationConfig, TextIteratorStreamer, TextStreamer

from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.sampling_arm import IMAGE_GENERATION


@pytest.fixture(scope="module")
def tokenizer(backbones):
    return AutoTokenizer.from_pretrained(backbones["text"])


# --- streams, outputs, configurations --------------------------------------------------------------------------------


class Recorder:
    def __init__(self):
        self.parts, self.ended = [], 0

    def put(self, value):
        assert not self.ended
        self.parts.append(value)

    def end(self):
        self.ended += 1


def test_a_streamer_gets_the_opening_each_row_and_the_closing(shared):
    ids, recorder = prompts(2), Recorder()
    image = draw(
        shared, ids, (3, 4), streamer=recorder, num_return_sequences=2, guidance_scale=2, negative_prompt_ids=ids
    )
    assert [tuple(part.shape) for part in recorder.parts] == [(4, 3), (4, 4), (4, 4), (4, 4), (4, 1)]
    assert recorder.ended == 1 and torch.equal(torch.cat(recorder.parts, 1), image[:, 6:])


def test_transformers_streamers_read_text(shared, tokenizer, capsys):
    ids = prompts(1)
    written = shared.generate(ids, max_new_tokens=6, **GREEDY)
    printed = TextStreamer(tokenizer, skip_prompt=True)
    shared.generate(ids, max_new_tokens=6, streamer=printed, **GREEDY)
    assert capsys.readouterr().out.strip() == tokenizer.decode(written[0, 6:]).strip()
    iterator = TextIteratorStreamer(tokenizer, skip_prompt=True)
    shared.generate(ids, max_new_tokens=6, streamer=iterator, generation_mode="interleaved", **GREEDY)
    assert "".join(iterator)


def test_images_can_come_in_a_dictionary(shared):
    plain = draw(shared, prompts(2), **GREEDY)
    output = draw(shared, prompts(2), return_dict_in_generate=True, **GREEDY)
    assert torch.equal(output.sequences, plain) and torch.equal(output["sequences"], plain)


def test_image_settings_of_the_generation_config_are_saved_loaded_and_used(model, shared, tmp_path):
    ids = prompts(2)
    model.generation_config.image_generation = {"do_sample": False, **PLAIN}
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    assert saved["image_generation"] == {"do_sample": False, **PLAIN}
    loaded = ArmForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.generation_config.image_generation == {"do_sample": False, **PLAIN}
    greedy = draw(shared, ids, (3, 3), **GREEDY)
    arguments = {"generation_mode": "image", "image_grid": (3, 3)}
    assert torch.equal(loaded.generate(ids, **arguments), greedy)
    sampled = loaded.generate(ids, **arguments, do_sample=True, generator=seed(1))
    assert torch.equal(sampled, draw(shared, ids, (3, 3), generator=seed(1))) and not torch.equal(sampled, greedy)
    given = GenerationConfig(image_generation={"do_sample": True, **PLAIN})
    assert torch.equal(loaded.generate(ids, given, **arguments, generator=seed(1)), sampled)
    assert torch.equal(loaded.generate(ids, GenerationConfig(), **arguments), greedy)
    assert loaded.generate(ids, max_new_tokens=2).shape == (2, 8)


@pytest.mark.parametrize(
    "stated", [{"do_sample": True, "temperature": 0.3}, {"do_sample": True, "top_k": 2}, {"do_sample": False}]
)
def test_plain_fields_of_a_call_s_configuration_are_heeded(model, stated):
    model.generation_config.image_generation = {"temperature": 0.7, **PLAIN}
    arguments = {"generation_mode": "image", "image_grid": (3, 3)}
    wanted = model.generate(prompts(2), **arguments, **stated, generator=seed(1))
    plain = model.generate(prompts(2), **arguments, generator=seed(1))
    assert not torch.equal(wanted, plain)
    for config in (GenerationConfig(**stated), copy.deepcopy(model.generation_config)):
        config.update(**stated)
        assert torch.equal(model.generate(prompts(2), config, **arguments, generator=seed(1)), wanted)
        section = GenerationConfig(**stated, image_generation={"temperature": 0.7, "top_k": 0, "do_sample": True})
        assert torch.equal(model.generate(prompts(2), section, **arguments, generator=seed(1)), plain)


def test_the_model_s_own_settings_of_text_do_not_disturb_images(model):
    model.generation_config.update(max_new_tokens=5, eos_token_id=3, repetition_penalty=1.5, do_sample=True)
    config = copy.deepcopy(model.generation_config)
    arguments = {"generation_mode": "image", "image_grid": (2, 3), **PLAIN, **GREEDY}
    assert torch.equal(model.generate(prompts(2), config, **arguments), model.generate(prompts(2), **arguments))


@pytest.mark.parametrize("name", ["min_new_tokens", "num_beams", "repetition_penalty", "eos_token_id", "min_p"])
def test_fields_of_a_call_s_configuration_that_images_do_not_take_are_refused_by_name(shared, name):
    config = GenerationConfig(**{name: 3 if name != "min_p" else 0.1})
    with pytest.raises(TypeError, match=f"generation_mode='image' takes no {name}; it takes do_sample"):
        shared.generate(prompts(2), config, generation_mode="image", image_grid=(2, 2), **PLAIN)


def test_edits_are_sampled_as_their_own_settings_say_where_they_differ(model, shared, tmp_path):
    model.generation_config.image_generation = {"do_sample": False, "guidance_scale": 3.0, "image_guidance_scale": 2.0}
    model.generation_config.image_editing = {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
    model.save_pretrained(tmp_path)
    loaded = ArmForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.generation_config.image_editing == {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
    ids, image, nothing = prompts(2), prompts(2, 4, seed=3), prompts(2, 3, seed=4)
    arguments = {"generation_mode": "image", "image_grid": (3, 3), "negative_prompt_ids": nothing}
    plain = draw(shared, ids, (3, 3), **GREEDY)
    assert torch.equal(loaded.generate(ids, **arguments, image_prompt_ids=image), plain)
    guided = draw(shared, ids, (3, 3), **GREEDY | {"guidance_scale": 3.0}, negative_prompt_ids=nothing)
    assert torch.equal(loaded.generate(ids, **arguments), guided) and not torch.equal(guided, plain)
    asked = loaded.generate(ids, **arguments, image_prompt_ids=image, guidance_scale=3.0)
    assert not torch.equal(asked, plain)


def test_unless_told_otherwise_images_are_sampled_as_the_paper_says(shared):
    ids, negative = prompts(2), prompts(2, 3, seed=4)
    image = shared.generate(
        ids, generation_mode="image", image_grid=(3, 3), negative_prompt_ids=negative, generator=seed(1)
    )
    assert (IMAGE_GENERATION["guidance_scale"], IMAGE_GENERATION["image_guidance_scale"]) == (1.5, 1.25)
    assert torch.equal(
        image, draw(shared, ids, (3, 3), negative_prompt_ids=negative, guidance_scale=1.5, generator=seed(1))
    )


# --- adapters and training -------------------------------------------------------------------------------------------


def test_a_model_with_adapters_writes_and_draws_as_it_does_merged(model, shared):
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=ArmForCausalLM.LORA_TARGETS))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.eval()
    calls = [
        {"max_new_tokens": 12},
        {"max_new_tokens": 12, "num_beams": 2},
        {"max_new_tokens": 20, "generation_mode": "interleaved", **opening_bias(shared)},
        {"generation_mode": "image", "image_grid": (3, 3), "guidance_scale": 2, "negative_prompt_ids": prompts(2, 3)},
    ]
    with_adapters = [adapted.generate(input_ids=prompts(2), **GREEDY, **call) for call in calls]
    for result, call in zip(with_adapters, calls, strict=True):
        assert not torch.equal(result, shared.generate(prompts(2), **GREEDY, **call))
    merged = adapted.merge_and_unload()
    for result, call in zip(with_adapters, calls, strict=True):
        assert torch.equal(result, merged.generate(prompts(2), **GREEDY, **call))


CALLS = [
    {"max_new_tokens": 10},
    {"max_new_tokens": 20, "generation_mode": "interleaved"},
    {"generation_mode": "image", "image_grid": (3, 3), **PLAIN},
]


@pytest.mark.parametrize("call", CALLS, ids=["text", "interleaved", "image"])
def test_a_model_in_training_writes_as_in_evaluation_and_trains_on(shared, call):
    expected = shared.generate(prompts(2), **GREEDY, **call)
    model = copy.deepcopy(shared)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.gradient_checkpointing_enable()
    model.train()
    model.model.layers[0].eval()
    training = [module.training for module in model.modules()]
    assert torch.equal(model.generate(prompts(2), **GREEDY, **call), expected)
    assert [module.training for module in model.modules()] == training
    with pytest.raises(ValueError):
        model.generate(prompts(2), generation_mode="image", image_grid=(0, 1))
    assert [module.training for module in model.modules()] == training


@pytest.mark.parametrize("call", CALLS, ids=["text", "interleaved", "image"])
def test_generation_leaves_gradients_as_they_were(shared, call):
    assert torch.is_grad_enabled()
    result = shared.generate(prompts(1), **call)
    assert torch.is_grad_enabled() and not result.requires_grad and not result.is_inference()
    assert all(parameter.grad is None for parameter in shared.parameters())
    with torch.inference_mode():
        shared.generate(prompts(1), **call)
