"""Mixtures of experts: counts by hand, the formulas written out, balance, exports, refusals."""

from itertools import islice
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError
from scalelab.hardware.layout import Layout
from scalelab.model.moe import network as module
from scalelab.model.moe.config import Moe, MoeFamily
from scalelab.posttrain.networks import TrainableModel
from scalelab.testing import architectures as suite
from scalelab.train.engines.parallel import ParallelEngine
from scalelab.train.engines.single import SingleEngine
from scalelab.train.optimizers.adamw import AdamW, AdamWUniform
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.optimizers.muon import Muon
from scalelab.train.recipe import Recipe

SHAPE = dict(n_layers=2, d_model=16, n_heads=2, n_kv_heads=2, head_size=8, d_ff=24, vocab_size=50)
BIASED = Moe(**SHAPE, n_experts=4, top_k=2, n_shared=1)
SWITCH = Moe(**SHAPE, n_experts=4, top_k=1, scores="softmax", balance="loss", z_weight=1e-3)
RATES = dict(lr_matrix=3e-3, lr_embedding=3e-3, lr_head=3e-3, lr_vector=3e-3)


def test_counts_by_hand():
    """Of 4 experts and a shared one of 3 x 16 x 24 weights a token uses 2 and the shared one."""
    size = BIASED.size(12)

    expert, attention, router, norms = 3 * 16 * 24, 4 * 16 * 16, 16 * 4, 2 * 16
    block = attention + router + 5 * expert
    assert size.n_params_matmul == 2 * block + 50 * 16
    assert size.n_params_non_embedding == 2 * (block + norms + 4) + 16  # and the biases of 4 experts
    assert size.n_params_total == size.n_params_non_embedding + 2 * 50 * 16
    assert size.n_params_active == size.n_params_total - 2 * 2 * expert
    assert size.flops_per_token == 6 * (2 * (block - 2 * expert) + 50 * 16) + 12 * 2 * 16 * 12


@pytest.mark.parametrize("model", [BIASED, SWITCH], ids=["biased", "switch"])
def test_torch_counts_the_flops_of_the_active_parameters(model, monkeypatch):
    monkeypatch.setattr(suite, "FLOP_MISS", 1e-12)

    suite.check_flops(model)


def test_a_published_model_has_its_published_parameters():
    """Mixtral 8x7B has 46.7B parameters, of which a token uses 12.9B: Jiang et al. 2024, arXiv:2401.04088."""
    size = Moe(
        **dict(
            n_layers=32, d_model=4096, n_heads=32, n_kv_heads=8, head_size=128, d_ff=14336, vocab_size=32000
        ),
        **dict(n_experts=8, top_k=2, scores="softmax", balance="loss"),
    ).size(4096)

    assert size.n_params_total == 46_702_792_704
    assert size.n_params_active / 1e9 == pytest.approx(12.9, abs=0.05)


def test_experts_of_a_granularity_divide_the_dense_feed_forward():
    routing = dict(n_experts=8, top_k=3, n_shared=1, balance="none")
    family = MoeFamily(head_size=8, n_layers=1, ff_ratio=4, ff_multiple=8, granularity=4, **routing)

    for member in islice(family.members(50), 4):
        dense = member.as_dense().model_copy(update={"d_ff": 4 * member.d_ff})
        assert member.d_ff == member.d_model  # 4 times the width, in 4 parts
        # A token uses as many weights as in the dense transformer, and those of the router.
        router = member.d_model * 8
        assert member.size(1).n_params_active == dense.size(1).n_params_total + router
        assert member.size(1).flops_per_token == dense.size(1).flops_per_token + 6 * router


