"""LSTMs: counts and FLOPs by hand and by torch, the gates by hand, states and segments."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from scalelab.errors import ConfigError
from scalelab.hardware.layout import Layout
from scalelab.model.base import LAYOUTS
from scalelab.model.generate import FullContextReader, write
from scalelab.model.lstm.config import Lstm
from scalelab.testing import architectures as suite

MODEL = Lstm(layers=2, units=8, vocab_size=50)


def test_counts_and_flops_by_hand():
    """2 layers of 8 units: 4 gates of 8 x 8 twice, and 2 x 32 biases; 50 tokens twice."""
    size, tied = MODEL.size(12), MODEL.model_copy(update={"tied": True}).size(12)

    assert size.n_params_non_embedding == tied.n_params_non_embedding == 2 * (2 * 4 * 64 + 64) == 1152
    assert size.n_params_total == size.n_params_active == 1152 + 2 * 400
    assert tied.n_params_total == 1152 + 400
    assert size.n_params_matmul == tied.n_params_matmul == 1024 + 400
    # No gradient goes to the state before the first of 12 tokens: 2 x 256 FLOPs a layer.
    assert size.flops_per_token == 6 * 1424 - 2 * 512 / 12


@pytest.mark.parametrize("tied", [False, True])
def test_torch_counts_the_same_flops_exactly(tied, monkeypatch):
    monkeypatch.setattr(suite, "FLOP_MISS", 1e-12)

    suite.check_flops(MODEL.model_copy(update={"tied": tied}))


def by_hand(network, tokens_T):
    """Logits of one row by the gates' formulas: input, forget, cell, output."""
    weights, width = dict(network.named_parameters()), network.config.units
    xs = [weights["embedding"][token] for token in tokens_T]
    for layer in range(network.config.layers):
        W, U = (weights[f"layers.weight_{side}_l{layer}"] for side in ("ih", "hh"))
        b = weights[f"layers.bias_ih_l{layer}"] + weights[f"layers.bias_hh_l{layer}"]
        h = c = torch.zeros(width)
        for t, x in enumerate(xs):
            i, f, g, o = (W @ x + U @ h + b).split(width)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = xs[t] = torch.sigmoid(o) * torch.tanh(c)
    return torch.stack(xs) @ weights["head"].T


def test_logits_are_those_of_the_gates_from_a_state_of_zeros():
    network, (x, _) = suite.shaken(MODEL), suite.tokens()

    with torch.no_grad():
        assert torch.allclose(network(x)[0], by_hand(network, x[0]), atol=1e-6)
        assert torch.equal(network(x)[1], network(x.roll(1, 0))[2]), "a window depends on the one before it"


def test_an_untrained_model_has_the_loss_of_guessing_and_open_forget_gates():
    network, (x, y) = suite.reset(MODEL), suite.tokens()

    assert network(x, y).item() == pytest.approx(math.log(50), abs=1e-6)
    bias = network.layers.bias_ih_l1.detach()
    assert bias[8:16].eq(1).all()
    assert not bias[:8].any()
    assert not bias[16:].any()


def test_a_loss_in_chunks_is_the_same():
    whole, parts = suite.shaken(MODEL), suite.shaken(MODEL)
    x, y = suite.tokens()
    parts.configure(5, "sdpa")

    for network in (whole, parts):
        network(x, y).backward()

    with torch.no_grad():
        wanted = cross_entropy(whole(x).flatten(0, 1), y.flatten())
        assert parts(x, y).item() == pytest.approx(wanted.item(), rel=1e-6)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_reading_on_from_a_state_writes_what_reading_anew_writes():
    network, prompts = suite.shaken(MODEL), [[5, 7, 9, 11], [21], [8, 8]]
    slow, rows = FullContextReader(network, prompts, 4), []

    with torch.no_grad():
        logits = slow.first()
        for _ in range(4):
            rows.append(logits.argmax(-1))
            logits = slow.next(rows[-1])

    assert write(network, prompts, n_new=4, end=-1).tokens == torch.stack(rows, 1).tolist()


@pytest.mark.parametrize("axis", LAYOUTS)
def test_layouts_and_exports_are_refused_by_name(axis):
    assert MODEL.refusal(Layout(**{axis: 2})) == (f"lstm has no {LAYOUTS[axis]} layout", f"choose {axis} 1")
    with pytest.raises(ConfigError, match="lstm cannot be exported to a Hugging Face checkpoint"):
        MODEL.hugging_face()


def test_a_batch_can_be_learned_by_heart():
    network, (x, y) = suite.reset(Lstm(layers=1, units=32, vocab_size=50)), suite.tokens()
    optimizer = torch.optim.Adam(network.parameters(), 0.02)

    for _ in range(100):
        optimizer.zero_grad()
        loss = network(x, y)
        loss.backward()
        optimizer.step()

    assert float(loss.detach()) < 0.2
