"""Graphs that torch.compile makes, counted: a backend that records every graph and computes like eager."""

from contextlib import contextmanager

import torch

from scalelab.train.engines import compilation


class Graphs:
    """What was compiled."""

    def __init__(self):
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
        return aot_eager(module, inputs, **options)


@contextmanager
def counted(monkeypatch):
    """Graphs made in the body."""
    found = Graphs()
    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", found)
    yield found
    torch._dynamo.reset()
