"""Parameters and FLOPs of published models and of small ones, counted by hand."""

import math

import pytest
import torch

from scalelab.model.sizing import nearest
from scalelab.model.transformer.config import Transformer, TransformerFamily
from scalelab.model.transformer.network import TransformerNet

LLAMA_3_8B = Transformer(
    n_layers=32, d_model=4096, n_heads=32, n_kv_heads=8, head_size=128, d_ff=14336, vocab_size=128256
)
LLAMA_3_405B = Transformer(
    n_layers=126, d_model=16384, n_heads=128, n_kv_heads=8, head_size=128, d_ff=53248, vocab_size=128256
)
# Heads are wider together (16 x 128) than the model (1024): no width stands in for another.
QWEN_3_600M = Transformer(
    n_layers=28,
    d_model=1024,
    n_heads=16,
    n_kv_heads=8,
    head_size=128,
    d_ff=3072,
    vocab_size=151936,
    tied=True,
    qk_norm=True,
)

# Of one Llama 3 8B block: queries and output 4096 x 4096, keys and values 4096 x 1024, gate, up
# and down 4096 x 14336.
BLOCK_8B = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
# Of one Qwen 3 0.6B block: queries and output 1024 x 2048, keys and values 1024 x 1024.
BLOCK_600M = 2 * 1024 * 2048 + 2 * 1024 * 1024 + 3 * 1024 * 3072


@pytest.mark.parametrize(
    ("model", "published"),
    [(LLAMA_3_8B, 8_030_261_248), (LLAMA_3_405B, 405_853_388_800), (QWEN_3_600M, 596_049_920)],
)
def test_a_published_model_has_its_published_parameters(model, published):
    """Checkpoints of Llama 3 (arXiv:2407.21783) and Qwen 3 (arXiv:2505.09388)."""
    size = model.size(8192)

    assert size.n_params_total == size.n_params_active == published


def test_every_count_of_llama_3_8b_by_hand():
    size = LLAMA_3_8B.size(8192)

    norms = 32 * 2 * 4096 + 4096
    assert size.n_params_non_embedding == 32 * BLOCK_8B + norms == 6_979_588_096
    assert size.n_params_matmul == 32 * BLOCK_8B + 128256 * 4096 == 7_504_658_432


def test_a_tied_head_multiplies_tokens_and_is_stored_once():
    size = QWEN_3_600M.size(1024)

    norms = 28 * (2 * 1024 + 2 * 128) + 1024  # two of the width and two of a head a layer
    assert size.n_params_non_embedding == 28 * BLOCK_600M + norms == 440_467_456
    assert size.n_params_total == 28 * BLOCK_600M + norms + 151936 * 1024
    assert size.n_params_matmul == 28 * BLOCK_600M + 151936 * 1024 == 595_984_384


def test_flops_are_six_per_weight_and_twelve_per_layer_head_channel_and_token():
    """PaLM, appendix B: 6 N + 12 L H Q T, whatever the width of the model."""
    assert LLAMA_3_8B.size(8192).flops_per_token == (6 * 7_504_658_432 + 12 * 32 * (32 * 128) * 8192)
    assert QWEN_3_600M.size(1024).flops_per_token == 6 * 595_984_384 + 12 * 28 * (16 * 128) * 1024


def test_six_n_d_of_llama_3_405b_is_the_published_compute():
    """3.8e25 FLOPs on 15.6T tokens, Grattafiori et al. 2024."""
    size = LLAMA_3_405B.size(8192)

    assert 6 * size.n_params_total * 15.6e12 == pytest.approx(3.8e25, rel=0.005)
    # Attention in full at 8192 tokens adds 12 x 126 x 16384 x 8192 = 2.03e11 to 2.42e12 FLOPs.
    assert size.flops_per_token / (6 * size.n_params_matmul) == pytest.approx(1.0838, abs=5e-4)


