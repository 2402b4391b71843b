"""Products with weights in fp32 on the CPU, by the faster of the two libraries that torch brings.

    y = x W^T,  dx = dy W,  dW = (x^T dy)^T

torch multiplies fp32 matrices by MKL, whose AVX-512 kernels run on Intel's CPUs alone: on others it takes those of
AVX2, at half the rate. oneDNN, which torch uses in bf16, has AVX-512 kernels for any CPU. Measured on one core of an
AMD EPYC (family 26): 95-102 GFLOP/s by MKL, 160-210 by oneDNN at widths from 48 to 344. On Intel's CPUs, without
AVX-512 and without either library the product is torch's own.

The two round differently where sums are long. Measured there: equal to the last bit up to 192 terms, so a validation
loss of a small model is the same by both; different from 344 on, so dW, a sum over all rows, is not.

Used by the transformer's layers, heads (but not where the loss is computed in chunks: linear_loss.py), and experts
whose product is large (moe/network.py). The layers of an LSTM are torch's own.

dW is computed as its transpose: both factors are then read as they lie in memory.

Shapes: R rows (batch x time), K inputs, N outputs.
Not here: products in bf16 (torch's own, by oneDNN), in fp8 (fp8.py).
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear as torch_linear

LEAST_ROWS = 64
"""Below so many rows, as in generation, a call of oneDNN takes longer than the product."""
CPU_INFO = Path("/proc/cpuinfo")


@cache
def prefers_onednn() -> bool:
    """Whether this CPU multiplies fp32 matrices faster by oneDNN."""
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and _vendor() not in ("", "GenuineIntel")
    )


def _vendor() -> str:
    """Vendor of the CPU as it names itself; empty where that is unknown."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def linear(x_RK: Tensor, weight_NK: Tensor) -> Tensor:
    """The product x W^T, shape (R, N).

    Args:
        x_RK: Input of the layer.
        weight_NK: Its weight, of the same dtype.
    """
    if (
        x_RK.dtype != torch.float32
        or x_RK.device.type != "cpu"
        or torch.compiler.is_compiling()
        or len(x_RK) < LEAST_ROWS
        or not prefers_onednn()
    ):
        return torch_linear(x_RK, weight_NK)
    return _Linear.apply(x_RK, weight_NK)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x_RK: Tensor, weight_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x_RK, weight_NK)
        return _product(x_RK, weight_NK)

    @staticmethod
    def backward(ctx: Any, grad_RN: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_RK, weight_NK = ctx.saved_tensors
        grad_x = _product(grad_RN, weight_NK.t()) if ctx.needs_input_grad[0] else None
        grad_weight = _product(x_RK.t(), grad_RN.t()).t() if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A b^T by oneDNN, whichever way the factors lie in memory."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
