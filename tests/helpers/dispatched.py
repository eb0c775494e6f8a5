"""What torch is asked to do, counted as it is dispatched."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: values read, masks as indices, lists that become tensors."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # In inference mode `item` comes whole.
        name = {"item": "_local_scalar_dense"}.get(func.overloadpacket.__name__, func.overloadpacket.__name__)
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "lift_fresh"):
            self.found[name] += 1
        elif name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            self.found[name] += any(index.dtype == torch.bool for index in tree_leaves(args[1]) if index is not None)
        return func(*args, **(kwargs or {}))
