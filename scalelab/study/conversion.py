"""One surface under two counts of parameters: with embeddings (T) and without.

    T = N + omega N^(1/3)
    C = 6 N D = 6 N (beta B / (alpha A) T^(1 + alpha) / (N + omega N^(1/3) / 3))^(1 / beta)
    d ln N / d ln C = 1 / (1 - (1/beta) (n + omega/9) / (n + omega/3)
                             + ((1 + alpha)/beta) (n + omega/3) / (n + omega)),  n = N^(2/3)

N  parameters without embeddings; T all parameters; D training tokens
C  FLOPs as 6 N D, so that embeddings cost nothing
L  E + A / T^alpha + B / D^beta: a Chinchilla surface of the total count

The loss knows the total, the compute only the rest: then the best N grows as
C^(beta / (beta + alpha/3)) where embeddings dominate, C^(beta / (alpha + beta)) where they
vanish, and any sweep between reports a power of its own. This is most of what lies between
Kaplan's .73 and Hoffmann's .50. With omega = 0 everything here is in one count.

Source: Pearce & Song 2024, arXiv:2406.12907.

Not here: fitting the same runs under each count (conventions.py).
"""

from collections.abc import Mapping

import numpy as np

from scalelab.laws.observations import Array

OMEGA = 47491.0
"""Embedding parameters over cbrt(N), of models with 32,000 entries and a width of 39.2 per layer:
(39.2 / 12)^(1/3) times 32,000."""


def total_params(N: Array | float, omega: float = OMEGA) -> Array:
    """All parameters of a model that has N without embeddings."""
    N = np.asarray(N, float)
    return N + omega * np.cbrt(N)


def non_embedding_params(total: Array | float, omega: float = OMEGA) -> Array:
    """The inverse of `total_params`: the one real root of a cubic in N^(1/3)."""
    total = np.asarray(total, float)
    if omega == 0:
        return total
    scale = np.sqrt(omega / 3)
    return (2 * scale * np.sinh(np.arcsinh(total / (2 * scale**3)) / 3)) ** 3


def frontier_tokens(N: Array | float, params: Mapping[str, float], omega: float = OMEGA) -> Array:
    """D with which N is the best non-embedding size for its 6 N D FLOPs; broadcasts."""
    A, B, alpha, beta = (params[k] for k in ("A", "B", "alpha", "beta"))
    N = np.asarray(N, float)
    growth = N + omega * np.cbrt(N) / 3  # d T / d ln N
    return (beta * B / (alpha * A) * total_params(N, omega) ** (1 + alpha) / growth) ** (1 / beta)


def frontier_compute(N: Array | float, params: Mapping[str, float], omega: float = OMEGA) -> Array:
    """The FLOPs, as 6 N D, for which the non-embedding size N is best; broadcasts."""
    return 6 * np.asarray(N, float) * frontier_tokens(N, params, omega)


def local_exponent(N: Array | float, params: Mapping[str, float], omega: float = OMEGA) -> Array:
    """The power d ln N / d ln C of the frontier at the non-embedding size N; broadcasts."""
    alpha, beta = params["alpha"], params["beta"]
    n = np.cbrt(np.asarray(N, float)) ** 2
    near, far = (n + omega / 9) / (n + omega / 3), (n + omega / 3) / (n + omega)
    return 1 / (1 - near / beta + (1 + alpha) / beta * far)


def regressed_exponent(
    params: Mapping[str, float],
    low: float,
    high: float,
    *,
    sizes: int = 20,
    budgets: int = 100,
    omega: float = OMEGA,
) -> float:
    """The power of N* ~ C^a that a ladder of sizes from low to high would report.

    Budgets lie evenly in ln C along the frontier; each takes the size of the ladder whose
    loss is lowest. N and C leave embeddings out; with omega = 0 both are of one count.

    Args:
        params: Constants E, A, B, alpha and beta.
        low: Smallest size, parameters without embeddings.
        high: Largest size.
        sizes: Sizes of the ladder.
        budgets: Budgets along the frontier.
        omega: Embedding parameters over cbrt(N).
    """
    N = np.geomspace(low, high, sizes)
    C = np.geomspace(*frontier_compute(N[[0, -1]], params, omega), budgets)
    A, B, alpha, beta = (params[k] for k in ("A", "B", "alpha", "beta"))
    L = A / total_params(N, omega) ** alpha + B / (C[:, None] / (6 * N)) ** beta
    best = np.log(N[np.argmin(L, axis=1)])
    return float(np.polyfit(np.log(C), best, 1)[0])
