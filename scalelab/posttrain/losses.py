"""The losses of post-training, as plain functions of log-probabilities. All are to be minimised.

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
    """Log-probability of each target, nats, fp32, shape (B, T)."""
    B, T, V = logits_BTV.shape
    flat = cross_entropy(
        logits_BTV.reshape(B * T, V).float(), targets_BT.reshape(-1), reduction="none"
    )
    return -flat.view(B, T)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x where the mask is 1."""
    return (x * mask).sum() / mask.sum()


def sft(logps_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean loss of the tokens that count, nats per token."""
    return -masked_mean(logps_BT, mask_BT)


def reward(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """Bradley-Terry's negative log-likelihood, nats per pair."""
    return -logsigmoid(chosen_B - rejected_B).mean()


def dpo(
    chosen_B: Tensor, rejected_B: Tensor, chosen_ref_B: Tensor, rejected_ref_B: Tensor, beta: float
) -> Tensor:
    """DPO's loss from the summed log-probabilities of answers, nats per pair."""
    margin = (chosen_B - chosen_ref_B) - (rejected_B - rejected_ref_B)
    return -logsigmoid(beta * margin).mean()


def advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantages and returns of answers that end where their mask does.

    A_t = sum over l of (gamma lam)^l d_{t+l},  d_t = r_t + gamma v_{t+1} - v_t,  R = A + v
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
    """X with mean 0 and standard deviation 1 where the mask is 1, and 0 elsewhere."""
    mean = masked_mean(x, mask)
    spread = masked_mean((x - mean) ** 2, mask).sqrt()
    return (x - mean) / (spread + 1e-6) * mask


def policy(
    logps_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped loss, and the share of tokens whose ratio was clipped."""
    ratio = (logps_BT - old_BT).exp()
    near = ratio.clamp(1 - clip, 1 + clip)
    loss = masked_mean(torch.max(-advantages_BT * ratio, -advantages_BT * near), mask_BT)
    return loss, masked_mean((ratio != near).float(), mask_BT).detach()


def value(
    values_BT: Tensor, old_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float
) -> Tensor:
    """The critic's squared miss, the larger of clipped and unclipped."""
    near = old_BT + (values_BT - old_BT).clamp(-clip, clip)
    miss = torch.max((values_BT - returns_BT) ** 2, (near - returns_BT) ** 2)
    return 0.5 * masked_mean(miss, mask_BT)


def entropy(logits_BTV: Tensor) -> Tensor:
    """Entropy of the next token, nats, shape (B, T)."""
    logps = logits_BTV.float().log_softmax(-1)
    return -(logps.exp() * logps).sum(-1)


def kl(logps_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """Estimate of KL(policy || reference) at each token drawn from the policy, nats, never < 0.

    k3 = exp(d) - 1 - d with d = log reference - log policy: unbiased, with less spread than -d.
    """
    d = reference_BT - logps_BT
    return d.exp() - 1 - d
