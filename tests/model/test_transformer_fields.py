"""Activations, norms and positions: counts by hand, the plain formulas, exports, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError
from scalelab.model.generate import write
from scalelab.model.transformer.config import Transformer, TransformerFamily
from scalelab.testing import architectures as suite
from scalelab.train.recipe import Recipe
from scalelab.train.spec import RunSpec

SHAPE = dict(n_layers=2, d_model=16, n_heads=2, n_kv_heads=2, head_size=8, d_ff=40, vocab_size=50)
PLAIN = Transformer(**SHAPE)
GELU = Transformer(**SHAPE, activation="gelu", norm="layer", positions="learned", max_positions=12)
RELU2 = Transformer(**SHAPE, activation="relu2")


def test_counts_by_hand():
    plain, gelu, relu2 = PLAIN.size(12), GELU.size(12), RELU2.size(12)

    attention, norms = 4 * 16 * 16, 2 * 2 * 16 + 16
    assert plain.n_params_non_embedding == 2 * (attention + 3 * 16 * 40) + norms
    assert relu2.n_params_non_embedding == 2 * (attention + 2 * 16 * 40) + norms
    assert gelu.n_params_non_embedding == relu2.n_params_non_embedding
    # Learned positions count with the embedding, and multiply no token.
    assert gelu.n_params_total == relu2.n_params_total + 12 * 16
    assert gelu.n_params_matmul == relu2.n_params_matmul == 2 * (attention + 2 * 16 * 40) + 50 * 16
    assert gelu.flops_per_token == relu2.flops_per_token


@pytest.mark.parametrize("model", [GELU, RELU2], ids=["gelu", "relu2"])
def test_torch_counts_the_same_flops_exactly(model, monkeypatch):
    monkeypatch.setattr(suite, "FLOP_MISS", 1e-12)

    suite.check_flops(model)


def by_formulas(network, tokens_T):
    """Logits of one row, written out with torch's own modules."""
    c, w = network.config, dict(network.named_parameters())
    E, T = c.head_size, len(tokens_T)

    def norm(x, gain):
        if c.norm == "rms":
            return F.rms_norm(x, (c.d_model,), gain, c.norm_eps)
        layer = torch.nn.LayerNorm(c.d_model, eps=c.norm_eps, bias=False)
        layer.weight.copy_(gain)
        return layer(x)

    x = w["embedding"][tokens_T]
    if c.positions == "learned":
        x = x + w["positions"][:T]
    angle = torch.arange(T)[:, None] * c.rope_theta ** (-torch.arange(0, E, 2) / E)
    for i in range(c.n_layers):
        q, k, v = (norm(x, w[f"blocks.{i}.norm_attention"]) @ w[f"blocks.{i}.qkv"].T).chunk(3, -1)
        q, k, v = (t.view(T, c.n_heads, E).transpose(0, 1) for t in (q, k, v))
        if c.positions == "rotary":
            turn = torch.polar(torch.ones_like(angle), angle)

            def turned(t, turn=turn):
                z = torch.complex(t[..., : E // 2], t[..., E // 2 :]) * turn
                return torch.cat((z.real, z.imag), -1)

            q, k = turned(q), turned(k)
        scores = (q @ k.transpose(1, 2) / math.sqrt(E)).masked_fill(torch.ones(T, T).triu(1) > 0, -math.inf)
        x = x + (scores.softmax(-1) @ v).transpose(0, 1).reshape(T, -1) @ w[f"blocks.{i}.out"].T
        y = norm(x, w[f"blocks.{i}.norm_mlp"])
        if c.activation == "swiglu":
            gate, up = (y @ w[f"blocks.{i}.gate_up"].T).chunk(2, -1)
            y = F.silu(gate) * up
        else:
            y = y @ w[f"blocks.{i}.up"].T
            y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2))) if c.activation == "gelu" else y.clamp(min=0) ** 2
        x = x + y @ w[f"blocks.{i}.down"].T
    return norm(x, w["norm"]) @ w["head"].T


@pytest.mark.parametrize("model", [PLAIN, GELU, RELU2], ids=["swiglu", "gelu", "relu2"])
def test_logits_are_those_of_the_formulas(model):
    network, (x, _) = suite.shaken(model), suite.tokens()

    with torch.no_grad():
        assert torch.allclose(network(x)[0], by_formulas(network, x[0]), atol=2e-6)