def mixture(block, x):
    """The feed-forward of a block, token by token."""
    c, found = block.config, []
    inner = block.experts_in.view(c.n_experts, 2, c.d_ff, c.d_model)
    outer = block.experts_out.view(c.n_experts, c.d_ff, c.d_model)
    for token in x:
        logits = block.router @ token
        scores = torch.sigmoid(logits) if c.scores == "sigmoid" else torch.softmax(logits, 0)
        preferred = scores + block.load_bias if c.balance == "bias" else scores
        chosen = sorted(range(c.n_experts), key=lambda e, p=preferred: -p[e])[: c.top_k]
        weight = sum(scores[e] for e in chosen) if c.top_k > 1 else 1.0
        y = sum(
            scores[e] / weight * (outer[e].T @ (F.silu(inner[e, 0] @ token) * (inner[e, 1] @ token)))
            for e in chosen
        )
        if c.n_shared:
            gate, up = (block.shared_in @ token).chunk(2)
            y = y + block.shared_out @ (F.silu(gate) * up)
        found.append(y)
    return torch.stack(found)


@pytest.mark.parametrize("model", [BIASED, SWITCH], ids=["biased", "switch"])
def test_a_mixture_is_that_of_the_formulas(model):
    block = suite.shaken(model).blocks["1"]
    x = torch.randn(7, 16, generator=torch.Generator().manual_seed(2))

    with torch.no_grad():
        assert torch.allclose(block.feed_forward(x, 1)[0], mixture(block, x), atol=1e-6)


def test_the_bias_changes_the_choice_and_not_the_weights():
    block = suite.shaken(BIASED).blocks["0"]
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(2))

    with torch.no_grad():
        block.load_bias.copy_(torch.tensor([0.0, 0.0, 0.0, 9.0]))
        _, scores, chosen = block.routed(x)
        assert chosen[:, 0].eq(3).all()
        assert torch.equal(scores, torch.sigmoid(x @ block.router.T))
        assert torch.allclose(block.feed_forward(x, 1)[0], mixture(block, x), atol=1e-6)


def test_the_losses_are_those_of_the_formulas_and_change_gradients_only():
    block = suite.shaken(SWITCH).blocks["0"]
    x = torch.randn(2 * 9, 16, generator=torch.Generator().manual_seed(2))
    network, (tokens, targets) = suite.shaken(SWITCH), suite.tokens()
    silent = suite.shaken(SWITCH.model_copy(update={"balance": "none", "z_weight": 0.0}))

    lost = block.feed_forward(x, 2)[1]
    one, other = network(tokens, targets), silent(tokens, targets)
    one.backward()
    other.backward()

    probabilities = torch.softmax(x @ block.router.T, -1).view(2, 9, 4)
    wanted = 0.0
    for window in probabilities:
        share = torch.bincount(window.argmax(-1), minlength=4) / 9
        wanted += 1e-2 * 4 * (share * window.mean(0)).sum() / 2
    wanted += 1e-3 * (x @ block.router.T).logsumexp(-1).square().mean()
    assert lost.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert one.item() == other.item()
    assert not torch.equal(network.blocks["1"].router.grad, silent.blocks["1"].router.grad)


def test_grouped_products_are_the_loop():
    draw = torch.Generator().manual_seed(3)
    x, inner, outer = (torch.randn(s, generator=draw) for s in ((10, 16), (4, 2 * 8, 16), (4, 8, 16)))
    load = torch.tensor([3.0, 0.0, 6.0, 1.0])
    found = []
    for compute in (module.looped_experts, module.grouped_experts):
        leaves = [t.clone().requires_grad_() for t in (x, inner, outer)]
        y = compute(*leaves, load, "swiglu")
        (y * torch.arange(160.0).view(10, 16)).sum().backward()
        found.append([y.detach(), *(leaf.grad for leaf in leaves)])

    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-3)


def test_products_are_grouped_in_bf16_on_a_gpu_where_rows_are_aligned():
    on_gpu = type(
        "Rows", (), {"device": torch.device("cuda"), "dtype": torch.bfloat16, "element_size": lambda _: 2}
    )()
    weights = torch.empty(4, 8, 16)

    assert module.uses_groups(on_gpu, weights, 8)
    assert not module.uses_groups(on_gpu, weights, 12)
    assert not module.uses_groups(torch.empty(2, 16), weights, 8)


