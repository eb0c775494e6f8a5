"""Weights sharded by FSDP2: the routed loss and all gradients are those of whole weights."""

import os
import subprocess
import sys

SHARDED = """
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from transformers_arm import ArmForCausalLM

dist.init_process_group("gloo")
model = ArmForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).train()
config = model.config
image = [*config.image_opening(2, 2), *(config.visual_token_offset + code for code in (7, 0, 1023, 7))]
ids = torch.tensor([[5, 6, 7, *image, config.vision_end_token_id, 8, 9]])
whole = model(ids, labels=ids)
whole.loss.backward()
expected = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
model.zero_grad()

mesh = init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
assert model.lm_head.weight.to_local().shape[0] < config.vocab_size  # it is sharded
sharded = model(ids, labels=ids)
sharded.loss.backward()
torch.testing.assert_close(sharded.loss, whole.loss, atol=1e-6, rtol=0)
assert set(sharded.losses) == {"text", "image"}
found = {name: value.grad.full_tensor() for name, value in model.named_parameters() if value.grad is not None}
assert found.keys() == expected.keys() and "lm_head.weight" in found
for name, gradient in expected.items():
    torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=0, msg=name)
dist.destroy_process_group()
"""


def test_weights_sharded_by_fsdp2_give_the_loss_and_gradients_of_whole_ones(arm_folder, tmp_path):
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script), arm_folder]
    subprocess.run(torchrun, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