def test_a_family_hands_its_fields_to_every_member():
    fields = {"activation": "relu2", "norm": "layer", "positions": "learned", "max_positions": 64}
    family = TransformerFamily(head_size=8, aspect_ratio=8, **fields)

    member = next(iter(family.members(50)))

    assert {name: getattr(member, name) for name in fields} == fields
    assert member.words().endswith("squared ReLU, LayerNorm, 64 learned positions")


def test_what_exists_keeps_its_words_and_its_weights():
    assert PLAIN.words().endswith("vocabulary 50")
    assert set(PLAIN.network().state_dict()) == {
        *("embedding", "norm", "head"),
        *(
            f"blocks.{i}.{name}"
            for i in (0, 1)
            for name in ("norm_attention", "qkv", "out", "norm_mlp", "gate_up", "down")
        ),
    }


@pytest.mark.parametrize("activation", ["gelu", "relu2"])
def test_without_a_gate_exported_logits_equal_ours(activation, tmp_path):
    pytest.importorskip("transformers")
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from scalelab.model.huggingface import from_hugging_face, to_hugging_face

    model = Transformer(**SHAPE | {"n_kv_heads": 1}, activation=activation)
    net, (x, _) = suite.shaken(model), suite.tokens()
    save_file({n: p.detach() for n, p in net.named_parameters()}, tmp_path / "ours.safetensors")
    to_hugging_face(model, tmp_path / "ours.safetensors", tmp_path / "theirs", seq_len=24)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")

    with torch.no_grad():
        difference = (theirs(x).logits - net(x)).abs().max().item()

    assert type(theirs).__name__ == "ArceeForCausalLM"
    assert difference < 1e-5 * max(1.0, net(x).abs().max().item())
    assert from_hugging_face(tmp_path / "theirs")[0] == model


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"norm": "layer"}, "LayerNorm"),
        ({"positions": "learned", "max_positions": 8}, "8 learned positions"),
        ({"activation": "gelu", "qk_norm": True}, "gelu with query-key norms"),
    ],
)
def test_what_no_layout_has_is_not_exported(fields, named):
    with pytest.raises(ConfigError, match=f"cannot be exported to a Hugging Face checkpoint with {named}"):
        Transformer(**SHAPE, **fields).hugging_face()


@pytest.mark.parametrize(
    "fields", [{"positions": "learned"}, {"max_positions": 8}, {"positions": "learned", "max_positions": 0}]
)
def test_learned_positions_need_their_number_and_others_have_none(fields):
    with pytest.raises(ValidationError, match="max_positions"):
        Transformer(**SHAPE, **fields)


def test_a_text_longer_than_the_learned_positions_is_refused():
    network = suite.reset(GELU)

    with pytest.raises(ConfigError, match="13 tokens exceed the 12 positions") as refusal:
        network(torch.zeros(1, 13, dtype=torch.long))
    assert "max_positions" in refusal.value.fix
    with pytest.raises(ConfigError, match="13 tokens exceed"), torch.no_grad():
        write(network, [[1] * 13], n_new=1, end=0)


def test_nothing_is_written_beyond_the_learned_positions():
    network = suite.shaken(GELU)

    written = write(network, [[1] * 10, [2] * 4], n_new=8, end=-1).tokens

    assert [len(row) for row in written] == [2, 8]
    assert written == [
        write(network, [p], n_new=n, end=-1).tokens[0] for p, n in (([1] * 10, 2), ([2] * 4, 8))
    ]


RECIPE = """
data: {source: {kind: synthetic}}
seq_len: 32
model: {kind: transformer, head_size: 8, n_layers: 1, positions: learned, max_positions: 16}
optimizer: {lr: 1e-3}
"""


def test_a_context_beyond_the_learned_positions_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="seq_len is 32, and the model has 16 positions"):
        Recipe.parse(parse_yaml(RECIPE, "recipe"))

    recipe = Recipe.parse(parse_yaml(RECIPE.replace("max_positions: 16", "max_positions: 32"), "recipe"))
    model = next(iter(recipe.model.members(50)))
    spec = recipe.spec(model, 1e6, data_digest="d" * 12, seed=0)
    assert spec.model.max_positions == 32
    with pytest.raises(ValidationError, match="seq_len is 64, and the model has 32 positions"):
        RunSpec.model_validate(spec.model_dump() | {"seq_len": 64})
