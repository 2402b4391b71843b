"""Cross-entropy of a linear layer in chunks of rows, so that the logits of only one chunk exist.

    z = x W^T,  loss = mean_r (logsumexp_v z_rv - z_r,y_r)
    dz = (softmax z - onehot y) / R,  dx = dz W,  dW = dz^T x

The gradients of x and W are computed with the loss, chunk by chunk, while the logits are there: three
matrix products a row, as without chunks, and none again on the way back. dW is summed in fp32. There is
no second derivative.

All of it is one operator to torch.compile. Traced instead, the loop would keep nothing small: the
partitioner moves dW = dz^T x into the backward graph and saves dz of every chunk, as many numbers as
there are logits (seen with torch 2.13 in bf16).

Shapes: R rows (batch x time), C width, V vocabulary.

Source: Wijmans et al. 2024, arXiv:2411.09009 (the cost of logits); Hsu et al. 2024 (Liger kernels),
arXiv:2410.10989 (gradients with the loss). torch has a chunked linear_cross_entropy from 2.13 on, at which
torch.compile breaks the graph.
Not here: bytes and the rows of a chunk (loss_memory.py), which runs compute so (train/memory.py).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


@torch.library.custom_op("scalelab::linear_cross_entropy", mutates_args=())
def _loss_and_gradients(
    x_RC: Tensor, weight_VC: Tensor, target_R: Tensor, rows: int, needs_x: bool, needs_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and the gradients of x and of the weight; empty ones where they are not needed."""
    R, wide = len(x_RC), torch.promote_types(weight_VC.dtype, torch.float32)
    loss, grad_x_RC, grad_weight_VC = _outputs(x_RC, weight_VC, needs_x, needs_weight)
    loss.zero_()
    grad_weight_VC.zero_()
    for start in range(0, R, rows):
        x, target = x_RC[start : start + rows], target_R[start : start + rows, None]
        logits = linear(x, weight_VC)
        share = torch.log_softmax(logits, -1, dtype=wide)
        loss -= share.gather(1, target).sum()
        if not (needs_x or needs_weight):
            continue
        share.exp_().scatter_add_(1, target, -torch.ones_like(target, dtype=wide))
        slope = torch.mul(share, 1 / R, out=logits)  # the logits' memory, in their dtype
        if needs_x:
            torch.mm(slope, weight_VC, out=grad_x_RC[start : start + rows])
        if needs_weight and wide == slope.dtype:
            grad_weight_VC.addmm_(slope.t(), x)
        elif needs_weight:
            grad_weight_VC.add_(slope.t() @ x)
    return loss.div_(R), grad_x_RC, grad_weight_VC


def _outputs(x_RC: Tensor, weight_VC: Tensor, needs_x: bool, needs_weight: bool) -> tuple[Tensor, ...]:
    wide = torch.promote_types(weight_VC.dtype, torch.float32)
    return (
        x_RC.new_empty((), dtype=wide),
        x_RC.new_empty(x_RC.shape if needs_x else 0),
        weight_VC.new_empty(weight_VC.shape if needs_weight else 0, dtype=wide),
    )


@_loss_and_gradients.register_fake
def _(x_RC, weight_VC, target_R, rows, needs_x, needs_weight):
    del target_R, rows
    return _outputs(x_RC, weight_VC, needs_x, needs_weight)


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.needed, ctx.dtype = inputs[4:], inputs[1].dtype


def _backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    x_RC, weight_VC = ctx.saved_tensors
    needs_x, needs_weight = ctx.needed
    grad_x_RC = x_RC * grad.to(x_RC.dtype) if needs_x else None
    grad_weight_VC = (weight_VC * grad).to(ctx.dtype) if needs_weight else None
    return grad_x_RC, grad_weight_VC, None, None, None, None


_loss_and_gradients.register_autograd(_backward, setup_context=_keep)


def linear_cross_entropy(x_RC: Tensor, weight_VC: Tensor, target_R: Tensor, rows: int) -> Tensor:
    """Mean loss in nats per token, a scalar, in fp32 or wider.

    Args:
        x_RC: What the head sees.
        weight_VC: Weight of the head, of the same dtype.
        target_R: The tokens to predict.
        rows: Rows of a chunk.
    """
    wanted = torch.is_grad_enabled()
    needs_x, needs_weight = wanted and x_RC.requires_grad, wanted and weight_VC.requires_grad
    return _loss_and_gradients(x_RC, weight_VC, target_R, rows, needs_x, needs_weight)[0]
