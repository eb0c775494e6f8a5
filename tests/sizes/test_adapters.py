"""Small budgets: adapters, image rows, 4-bit weights and 8-bit optimizers train what they should and nothing else."""

import copy

import pytest
import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2ForCausalLM, Trainer, TrainingArguments
from transformers.utils import is_bitsandbytes_available

from transformers_arm import ArmForCausalLM
from transformers_arm.sizes.adapters import check_adapters, lora_config, quantization
from transformers_arm.training.trainer import ArmTrainer

with_bitsandbytes = pytest.mark.skipif(not is_bitsandbytes_available(), reason="bitsandbytes is not installed")


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def shared(request, tiny_arm_backbones, tmp_path_factory):
    """An ARM with an embedding of its own for the head, or without. Treat it as read-only."""
    backbones = dict(tiny_arm_backbones)
    if request.param:
        folder = tmp_path_factory.mktemp("tied")
        tied = Qwen2ForCausalLM.from_pretrained(backbones["text"], tie_word_embeddings=True)
        tied.tie_weights()
        tied.save_pretrained(folder)
        AutoTokenizer.from_pretrained(backbones["text"]).save_pretrained(folder)
        backbones["text"] = str(folder)
    torch.manual_seed(0)
    return ArmForCausalLM.from_backbones(**backbones).eval()


@pytest.fixture
def model(shared):
    """An ARM to be changed."""
    return copy.deepcopy(shared)


def sequence(config, seed=0):
    """Text, a picture of 2 x 3 tokens, text: [1, 21]."""
    generator = torch.Generator().manual_seed(seed)
    text, more = torch.randint(4, 200, (2, 6), generator=generator).tolist()
    codes = torch.randint(config.visual_token_offset, config.vocab_size, (6,), generator=generator).tolist()
    return torch.tensor([text + config.image_opening(2, 3) + codes + more])


def adapted(model, **fields):
    torch.manual_seed(1)
    return get_peft_model(model, lora_config(model, r=2, lora_alpha=4, **fields))


