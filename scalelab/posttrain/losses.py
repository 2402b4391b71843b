"""The losses of post-training as functions of log-probabilities. All are minimised.

    sft     mean of -log p(token) over the answers' tokens
    reward  -log sigmoid(r_chosen - r_rejected)                                    Bradley-Terry
    dpo     -log sigmoid(beta ((lc - lc_ref) - (lr - lr_ref)))        l: log p of a whole answer
    policy  mean of max(-A ratio, -A clip(ratio, 1 - e, 1 + e))
    value   mean of max((v - R)^2, (v_old + clip(v - v_old, -e, e) - R)^2) / 2

Sources: Bradley & Terry 1952; Stiennon et al. 2020, arXiv:2009.01325; Rafailov et al. 2023 (DPO),
arXiv:2305.18290, eq. 7; Schulman et al. 2017 (PPO), arXiv:1707.06347; Schulman et al. 2015 (GAE),
arXiv:1506.02438; Schulman 2020, "Approximating KL divergence" (the k3 estimate).
Shapes: B rows, T positions; a mask is 1 where a position counts.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid


def token_logps(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Return the log-probability of each target, nats, fp32, shape (B, T)."""
    B, T, V = logits_BTV.shape
    flat = cross_entropy(logits_BTV.reshape(B * T, V).float(), targets_BT.reshape(-1), reduction="none")
    return -flat.view(B, T)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of x where the mask is 1."""
    return (x * mask).sum() / mask.sum()


def sft(logps_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean loss over tokens with mask 1, nats per token."""
    return -masked_mean(logps_BT, mask_BT)


def reward(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """Return the negative log-likelihood of the Bradley-Terry model, nats per pair."""
    return -logsigmoid(chosen_B - rejected_B).mean()


def dpo(
    chosen_B: Tensor, rejected_B: Tensor, chosen_ref_B: Tensor, rejected_ref_B: Tensor, beta: float
) -> Tensor:
    """Return the DPO loss, nats per pair.

    Args:
        chosen_B: Summed log-probability of each chosen answer under the model, nats.
        rejected_B: Likewise of each rejected answer.
        chosen_ref_B: Summed log-probability of each chosen answer under the reference, nats.
        rejected_ref_B: Likewise of each rejected answer.
        beta: Strength of the attachment to the reference.
    """
    margin = (chosen_B - chosen_ref_B) - (rejected_B - rejected_ref_B)
    return -logsigmoid(beta * margin).mean()


def advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return generalised advantages and returns of answers that end where their mask ends.

    A_t = sum over l of (gamma lam)^l d_{t+l},  d_t = r_t + gamma v_{t+1} - v_t,  R = A + v

    Args:
        rewards_BT: Reward of each token.
        values_BT: Critic's value at each token.
        mask_BT: 1 at the tokens of answers.
        gamma: Discount per token, 0 to 1.
        lam: GAE's trade-off of bias against variance, 0 to 1.
    """
    found = torch.zeros_like(rewards_BT)
    ahead = torch.zeros_like(rewards_BT[:, 0])
    for t in reversed(range(rewards_BT.shape[1])):
        later = t + 1 < rewards_BT.shape[1]
        next_value = values_BT[:, t + 1] * mask_BT[:, t + 1] if later else 0.0
        surprise = rewards_BT[:, t] + gamma * next_value - values_BT[:, t]
        ahead = (surprise + gamma * lam * ahead) * mask_BT[:, t]
        found[:, t] = ahead
    return found, (found + values_BT) * mask_BT


def whitened(x: Tensor, mask: Tensor) -> Tensor:
    """Return x with mean 0 and standard deviation 1 where the mask is 1, and 0 elsewhere."""
    mean = masked_mean(x, mask)
    spread = masked_mean((x - mean) ** 2, mask).sqrt()
    return (x - mean) / (spread + 1e-6) * mask


def policy(
    logps_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped loss and the share of tokens whose ratio was clipped.

    Args:
        logps_BT: Log-probability of each token under the current policy, nats.
        old_BT: Log-probability of each token under the policy that sampled it, nats.
        advantages_BT: Advantage of each token.
        mask_BT: 1 at the tokens of answers.
        clip: Largest change of the ratio from 1 that has a gradient.
    """
    ratio = (logps_BT - old_BT).exp()
    near = ratio.clamp(1 - clip, 1 + clip)
    loss = masked_mean(torch.max(-advantages_BT * ratio, -advantages_BT * near), mask_BT)
    return loss, masked_mean((ratio != near).float(), mask_BT).detach()


def value(values_BT: Tensor, old_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float) -> Tensor:
    """Return half the critic's mean squared error, the larger of clipped and unclipped.

    Args:
        values_BT: Value of each token from the critic under training.
        old_BT: Value of each token when the answers were sampled.
        returns_BT: Target of each token.
        mask_BT: 1 at the tokens of answers.
        clip: Largest change of a value from its old one before it is clipped.
    """
    near = old_BT + (values_BT - old_BT).clamp(-clip, clip)
    error = torch.max((values_BT - returns_BT) ** 2, (near - returns_BT) ** 2)
    return 0.5 * masked_mean(error, mask_BT)


def entropy(logits_BTV: Tensor) -> Tensor:
    """Return the entropy of the next token, nats, shape (B, T)."""
    logps = logits_BTV.float().log_softmax(-1)
    return -(logps.exp() * logps).sum(-1)


def kl(logps_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """Return an estimate of KL(policy || reference) at each token sampled from the policy, nats.

    k3 = exp(d) - 1 - d with d = log reference - log policy: unbiased, with less variance than -d,
    and never negative.
    """
    d = reference_BT - logps_BT
    return d.exp() - 1 - d
