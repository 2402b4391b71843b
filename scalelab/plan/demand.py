"""The cheapest model of a wanted quality, when answering requests costs compute too.

    min over N, D of  6 N D + 2 N T   such that  E + A / N^alpha + B / D^beta = loss
    alpha A / N^alpha = (1 + T / (3 D)) beta B / D^beta      where it is reached

N  parameters; D  training tokens; T  tokens that the model will be asked for in its life

The more is asked of a model, the smaller it should be and the longer trained: 150 to 200 tokens
per parameter come out of demand, not of the law.

Source: Sardana et al. 2023, section 2, arXiv:2401.00448. The condition is the derivative of
the first line along the second. It asks the law for ratios far beyond most evidence, where
laws over-estimate what tokens bring (the same, section 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from scalelab.errors import PlanError


@dataclass(frozen=True)
class Served:
    """A model sized for its training and its use."""

    n_params: float
    n_tokens: float
    training_flops: float
    inference_flops: float

    @property
    def flops(self) -> float:
        """Of its whole life."""
        return self.training_flops + self.inference_flops

    @property
    def tokens_per_param(self) -> float:
        """D / N."""
        return self.n_tokens / self.n_params


def serve(params: Mapping[str, float], loss: float, demand: float) -> Served:
    """The N and D that reach `loss` at the least FLOPs of training and `demand` tokens of use.

    Args:
        params: E, A, B, alpha, beta of a Chinchilla law.
        loss: To be reached, nats per token.
        demand: Tokens that the model will read and write after training; 0 for none.

    Raises:
        PlanError: No model reaches that loss under the law, or the demand is negative.
    """
    E, A, B, alpha, beta = (params[k] for k in ("E", "A", "B", "alpha", "beta"))
    if not (np.isfinite(loss) and loss > E):
        raise PlanError(
            f"a loss of {loss:.4g} nats per token is not above the law's floor of {E:.4g}",
            where="the target loss of the plan",
            fix=f"ask for a loss above {E:.4g}",
        )
    if not (np.isfinite(demand) and demand >= 0):
        raise PlanError(
            f"a demand of {demand:.4g} tokens",
            where="the demand of the plan",
            fix="name the tokens that will be read and written, 0 or more",
        )
    room = loss - E

    def tokens(share: float) -> float:
        return float((B / (room * expit(-share))) ** (1 / beta))

    def balance(share: float) -> float:
        # Sought: the share of the room above the floor that size takes, as a logit, so that
        # both prices stay positive.
        ratio = np.log(alpha / beta) + share
        return float(ratio - np.log1p(demand / (3 * tokens(share))))

    share = brentq(balance, -40, 40, xtol=1e-13)
    n_params, n_tokens = float((A / (room * expit(share))) ** (1 / alpha)), tokens(share)
    return Served(n_params, n_tokens, 6 * n_params * n_tokens, 2 * n_params * demand)