def trained(model, steps=3):
    ids = sequence(model.config)
    optimizer = torch.optim.AdamW([p for p in model.train().parameters() if p.requires_grad], 1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def assert_close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# --- LoRA ------------------------------------------------------------------------------------------------------------


def test_lora_goes_to_the_decoder_s_linear_layers_and_fields_replace_its_defaults(model):
    config = lora_config(model, r=2, lora_alpha=7, target_modules=r".*layers\.0\..*q_proj")
    assert (config.r, config.lora_alpha, config.task_type) == (2, 7, "CAUSAL_LM")
    names = [name for name, p in adapted(model).named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 7 and all(".layers." in name and "lora_" in name for name in names)
    assert not any("vq_model" in name for name in names)


def test_visual_rows_and_adapters_are_trained_and_nothing_else(shared, model):
    merged = trained(adapted(model, visual_rows=True)).merge_and_unload()
    offset = shared.config.visual_token_offset
    for ours, before in (
        (merged.get_input_embeddings().weight, shared.get_input_embeddings().weight),
        (merged.get_output_embeddings().weight, shared.get_output_embeddings().weight),
    ):
        assert ours.shape == before.shape and torch.equal(ours[:offset], before[:offset])
        assert (ours[offset:] != before[offset:]).any()
    assert type(merged) is ArmForCausalLM and merged.state_dict().keys() == shared.state_dict().keys()
    assert all(torch.equal(p, shared.vq_model.state_dict()[name]) for name, p in merged.vq_model.state_dict().items())
    tables = [merged.get_input_embeddings().weight, merged.get_output_embeddings().weight]
    assert torch.equal(*tables) == shared.config.tie_word_embeddings


def test_visual_rows_get_the_gradients_that_they_get_when_everything_is_trained(shared, model):
    ids, offset = sequence(shared.config), shared.config.visual_token_offset
    whole = copy.deepcopy(shared)
    whole(input_ids=ids, labels=ids).loss.backward()
    rows = adapted(model, visual_rows=True)
    loss = rows(input_ids=ids, labels=ids).loss
    loss.backward()
    found = {name: p.grad for name, p in rows.named_parameters() if "trainable_tokens_delta" in name}
    tables = {"embed_tokens": whole.get_input_embeddings(), "lm_head": whole.get_output_embeddings()}
    assert len(found) == (1 if shared.config.tie_word_embeddings else 2)
    for name, gradient in found.items():
        (table,) = [table for part, table in tables.items() if part in name]
        assert_close(gradient, table.weight.grad[offset:], atol=1e-6)
        assert gradient.abs().max() > 1e-4


def test_visual_rows_are_saved_alone_and_come_back_switched_off_loaded_and_merged(shared, model, tmp_path):
    ids = sequence(shared.config, seed=5)
    rows = adapted(model, visual_rows=True)
    assert_close(logits_of(rows, ids), logits_of(shared, ids))
    on = logits_of(trained(rows), ids)
    assert (on - logits_of(shared, ids)).abs().max() > 1e-2
    with rows.disable_adapter():
        assert_close(logits_of(rows, ids), logits_of(shared, ids))

    rows.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    codes = shared.config.vq_config.codebook_size
    assert all("lora_" in name or tensor.shape == (codes, 32) for name, tensor in saved.items())
    loaded = PeftModel.from_pretrained(copy.deepcopy(shared), tmp_path).eval()
    assert_close(logits_of(loaded, ids), on)
    assert_close(logits_of(loaded.merge_and_unload(), ids), on, atol=1e-4)


def test_unmerged_visual_rows_draw_and_are_scored_as_merged_ones(model):
    ids = sequence(model.config)
    rows = trained(adapted(model, visual_rows=True), steps=6)
    drawing = {"generation_mode": "image", "image_grid": (2, 2), "guidance_scale": 1.0, "do_sample": False}

    def results(model):
        with torch.no_grad():
            scored = model(input_ids=ids, labels=ids, scoring_temperature=0.7)
            return model.generate(input_ids=ids[:, :6], **drawing), scored.log_probs, scored.entropies

    drawn, *scores = results(rows)
    redrawn, *again = results(rows.merge_and_unload())
    assert torch.equal(drawn, redrawn)
    for ours, theirs in zip(scores, again, strict=True):
        assert_close(ours, theirs, atol=1e-4)


def test_visual_rows_and_other_rows_are_one_or_the_other(model):
    with pytest.raises(ValueError, match="visual_rows sets trainable_token_indices; give one or the other"):
        lora_config(model, visual_rows=True, trainable_token_indices=[3])


# --- adapters on the head --------------------------------------------------------------------------------------------

WITH_HEAD = ArmForCausalLM.LORA_TARGETS + "|lm_head"
TOKENS = [*range(4, 200), 1500]  # all text of a sequence, and a code
ON_HEAD = {
    "LoRA": LoraConfig(target_modules=WITH_HEAD, r=4),
    "LoRA-by-name": LoraConfig(target_modules=["q_proj", "lm_head"], exclude_modules=".*vq_model.*", r=4),
    "LoRA-of-a-parameter": LoraConfig(target_modules=[], target_parameters=["lm_head.weight"], r=4),
    "DoRA": LoraConfig(target_modules=WITH_HEAD, r=4, use_dora=True),
    "LoHa": LoHaConfig(target_modules=WITH_HEAD, r=4),
    "LoKr": LoKrConfig(target_modules=WITH_HEAD, r=4),
    "IA3": IA3Config(target_modules=WITH_HEAD, feedforward_modules=[]),
    "VeRA": VeraConfig(target_modules=["lm_head"], r=4),
    "OFT": OFTConfig(target_modules=["lm_head"], oft_block_size=4),
    "tokens": TrainableTokensConfig(target_modules=["lm_head"], token_indices=TOKENS),
}
WHOLE_HEAD = {
    "modules_to_save": LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, modules_to_save=["lm_head"]),
    "both-tables": LoraConfig(target_modules=ArmForCausalLM.LORA_TARGETS, modules_to_save=["lm_head", "embed_tokens"]),
    "tied-copies": LoraConfig(
        **{"target_modules": ArmForCausalLM.LORA_TARGETS, "modules_to_save": ["lm_head", "embed_tokens"]},
        ensure_weight_tying=True,
    ),
    "tokens-of-the-embedding": TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=TOKENS),
}


