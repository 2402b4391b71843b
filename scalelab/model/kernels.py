"""The operations of a transformer, each with a path that is fast on the CPU.

On small models a step is bound by how many kernels run and how much memory each of them
touches, not by arithmetic. On the CPU the functions below save kernels by writing the
backward pass by hand; otherwise the plain expressions are left for torch.compile to
fuse. Both paths compute the same function; the tests hold them against each other.

Shapes: R rows (batch x time), C columns, B batch, H heads, T time, E head size.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

CPU_ATTENTION_MAX_SEQ_LEN = 256
"""Up to here scores held in memory beat torch's own CPU kernel; beyond, they do not."""

SOFTMAX_AT_ONCE = 2**17
"""Numbers of a softmax held at once on the CPU: 512 KiB in fp32, within a core's own cache."""


def use_cpu_kernels(x: Tensor) -> bool:
    """Whether x takes the path written by hand: on the CPU, where torch.compile does not fuse."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x_RC: Tensor, gain_C: Tensor, eps: float) -> Tensor:
        scale_R1 = torch.linalg.vector_norm(x_RC, dim=-1, keepdim=True, dtype=torch.float32)
        scale_R1 = scale_R1.square_().div_(x_RC.shape[-1]).add_(eps).rsqrt_().to(x_RC.dtype)
        unit_RC = x_RC * scale_R1
        ctx.save_for_backward(unit_RC, scale_R1, gain_C)
        return unit_RC * gain_C

    @staticmethod
    def backward(ctx: Any, grad_RC: Tensor) -> tuple[Tensor, Tensor, None]:
        unit_RC, scale_R1, gain_C = ctx.saved_tensors
        product_RC = grad_RC * unit_RC
        grad_gain_C = product_RC.sum(0)
        along_R1 = torch.mv(product_RC, gain_C).div_(-gain_C.shape[0]).unsqueeze_(-1)
        grad_x_RC = torch.addcmul(grad_RC * gain_C, unit_RC, along_R1).mul_(scale_R1)
        return grad_x_RC, grad_gain_C, None


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """X over its root mean square along the last axis, times a gain; same shape as x."""
    if use_cpu_kernels(x) and x.dim() == 2:
        return _RMSNorm.apply(x, gain, eps)
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * gain


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        open_ = torch.sigmoid(gate.contiguous())  # contiguous: twice as fast on half-rows
        active = open_ * gate
        ctx.save_for_backward(up, open_, active)
        return active * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        up, open_, active = ctx.saved_tensors
        out = grad.new_empty(*grad.shape[:-1], 2 * grad.shape[-1])
        grad_gate, grad_up = out.chunk(2, dim=-1)
        torch.mul(grad, active, out=grad_up)
        # silu'(g) = s + g s (1 - s) = s + a - a s, with s = sigmoid(g) and a = g s
        slope = torch.addcmul(open_ + active, active, open_, value=-1)
        torch.mul(slope.mul_(grad), up, out=grad_gate)
        return out


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of a tensor that holds both along its last axis; half as wide."""
    if use_cpu_kernels(gate_up):
        return _SwiGLU.apply(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def feed_forward_activation(hidden: Tensor, activation: str) -> Tensor:
    """Activation of a feed-forward by its name: swiglu (half as wide), gelu or relu2."""
    if activation == "swiglu":
        return swiglu(hidden)
    return F.gelu(hidden) if activation == "gelu" else F.relu(hidden).square()


def normed(x: Tensor, gain: Tensor, eps: float, norm: str) -> Tensor:
    """X normalised along its last axis, times a gain; same shape as x.

    Args:
        x: Of any shape.
        gain: One number for each of its last axis.
        eps: Added to the mean square, or to the variance.
        norm: rms or layer.
    """
    if norm == "rms":
        return rms_norm(x, gain, eps)
    return F.layer_norm(x, gain.shape, gain, None, eps)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """X with each pair (i, i + E/2) of its last axis turned by its position's angle.

    cos and sin broadcast against x; sin carries a minus sign in its first half.
    Source: Su et al. 2021, arXiv:2104.09864, in the half-split layout of Llama checkpoints.
    """
    return torch.addcmul(x * cos, torch.roll(x, x.shape[-1] // 2, -1), sin)


def rotary_tables(seq_len: int, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos, and sin with its first half negated, of every position, shape (T, E), fp32."""
    pairs = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float64), theta**-pairs)
    cos, sin = angles.cos().float(), angles.sin().float()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def own_mask(segments_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a position may look, earlier and in its own segment, else -inf; (B, 1, T, T)."""
    own = segments_BT[:, :, None] == segments_BT[:, None, :]
    may_look = own.tril()
    mask = torch.zeros(may_look.shape, dtype=dtype, device=segments_BT.device)
    return mask.masked_fill_(~may_look, -math.inf)[:, None]


def flash3_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by FlashAttention-3, in bf16; shape (B, H, T, E), as q.

    Its own layout is (B, T, H, E), and keys and values may have fewer heads than queries.
    Source: Shah et al. 2024, arXiv:2407.08608; flash_attn_interface.py of its package.

    Args:
        q: Queries, shape (B, H, T, E).
        k: Keys, shape (B, K, T, E) with K a divisor of H.
        v: Values, likewise.
    """
    from flash_attn_interface import flash_attn_func

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    found = flash_attn_func(q, k, v, softmax_scale=1 / math.sqrt(q.shape[-1]), causal=True)
    mixed = found[0] if isinstance(found, tuple) else found  # its first versions add the log-sums
    return mixed.transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Causal attention of rotated heads. All of shape (B, H, T, E), and so is the result.

    With a mask (T, T) (0 where a position may look, -inf where it may not) the scores are held
    in memory, which is faster on the CPU in short contexts; without, and with a mask for each
    row (B, 1, T, T), torch chooses its kernel.

    Args:
        q: Queries, shape (B, H, T, E).
        k: Keys, shape (B, H, T, E).
        v: Values, shape (B, H, T, E).
        mask: Shape (T, T) or (B, 1, T, T), added to the scores; None: causal.
    """
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if mask.dim() == 4:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    B, H, T, E = q.shape
    q, k, v = (x.reshape(B * H, T, E) for x in (q, k, v))
    mask_BTT = mask.expand(B * H, T, T)
    scores = torch.baddbmm(mask_BTT, q, k.transpose(1, 2), alpha=1 / math.sqrt(E))
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(B, H, T, E)


class _ShortAttention(Function):
    """Rotary and causal attention from one matrix of queries, keys and values, and back.

    One node instead of some twenty: no slices to pad with zeros on the way back, one copy in,
    one copy out, and scores short enough to stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, B: int) -> Tensor:
        T, E = cos.shape
        H = qkv.shape[1] // (3 * E)
        heads = qkv.view(B, T, 3, H, E).permute(2, 0, 3, 1, 4).contiguous()
        q, k = rotary(heads[:2], cos, sin).view(2, B * H, T, E)
        v = heads[2].view(B * H, T, E)
        scale = 1 / math.sqrt(E)
        scores = torch.baddbmm(mask.expand(B * H, T, T), q, k.transpose(1, 2), alpha=scale)
        share = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(q, k, v, share, cos, sin)
        return torch.bmm(share, v).view(B, H, T, E).transpose(1, 2).reshape(B * T, H * E)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        q, k, v, share, cos, sin = ctx.saved_tensors
        T, E = cos.shape
        H = grad.shape[1] // E
        B = len(q) // H
        scale = 1 / math.sqrt(E)
        grad = grad.view(B, T, H, E).transpose(1, 2).reshape(B * H, T, E)
        out = torch.empty((3, B * H, T, E), dtype=grad.dtype)
        torch.bmm(share.transpose(1, 2), grad, out=out[2])
        weighted = torch.bmm(grad, v.transpose(1, 2))
        slope = torch._softmax_backward_data(weighted, share, -1, share.dtype)
        torch.baddbmm(q, slope, k, beta=0, alpha=scale, out=out[0])
        torch.baddbmm(k, slope.transpose(1, 2), q, beta=0, alpha=scale, out=out[1])
        turned = out[:2]
        out[:2] = (turned * cos).add_(torch.roll(turned * sin, E // 2, -1))
        qkv = out.view(3, B, H, T, E).permute(1, 3, 0, 2, 4).reshape(B * T, 3 * H * E)
        return qkv, None, None, None, None


def short_attention(qkv_RD: Tensor, cos_TE: Tensor, sin_TE: Tensor, mask_TT: Tensor, batch: int) -> Tensor:
    """Rotary and causal attention in one, for CPU and contexts up to CPU_ATTENTION_MAX_SEQ_LEN.

    Args:
        qkv_RD: Queries, keys and values of as many heads each, shape (B*T, 3*H*E).
        cos_TE: See rotary_tables.
        sin_TE: Likewise.
        mask_TT: 0 where a position may look, -inf where it may not.
        batch: B.

    Returns: The mixed values, shape (B*T, H*E).
    """
    return _ShortAttention.apply(qkv_RD, cos_TE, sin_TE, mask_TT, batch)


class _CrossEntropy(Function):
    """The loss and, over the logits' own memory, its slope: nothing of their size is made.

    Rows go through a few at a time, so that their fp32 softmax stays in the cache. Whoever
    made the logits must not need them again; a matmul does not.
    """

    @staticmethod
    def forward(ctx: Any, logits_RV: Tensor, target_R: Tensor) -> Tensor:
        R, V = logits_RV.shape
        step, losses = max(1, SOFTMAX_AT_ONCE // V), []
        slope_RV = logits_RV.detach()
        for start in range(0, R, step):
            rows, target = slope_RV[start : start + step], target_R[start : start + step, None]
            share = torch.softmax(rows, dim=-1, dtype=torch.float32)
            hit = share.gather(1, target)
            losses.append(hit.log())
            share.scatter_(1, target, hit - 1)
            rows.copy_(share.mul_(1 / R))
        ctx.save_for_backward(slope_RV)
        return -torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slope_RV,) = ctx.saved_tensors
        return slope_RV if grad == 1 else slope_RV * grad.to(slope_RV.dtype), None


def cross_entropy(logits_RV: Tensor, target_R: Tensor) -> Tensor:
    """Mean loss in nats per token, fp32, a scalar."""
    if use_cpu_kernels(logits_RV) and logits_RV.requires_grad:
        return _CrossEntropy.apply(logits_RV, target_R)
    return F.cross_entropy(logits_RV.float(), target_R)
