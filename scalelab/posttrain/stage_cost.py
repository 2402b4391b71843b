"""Cost of a post-training method: FLOPs of each model it runs, bytes of what it holds.

    forward   flops_per_token / 3           of one token through one model
    train     flops_per_token               forward and backward
    sft       train                         on every token of every example
    dpo       train, and forward once       policy and reference, on both answers
    reward    train                         on both answers
    rloo      sampling, reference, reward: forward each; then policy: forward, train; grpo: train
    ppo       sampling, policy, reference, reward, critic: forward each; then policy and critic:
              train, once per epoch

With N weights in matrix products these are 6N, 6N + 2N, 6N, 6N + 8N, and 10N + 12N epochs per
token. Padding is not counted. All models of a method have the same size.

Symbols: flops_per_token as in model/transformer/flops.py, at the context of training, attention in full.
Source: the factors 2 and 6, Kaplan et al. 2020, arXiv:2001.08361, section 2.1; the rest counted.
Not here: money and time of a final run (plan/cost/).
"""

from torch import nn

from scalelab.evals.checkpoint import Checkpoint
from scalelab.model.loss_memory import logits_bytes
from scalelab.posttrain.base import OptimizerSetting
from scalelab.train.memory import state_bytes


def trained_bytes(module: nn.Module, rates: OptimizerSetting) -> int:
    """Return the bytes of a module under training: weights, gradients, optimizer state, fp32."""
    n_params = sum(p.numel() for p in module.parameters())
    return state_bytes(n_params, "fp32", rates.spec())


def held_bytes(module: nn.Module) -> int:
    """Return the bytes of a module used for inference only, fp32."""
    return 4 * sum(p.numel() for p in module.parameters())


def activation_bytes(model: Checkpoint, n_tokens: int) -> int:
    """Return the most bytes of activations that a batch keeps for the backward pass, fp32."""
    per_token = model.config.activation_bytes_per_token(4)
    return per_token * n_tokens + logits_bytes(n_tokens, model.config.vocab_size, 4)
