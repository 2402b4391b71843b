"""Bytes that autograd keeps of a forward pass, against the planner's estimate of activations.

The GPU's branch of the network runs on the CPU, in a context in which attention weights are not kept.
The estimate is of blocks that are not compiled. Compiled ones keep less: what is cheap is computed again.
"""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from scalelab.hardware.layout import Layout
from scalelab.model import kernels
from scalelab.model.loss_memory import logits_bytes
from scalelab.model.moe import network as moe_network
from scalelab.model.moe.config import Moe
from scalelab.model.transformer import network
from scalelab.model.transformer.config import Transformer
from scalelab.plan.cost.memory import memory
from scalelab.train.engines import compilation

ROWS, SEQ_LEN, VOCAB_SIZE = 2, kernels.CPU_ATTENTION_MAX_SEQ_LEN + 64, 300
SHAPE = {
    "n_layers": 6,
    "d_model": 64,
    "n_heads": 4,
    "n_kv_heads": 4,
    "head_size": 16,
    "d_ff": 176,
    "vocab_size": VOCAB_SIZE,
}
CLOSE = 0.1
LEAST_COMPILED = 0.65
"""Share of the estimate that compiled blocks keep at least."""

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it traces


@pytest.fixture(autouse=True)
def gpu_branch(monkeypatch):
    for module in (kernels, network):
        monkeypatch.setattr(module, "use_cpu_kernels", lambda x: False)


def kept_bytes(net, integers=False):
    """Bytes that autograd keeps of a forward pass, without weights, and those of the logits.

    Whole numbers are those of the routing of a mixture, and of rows of the embedding and targets elsewhere.
    """
    tokens = torch.randint(VOCAB_SIZE, (ROWS, SEQ_LEN + 1))
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and (integers or tensor.is_floating_point()):
            # The tensor stays, so that no other one gets its memory.
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        net(tokens[:, :-1], tokens[:, 1:])
    logits = sum(n for n, tensor in kept.values() if tensor.shape[-1:] == (VOCAB_SIZE,))
    return sum(n for n, _ in kept.values()) - logits, logits


def of(precision, recompute, changes, cross_entropy="plain"):
    """A network and its estimate."""
    model = Transformer(**SHAPE | changes)
    net = model.network()
    net.reset(0)
    net.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    net.recompute = recompute
    name = "ours" if precision == "bf16" else "fp32"
    layout = Layout(recompute=recompute)
    estimate = memory(
        model, seq_len=SEQ_LEN, rows=ROWS, layout=layout, convention_name=name, cross_entropy=cross_entropy
    )
    return net, estimate


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("bf16", {}),
        ("bf16", {"n_kv_heads": 2}),
        ("bf16", {"head_size": 32}),
        ("bf16", {"d_ff": 512}),
        ("bf16", {"n_layers": 12, "d_model": 96, "n_heads": 6, "n_kv_heads": 6, "d_ff": 256}),
        ("bf16", {"tied": True}),
        ("bf16", {"qk_norm": True}),
        ("bf16", {"qk_norm": True, "n_kv_heads": 2}),
        ("bf16", {"qk_norm": True, "head_size": 32}),
        ("fp32", {}),
        ("fp32", {"qk_norm": True}),
        ("fp32", {"n_kv_heads": 2}),
        ("fp32", {"d_ff": 512}),
    ],
)
def test_activations_are_kept_as_estimated(precision, changes):
    net, estimate = of(precision, False, changes)
    kept, logits = kept_bytes(net)

    assert kept == pytest.approx(estimate.activations_bytes, rel=CLOSE)
    # The log-softmax in fp32 is kept; the rest is there at the peak only.
    number = 2 if precision == "bf16" else 4
    share = 4 / (number + 8 if number == 2 else 8)
    assert logits == pytest.approx(share * estimate.logits_bytes, rel=CLOSE)


@pytest.mark.parametrize(
    ("n_experts", "top_k", "d_ff", "routing"),
    [
        (8, 2, 96, {"scores": "sigmoid", "balance": "bias"}),
        (64, 8, 32, {"scores": "sigmoid", "balance": "bias"}),
        (128, 1, 176, {"scores": "softmax", "balance": "loss", "z_weight": 1e-3}),
    ],
)
def test_mixtures_keep_their_routing_in_fp32(monkeypatch, n_experts, top_k, d_ff, routing):
    monkeypatch.setattr(moe_network, "uses_groups", lambda *of: True)
    model = Moe(**SHAPE | {"d_ff": d_ff}, n_experts=n_experts, top_k=top_k, **routing)
    net = model.network()
    net.reset(0)
    net.to(torch.bfloat16)
    estimate = memory(model, seq_len=SEQ_LEN, rows=ROWS, layout=Layout(), cross_entropy="plain")

    kept, _ = kept_bytes(net, integers=True)

    assert kept == pytest.approx(estimate.activations_bytes, rel=CLOSE)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"n_kv_heads": 2}])
def test_a_loss_in_chunks_keeps_the_gradients_of_the_head_and_no_logits(monkeypatch, precision, changes):
    chunk = 10
    monkeypatch.setattr("scalelab.train.memory.chunk_rows", lambda n, vocabulary: chunk)
    net, estimate = of(precision, False, changes, cross_entropy="chunked")
    _, plain = of(precision, False, changes)
    net.configure(chunk, "sdpa")
    kept, logits = kept_bytes(net)

    number = 2 if precision == "bf16" else 4
    passing = logits_bytes(chunk, VOCAB_SIZE, number) + number * VOCAB_SIZE * SHAPE["d_model"]
    assert logits == 0
    assert kept == pytest.approx(estimate.activations_bytes + estimate.logits_bytes - passing, rel=CLOSE)
    assert estimate.logits_bytes < plain.logits_bytes / 2


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_with_recomputation_the_entries_of_the_blocks_are_kept(precision):
    """The last norm and the block in use are there at any depth."""
    shallow, deep = (of(precision, True, {"n_layers": n}) for n in (2, 6))
    kept, estimated = (
        [kept_bytes(net)[0] for net, _ in (shallow, deep)],
        [estimate.activations_bytes for _, estimate in (shallow, deep)],
    )

    assert kept[1] - kept[0] == pytest.approx(estimated[1] - estimated[0], rel=CLOSE)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}])
def test_compiled_blocks_keep_less(monkeypatch, changes):
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager_decomp_partition")  # inductor's own partition
    torch._dynamo.reset()
    net, estimate = of("bf16", False, {"n_layers": 2} | changes)
    compilation.compile_network(net, "block")
    kept, _ = kept_bytes(net)
    torch._dynamo.reset()

    assert LEAST_COMPILED * estimate.activations_bytes <= kept <= estimate.activations_bytes