@pytest.mark.parametrize("balance", ["bias", "loss", "none"])
def test_loads_are_balanced_after_some_steps(balance):
    """Tokens drawn at random and alike at first: without balance one of 8 experts has most of them."""
    rates = dict(bias_step=0.005, balance_weight=1.0)
    model = Moe(**SHAPE | {"n_layers": 1}, n_experts=8, top_k=1, balance=balance, **rates)
    network, draw = suite.reset(model), torch.Generator().manual_seed(4)
    with torch.no_grad():
        network.blocks["0"].router[2:].sub_(0.5)
        network.embedding.add_(0.05)
    optimizer = FlatOptimizer(network, network.kinds(), AdamW(**RATES), torch.float32)

    def largest():
        tokens = torch.randint(50, (20, 24), generator=draw)
        return network.expert_loads(tokens).max().item()

    before = largest()
    for _ in range(120):
        window = torch.randint(50, (4, 25), generator=draw)
        network(window[:, :-1], window[:, 1:]).backward()
        optimizer.step(1.0)

    assert before > 0.9
    assert largest() < 0.33 if balance != "none" else largest() > 0.5


def test_a_bias_moves_by_its_step_against_the_excess_load():
    network, (x, y) = suite.shaken(BIASED), suite.tokens()
    optimizer = FlatOptimizer(network, network.kinds(), AdamW(**RATES), torch.float32)
    before = network.blocks["1"].load_bias.detach().clone()
    loads = network.expert_loads(x)[1]
    for rows in (slice(0, 1), slice(1, 3)):  # two micro-batches are one batch
        network(x[rows], y[rows]).backward()
        optimizer.gather()
    norm = optimizer.norm()
    trained = [p.grad for name, p in network.named_parameters() if "load_bias" not in name]

    optimizer.update(0.5, norm)

    wanted = before - BIASED.bias_step * torch.sign(loads - 1 / 4)
    assert torch.allclose(network.blocks["1"].load_bias, wanted, atol=1e-7)
    assert not any(grad.any() for grad in trained)  # views of the buffer, cleared by now
    assert set(optimizer.by_name()["exp_avg"]) == {
        n for n, _ in network.named_parameters() if "bias" not in n
    }


def test_the_norm_is_that_of_what_is_trained():
    network, (x, y) = suite.shaken(BIASED), suite.tokens()
    optimizer = FlatOptimizer(network, network.kinds(), AdamW(**RATES), torch.float32)
    network(x, y).backward()

    squares = [p.grad.square().sum() for n, p in network.named_parameters() if "load_bias" not in n]
    assert network.blocks["0"].load_bias.grad.any()
    assert optimizer.norm().item() == pytest.approx(torch.stack(squares).sum().sqrt().item(), rel=1e-6)


def test_muon_updates_each_expert_as_a_matrix_of_its_own():
    network, (x, y), muon = suite.shaken(BIASED), suite.tokens(), Muon(**RATES, grad_clip=None)
    optimizer = FlatOptimizer(network, network.kinds(), muon, torch.float32)
    matrix = network.blocks["0"].experts_out
    network(x, y).backward()
    alone = [t.detach().clone() for t in (matrix[24:48], matrix.grad[24:48], torch.zeros(24, 16))]
    weight, gradient, momentum = ([t] for t in alone)
    group = next(g for g in muon.groups() if g.match == "matrix/*")
    muon.update(weight, gradient, {"exp_avg": momentum}, group=group, lr=group.lr, step=1)

    optimizer.step(1.0)

    assert torch.equal(matrix.detach()[24:48], weight[0])


