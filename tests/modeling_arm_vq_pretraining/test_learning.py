"""Only learners get gradients, the same ones in every mode of memory, precision and processes."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import Qwen2ForCausalLM
from vq_pretraining import LOSSES, new_model, run

from transformers_arm import ArmVQForPreTraining

FROZEN = ("vq_model.vision_model.", "text_model.", "pooling_head.", "captioner.", "pixel_transformer.null_condition")


# --- what learns -----------------------------------------------------------------------------------------------------


def gradients_of(model, batch, seeds):
    """Largest absolute gradient of each parameter over several steps, None where none came."""
    model.zero_grad()
    for seed in range(seeds):
        run(model, batch, seed).loss.backward()
    return {name: None if p.grad is None else p.grad.abs().max().item() for name, p in model.named_parameters()}


@pytest.mark.parametrize("origin", ["assembled", "loaded"])
def test_gradients_reach_all_that_learns_and_nothing_frozen(tiny_backbones, batch, origin, tmp_path):
    model = new_model(tiny_backbones)
    if origin == "loaded":
        model.save_pretrained(tmp_path)
        model = ArmVQForPreTraining.from_pretrained(tmp_path).train()
    found = gradients_of(model, batch, seeds=3)
    frozen = {name for name in found if name.startswith(FROZEN)}
    learning = found.keys() - frozen
    assert {name for name, value in found.items() if value is None} == frozen
    # A constant added to all keys, or before a batch norm, changes nothing: their gradients are zero but for rounding.
    without_effect = {name for name in learning if name.endswith((".k_proj.bias", ".to_k.bias"))}
    without_effect |= {"vq_model.down_projection.bias", "vq_model.down_norm.bias"}
    assert without_effect <= learning
    assert {name for name in learning - without_effect if not found[name] > 1e-7} == set()
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == learning


def test_frozen_parts_stay_in_evaluation_mode(model):
    model.train()
    layers = set(model.captioner.model.layers)  # in training they checkpoint gradients, and do nothing else
    for part in (model.vq_model.vision_model, model.text_model, model.pooling_head, model.captioner):
        assert not any(module.training for module in set(part.modules()) - layers)
    assert model.vq_model.channel_norm.training and model.pixel_transformer.training
    assert all(layer.training for layer in layers)
    assert not any(layer.training for layer in model.eval().captioner.model.layers)


def test_a_captioner_s_dropout_stays_off(tiny_backbones, batch, tmp_path):
    captioner = Qwen2ForCausalLM.from_pretrained(tiny_backbones["captioner"])
    captioner.config.attention_dropout = 0.5
    captioner.save_pretrained(tmp_path)
    model = new_model(tiny_backbones | {"captioner": str(tmp_path)})
    z_q = torch.randn(4, 3, 4, 32)
    expected = model.eval().caption_loss(z_q, batch["caption_ids"])
    assert model.captioner.model.layers[0].self_attn.attention_dropout == 0.5
    assert torch.equal(model.train().caption_loss(z_q, batch["caption_ids"]), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_alone_teaches_the_layers_before_the_quantizer(tiny_backbones, batch, name):
    weights = {f"{other}_loss_weight": float(other == name) for other in LOSSES}
    found = gradients_of(new_model(tiny_backbones, **weights), batch, seeds=1)
    assert found["vq_model.down_projection.weight"] > 0
    assert found["vq_model.down_blocks.layers.0.self_attn.v_proj.weight"] > 0


def test_a_few_steps_lower_the_loss(tiny_backbones, batch):
    model = new_model(tiny_backbones)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(25):
        output = run(model, batch, seed=step % 2)
        losses.append(output.loss.item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


# --- precision and memory --------------------------------------------------------------------------------------------


def losses_and_gradients(model, batch):
    output = run(model, batch)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_loss_and_no_gradient(tiny_backbones, batch, use_reentrant):
    model = new_model(tiny_backbones)
    expected, gradients = losses_and_gradients(model, batch)
    model = new_model(tiny_backbones)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    calls = dict.fromkeys(
        ["vq_model.down_blocks.layers.0.mlp", "vq_model.up_blocks.layers.0.mlp", "pixel_transformer.blocks.0.ff"]
        + ["captioner.model.layers.0.mlp", "vq_model.vision_model.encoder.layers.0.mlp"],
        0,
    )
    for name in calls:
        model.get_submodule(name).register_forward_hook(
            lambda *args, name=name: calls.update({name: calls[name] + 1}), always_call=True
        )
    found, checkpointed = losses_and_gradients(model, batch)
    assert calls.pop("vq_model.vision_model.encoder.layers.0.mlp") == 2  # no gradients; pictures, and mixed ones
    assert calls.pop("vq_model.down_blocks.layers.0.mlp") == 2 * 2
    assert set(calls.values()) == {2}  # forward, and again in the backward pass
    torch.testing.assert_close(found.losses, expected.losses)
    assert checkpointed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


@pytest.mark.parametrize("mode", ["autocast", "weights"])
def test_bfloat16_gives_about_the_losses_and_gradients_of_fp32(tiny_backbones, batch, mode):
    smooth = {"context_loss_weight": 0}  # that loss counts bits that flip
    expected, gradients = losses_and_gradients(new_model(tiny_backbones, **smooth), batch)
    model = new_model(tiny_backbones, dtype=torch.bfloat16 if mode == "weights" else torch.float32, **smooth)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        found, rounded = losses_and_gradients(model, batch)
    assert (found.codes == expected.codes).float().mean() > 0.9  # a bit may flip where a channel is nearly 0
    for name, value in expected.losses.items():
        assert found.losses[name].item() == pytest.approx(value.item(), rel=0.01), name
        assert found.losses[name].dtype == torch.float32
    assert rounded.keys() == gradients.keys()
    for part in ("vq_model.down", "vq_model.up", "caption_connector", "pixel_transformer", "logit"):
        names = [name for name in gradients if name.startswith(part)]
        ours, theirs = (torch.cat([each[name].float().flatten() for name in names]) for each in (rounded, gradients))
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99, part
        assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.05), part


# --- several processes -----------------------------------------------------------------------------------------------


TWO_PROCESSES = """
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from transformers_arm import ArmVQForPreTraining

