"""FlatOptimizer is torch's AdamW with groups, whatever the layout of its memory."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scalelab.model.transformer.config import Transformer
from scalelab.model.transformer.network import TransformerNet
from scalelab.train.optimizers.adamw import AdamW
from scalelab.train.optimizers.flat import FlatOptimizer

SPEC = AdamW(lr_matrix=1e-2, lr_embedding=3e-2, lr_head=2e-2, lr_vector=5e-3, weight_decay=0.3)


def network(n_layers=2):
    net = TransformerNet(
        Transformer(
            n_layers=n_layers, d_model=16, n_heads=2, n_kv_heads=2, head_size=8, d_ff=32, vocab_size=50
        )
    )
    net.reset(0)
    torch.nn.init.normal_(net.head, std=0.1, generator=torch.Generator().manual_seed(1))
    return net


def batch(step):
    window = torch.randint(50, (4, 13), generator=torch.Generator().manual_seed(step))
    return window[:, :-1], window[:, 1:]


def test_equals_torchs_adamw_with_clipping_and_groups():
    ours, theirs = network(), network()
    kinds = ours.kinds()
    flat = FlatOptimizer(ours, kinds, SPEC, torch.float32)
    groups = [
        {
            "params": [p for n, p in theirs.named_parameters() if kinds[n] == kind],
            "lr": getattr(SPEC, f"lr_{kind}"),
            "weight_decay": 0.0 if kind == "vector" else SPEC.weight_decay,
        }
        for kind in ("matrix", "embedding", "head", "vector")
    ]
    adamw = torch.optim.AdamW(groups, betas=(SPEC.beta1, SPEC.beta2), eps=SPEC.eps)

    for step in range(20):
        ours(*batch(step)).backward()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.grad = mine.grad.clone()  # one gradient for both: only the update is tested
        flat.gather()
        norm = flat.step(1.0)
        expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), SPEC.grad_clip)
        adamw.step()
        assert norm.item() == pytest.approx(expected.item(), rel=1e-5)

    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6), name


class Kernels(TorchDispatchMode):
    """The names of all operations, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(function.__name__.partition(".")[0])
        return function(*arguments, **(options or {}))


def test_an_update_is_one_fused_kernel_a_group_however_deep_the_network():
    found = []
    for n_layers in (1, 5):
        net = network(n_layers)
        flat = FlatOptimizer(net, net.kinds(), SPEC, torch.bfloat16)
        net(*batch(0)).backward()
        flat.gather()
        with Kernels() as kernels:
            flat.step(1.0)
        found.append(kernels.names)

    assert found[0] == found[1]
    assert found[0].count("_fused_adamw_") == len(SPEC.groups())


def test_equals_torchs_fused_class_to_the_last_bit():
    """On buffers laid out alike; so a checkpoint of either could be gone on from."""
    ours = network()
    kinds = ours.kinds()
    flat = FlatOptimizer(ours, kinds, SPEC.model_copy(update={"grad_clip": None}), torch.float32)
    used = [kind for kind in ("matrix", "embedding", "head", "vector") if kind in kinds.values()]
    copies = {}
    for kind in used:
        named = [flat.weights()[n].reshape(-1) for n in kinds if kinds[n] == kind]
        copies[kind] = torch.nn.Parameter(torch.cat(named).clone())
    adamw = torch.optim.AdamW(
        [
            {
                "params": [copies[kind]],
                "lr": getattr(SPEC, f"lr_{kind}") * 0.5,
                "weight_decay": 0.0 if kind == "vector" else SPEC.weight_decay,
            }
            for kind in used
        ],
        betas=(SPEC.beta1, SPEC.beta2),
        eps=SPEC.eps,
        fused=True,
    )

    for step in range(5):
        ours(*batch(step)).backward()
        flat.gather()
        for kind in used:
            named = [p.grad.reshape(-1) for n, p in ours.named_parameters() if kinds[n] == kind]
            copies[kind].grad = torch.cat(named).clone()
        flat.step(0.5)
        adamw.step()

    moments = flat.state()
    assert set(moments) == {
        f"adamw.{i}.{what}" for i in range(len(used)) for what in ("step", "exp_avg", "exp_avg_sq")
    }
    for i, kind in enumerate(used):
        named = [flat.weights()[n].reshape(-1) for n in kinds if kinds[n] == kind]
        assert torch.equal(torch.cat(named), copies[kind])
        for what, value in adamw.state[copies[kind]].items():
            mine = moments[f"adamw.{i}.{what}"]
            assert (mine.dtype, mine.shape) == (value.dtype, value.shape)
            assert torch.equal(mine, value), what


def test_accumulating_micro_batches_equals_one_batch():
    whole, parts = network(), network()
    one = FlatOptimizer(whole, whole.kinds(), SPEC, torch.float32)
    four = FlatOptimizer(parts, parts.kinds(), SPEC, torch.float32)

    for step in range(5):
        x, y = batch(step)
        whole(x, y).backward()
        one.gather()
        one.step(1.0)
        for i in range(4):
            (parts(x[i : i + 1], y[i : i + 1]) / 4).backward()
            four.gather()
        four.step(1.0)

    assert torch.allclose(one.master, four.master, atol=1e-5)


def test_gains_do_not_decay_and_matrices_do():
    net = network()
    flat = FlatOptimizer(net, net.kinds(), SPEC, torch.float32)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    flat.step(1.0)  # no gradient: only decay moves anything

    for name, weight in net.named_parameters():
        rate = getattr(SPEC, f"lr_{net.kinds()[name]}")
        kept = 1.0 if net.kinds()[name] == "vector" else 1 - rate * SPEC.weight_decay
        assert torch.allclose(weight, before[name] * kept, rtol=1e-6), name


def test_bf16_weights_follow_an_fp32_master():
    net = network()
    flat = FlatOptimizer(net, net.kinds(), SPEC, torch.bfloat16)
    for step in range(3):
        net(*batch(step)).backward()
        flat.gather()
        flat.step(1.0)

    weights = flat.weights()
    for name, parameter in net.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert weights[name].dtype == torch.float32
        assert torch.equal(parameter, weights[name].bfloat16()), name
    assert not torch.equal(flat.master, flat.master.bfloat16().float())


def test_full_precision_is_borrowed_and_given_back():
    net = network()
    flat = FlatOptimizer(net, net.kinds(), SPEC, torch.bfloat16)

    with flat.full_precision():
        assert net.embedding.dtype == torch.float32
        assert torch.equal(net.embedding, flat.weights()["embedding"])
    assert net.embedding.dtype == torch.bfloat16

    net(*batch(0)).backward()  # and it still learns
    flat.gather()
    assert flat.step(1.0) > 0


def test_goes_on_from_what_it_gave():
    straight, halted = network(), network()
    flat = FlatOptimizer(straight, straight.kinds(), SPEC, torch.float32)
    saved = None
    for step in range(8):
        if step == 4:
            saved = copy.deepcopy({**flat.weights(), **flat.state()})
        straight(*batch(step)).backward()
        flat.gather()
        flat.step(1.0)

    again = FlatOptimizer(halted, halted.kinds(), SPEC, torch.float32)
    again.restore(saved, saved)
    for step in range(4, 8):
        halted(*batch(step)).backward()
        again.gather()
        again.step(1.0)

    assert torch.equal(flat.master, again.master)
