"""Memory by arithmetic is what real training takes: weights, gradients and optimizer to the byte, peaks within 5%."""

import weakref
from contextlib import nullcontext

import pytest
import torch
from peft import get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.utils import is_bitsandbytes_available

from transformers_arm.configuration_arm import ArmConfig
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.sizes.adapters import lora_config, quantization
from transformers_arm.sizes.memory import (
    PARTS,
    ROLLOUT_PARTS,
    Setup,
    layer_bytes,
    memory_table,
    parameter_counts,
    rollout_memory,
    setups,
    step_memory,
)
from transformers_arm.sizes.presets import arm_7b_config
from transformers_arm.training.grpo_config import ArmGRPOConfig

TOKENS = 512
SETUPS = [
    Setup("fp32", dtype=torch.float32),
    Setup("bf16"),
    Setup("LoRA, fp32", dtype=torch.float32, lora={"r": 8}),
    Setup("LoRA", lora={"r": 8}),
    Setup("LoRA, visual rows", lora={"r": 8, "visual_rows": True}),
]

with_bitsandbytes = pytest.mark.skipif(not is_bitsandbytes_available(), reason="bitsandbytes is not installed")


def small_config(**fields):
    """In proportions like arm-7b's: grouped queries, an MLP four times as wide, more rows than width."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    vq_config = {"vision_config": vision, "num_projection_layers": 1, "fsq_levels": [2] * 8}
    rows = {"visual_token_offset": 400, "vocab_size": 656, "shape_token_offset": 100}
    ids = {"vision_start_token_id": 1, "vision_end_token_id": 2, "image_token_id": 3}
    return ArmConfig(**{**sizes, **rows, **ids, "num_hidden_layers": 8, "vq_config": vq_config, **fields})


def made(config, setup):
    torch.manual_seed(0)
    model = ArmForCausalLM._from_config(config, dtype=setup.dtype)
    if setup.lora is not None:
        model = get_peft_model(model, lora_config(model, **setup.lora))
    return model.train()


def ids_of(config):
    """A quarter text, then image tokens."""
    text = torch.randint(4, config.shape_token_offset, (TOKENS // 4,))
    text[-1] = config.width_token_offset
    codes = torch.randint(config.visual_token_offset, config.vocab_size, (TOKENS - len(text),))
    return torch.cat([text, codes])[None]


def autocast(setup):
    """Trainer's, with which adapters in fp32 go along with weights in bfloat16."""
    mixed = setup.lora is not None and setup.dtype == torch.bfloat16
    return torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext()


