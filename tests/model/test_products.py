"""Products by oneDNN against products in fp64, and where torch's own are taken."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scalelab.model import products
from scalelab.model.lstm.config import Lstm
from scalelab.model.moe import network as moe_network
from scalelab.model.moe.config import Moe


@pytest.fixture
def onednn(monkeypatch):
    """Take oneDNN whatever the CPU."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)


class Called(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(operator.overloadpacket._qualified_op_name)
        return operator(*args, **(kwargs or {}))


def uses_onednn(x, weight):
    with Called() as called:
        products.linear(x, weight)
    return "mkldnn::_linear_pointwise" in called.names


@pytest.mark.parametrize("shape", [(64, 48, 144), (1000, 33, 257), (65, 1, 3), (128, 344, 16)])
def test_product_and_gradients_equal_those_in_fp64(onednn, shape):
    R, K, N = shape
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (torch.randn(size, generator=generator) for size in ((R, K), (N, K), (R, N)))
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype, copy=True).requires_grad_() for t in (x, weight)]
        y = products.linear(*leaves)
        y.backward(grad.to(dtype))
        found.append([y.detach(), *(t.grad for t in leaves)])

    assert uses_onednn(x, weight)
    for one, exact in zip(*found, strict=True):
        assert one.shape == exact.shape
        assert (one - exact).abs().max() <= 4e-6 * exact.abs().max()


def test_a_gradient_in_place_of_a_view_is_added_to_it(onednn):
    """As in the flat optimizer, whose gradients are views of one buffer."""
    x, weight = torch.randn(64, 3), torch.nn.Parameter(torch.randn(5, 3))
    buffer = torch.ones(15)
    weight.grad = buffer.view(5, 3)

    products.linear(x, weight).sum().backward()

    assert weight.grad.data_ptr() == buffer.data_ptr()
    assert torch.allclose(buffer.view(5, 3), 1 + x.sum(0).expand(5, 3), atol=1e-5)


def test_no_gradient_is_computed_for_what_is_frozen(onednn):
    x, weight = torch.randn(64, 3, requires_grad=True), torch.randn(5, 3)

    products.linear(x, weight).sum().backward()

    assert torch.allclose(x.grad, weight.sum(0).expand(64, 3), atol=1e-6)
    assert weight.grad is None


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (torch.ones(63, 8), torch.ones(4, 8)),
        (torch.ones(64, 8, dtype=torch.bfloat16), torch.ones(4, 8, dtype=torch.bfloat16)),
        (torch.ones(64, 8, dtype=torch.float64), torch.ones(4, 8, dtype=torch.float64)),
    ],
    ids=["few rows", "bf16", "fp64"],
)
def test_other_products_are_torchs_own(onednn, x, weight):
    assert uses_onednn(torch.ones(64, 8), torch.ones(4, 8))
    assert not uses_onednn(x, weight)


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t: avx512f\n", "AVX512", True),
        ("vendor_id\t: AuthenticAMD\n", "AVX2", False),
        ("vendor_id\t: GenuineIntel\n", "AVX512", False),
        ("model name\t: unknown\n", "AVX512", False),
        (None, "AVX512", False),
    ],
)
def test_which_cpu_prefers_onednn(monkeypatch, tmp_path, vendor, capability, expected):
    path = tmp_path / "cpuinfo"
    if vendor is not None:
        path.write_text("processor\t: 0\n" + vendor)
    monkeypatch.setattr(products, "CPU_INFO", path)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)

    assert products.prefers_onednn.__wrapped__() is expected


@pytest.mark.parametrize("kind", ["lstm", "moe"])
def test_heads_and_large_experts_are_multiplied_by_onednn(onednn, monkeypatch, kind):
    """Small experts are not; either way the loss and its gradients are those of torch's own products."""
    shape = dict(n_layers=1, d_model=16, n_heads=2, n_kv_heads=2, head_size=8, d_ff=24, vocab_size=50)
    config = Lstm(layers=1, units=8, vocab_size=50) if kind == "lstm" else Moe(**shape, n_experts=2, top_k=1)
    network = config.network()
    network.reset(0)
    with torch.no_grad():
        network.head.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    tokens = torch.randint(0, 50, (2, 4, 64), generator=torch.Generator().manual_seed(2))

    def measured(least=moe_network.LEAST_PRODUCT):
        monkeypatch.setattr(moe_network, "LEAST_PRODUCT", least)
        network.zero_grad()
        with Called() as called:
            loss = network(*tokens)
            loss.backward()
        n = called.names.count("mkldnn::_linear_pointwise")
        return n, [loss.detach(), *(weight.grad.clone() for weight in network.parameters())]

    few, found = measured()
    many, large = measured(0)
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)
    none, exact = measured()

    assert none == 0
    assert many > few > 0 if kind == "moe" else many == few == 3
    for one in (found, large):
        torch.testing.assert_close(one, exact, rtol=1e-4, atol=1e-6)
