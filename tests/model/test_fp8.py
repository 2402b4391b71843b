"""The linear layer in fp8: its three products are those of rounded factors, in the layout that a GPU takes."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from scalelab.model.fp8 import BACKWARD, FORWARD, SMALLEST, fp8_linear, rounded

R, K, N = 32, 16, 48


def inputs(dtype):
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (torch.randn(shape, generator=generator) for shape in ((R, K), (N, K), (R, N)))
    return (x * 3).to(dtype).requires_grad_(), (weight / 4).to(dtype).requires_grad_(), (grad / 1e4).to(dtype)


def quantised(factor, dtype):
    """A factor as it is after rounding, in float64: the scale is taken out again."""
    scale = torch.finfo(dtype).max / factor.detach().double().abs().max()
    return (factor.detach().double() * scale).float().to(dtype).double() / scale


@pytest.mark.parametrize(("dtype", "bits"), [(FORWARD, 3), (BACKWARD, 2)])
def test_a_factor_is_rounded_to_its_bits_and_its_largest_number_is_kept(dtype, bits):
    factor = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 1e-6
    values, inverse = rounded(factor, dtype)
    back = values.float() * inverse
    largest = factor.abs().argmax()

    normal = values.float().abs() >= torch.finfo(dtype).smallest_normal
    error = ((back - factor) / factor).abs()[normal]
    assert normal.float().mean() > 0.9
    assert error.max() <= 2.0 ** -(bits + 1) * (1 + 1e-6)
    assert error.max() > 2.0 ** -(bits + 2)
    assert back.flatten()[largest] == pytest.approx(factor.flatten()[largest].item(), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, SMALLEST * 2.0**-20, SMALLEST, 1e38])
def test_the_scale_of_a_factor_is_finite(value):
    values, inverse = rounded(torch.full((2, 2), value), BACKWARD)

    assert torch.isfinite(inverse)
    assert (values.float() * inverse).tolist() == [[pytest.approx(value, rel=0.13)] * 2] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_three_products_are_those_of_rounded_factors(dtype):
    x, weight, grad = inputs(dtype)
    y = fp8_linear(x, weight)
    y.backward(grad)
    x_, weight_, grad_ = quantised(x, FORWARD), quantised(weight, FORWARD), quantised(grad, BACKWARD)

    for ours, wanted in ((y, x_ @ weight_.T), (x.grad, grad_ @ weight_), (weight.grad, grad_.T @ x_)):
        assert ours.dtype == dtype
        tolerance = (1e-5 if dtype == torch.float32 else 2.0**-8) * wanted.abs().max().item()
        assert torch.allclose(ours.detach().double(), wanted, rtol=0, atol=tolerance)


def test_the_products_are_near_those_that_are_not_rounded():
    """An error of a factor is uniform in half a unit: 2^-4 / sqrt(3) of it at most, 2^-3 / sqrt(3) of a gradient."""
    x, weight, grad = inputs(torch.float32)
    fp8_linear(x, weight).backward(grad)

    for ours, wanted in ((x.grad, grad @ weight), (weight.grad, grad.T @ x)):
        share = ((ours - wanted).norm() / wanted.norm()).item()
        assert 0.01 < share < (2.0**-6 / 3 + 2.0**-8 / 3) ** 0.5


@pytest.mark.parametrize("where", ["x", "weight", "grad"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_so(where, value):
    x, weight, grad = inputs(torch.float32)
    spoilt = {"x": x, "weight": weight, "grad": grad}[where]
    with torch.no_grad():
        spoilt[0, 0] = value
    y = fp8_linear(x, weight)
    y.backward(grad)

    assert torch.isfinite(y).all() == (where == "grad")
    assert not torch.isfinite(x.grad if where == "grad" else y).all()


class AskedOfAGpu(TorchDispatchMode):
    """Asks for each product again on tensors of a GPU without data, whose layout and sizes torch checks."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Compute as without it."""
        if function is torch.ops.aten._scaled_mm.default:
            with FakeTensorMode():
                fake = [
                    torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda") for t in args[:4]
                ]
                self.shapes.append(function(*fake, *args[4:], **(kwargs or {})).shape)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("seen", ["contiguous", "transposed", "expanded"])
def test_factors_lie_in_memory_as_a_gpu_takes_them(seen):
    x, weight, grad = inputs(torch.bfloat16)
    of_layout = {
        "contiguous": grad,
        "transposed": grad.t().contiguous().t(),
        "expanded": grad[0, 0].expand(R, N),
    }
    with AskedOfAGpu() as products:
        fp8_linear(x, weight).backward(of_layout[seen])

    assert products.shapes == [(R, N), (R, K), (N, K)]


def test_the_input_is_kept_in_one_byte_a_number():
    x, weight, _ = inputs(torch.bfloat16)
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fp8_linear(x, weight)

    assert sum(t.nbytes for t in kept if t.data_ptr() != weight.data_ptr()) == R * K + 4


@pytest.mark.filterwarnings("ignore")  # of torch, while it traces
def test_compiled_it_is_one_graph_with_the_same_numbers():
    torch._dynamo.reset()
    compiled = torch.compile(fp8_linear, backend="aot_eager", fullgraph=True, dynamic=False)
    found = []
    for function in (fp8_linear, compiled):
        x, weight, grad = inputs(torch.bfloat16)
        y = function(x, weight)
        y.backward(grad)
        found.append((y.detach(), x.grad, weight.grad))
    torch._dynamo.reset()

    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
