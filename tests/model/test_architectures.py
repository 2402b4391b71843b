"""Every architecture of this package keeps the contract; the suite notices one that does not."""

from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch

from scalelab.config import Count
from scalelab.model import ARCHITECTURES
from scalelab.model.base import Architecture
from scalelab.model.transformer import network as transformer
from scalelab.model.transformer.config import Transformer, TransformerFamily
from scalelab.model.transformer.huggingface import LlamaLayout
from scalelab.model.transformer.network import TransformerNet
from scalelab.testing import architectures as suite

FAMILIES = {
    "transformer": [
        {"head_size": 8, "n_layers": 2},
        {"head_size": 8, "n_layers": 1, "heads_per_kv_head": 2, "qk_norm": True},
        {"head_size": 4, "aspect_ratio": 4, "tied": True},
        {"head_size": 8, "n_layers": 1, "activation": "gelu", "norm": "layer"},
        {"head_size": 8, "n_layers": 2, "activation": "relu2", "heads_per_kv_head": 2},
        {"head_size": 7, "n_layers": 1, "positions": "learned", "max_positions": 12, "tied": True},
    ],
    "moe": [
        {"head_size": 8, "n_layers": 2, "n_experts": 4, "top_k": 2, "n_shared": 1, "granularity": 2},
        {
            "head_size": 8,
            "n_layers": 1,
            "n_experts": 3,
            "top_k": 1,
            "scores": "softmax",
            "balance": "loss",
            "qk_norm": True,
        }
        | {"z_weight": 0.001, "tied": True},
        {"head_size": 8, "n_layers": 1, "n_experts": 4, "top_k": 3, "scores": "softmax", "balance": "none"},
        {"head_size": 8, "n_layers": 1, "n_experts": 2, "top_k": 1, "activation": "relu2"},
    ],
    "lstm": [{"layers": 2}, {"layers": 1, "width_step": 12, "tied": True}],
}
CASES = [(name, family) for name, families in FAMILIES.items() for family in families]


def test_every_architecture_has_families_here():
    assert set(FAMILIES) == set(ARCHITECTURES)


@pytest.mark.parametrize(("name", "family"), CASES)
def test_conforms(name, family):
    for model in suite.small_models(name, family):
        suite.check_architecture(model)


SIZE, FORWARD, BLOCKS = Transformer.size, TransformerNet.forward, Transformer.blocks


def sized(**changes):
    """`size` with some of its numbers changed."""

    def size(self, seq_len):
        found = SIZE(self, seq_len)
        return replace(found, **{k: change(getattr(found, k)) for k, change in changes.items()})

    return size


def looks_ahead(self, x, targets_BT=None, segments_BT=None):
    """Logits that know the mean of the whole window."""
    logits = FORWARD(self, x, None, segments_BT)
    return logits + logits.mean(1, keepdim=True) if targets_BT is None else logits.mean()


def unseeded(config, seed, network):
    """Starting values that nobody can draw again."""
    del seed, network
    for name, weight in TransformerNet(config).named_parameters():
        yield name, torch.randn(weight.shape)


BROKEN = {
    "one weight too many": (Transformer, "size", sized(n_params_total=lambda n: n + 1), "blocks"),
    "the head left out": (Transformer, "size", sized(n_params_matmul=lambda n: n - 400), "matmul"),
    "FLOPs of 2 passes": (Transformer, "size", sized(flops_per_token=lambda f: f / 3), "FLOPs"),
    "a look ahead": (TransformerNet, "forward", looks_ahead, "comes after"),
    "no seed": (transformer, "starting_values", unseeded, "one seed"),
    "segments ignored": (
        TransformerNet,
        "forward",
        lambda self, x, y=None, segments_BT=None: FORWARD(self, x, y),
        "sees another",
    ),
    "a part that lies": (Transformer, "joined", lambda self, name: {name: 3}, "not its rows"),
    "weights that are lost": (LlamaLayout, "ours", lambda self, theirs: {}, "other weights"),
    "a refusal of one process": (Transformer, "refusal", lambda self, layout: ("no", "no"), "one process"),
}


def test_a_description_that_lacks_something_is_no_architecture():
    with pytest.raises(TypeError, match="Mine has no vocab_size, family, parts"):

        class Mine(Architecture):
            kind: Literal["mine"] = "mine"

    with pytest.raises(TypeError, match="Other has no network in parts"):

        class Other(Architecture):
            kind: Literal["other"] = "other"
            vocab_size: Count
            family: ClassVar = TransformerFamily
            parts: ClassVar = {}


@pytest.mark.parametrize("fault", BROKEN)
def test_notices(fault, monkeypatch):
    (model,) = suite.small_models("transformer", {"head_size": 8, "n_layers": 1}, n=1)
    monkeypatch.setattr(*BROKEN[fault][:3])

    with pytest.raises(AssertionError, match=BROKEN[fault][3]):
        suite.check_architecture(model)