def step(model, setup, ids):
    with autocast(setup):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside of it have held at once, beside those that were there before."""

    def __init__(self, before):
        super().__init__()
        self.live = self.bytes = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in before}

    def free(self, key, size):
        self.known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
        self.bytes = max(self.bytes, self.live)
        return result


def kept_bytes(model, setup, ids):
    """What the decoder keeps for its backward pass, without weights."""
    arm = model if setup.lora is None else model.get_base_model()
    own = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(setup):
        last_hidden_state = arm.model(ids, use_cache=False).last_hidden_state
    assert last_hidden_state.requires_grad
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


@pytest.mark.parametrize("setup", SETUPS[:4], ids=lambda setup: setup.name)
@pytest.mark.parametrize("fields", [{}, {"num_key_value_heads": 4, "hidden_size": 96}], ids=["grouped", "ungrouped"])
def test_a_layer_keeps_what_the_formula_says_to_the_byte(setup, fields):
    few, many = (small_config(num_hidden_layers=layers, **fields) for layers in (2, 4))
    ids = ids_of(few)
    kept = [kept_bytes(made(config, setup), setup, ids) for config in (few, many)]
    low_rank_weights = 0  # adapters in bfloat16 are casts, which are kept as well
    if setup.lora is not None and setup.dtype == torch.bfloat16:
        adapters = [p for name, p in made(few, setup).named_parameters() if "lora_" in name]
        low_rank_weights = sum(2 * p.numel() for p in adapters)
    assert kept[1] - kept[0] == 2 * TOKENS * layer_bytes(few, setup) + low_rank_weights


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_weights_gradients_and_optimizer_are_exact_and_the_peak_is_within_5_percent(setup, checkpointing, monkeypatch):
    for module in ("loss_arm", "sizes.memory"):  # as many chunks as arm-7b has
        monkeypatch.setattr(f"transformers_arm.{module}.LOGITS_AT_ONCE", 2**15)
    config = small_config()
    model, ids = made(config, setup), ids_of(config)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    step(model, setup, ids)
    optimizer.step()
    weights = [*model.parameters(), *model.buffers()]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    parts = step_memory(config, setup, tokens=TOKENS, checkpointing=checkpointing)
    for name, tensors in (("weights", weights), ("gradients", gradients), ("optimizer", states)):
        assert parts[name] == sum(tensor.nbytes for tensor in tensors), name
    with Peak([*weights, *gradients, *states]) as peak:
        step(model, setup, ids)  # the second micro-batch of an update: gradients are there already
    held = sum(parts[name] for name in PARTS[:3])
    assert parts["total"] - held == pytest.approx(peak.bytes, rel=0.05)


@with_bitsandbytes
def test_8_bit_optimizer_states_are_exact():
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

    config, setup = small_config(), Setup("8 bits", dtype=torch.float32, eight_bit=True)
    model = made(config, setup)
    embedding = model.get_input_embeddings()
    GlobalOptimManager.get_instance().register_module_override(embedding, "weight", {"optim_bits": 32})  # as Trainer
    optimizer = AdamW8bit([p for p in model.parameters() if p.requires_grad])
    step(model, setup, ids_of(config))
    optimizer.step()
    tables = ("qmap1", "qmap2")  # what 8 bits stand for; all states share them
    states = [
        {name: value for name, value in state.items() if name not in tables} for state in optimizer.state.values()
    ]
    found = sum(value.nbytes for state in states for value in state.values() if torch.is_tensor(value))
    assert step_memory(config, setup, tokens=1)["optimizer"] == found


@with_bitsandbytes
def test_4_bit_weights_are_exact(tmp_path):
    config, setup = small_config(), Setup("4 bits", lora={"r": 8}, four_bit=True)
    made(config, Setup("bf16")).save_pretrained(tmp_path)
    settings = {"quantization_config": quantization(), "dtype": torch.bfloat16}
    model = ArmForCausalLM.from_pretrained(tmp_path, **settings)
    model = get_peft_model(model, lora_config(model, r=8))
    counter = model.get_buffer("base_model.model.model.vq_model.channel_norm.num_batches_tracked")
    found = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    found += 8 - counter.nbytes  # beside quantized weights transformers casts the tokenizer's counter to their dtype
    for parameter in model.parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            nested = state.state2
            found += sum(part.nbytes for part in (state.absmax, state.code, state.offset, nested.absmax, nested.code))
    assert step_memory(config, setup, tokens=1)["weights"] == found


def test_arm_7b_s_parameters_are_counted_by_group():
    counts = parameter_counts(arm_7b_config())
    assert counts == {
        "embedding": 217_600 * 3584,
        "layers": 28 * 233_057_792,
        "norm": 3584,
        "head": 217_600 * 3584,
        "tokenizer": 596_453_440,
    }
    assert sum(counts.values()) - counts["tokenizer"] == 8_085_378_560
    assert parameter_counts(small_config(tie_word_embeddings=True))["head"] == 0


def test_arm_7b_takes_16_bytes_a_weight_and_less_with_each_means():
    config, language, tokenizer = arm_7b_config(), 8_085_378_560, 596_453_440
    by_name = {setup.name: step_memory(config, setup, tokens=8192, checkpointing=True, gpus=8) for setup in setups()}
    full = by_name["full, bf16, fp32 master"]
    static = sum(full[name] for name in ("weights", "gradients", "optimizer"))
    assert static == pytest.approx(16 * language + 4 * tokenizer, rel=1e-5)
    order = ["full, fp32", "full, bf16", "full, bf16, 8-bit AdamW", "LoRA, visual rows", "LoRA", "QLoRA"]
    totals = [by_name[name]["total"] for name in order]
    assert totals == sorted(totals, reverse=True) and totals[-1] < 16 * 2**30
    stages = [by_name[name]["total"] for name in ("the same, ZeRO-2", "the same, ZeRO-3 or FSDP")]
    assert full["total"] > stages[0] > stages[1]
    for setup in setups():
        assert step_memory(config, setup, tokens=8192)["total"] > by_name[setup.name]["total"]


@pytest.mark.parametrize("fields", [{}, {"num_key_value_heads": 4}], ids=["grouped", "ungrouped"])
def test_drawing_pictures_takes_what_the_formula_says(fields):
    config, setup, pictures, side, prompt = small_config(**fields), Setup("fp32", dtype=torch.float32), 16, 16, 32
    model = made(config, setup).eval()
    parts = rollout_memory(config, setup, pictures=pictures, tokens=side**2, prompt=prompt)
    options = {"generation_mode": "image", "image_grid": (side, side), "guidance_scale": 1.0, "top_k": 0}
    ids = torch.randint(4, config.shape_token_offset, (pictures, prompt))
    with Peak([*model.parameters(), *model.buffers()]) as peak:
        model.generate(ids, **options)
    assert peak.bytes == pytest.approx(parts["cache"] + parts["choosing"], rel=0.1)


def test_rollouts_of_arm_7b_fit_beside_its_training_in_micro_batches_and_not_at_once():
    zero = next(setup for setup in setups() if setup.stage == 2)
    at_once = ArmGRPOConfig("unused", use_cpu=True).rollout_batch_size
    totals = {
        pictures: rollout_memory(arm_7b_config(), zero, pictures=pictures, tokens=4096, gpus=8)["total"]
        for pictures in (at_once, 128)
    }
    room = 70 * 2**30  # of a card of 80 GB, less what CUDA and torch keep
    assert totals[at_once] < 0.8 * room < room < totals[128]
    cache = [rollout_memory(arm_7b_config(), zero, pictures=count, tokens=4096)["cache"] for count in (1, 128)]
    assert cache[1] == 128 * cache[0] == 128 * (4096 + 256) * 28 * 2 * 4 * 128 * 2


def test_rollouts_hold_a_reference_unless_adapters_have_it_and_want_whole_weights():
    for setup in setups():
        if setup.stage == 3:
            with pytest.raises(ValueError, match="Rollouts want whole weights on each GPU, and the same, ZeRO-3 or"):
                rollout_memory(small_config(), setup, pictures=1, tokens=1)
            continue
        parts = rollout_memory(small_config(), setup, pictures=2, tokens=64)
        assert (parts["reference"] > 0) == (setup.lora is None)
        assert parts["total"] == sum(parts[name] for name in ROLLOUT_PARTS)
    with pytest.raises(ValueError, match="0 pictures of 64 tokens .* must be 1 or more"):
        rollout_memory(small_config(), Setup("bf16"), pictures=0, tokens=64)


def test_the_table_has_a_row_for_each_setup_with_and_without_checkpointing():
    rows = memory_table(small_config(), tokens=1024).splitlines()
    assert [row.split(" | ")[0] for row in rows[5:]] == [f"| {setup.name}" for setup in setups() for _ in range(2)]
    more = memory_table(small_config(), tokens=1024, picture_tokens=64).splitlines()[len(rows) :]
    assert more[1].startswith("GiB on one GPU while pictures of 64 tokens are drawn")
    assert [row.split(" | ")[:2] for row in more[5:8]] == [["| ZeRO-2", str(count)] for count in (8, 32, 128)]


@pytest.mark.parametrize("amounts", [{"tokens": 0}, {"tokens": 1, "gpus": 0}])
def test_nothing_is_trained_on_no_tokens_or_no_gpu(amounts):
    with pytest.raises(ValueError, match="both must be 1 or more"):
        step_memory(small_config(), Setup("bf16"), **amounts)
