"""Runs a script as accelerate's FSDP processes do, where there is no GPU: `fsdp_on_cpu.py SCRIPT ARGUMENTS...`.

accelerate turns FSDP on for GPUs alone, though torch shards on CPUs as well. This turns it on for its CPU processes,
and changes nothing else: what is launched, and how, is what the caller's `accelerate launch` says.
"""

import os
import runpy
import sys

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

plain = AcceleratorState.__init__


def with_fsdp(self, mixed_precision=None, *args, fsdp_plugin=None, **kwargs):
    plain(self, mixed_precision, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)


if __name__ == "__main__":
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    AcceleratorState.__init__ = with_fsdp
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
