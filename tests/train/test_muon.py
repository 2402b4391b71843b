"""Muon against torch's class, matrix by matrix, and the norms that it holds."""

import pytest
import torch

from scalelab.errors import ConfigError, LaunchError
from scalelab.hardware.layout import Layout
from scalelab.model.transformer.config import Transformer
from scalelab.model.transformer.network import TransformerNet
from scalelab.train.engines.layout_checks import refuse_layout
from scalelab.train.optimizers.adamw import AdamW
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.optimizers.muon import Muon

RATES = {"lr_matrix": 1e-2, "lr_embedding": 3e-2, "lr_head": 2e-2, "lr_vector": 5e-3, "grad_clip": None}


def network():
    net = TransformerNet(
        Transformer(n_layers=1, d_model=16, n_heads=4, n_kv_heads=2, head_size=4, d_ff=32, vocab_size=50)
    )
    net.reset(0)
    return net


def trained(optimizer, steps=4):
    """A network after some updates, and its gradients before each."""
    net = network()
    flat, gradients = FlatOptimizer(net, net.kinds(), optimizer, torch.float32), []
    for step in range(steps):
        window = torch.randint(50, (4, 13), generator=torch.Generator().manual_seed(step))
        net(window[:, :-1], window[:, 1:]).backward()
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters()})
        flat.gather()
        flat.step(0.5)
    return net, gradients


def test_each_matrix_moves_as_by_torchs_class_and_all_else_as_by_adamw():
    net, gradients = trained(Muon(**RATES, weight_decay=0.3, momentum=0.9))
    start, adamw = network(), AdamW(**RATES, weight_decay=0.3)
    theirs = FlatOptimizer(start, start.kinds(), adamw, torch.float32)
    pieces = {
        (name, part): torch.nn.Parameter(value.clone())
        for name, weight in network().named_parameters()
        if net.kinds()[name] == "matrix"
        for part, value in enumerate(
            weight.detach().split(
                [*net.config.joined(name).values()] if len(net.config.joined(name)) > 1 else len(weight)
            )
        )
    }
    muon = torch.optim.Muon(
        pieces.values(), lr=0.005, weight_decay=0.3, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    for step in gradients:
        for name, parameter in start.named_parameters():
            parameter.grad.copy_(step[name])
            at = 0
            for (owner, _), piece in pieces.items():
                if owner == name:
                    piece.grad = step[name][at : at + len(piece)].clone()
                    at += len(piece)
        theirs.step(0.5)
        muon.step()

    assert len(pieces) == 7  # q, k, v, out, gate, up, down
    for name, weight in net.named_parameters():
        parts = [piece for (owner, _), piece in pieces.items() if owner == name]
        expected = torch.cat(parts) if parts else start.get_parameter(name)
        assert torch.allclose(weight, expected, rtol=1e-5, atol=1e-6), name


def test_norms_are_held_matrix_by_matrix():
    held, start = trained(Muon(**RATES, weight_decay=0.3, hold_norm=True))[0], network()
    free = trained(Muon(**RATES, weight_decay=0.3))[0]

    for name, rows in (("blocks.0.qkv", (16, 8, 8)), ("blocks.0.down", (16,))):
        before, after, other = (
            [part.norm().item() for part in net.get_parameter(name).detach().split(rows)]
            for net in (start, held, free)
        )
        assert after == pytest.approx(before, rel=1e-5)
        assert other != pytest.approx(before, rel=1e-3)
        assert not torch.allclose(held.get_parameter(name), start.get_parameter(name), rtol=1e-2)


def test_an_update_has_the_root_mean_square_of_adamw():
    """One update from zero momentum: 0.2 x lr, whatever the shape, as singular values are near 1."""
    for shape in ((32, 32), (64, 16), (16, 64)):
        weight, gradient = torch.zeros(shape), torch.randn(shape, generator=torch.Generator().manual_seed(0))
        muon = Muon(**RATES)
        muon.update(
            [weight],
            [gradient],
            {"exp_avg": [torch.zeros(shape)], "exp_avg_sq": [torch.zeros(shape)]},
            group=next(group for group in muon.groups() if group.match == "matrix/*"),
            lr=1e-2,
            step=1,
        )
        assert weight.square().mean().sqrt().item() == pytest.approx(0.2e-2, rel=0.3)


def test_a_matrix_of_three_dimensions_is_refused():
    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.ones(2, 3, 4))

    flat = FlatOptimizer(Stack(), {"weights": "matrix"}, Muon(**RATES), torch.float32)
    with pytest.raises(ConfigError, match="has 3 dimensions"):
        flat.step(1.0)


def test_a_layout_over_processes_is_refused_by_name(tiny_spec):
    spec = tiny_spec(optimizer={"kind": "muon", **RATES})

    refuse_layout(Layout(), spec)
    with pytest.raises(LaunchError, match="the optimizer muon needs whole matrices"):
        refuse_layout(Layout(shard=2), spec)
    refuse_layout(Layout(shard=2), tiny_spec())