def disturbed(model, config):
    """A PEFT model whose every adapter does something."""
    torch.manual_seed(1)
    model = get_peft_model(model, copy.deepcopy(config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def results(model, ids):
    """What is drawn, and with which logits, loss, losses and scores."""
    drawing = {"generation_mode": "image", "image_grid": (2, 2), "guidance_scale": 1.0, "do_sample": False}
    with torch.no_grad():
        lost = model(input_ids=ids, labels=ids, output_token_losses=True)
        scored = model(input_ids=ids, labels=ids, scoring_temperature=0.7)
        drawn = model.generate(input_ids=ids[:, :6], **drawing)
    values = {"logits": lost.logits, "loss": lost.loss, "token_losses": lost.token_losses.nan_to_num(), **lost.losses}
    return drawn, {**values, "log_probs": scored.log_probs, "entropies": scored.entropies}


def assert_trains_draws_and_merges_alike(model, config, monkeypatch):
    ids = sequence(model.config)
    before = results(model, ids)
    adapted = disturbed(model, config)
    adapted.train()(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in adapted.parameters() if p.requires_grad)
    drawn, found = results(adapted.eval(), ids)
    assert (found["logits"] - before[1]["logits"]).abs().max() > 1e-2
    monkeypatch.setattr("transformers_arm.loss_arm.LOGITS_AT_ONCE", 3 * 1500)  # three positions at a time
    in_chunks = results(adapted, ids)[1]
    with adapted.disable_adapter():
        torch.testing.assert_close(results(adapted, ids), before, atol=1e-4, rtol=1e-4)
    merged = adapted.merge_and_unload().eval()
    again, expected = results(merged, ids)
    assert torch.equal(drawn, again)
    for ours in (found, in_chunks):
        torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ON_HEAD)
def test_adapters_on_the_head_train_draw_and_merge_alike_or_are_refused_where_the_embedding_is_the_head(
    model, name, monkeypatch
):
    if model.config.tie_word_embeddings:
        ways = r"merging the adapter of one would change the other.*modules_to_save=\['lm_head'\].*visual_rows=True"
        with pytest.raises(ValueError, match=ways):
            get_peft_model(model, copy.deepcopy(ON_HEAD[name]))
    else:
        assert_trains_draws_and_merges_alike(model, ON_HEAD[name], monkeypatch)


@pytest.mark.parametrize("name", WHOLE_HEAD)
def test_the_ways_that_the_refusal_names_work_with_one_table_and_with_two(model, name, monkeypatch):
    if name == "tied-copies" and not model.config.tie_word_embeddings:
        pytest.skip("there is nothing to tie")
    assert_trains_draws_and_merges_alike(model, WHOLE_HEAD[name], monkeypatch)


@pytest.mark.parametrize("target", ["embed_tokens", "model.embed_tokens"])
def test_adapters_on_an_embedding_that_is_the_head_are_refused(model, target, monkeypatch):
    config = LoraConfig(target_modules=[target], r=4)
    if model.config.tie_word_embeddings:
        with pytest.raises(ValueError, match="Embedding on embed_tokens: embedding and head are one table"):
            get_peft_model(model, config)
    else:
        assert_trains_draws_and_merges_alike(model, config, monkeypatch)


def test_adapters_that_trl_s_trainers_cannot_take_are_refused_by_the_ways_that_work(model):
    refused = r"TRL's trainers take no adapter on lm_head. .*modules_to_save.*visual_rows=True.*ArmTrainer"
    for config in (ON_HEAD["LoRA"], ON_HEAD["LoRA-by-name"], ON_HEAD["IA3"]):
        check_adapters(model, config)
        with pytest.raises(ValueError, match=refused):
            check_adapters(model, config, on_head=False)
    check_adapters(model, WHOLE_HEAD["modules_to_save"], on_head=False)
    check_adapters(model, lora_config(model, visual_rows=True), on_head=False)
    if not model.config.tie_word_embeddings:
        with pytest.raises(ValueError, match=refused):
            check_adapters(get_peft_model(model, copy.deepcopy(ON_HEAD["LoRA"])), on_head=False)


def test_prompt_learning_is_refused(model):
    with pytest.raises(
        ValueError, match=r"PrefixTuningConfig puts embeddings before the prompt, .*lora_config\(model\)"
    ):
        check_adapters(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))


# --- Trainer ---------------------------------------------------------------------------------------------------------