EXPORTS = {
    "MixtralForCausalLM": dict(n_experts=4, top_k=2, scores="softmax", balance="loss"),
    "Qwen3MoeForCausalLM": dict(n_experts=4, top_k=1, scores="softmax", balance="none", qk_norm=True),
    "Glm4MoeForCausalLM": dict(n_experts=4, top_k=2, n_shared=2, bias_step=2e-3),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exported_logits_equal_ours(name, tmp_path):
    pytest.importorskip("transformers")
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from scalelab.model.huggingface import from_hugging_face, to_hugging_face

    model = Moe(**SHAPE | {"n_kv_heads": 1}, **EXPORTS[name])
    net, (x, _) = suite.shaken(model), suite.tokens()
    save_file({n: p.detach() for n, p in net.named_parameters()}, tmp_path / "ours.safetensors")
    to_hugging_face(model, tmp_path / "ours.safetensors", tmp_path / "theirs", seq_len=24)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    again, weights, _ = from_hugging_face(tmp_path / "theirs")

    with torch.no_grad():
        difference = (theirs(x).logits - net(x)).abs().max().item()

    assert type(theirs).__name__ == name
    assert difference < 1e-5 * max(1.0, net(x).abs().max().item())
    assert again == model
    assert all(torch.equal(weights[n], p) for n, p in net.named_parameters())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"scores": "softmax"}, "softmax scores balanced by a bias"),
        ({"balance": "none"}, "sigmoid scores that no bias balances"),
        ({"scores": "softmax", "balance": "none", "n_shared": 1}, "softmax scores and shared experts"),
        ({"activation": "relu2"}, "squared ReLU"),
    ],
)
def test_what_no_layout_has_is_not_exported(fields, named):
    with pytest.raises(
        ConfigError, match=f"moe cannot be exported to a Hugging Face checkpoint with {named}"
    ):
        Moe(**SHAPE, n_experts=4, top_k=2, **fields).hugging_face()


def test_layouts_that_it_lacks_are_refused_by_name():
    assert BIASED.refusal(Layout(shard=2, replicate=2, pipeline=2)) is None
    assert BIASED.refusal(Layout(tensor=2)) == ("moe has no tensor-parallel layout", "choose tensor 1")
    assert SWITCH.refusal(Layout(pipeline=2))[0] == "moe has no pipeline-parallel layout"
    assert not BIASED.blocks().divides(2)
    assert SWITCH.blocks().most_stages == 1


@pytest.mark.parametrize(
    "given", [{"residual_multiplier": 0.5}, {"output_multiplier": 0.25}, {"residual_depth": 1}]
)
def test_multipliers_are_refused(given):
    with pytest.raises(ValidationError, match=f"no multipliers: leave out .*{next(iter(given))}"):
        Moe(**SHAPE, n_experts=4, top_k=2, **given)
    with pytest.raises(ConfigError, match="moe has no multipliers"):
        BIASED.with_multipliers(residual=0.5, output=1.0, residual_depth=None)


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_a_lone_expert_has_one_name_in_every_layout(activation):
    model = Moe(**SHAPE, n_experts=1, top_k=1, activation=activation)
    single, parallel = SingleEngine.__new__(SingleEngine), ParallelEngine.__new__(ParallelEngine)
    single.spec = parallel.spec = SimpleNamespace(model=model)
    weights = dict(model.network().named_parameters())
    weights = {name: weight for name, weight in weights.items() if len(model.joined(name)) == 1}
    single.optimizer = SimpleNamespace(by_name=lambda: {"weight": weights})

    parts = [part for name, weight in weights.items() for part, _ in parallel._parts_of(name, weight)]
    assert single.state().keys() == {f"weight/{part}" for part in parts}


def test_post_training_leaves_the_bias_as_it_is():
    network = suite.reset(BIASED)
    with torch.no_grad():
        for block in network.blocks.values():
            block.load_bias.uniform_(-0.01, 0.01, generator=torch.Generator().manual_seed(0))
    trainee = TrainableModel(network, network.kinds(), AdamWUniform(lr=1e-2), n_steps=4)
    before = {name: tensor.clone() for name, tensor in trainee.tensors("x").items()}
    for k in range(3):
        network(*suite.tokens()).backward()
        trainee.update(k)

    after = trainee.tensors("x")
    same = {name for name in after if torch.equal(after[name], before[name])}
    assert same == {f"x/blocks.{i}.load_bias" for i in range(2)}


