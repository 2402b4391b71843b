"""What a method costs: FLOPs of each model it runs, bytes of all that it holds.

    forward   flops_per_token / 3           of one token through one model
    train     flops_per_token               forward and backward
    sft       train                         on every token of every example
    dpo       train, and forward once       policy and reference, on both answers
    reward    train                         on both answers
    rloo      write + reference + reward: forward each, then policy: look, train; grpo: train
    ppo       write + policy + reference + reward + critic: forward each, then policy and critic:
              train, times the epochs

so that with N weights in products these are 6N, 6N + 2N, 6N, 6N + 8N, and 10N + 12N epochs.
Counted on real tokens: padding is the machine's affair. All models of a method are taken to be
of one size, which ours are.

Symbols: flops_per_token as in model/flops.py, at the context of training, attention in full.
Source: the factors 2 and 6, Kaplan et al. 2020, arXiv:2001.08361, section 2.1; the rest counted.
Not here: money and time of a final run (the plan room).
"""

from torch import nn

from scalelab.evals.checkpoint import Checkpoint
from scalelab.posttrain.base import Rates
from scalelab.train.memory import state_bytes


def trained_bytes(module: nn.Module, rates: Rates) -> int:
    """Bytes of a module that is trained: weights, gradients and the optimizer's state, fp32."""
    n_params = sum(p.numel() for p in module.parameters())
    return state_bytes(n_params, "fp32", rates.spec())


def held_bytes(module: nn.Module) -> int:
    """Bytes of a module that is only read, fp32."""
    return 4 * sum(p.numel() for p in module.parameters())


def activation_bytes(model: Checkpoint, n_tokens: int) -> int:
    """Bytes that a batch leaves behind for the way back, at most, fp32."""
    return model.config.activation_bytes_per_token(4) * n_tokens
