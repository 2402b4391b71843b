"""What torch is asked to do, counted: collective operations, waits for a device, bytes in host memory."""

import weakref
from collections import Counter

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READ = torch.ops.aten._local_scalar_dense.default
"""What float(tensor), int(tensor) and tensor.item() come to: of a GPU's tensor it waits for the GPU."""


class Operations(TorchDispatchMode):
    """Counts collective operations by name, and reads of numbers.

    Args:
        on_host: Tensors that lie in host memory on any device, so that a read of them is no wait.
    """

    def __init__(self, on_host=()):
        super().__init__()
        self.collectives, self.reads, self._on_host = Counter(), 0, {id(tensor) for tensor in on_host}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count one operation and do it."""
        if func.namespace == "c10d":
            self.collectives[func.name()] += 1
        if func is READ and id(args[0]) not in self._on_host:
            self.reads += 1
        return func(*args, **(kwargs or {}))


class HostBytes(TorchDispatchMode):
    """Bytes of the tensors that are made and still alive, and the most there were at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Do one operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor):
        local = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
        if local.device.type == "meta":
            return
        storage = local.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, n_bytes):
        self.now -= n_bytes
