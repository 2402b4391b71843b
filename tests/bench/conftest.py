"""A pretended GPU whose tensors are on the CPU, and workbenches with tiny models."""

import gc

import pytest
import torch
from pretended_devices import H100

from scalelab.bench.workbench import Workbench
from scalelab.hardware.device import find_device
from scalelab.train.engines import compilation

TINY = {
    "sizes": [4e3, 1.2e4],
    "reference": 4e3,
    "middle": 1.2e4,
    "recipe": {
        "data": {
            "source": {"kind": "synthetic", "vocab": 64, "topics": 8, "documents": 200, "length": 33},
            "validation": 0.3,
        },
        "seq_len": 32,
        "param_count": "matmul",
        "model": {"kind": "transformer", "n_layers": 1, "head_size": 8},
        "optimizer": {"lr": 6e-3, "embedding_lr": 10, "head_lr": 6},
        "batch": {"coefficient": 1, "exponent": 0.5, "min_tokens": 256, "max_tokens": 256},
        "schedule": {"kind": "wsd"},
        "min_steps": 1,
        "evaluation": {"tokens": 1024, "curve_points": 2, "curve_tokens": 512},
    },
}
"""Changes of a workload: models of thousands of parameters."""


@pytest.fixture
def short(monkeypatch):
    """Few steps, short batches and little time for each measurement."""
    from scalelab.bench import steps
    from scalelab.bench.members import correctness, settings, several, throughput, validation

    for module in (throughput, settings, validation):
        monkeypatch.setattr(module, "RATE_S", 0.05)
    monkeypatch.setattr(steps, "PRODUCT_S", 0.0)
    monkeypatch.setattr(steps, "PRODUCT_SIZES", {"cpu": 256})
    monkeypatch.setattr(several, "MEASURED_S", 0.2)
    monkeypatch.setattr(correctness, "COMPARED_TOKENS", {"cpu": 256, "cuda": 256})
    monkeypatch.setattr(validation, "SAMPLE_TOKENS", {"cpu": 512, "cuda": 512})
    gc.freeze()  # the collector runs after each row, and needs half a second for all that is there by now


@pytest.fixture
def cpu(short, tmp_path, monkeypatch):
    """This CPU with tiny models; what is compiled is compiled for eager kernels."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    return Workbench(find_device(), tmp_path, TINY)


@pytest.fixture
def on(short, tmp_path, monkeypatch):
    """A function that makes a workbench of a pretended GPU; with compiled=True for eager kernels, else not."""

    def make(device=H100, *, compiled=False, batch_tokens=256, **changes):
        monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
        for home in ("scalelab.model.kernels", "scalelab.model.transformer.network"):
            monkeypatch.setattr(f"{home}.use_cpu_kernels", lambda x: False)
        monkeypatch.setattr("scalelab.train.loop.find_device", lambda: device)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        torch._dynamo.reset()
        batch = TINY["recipe"]["batch"] | {"min_tokens": batch_tokens, "max_tokens": batch_tokens}
        recipe = TINY["recipe"] | {"compile": "auto" if compiled else "off", "batch": batch}
        return Workbench(device, tmp_path, TINY | {"recipe": recipe} | changes)

    yield make
    torch._dynamo.reset()
