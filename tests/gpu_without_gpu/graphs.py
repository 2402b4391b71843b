"""Graphs that torch.compile makes, counted: a backend that records every graph and computes like eager.

Where only the graphs count, nothing is traced a second time for the backward pass (`lowered=False`).
"""

from contextlib import contextmanager

import torch

from scalelab.train.engines import compilation


class Graphs:
    """What was compiled."""

    def __init__(self, lowered=True):
        self.lowered = lowered
        """Whether graphs go through AOTAutograd, as for inductor."""
        self.shapes = []
        """For each graph the shapes that enter it."""
        self.symbols = []
        """Sizes that are not static."""

    def __len__(self):
        return len(self.shapes)

    def __call__(self, module, inputs, **options):
        """A backend of torch.compile."""
        from torch._dynamo.backends.debugging import aot_eager

        self.shapes.append([tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)])
        for node in module.graph.find_nodes(op="placeholder"):
            value = node.meta.get("example_value")
            sizes = value.shape if isinstance(value, torch.Tensor) else [value]
            self.symbols += [size for size in sizes if isinstance(size, torch.SymInt)]
        return aot_eager(module, inputs, **options) if self.lowered else module.forward


@contextmanager
def counted(monkeypatch, lowered=True):
    """Graphs made in the body."""
    found = Graphs(lowered)
    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", found)
    yield found
    torch._dynamo.reset()