def test_more_experts_a_token_than_there_are_is_refused():
    with pytest.raises(ValidationError, match="top_k is 5, and there are 4 experts"):
        Moe(**SHAPE, n_experts=4, top_k=5)


RECIPE = """
data: {source: {kind: synthetic}}
seq_len: 32
model: {kind: moe, head_size: 8, n_layers: 1, n_experts: 4, top_k: 2}
optimizer: {lr: 1e-3}
"""


def test_a_recipe_has_to_say_which_parameters_are_n():
    with pytest.raises(ConfigError, match="no param_count says which of them are N") as refusal:
        Recipe.parse(parse_yaml(RECIPE, "recipe"))

    assert "param_count: active" in refusal.value.fix
    assert Recipe.parse(parse_yaml(RECIPE + "param_count: active\n", "recipe")).param_count == "active"


def test_routing_follows_fp32_weights_under_bf16_working_ones():
    """A step of the bias below the resolution of bf16 reaches the choice, and gradients reach the working weights."""
    net = BIASED.network()
    net.reset(0)
    optimizer = FlatOptimizer(net, net.kinds(), AdamW(**RATES), torch.bfloat16)
    block, masters = net.blocks["0"], optimizer.weights()
    x_RC = torch.randn(64, 16, generator=torch.Generator().manual_seed(1)).bfloat16()

    with torch.no_grad():
        masters["blocks.0.load_bias"].copy_(torch.tensor([0.3, 0.3, 0.3, 0.3001]))
        masters["blocks.0.router"].zero_()
    optimizer.restored(0)
    logits, _, chosen = block.routed(x_RC)

    assert block.load_bias.dtype == torch.bfloat16
    assert block.load_bias.unique().numel() == 1  # rounded, all are alike
    assert (chosen == 3).any(1).all()
    logits.sum().backward()
    assert block.router.grad.abs().sum() > 0

    with torch.no_grad():
        masters["blocks.0.router"].normal_(generator=torch.Generator().manual_seed(2))
    optimizer.restored(0)
    assert torch.equal(block.routed(x_RC)[0], F.linear(x_RC.float(), masters["blocks.0.router"]))
    assert not torch.equal(block.router.float(), masters["blocks.0.router"])


def test_the_log_has_the_load_of_the_experts():
    net = SWITCH.network()
    net.reset(0)
    assert net.observed() == {}
    tokens = torch.randint(0, 50, (4, 13), generator=torch.Generator().manual_seed(3))

    with torch.no_grad():
        net(tokens[:, :-1])
        shares = net.expert_loads(tokens[:, :-1])
    assert net.observed() == {}  # passes that train count, no others
    net(tokens[:, :-1], tokens[:, 1:])
    found = net.observed()

    assert found["expert_load_max"] == pytest.approx(float(shares.max()))
    assert found["expert_load_min"] == pytest.approx(float(shares.min()))
    entropy = -(shares * shares.log().nan_to_num(neginf=0)).sum(1) / torch.log(torch.tensor(4.0))
    assert found["expert_load_entropy"] == pytest.approx(float(entropy.mean()), rel=1e-5)
    assert net.observed() == {}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, of a graph after a break
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # torch traces it so itself
@pytest.mark.parametrize("model", [BIASED, SWITCH], ids=["biased", "switch"])
def test_a_compiled_mixture_has_the_losses_gradients_and_loads_of_the_plain_one(model):
    plain, compiled = model.network(), model.network()
    for net in (plain, compiled):
        net.reset(0)
    compiled.compile_with(lambda function: torch.compile(function, backend="eager"), False)
    tokens = torch.randint(0, 50, (2, 13), generator=torch.Generator().manual_seed(4))

    losses = [net(tokens[:, :-1], tokens[:, 1:]) for net in (plain, compiled)]
    for loss in losses:
        loss.backward()

    torch.testing.assert_close(*losses)
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert plain.observed() == compiled.observed()