def test_what_a_token_leaves_behind_by_hand():
    model = Transformer(n_layers=3, d_model=10, n_heads=4, n_kv_heads=2, head_size=6, d_ff=28, vocab_size=100)

    # A layer: two norms in and out 4 x 10; 4 + 4 + 2 + 2 = 12 heads of 6 (queries and what is
    # mixed count as the queries' own) before and after rotary 2 x 72; mixed 24; gate, up, their
    # product and its input 4 x 28. Logits are not counted here.
    layer = 40 + 144 + 24 + 112
    assert model.activation_bytes_per_token(2) == 2 * 3 * layer == 1920
    assert model.activation_bytes_per_token(4) == 4 * 3 * layer


def test_a_family_rounds_the_gate_up_and_the_depth_to_the_nearest():
    family = TransformerFamily(head_size=8, aspect_ratio=10, ff_multiple=16)
    members = [m for m, _ in zip(family.members(100), range(5), strict=False)]

    # Widths 8, 16, ... of 10 to a layer: .8, 1.6, 2.4, 3.2, 4.0 layers, one at least.
    assert [m.n_layers for m in members] == [1, 2, 2, 3, 4]
    # 8/3 x 8 = 21.3, 42.7, 64, 85.3, 106.7, up to the next multiple of 16.
    assert [m.d_ff for m in members] == [32, 48, 64, 96, 112]
    assert [m.n_heads for m in members] == [1, 2, 3, 4, 5]


class Steps:
    """A family of total sizes 100 and 1000."""

    def members(self, vocab_size):
        del vocab_size
        for n in (100, 1000, 10_000):
            yield Sized(n)


class Sized:
    def __init__(self, n):
        self.n = n

    def size(self, seq_len):
        del seq_len
        return self

    def count(self, param_count):
        del param_count
        return self.n


def test_the_nearest_member_is_nearest_in_ratio(monkeypatch):
    """450 is 350 from 100 and 550 from 1000, and 4.5 times the one and 1 / 2.2 of the other."""
    monkeypatch.setattr("scalelab.model.sizing.TOLERANCE", 10)

    assert nearest(Steps(), 450, "total", 0).n == 1000
    assert nearest(Steps(), 250, "total", 0).n == 100


@pytest.mark.parametrize("n_layers", [1, 8])
def test_weights_start_at_the_spread_of_their_fan_in(n_layers):
    """10,000 draws or more each: a spread is known to 1 / sqrt(20000) = .7%; 4 of these."""
    net = TransformerNet(
        Transformer(
            n_layers=n_layers, d_model=64, n_heads=8, n_kv_heads=8, head_size=8, d_ff=192, vocab_size=500
        )
    )
    net.reset(0)
    spread = {name: weight.std().item() for name, weight in net.named_parameters()}

    residual = 1 / math.sqrt(2 * n_layers)
    for name, wanted in {
        "embedding": 0.02,
        "blocks.0.qkv": 1 / 8,  # 64 wide
        "blocks.0.gate_up": 1 / 8,
        "blocks.0.out": residual / 8,
        "blocks.0.down": residual / math.sqrt(192),
    }.items():
        assert spread[name] == pytest.approx(wanted, rel=0.04), name
    assert not net.head.any()
    assert torch.equal(net.norm, torch.ones(64))


def test_every_weight_is_of_the_kind_that_its_place_says():
    model = QWEN_3_600M.model_copy(
        update={
            "n_layers": 1,
            "d_model": 16,
            "n_heads": 2,
            "n_kv_heads": 1,
            "head_size": 8,
            "d_ff": 32,
            "vocab_size": 50,
            "tied": False,
        }
    )

    kinds = TransformerNet(model).kinds()

    matrices = {"qkv", "out", "gate_up", "down"}
    gains = {"norm_attention", "norm_mlp", "norm_q", "norm_k"}
    assert kinds == {
        "embedding": "embedding",
        "head": "head",
        "norm": "vector",
        **{f"blocks.0.{name}": "matrix" for name in matrices},
        **{f"blocks.0.{name}": "vector" for name in gains},
    }
