"""The network against its description, against plain expressions, and against transformers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from scalelab.model import kernels
from scalelab.model.transformer.config import Transformer, TransformerFamily
from scalelab.model.transformer.network import TransformerNet

SHAPES = {
    "plain": dict(n_layers=2, d_model=64, n_heads=4, n_kv_heads=4, head_size=16, d_ff=176),
    "grouped": dict(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, head_size=16, d_ff=176),
    "qk_norm": dict(n_layers=1, d_model=48, n_heads=4, n_kv_heads=4, head_size=16, d_ff=128, qk_norm=True),
    "tied": dict(n_layers=3, d_model=32, n_heads=2, n_kv_heads=1, head_size=16, d_ff=96, tied=True),
    "deep": dict(n_layers=6, d_model=24, n_heads=3, n_kv_heads=3, head_size=8, d_ff=64),
}


@pytest.fixture(params=SHAPES)
def config(request):
    return Transformer(vocab_size=300, **SHAPES[request.param])


def network(config, seed=0):
    net = TransformerNet(config)
    net.reset(seed)
    return net


def shaken(config, seed=0):
    """A network whose every weight is random, the head and the gains included."""
    net, generator = network(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return net


def tokens(config, batch=3, seq_len=24, seed=1):
    generator = torch.Generator().manual_seed(seed)
    window = torch.randint(config.vocab_size, (batch, seq_len + 1), generator=generator)
    return window[:, :-1], window[:, 1:]


def test_counts_equal_the_sum_of_numel(config):
    net, size = network(config), config.size(seq_len=24)
    named = dict(net.named_parameters())
    outside = {"embedding", "head"}
    matmul = [p for n, p in named.items() if p.dim() == 2 and n != "embedding"]

    assert size.n_params_total == sum(p.numel() for p in net.parameters())
    assert size.n_params_active == size.n_params_total
    assert size.n_params_non_embedding == sum(p.numel() for n, p in named.items() if n not in outside)
    head = named["embedding"].numel() if config.tied else 0
    assert size.n_params_matmul == sum(p.numel() for p in matmul) + head


def test_flops_equal_torchs_own_count_of_the_real_model(config):
    net, (x, y) = shaken(config), tokens(config)
    by_onednn = {torch.ops.mkldnn._linear_pointwise: lambda x, w, *_, **__: 2 * x[0] * x[1] * w[0]}

    with FlopCounterMode(display=False, custom_mapping=by_onednn) as counter:
        net(x, y).backward()

    assert counter.get_total_flops() / x.numel() == pytest.approx(
        config.size(seq_len=24).flops_per_token, rel=0.005
    )


def test_flops_equal_a_count_by_hand():
    config = Transformer(n_layers=1, d_model=4, n_heads=1, n_kv_heads=1, head_size=4, d_ff=8, vocab_size=10)

    # Multiply-adds per token going forward: q, k, v, out 4 x (4*4); gate, up, down 3 x (4*8);
    # head 4*10; scores and mixing 2 x (4*6) at a context of 6. Two FLOPs each, three passes.
    assert config.size(seq_len=6).flops_per_token == 2 * 3 * (64 + 96 + 40 + 48)


def test_untrained_loss_is_ln_vocabulary(config):
    x, y = tokens(config, batch=16)

    assert network(config)(x, y).item() == pytest.approx(math.log(300), rel=0.02)


def test_starting_values_depend_on_the_seed_alone(config):
    one, same, other = network(config, 3), network(config, 3), network(config, 4)

    pairs = [(a, b, c) for a, b, c in zip(*(n.parameters() for n in (one, same, other)), strict=True)]
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_a_token_sees_only_what_came_before(config):
    net, (x, _) = shaken(config), tokens(config)
    changed = x.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % config.vocab_size

    with torch.no_grad():
        before, after = net(x), net(changed)

    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_the_fast_cpu_path_computes_the_plain_expressions(config, monkeypatch):
    fast, plain, (x, y) = shaken(config), shaken(config), tokens(config)
    fast_loss = fast(x, y)
    fast_loss.backward()

    def plain_norm(x, gain, eps):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain

    def plain_swiglu(gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    home = "scalelab.model.transformer.network."
    for place in (home, "scalelab.model.kernels."):
        monkeypatch.setattr(place + "rms_norm", plain_norm)
    monkeypatch.setattr("scalelab.model.kernels.swiglu", plain_swiglu)
    monkeypatch.setattr("scalelab.model.transformer.unsharded.cross_entropy", F.cross_entropy)
    monkeypatch.setattr(home + "use_cpu_kernels", lambda x: False)
    plain_loss = plain(x, y)
    plain_loss.backward()

    assert fast_loss.item() == pytest.approx(plain_loss.item(), rel=1e-6)
    for (name, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5 * b.grad.abs().max().item()), name


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_the_path_of_other_devices_compiles_as_one_graph(config, monkeypatch):
    monkeypatch.setattr(kernels, "use_cpu_kernels", lambda x: False)
    monkeypatch.setattr("scalelab.model.transformer.network.use_cpu_kernels", lambda x: False)
    plain, compiled, (x, y) = shaken(config), shaken(config), tokens(config)
    plain(x, y).backward()
    torch._dynamo.reset()

    torch.compile(compiled, backend="aot_eager", fullgraph=True)(x, y).backward()

    for (name, a), b in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6 * b.grad.abs().max().item()), name


def test_backward_passes_written_by_hand_are_the_derivatives():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    cos, sin = (t.double() for t in kernels.rotary_tables(5, 4, 100.0))
    mask = torch.full((5, 5), -math.inf, dtype=torch.float64).triu(1)

    assert torch.autograd.gradcheck(lambda qkv: kernels.short_attention(qkv, cos, sin, mask, 2), draw(10, 24))
    assert torch.autograd.gradcheck(kernels.swiglu, draw(6, 8))


def test_rotary_depends_on_distance_alone():
    cos, sin = kernels.rotary_tables(32, 8, 10000.0)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))

    def score(i, j):
        turned = (kernels.rotary(q.expand(32, 8), cos, sin)[i], kernels.rotary(k.expand(32, 8), cos, sin)[j])
        return float(turned[0] @ turned[1])

    assert score(20, 13) == pytest.approx(score(9, 2), rel=1e-4)
    assert score(20, 13) != pytest.approx(score(20, 12), rel=1e-2)


def test_exported_logits_equal_ours(config, tmp_path):
    pytest.importorskip("transformers")
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from scalelab.model.huggingface import to_hugging_face

    net, (x, _) = shaken(config), tokens(config)
    save_file({n: p.detach() for n, p in net.named_parameters()}, tmp_path / "ours.safetensors")
    to_hugging_face(config, tmp_path / "ours.safetensors", tmp_path / "theirs", seq_len=24)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")

    with torch.no_grad():
        difference = (theirs(x).logits - net(x)).abs().max().item()

    assert difference < 1e-5 * max(1.0, net(x).abs().max().item())
    assert sum(p.numel() for p in theirs.parameters()) == config.size(1).n_params_total


def test_a_batch_can_be_learned_by_heart(config):
    net, (x, y) = network(config), tokens(config, batch=2)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)

    for _ in range(150):
        optimizer.zero_grad()
        loss = net(x, y)
        loss.backward()
        optimizer.step()

    assert loss.item() < 0.05


def test_shapes_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="4 heads cannot share 3 key-value heads"):
        Transformer(vocab_size=9, **SHAPES["plain"] | {"n_kv_heads": 3})
    with pytest.raises(ValueError, match="even head_size, not 7"):
        Transformer(vocab_size=9, **SHAPES["plain"] | {"head_size": 7})
    with pytest.raises(ValueError, match="either aspect_ratio or n_layers"):
        TransformerFamily(head_size=8)


@pytest.mark.parametrize("heads", [{"n_kv_heads": 4}, {"n_kv_heads": 2, "qk_norm": True}])
def test_segments_side_by_side_are_as_if_alone(heads):
    own = Transformer(n_layers=2, d_model=32, n_heads=4, head_size=8, d_ff=64, vocab_size=50, **heads)
    net = shaken(own)
    one, two = torch.tensor([[3, 4, 5]]), torch.tensor([[9, 8, 7, 6]])
    both = torch.cat((one, two), dim=1)
    owner = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])

    with torch.no_grad():
        together = net(both, segments_BT=owner)
        alone = torch.cat((net(one), net(two)), dim=1)
        mixed = net(both)

    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(mixed[:, 3:], alone[:, 3:], atol=1e-3)


def test_hidden_is_what_the_head_sees(config):
    net, (x, _) = shaken(config), tokens(config)
    head = net.embedding if config.tied else net.head

    with torch.no_grad():
        assert torch.allclose(net.hidden(x) @ head.T, net(x), atol=1e-5)
