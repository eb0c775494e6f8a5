"""What every trainer of ours, however it is started, asks of the process that it runs in.

On a CPU it keeps the memory that a step frees for the next: glibc hands large buffers back to the kernel, which clears
their pages when they are touched again. One of several processes leaves their group before it ends: left to the end,
gloo's threads may abort it after all is done and saved. Knows nothing about trainings but where they compute.
"""

import atexit
import ctypes
import os
import sys

import torch.distributed

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2  # of glibc's malloc.h
KEPT = 2**30  # bytes: smaller buffers lie on the heap, and so much free memory at its end stays there
MOST_MAPPED = 2**25  # the largest threshold that older glibc takes
GROWTH = 2**26  # bytes, by which the heap grows at least
STATED = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Has this process keep up to 1 GiB that it frees, from now on; whether it does.

    It does not where malloc is not glibc's, nor where the environment says how malloc is to be (`MALLOC_...`,
    `GLIBC_TUNABLES`, `LD_PRELOAD`): whoever said so knows better.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in STATED):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    mapped = mallopt(MMAP_THRESHOLD, KEPT) or mallopt(MMAP_THRESHOLD, MOST_MAPPED)
    return bool(mapped and mallopt(TRIM_THRESHOLD, KEPT) and mallopt(TOP_PAD, GROWTH))


def leave_group() -> None:
    """Leaves the group of processes, where this one is of any."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class ProcessMixin:
    """For a `Trainer`: `keep_freed_memory` where it trains on a CPU, and `leave_group` when the process ends."""

    def train(self, *args, **kwargs):
        if self.args.device.type == "cpu":
            keep_freed_memory()
        atexit.unregister(leave_group)  # once, however often it trains
        atexit.register(leave_group)
        return super().train(*args, **kwargs)