dist.init_process_group("gloo")
folder, rank = sys.argv[1], dist.get_rank()
expected = torch.load(f"{folder}/expected.pt")
model = ArmVQForPreTraining.from_pretrained(folder, dtype=torch.float32).train()
model.vq_model.channel_norm.eval()  # whose statistics are each process's own
parallel = DistributedDataParallel(model)
batch = {name: value.chunk(2)[rank] for name, value in expected["batch"].items()}
output = parallel(**batch)
output.loss.backward()
loss = output.loss.detach().clone()
dist.all_reduce(loss)
torch.testing.assert_close(loss / 2, expected["loss"], atol=1e-4, rtol=0)
assert (output.loss - expected["loss"]).abs() > 1e-3  # it takes both
found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
assert found.keys() == expected["gradients"].keys() and "logit_scale" in found
for name, gradient in expected["gradients"].items():
    torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4, msg=name)

batch = {name: value[3 * rank : 3 + rank] for name, value in expected["batch"].items()}  # 3 and 1: no process hangs
assert parallel(**batch).loss.isfinite()
local = model.eval()(**batch)  # evaluation needs no other process
assert local.loss.isfinite()

# Three pictures with captions, and one without, whose process has no part in the losses of captions.
model = ArmVQForPreTraining.from_pretrained(f"{folder}/captions", dtype=torch.float32).train()
model.vq_model.channel_norm.eval()
parallel, share = DistributedDataParallel(model), slice(3 * rank, 3 + rank)
for _ in range(2):  # the second step waits for all gradients of the first
    model.zero_grad()
    output = parallel(**{name: value[share] for name, value in expected["mixed"].items()}, num_items_in_batch=4)
    assert set(output.losses) == ({"feature"} if rank else {"caption", "sigmoid", "feature"})
    (2 * output.loss).backward()  # as the Trainer, since the mean of gradients is to be their sum
for name, gradient in expected["of_mixed"].items():
    torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-4, rtol=1e-4, msg=name)
dist.destroy_process_group()
"""
OF_ITS_OWN_BATCH = {"decorrelation_loss_weight": 0, "context_loss_weight": 0}  # losses that see a process alone


def test_two_processes_give_the_losses_and_gradients_of_one_with_both_batches(tiny_backbones, batch, tmp_path):
    model = new_model(tiny_backbones, caption_loss_weight=0, pixel_loss_weight=0, **OF_ITS_OWN_BATCH)
    model.save_pretrained(tmp_path)
    model.vq_model.channel_norm.eval()
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids")}
    output, gradients = losses_and_gradients(model, inputs)
    assert set(output.losses) == {"sigmoid", "feature"}
    expected = {"batch": inputs, "loss": output.loss.detach(), "gradients": gradients}
    model = new_model(tiny_backbones, pixel_loss_weight=0, **OF_ITS_OWN_BATCH)
    model.save_pretrained(tmp_path / "captions")
    model.vq_model.channel_norm.eval()
    mixed = {name: value.clone() for name, value in batch.items()}
    mixed["input_ids"][3], mixed["caption_ids"][3] = -100, -100
    expected |= {"mixed": mixed, "of_mixed": losses_and_gradients(model, mixed)[1]}
    torch.save(expected, tmp_path / "expected.pt")
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(tmp_path / "two.py"), str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
