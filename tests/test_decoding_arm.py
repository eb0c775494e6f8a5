"""The decoding engine draws the plain loop's tokens, by the way it should, and waits for nothing on the way."""

import copy
import logging
from collections import Counter

import pytest
import torch
from changed_models import hooked, slides
from dispatched import Waits
from generation_requests import GREEDY, draw, image_part, left_padded, prompts, seed, with_pictures
from peft import LoraConfig, get_peft_model
from plain_loop import plain_loop
from torch import nn
from transformers import CompileConfig

from transformers_arm import decoding_arm
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.short_steps_arm import takes_short_steps


@pytest.fixture
def model(few_codes_arm):
    """An ARM to be changed."""
    return copy.deepcopy(few_codes_arm)


@pytest.fixture
def fresh(monkeypatch):
    """Nothing is compiled, and nothing has failed to be."""
    monkeypatch.setattr(decoding_arm, "WAYS", {})
    torch._dynamo.reset()


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps of one token that each way takes."""
    found = Counter()
    for kind in (decoding_arm.ShortSteps, decoding_arm.OwnForward):

        def step(self, *arguments, kind=kind, original=kind.step):
            found[kind.__name__, self.fixed if kind is decoding_arm.ShortSteps else None] += 1
            return original(self, *arguments)

        monkeypatch.setattr(kind, "step", step)
    return found


def failures():
    """Embeddings of models with which compiling failed."""
    return [embed for way in decoding_arm.WAYS.values() for embed in way.failed]


def batch(branches, copies=1):
    """Prompts of mixed lengths: keywords of `generate`, and the same for the plain loop."""
    lengths = {"input_ids": (3, 9, 5), "image_prompt_ids": (7, 4, 12), "negative_prompt_ids": (2, 2, 4)}
    names = [list(lengths)[index] for index in ([0], [0, 2], [0, 1, 2])[branches - 1]]
    given, plain = {}, []
    for name in names:
        ids, mask = left_padded([prompts(1, n, seed=n)[0].tolist() for n in lengths[name]])
        given |= {name: ids, "attention_mask" if name == "input_ids" else name.replace("ids", "attention_mask"): mask}
        plain.append((ids.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)))
    return given, plain


SCALES = {1: {}, 2: {"guidance_scale": 2.5}, 3: {"guidance_scale": 2.0, "image_guidance_scale": 1.5}}
GRIDS = [(1, 1), (1, 9), (9, 1), (5, 7), (16, 16)]


def assert_draws_the_plain_loop_s_tokens(model, branches=2, grid=(5, 7), copies=1, **arguments):
    given, plain = batch(branches, copies)
    expected = plain_loop(model, plain, grid, **SCALES[branches], **GREEDY)
    images = draw(model, grid=grid, **given, **SCALES[branches], **GREEDY, num_return_sequences=copies, **arguments)
    assert torch.equal(image_part(model, images, grid).flatten(1), expected)
    assert grid == (1, 1) or len(expected.unique()) > 3


WAYS = {
    "short": (lambda model: None, ("ShortSteps", False)),
    "hook": (hooked, ("OwnForward", None)),
    "eager": (lambda model: model.set_attn_implementation("eager"), ("OwnForward", None)),
    "sliding": (slides, ("OwnForward", None)),
}


# --- tokens are the plain loop's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_short_steps_draw_the_plain_loop_s_tokens(few_codes_arm, steps, branches, grid):
    assert_draws_the_plain_loop_s_tokens(few_codes_arm, branches, grid, copies=2 if grid == (5, 7) else 1)
    count = grid[0] * grid[1] - 1
    assert steps == ({("ShortSteps", False): count} if count else {})


@pytest.mark.parametrize("way", list(WAYS)[1:])
@pytest.mark.parametrize("branches, copies", [(1, 1), (2, 3), (3, 2)])
def test_the_own_forward_draws_the_plain_loop_s_tokens(model, steps, way, branches, copies):
    change, ran = WAYS[way]
    change(model)
    assert_draws_the_plain_loop_s_tokens(model, branches, copies=copies)
    assert steps == {ran: 34}


def test_what_has_been_put_around_layers_counts(model, few_codes_arm):
    """Or the plain loop would be as blind as the short steps."""
    given, _ = batch(1)
    drawn = []
    for name in ("short", "hook", "sliding"):
        changed = copy.deepcopy(few_codes_arm)
        WAYS[name][0](changed)
        drawn.append(draw(changed, grid=(5, 7), **given, **GREEDY))
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("branches, copies", [(1, 1), (2, 1), (3, 2)])
def test_compiled_steps_draw_the_plain_loop_s_tokens(few_codes_arm, fresh, steps, branches, copies):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiling = CompileConfig(backend=backend, mode=None)
    for grid in ((5, 7), (2, 5)):  # one compilation serves both
        assert_draws_the_plain_loop_s_tokens(few_codes_arm, branches, grid, copies, compile_config=compiling)
    assert steps == {("ShortSteps", True): 34 + 9} and len(graphs) == 1


@pytest.mark.slow
def test_steps_compiled_by_inductor_draw_the_plain_loop_s_tokens(few_codes_arm, fresh, steps):
    for branches in (1, 2, 3):
        assert_draws_the_plain_loop_s_tokens(few_codes_arm, branches, compile_config=CompileConfig())
    assert steps == {("ShortSteps", True): 34 * 3} and not failures()


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("compile_config", [None, CompileConfig(backend="eager", mode=None)], ids=["plain", "fixed"])
def test_heads_of_keys_and_values_may_be_as_many_or_fewer(few_codes_arm, fresh, steps, heads, compile_config):
    config = copy.deepcopy(few_codes_arm.config)
    config.num_key_value_heads = heads
    config.initializer_range = 0.2
    assert_draws_the_plain_loop_s_tokens(ArmForCausalLM(config).eval(), compile_config=compile_config)
    assert steps == {("ShortSteps", compile_config is not None): 34} and not failures()


@pytest.mark.parametrize("way", ["short", "eager"])
def test_masked_edits_are_the_plain_loop_s_tokens_where_they_draw(model, steps, way):
    change, ran = WAYS[way]
    change(model)
    tokens = torch.randint(0, 16, (9,), generator=seed(1))
    source = with_pictures(model.config, (3, 3), text=prompts(1, 2))
    source = model.model.place_image_tokens(source, tokens + model.config.visual_token_offset, "they")
    ids, mask = torch.cat([source, prompts(1, 4)], 1), torch.tensor([[[1, 1, 0], [0, 1, 1], [1, 0, 0]]]).bool()
    branches = [(part, torch.ones_like(part)) for part in (ids, source, prompts(1, 2))]
    plain = plain_loop(model, branches, (3, 3), **SCALES[3], **GREEDY)
    others = {"image_prompt_ids": source, "negative_prompt_ids": prompts(1, 2), **SCALES[3]}
    image = draw(model, ids, (3, 3), edit_mask=mask, **others, **GREEDY)
    drawn = torch.where(mask.flatten(1), plain, tokens)
    assert torch.equal(image_part(model, image, (3, 3)).flatten(1), drawn) and not torch.equal(drawn, plain)
    assert steps == {ran: 6}  # after the seventh token all are kept


def test_outputs_that_were_asked_for_once_change_nothing(model, steps):
    """Transformers leaves its hooks where they are."""
    model(prompts(1), output_hidden_states=True, output_attentions=True)
    assert any(module._forward_hooks for module in model.model.modules()) and takes_short_steps(model.model)
    assert_draws_the_plain_loop_s_tokens(model)
    assert steps == {("ShortSteps", False): 34}


def test_adapters_on_linear_layers_take_short_steps_and_count(model, steps):
    plain = draw(model, grid=(5, 7), **batch(1)[0], **GREEDY)
    config = LoraConfig(r=4, target_modules=ArmForCausalLM.LORA_TARGETS, init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    assert takes_short_steps(adapted.get_base_model().model)
    assert_draws_the_plain_loop_s_tokens(adapted.get_base_model())
    assert steps == {("ShortSteps", False): 2 * 34}
    assert not torch.equal(draw(adapted.get_base_model(), grid=(5, 7), **batch(1)[0], **GREEDY), plain)


# --- what a draw costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["short", "eager"])
def test_prompts_are_read_once_however_many_images_follow(model, way):
    WAYS[way][0](model)
    read = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: read.append(args[0].numel()))
    given, _ = batch(2)
    draw(model, grid=(2, 3), **given, guidance_scale=2.0, num_return_sequences=4)
    assert torch.equal(given["negative_prompt_ids"][0], given["negative_prompt_ids"][1])
    assert read == [(3 + 2) * (9 + 3)] + [3 * 2 * 4] * 5


@pytest.mark.parametrize("sampling", [GREEDY, {}, {"top_k": 5, "top_p": 0.8, "temperature": 0.7}], ids=str)
@pytest.mark.parametrize("way", ["short", "fixed", "eager"])
def test_no_token_waits_for_the_host(model, steps, monkeypatch, sampling, way):
    WAYS["short" if way == "fixed" else way][0](model)
    # Over all places, as on a GPU, but not compiled, for torch compiles nothing that is counted.
    monkeypatch.setattr(decoding_arm, "compiled_layers", lambda config: decoding_arm.through_layers)
    compiling = {"compile_config": CompileConfig(backend="eager", mode=None)} if way == "fixed" else {}
    given, found = batch(3)[0], []
    for grid in ((2, 2), (6, 6)):
        with Waits() as waits:
            draw(model, grid=grid, **given, **SCALES[3], **sampling, **compiling)
        found.append(waits.found)
        if "top_k" in sampling:  # a CPU selects by NumPy, whose result becomes a tensor
            del waits.found["lift_fresh"]
    assert found[0] == found[1]
    assert steps == {("OwnForward", None) if way == "eager" else ("ShortSteps", way == "fixed"): 3 + 35}


# --- compiling that fails --------------------------------------------------------------------------------------------


def test_a_step_that_does_not_compile_runs_as_it_is_and_says_so_once(few_codes_arm, fresh, caplog, monkeypatch):
    tried = []

    def failing(graph, inputs):
        tried.append(graph)
        raise RuntimeError("no compiler here")

    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)
    given, compiling = batch(2)[0], CompileConfig(backend=failing, mode=None)
    plain = draw(few_codes_arm, grid=(3, 4), **given, guidance_scale=2.0, generator=seed(1))
    for _ in range(2):
        again = draw(
            few_codes_arm, grid=(3, 4), **given, guidance_scale=2.0, generator=seed(1), compile_config=compiling
        )
        assert torch.equal(again, plain)
    assert len(tried) == 1
    told = [message for message in caplog.messages if "The decoding step could not be compiled" in message]
    assert len(told) == 1 and "no compiler here" in told[0]


def test_a_compiler_that_is_not_there_costs_speed_alone(few_codes_arm, fresh, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # or it may have been compiled before
    given = batch(1)[0]
    plain = draw(few_codes_arm, grid=(2, 3), **given, **GREEDY)
    with torch._inductor.config.patch(
        {"cpp.cxx": (None, str(tmp_path / "nonexistent")), "force_disable_caches": True}
    ):
        for _ in range(2):
            again = draw(few_codes_arm, grid=(2, 3), **given, **GREEDY, compile_config=CompileConfig())
            assert torch.equal(again, plain)
    assert len(failures()) == 1
    assert sum("The decoding step could not be compiled" in message for message in caplog.messages) == 1


def test_layers_of_no_linear_kind_are_called_as_they_are(model, steps):
    class Doubled(nn.Linear):
        def forward(self, states):
            return super().forward(states) * 2

    model.model.layers[0].mlp.down_proj.__class__ = Doubled
    assert_draws_the_plain_loop_s_tokens(model)
    assert steps == {("ShortSteps", False): 34}


def test_what_others_keep_of_the_own_forward_can_be_trained_on(model, steps):
    kept = []
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    draw(model, prompts(1), (2, 2))
    assert steps == {("OwnForward", None): 3} and not any(each.is_inference() for each in kept)
