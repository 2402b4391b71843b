"""Out of memory: what the failed computation held is released before the next one."""

import weakref

import pytest
import torch

from scalelab.errors import RunError
from scalelab.hardware.device import OutOfMemory, find_device
from scalelab.train.engines import single
from scalelab.train.engines.single import SingleEngine


class _Full(torch.autograd.Function):
    """Fails in the backward pass, with an error that was raised from another."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        held = grad + 1
        try:
            raise RuntimeError(f"inner of {held.shape}")
        except RuntimeError as error:
            raise OutOfMemory("no room\nfor the gradients") from error


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_activations_are_released_before_memory_is_given_back(tiny_spec, monkeypatch, where):
    engine = SingleEngine(tiny_spec(), find_device(), "fp32", 8)
    reference = SingleEngine(tiny_spec(), find_device(), "fp32", 4)
    forward, alive, freed = engine.network.forward, [], []

    def tight(tokens, targets):
        activation = engine.network.embedding[tokens] * 1.0
        alive.append(weakref.ref(activation))
        if len(tokens) > 4 and where == "forward":
            raise OutOfMemory("no room")
        loss = forward(tokens, targets)
        return _Full.apply(loss + 0 * activation.square().sum()) if len(tokens) > 4 else loss

    def free(device):
        freed.append([kept() for kept in alive])

    monkeypatch.setattr(engine.network, "forward", tight)
    monkeypatch.setattr(single, "free_cached_memory", free)
    batch = torch.randint(257, (8, 33), generator=torch.Generator().manual_seed(0))

    assert float(engine.gradient(batch)) == pytest.approx(float(reference.gradient(batch)))
    assert freed == [[None]]
    assert engine.micro_rows == 4
    assert torch.allclose(engine.optimizer.gradient, reference.optimizer.gradient)


def test_a_window_that_does_not_fit_names_the_first_line_of_the_reason(tiny_spec, monkeypatch):
    engine = SingleEngine(tiny_spec(), find_device(), "fp32", 1)
    monkeypatch.setattr(engine.network, "forward", lambda x, y: _Full.apply(engine.network.norm.sum()))
    with pytest.raises(RunError, match="one window of 32 tokens does not fit") as refused:
        engine.gradient(torch.zeros(2, 33, dtype=torch.long))
    assert refused.value.where.endswith("no room")


def test_memory_that_lacks_in_the_update_ends_the_try(tiny_spec, monkeypatch):
    """Half an update cannot be repeated: the run goes back to its checkpoint."""
    engine = SingleEngine(tiny_spec(), find_device(), "fp32", 8)
    engine.gradient(torch.zeros(8, 33, dtype=torch.long))

    def full(*_, **__):
        raise OutOfMemory("no room for the update")

    monkeypatch.setattr(type(engine.spec.optimizer), "update", full)
    with pytest.raises(OutOfMemory):
        engine.update(1.0, engine.norm())
    assert engine.micro_rows == 8
