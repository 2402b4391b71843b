"""The cheapest model of a given loss when its use costs compute too.

    min over N, D of  6 N D + 2 N T   such that  E + A / N^alpha + B / D^beta = loss
    alpha A / N^alpha = (1 + T / (3 D)) beta B / D^beta      at the minimum

N  parameters; D  training tokens; T  tokens that the model reads and writes in its life

The larger the demand, the smaller the best model and the longer its training: 150 to 200 tokens
per parameter follow from demand, not from the law.

Source: Sardana et al. 2023, section 2, arXiv:2401.00448. The condition is the derivative of
the first line along the second. It evaluates the law at ratios far beyond most evidence, where
laws overestimate the value of tokens (the same, section 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from scalelab.errors import PlanError


@dataclass(frozen=True)
class ServedModel:
    """A model sized for training and use together."""

    n_params: float
    n_tokens: float
    training_flops: float
    inference_flops: float

    @property
    def flops(self) -> float:
        """FLOPs of training and use together."""
        return self.training_flops + self.inference_flops

    @property
    def tokens_per_param(self) -> float:
        """Training tokens per parameter, D / N."""
        return self.n_tokens / self.n_params


def serve(params: Mapping[str, float], loss: float, demand: float) -> ServedModel:
    """Return the N and D that reach a loss at the least FLOPs of training and use together.

    Args:
        params: E, A, B, alpha, beta of a Chinchilla law.
        loss: Loss to reach, nats per token.
        demand: Tokens that the model reads and writes in its life; 0 for none.

    Raises:
        PlanError: No model reaches the loss under the law, or the demand is negative.
    """
    E, A, B, alpha, beta = (params[k] for k in ("E", "A", "B", "alpha", "beta"))
    if not (np.isfinite(loss) and loss > E):
        raise PlanError(
            f"a loss of {loss:.4g} nats per token is not above the law's floor of {E:.4g}",
            where="the target loss of the plan",
            fix=f"choose a loss above {E:.4g}",
        )
    if not (np.isfinite(demand) and demand >= 0):
        raise PlanError(
            f"a demand of {demand:.4g} tokens",
            where="the demand of the plan",
            fix="give the number of tokens read and written, 0 or more",
        )
    reducible = loss - E

    def tokens(share: float) -> float:
        return float((B / (reducible * expit(-share))) ** (1 / beta))

    def balance(share: float) -> float:
        # The unknown is the share of the reducible loss that the size term takes, as a logit, so
        # that both terms stay positive.
        ratio = np.log(alpha / beta) + share
        return float(ratio - np.log1p(demand / (3 * tokens(share))))

    share = brentq(balance, -40, 40, xtol=1e-13)
    n_params, n_tokens = float((A / (reducible * expit(share))) ** (1 / alpha)), tokens(share)
    return ServedModel(n_params, n_tokens, 6 * n_params * n_tokens, 2 * n_params * demand)