def trainer_of(model, folder, trainer_class=Trainer, **arguments):
    rows = [
        {"input_ids": sequence(model.config, seed)[0], "labels": sequence(model.config, seed)[0]} for seed in (0, 1)
    ]
    settings = {"learning_rate": 1e-2, "weight_decay": 0.1, "max_steps": 2, "logging_steps": 1, "use_cpu": True}
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    return trainer_class(
        model, TrainingArguments(str(folder), **{**settings, **quiet, **arguments}), train_dataset=rows
    )


@pytest.mark.parametrize("trainer_class", [Trainer, ArmTrainer])
def test_the_frozen_tokenizer_has_no_place_in_the_optimizer(shared, model, tmp_path, trainer_class):
    trainer = trainer_of(model, tmp_path, trainer_class)
    trainer.train()
    frozen = {id(parameter) for parameter in model.vq_model.parameters()}
    groups = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    states = {id(parameter) for parameter in trainer.optimizer.state}
    assert groups == states == {id(parameter) for parameter in model.parameters()} - frozen
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.vq_model.parameters())
    assert all(torch.equal(p, shared.vq_model.state_dict()[name]) for name, p in model.vq_model.state_dict().items())


@pytest.mark.parametrize("visual_rows", [None, False, True], ids=["full", "LoRA", "LoRA-visual-rows"])
def test_gradient_checkpointing_changes_no_loss_and_no_weight(shared, tmp_path, visual_rows):
    logs, weights = [], []
    for checkpointing in (False, True):
        model = copy.deepcopy(shared)
        model = model if visual_rows is None else adapted(model, visual_rows=visual_rows)
        trainer = trainer_of(model, tmp_path, gradient_checkpointing=checkpointing, max_steps=3)
        trainer.train()
        logs.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        weights.append({name: p for name, p in model.named_parameters() if p.requires_grad})
    assert len(set(logs[0])) == 3 and logs[1] == pytest.approx(logs[0], abs=1e-5)
    for name, parameter in weights[0].items():
        assert_close(weights[1][name], parameter, atol=1e-4)


@pytest.mark.skipif(is_bitsandbytes_available(), reason="bitsandbytes is installed")
def test_without_bitsandbytes_it_is_named(model, tmp_path):
    with pytest.raises(ImportError, match="4-bit weights need bitsandbytes; install it with `pip install"):
        quantization()
    with pytest.raises(ImportError, match="install `bitsandbytes`"):
        trainer_of(model, tmp_path, optim="adamw_bnb_8bit").train()


@with_bitsandbytes
def test_8_bit_optimizers_train_all_but_the_tokenizer(model, tmp_path):
    trainer = trainer_of(model, tmp_path, optim="adamw_bnb_8bit")
    trainer.train()
    states = {id(p): state for p, state in trainer.optimizer.state.items()}
    assert states.keys() == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[1] != losses[0]


@with_bitsandbytes
@pytest.mark.parametrize("visual_rows", [False, True])
def test_4_bit_weights_are_the_decoder_s_and_adapters_train_on_them(shared, tmp_path, visual_rows):
    from bitsandbytes.nn import Linear4bit

    shared.save_pretrained(tmp_path / "base")
    settings = {"quantization_config": quantization(compute_dtype="float32"), "dtype": torch.float32}
    model = ArmForCausalLM.from_pretrained(tmp_path / "base", **settings)
    quantized = [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    assert len(quantized) == 2 * 7 and all(name.startswith("model.layers.") for name in quantized)
    pixel_values = torch.rand(2, 3, 32, 48) * 2 - 1
    assert torch.equal(model.vq_model.encode(pixel_values).codes, shared.vq_model.encode(pixel_values).codes)
    for table in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(model, table)().weight, getattr(shared, table)().weight)

    ids = sequence(shared.config)
    adapter = adapted(model, visual_rows=visual_rows)
    before = adapter.train()(input_ids=ids, labels=ids).loss.item()
    trained(adapter, steps=5).train()  # on a CPU, evaluation repacks weights, of 64 columns and more only
    assert adapter(input_ids=ids, labels=ids).loss.item() < before
    adapter.save_pretrained(tmp_path / "adapter")
    again = ArmForCausalLM.from_pretrained(tmp_path / "base", **settings)
    loaded = PeftModel.from_pretrained(again, tmp_path / "adapter").train()
    assert_close(logits_of(loaded, ids), logits_of(adapter, ids), atol=1e-4)
