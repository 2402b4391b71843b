"""A linear layer whose three matrix products are in fp8, and the sizes that such products take.

    y  = x W^T    x and W in e4m3: 3 bits of mantissa, up to 448
    dx = g W      g in e5m2: 2 bits of mantissa, up to 57,344
    dW = g^T x

A factor t is rounded as s t with s = LARGEST / max |t|, one s for all of it, found anew at every product
(dynamic scaling); the product is divided by both s. Nothing saturates, and a factor that is not finite
gives a product that is not. The products are of the dtype of x and W. On a GPU the sums of y are shorter
than fp32 (fast accumulation), as in torchao, and those of the gradients are not.

From the forward to the backward pass x is kept in e4m3, half the bytes of bf16, and W as it is.

Shapes: R rows (batch x time), K columns of the input, N columns of the output.

Source: Micikevicius et al. 2022, arXiv:2209.05433 (formats). Layouts and sizes: torch._scaled_mm, as
checked in torch/_meta_registrations.py. Not here: which GPUs have such products (hardware/fp8.py).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

FP8_MULTIPLE = 16
"""R, K and N are multiples of this."""
FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
"""Formats of inputs and weights, and of gradients."""
SMALLEST = 2.0**-100
"""Least number that is scaled to the largest of a format, so that neither s nor 1 / s overflows."""


def fp8_linear(x_RK: Tensor, weight_NK: Tensor) -> Tensor:
    """The product x W^T with factors in fp8, shape (R, N).

    Args:
        x_RK: Input of the layer.
        weight_NK: Its weight, of the same dtype: bf16 or fp32.
    """
    return _Fp8Linear.apply(x_RK, weight_NK)


def rounded(factor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A factor of a product in fp8, of the same shape and in rows, and 1 / s, a scalar in fp32.

    Args:
        factor: What is rounded.
        dtype: float8_e4m3fn or float8_e5m2.
    """
    most = factor.abs().amax().float().clamp(min=SMALLEST)
    scale = torch.finfo(dtype).max / most
    return (factor.float() * scale).to(dtype).contiguous(), scale.reciprocal()


class _Fp8Linear(Function):
    @staticmethod
    def forward(ctx: Any, x_RK: Tensor, weight_NK: Tensor) -> Tensor:
        x, x_inverse = rounded(x_RK, FORWARD)
        weight, weight_inverse = rounded(weight_NK, FORWARD)
        ctx.save_for_backward(x, x_inverse, weight_NK)
        return torch._scaled_mm(
            x, weight.t(), x_inverse, weight_inverse, out_dtype=x_RK.dtype, use_fast_accum=True
        )

    @staticmethod
    def backward(ctx: Any, grad_RN: Tensor) -> tuple[Tensor, Tensor]:
        x, x_inverse, weight_NK = ctx.saved_tensors
        grad, grad_inverse = rounded(grad_RN, BACKWARD)
        weight, weight_inverse = rounded(weight_NK, FORWARD)
        dtype = grad_RN.dtype
        grad_x = torch._scaled_mm(grad, _in_columns(weight), grad_inverse, weight_inverse, out_dtype=dtype)
        grad_weight = torch._scaled_mm(
            grad.t().contiguous(), _in_columns(x), grad_inverse, x_inverse, out_dtype=dtype
        )
        return grad_x, grad_weight


def _in_columns(matrix: Tensor) -> Tensor:
    """Lay a matrix out column by column in memory, as the second factor has to be."""
    return matrix.t().contiguous().t()
