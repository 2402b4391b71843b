"""The loss of one size and token count over the settings tried: its lowest point, with an interval.

    ln L = depth + (x - x*)' H (x - x*) / 2        x = ln of the settings, as (ln lr, ln batch)

The best of many runs is no estimate of what the best settings reach: it falls as more of them are
tried, and keeps the luck of the luckiest. The lowest point of a surface through the runs does neither.
The surface is linear least squares near that point: runs count by (1 - (e / WINDOW)^2)^2, with e the
excess of ln L that a wider surface predicts for their settings, so that no run is chosen by its luck.
Noise is one-sided: an unstable run ends far above the surface and none far below, so errors
beyond FAR robust standard deviations above it lose weight as 1 / error^2, and those below keep it.

L  loss, nats per token; x* best settings; depth  ln of the lowest loss; H curvature, positive definite

By the envelope theorem an error of the constants moves the depth as it moves the surface at x*, and
x* by -H^-1 times what it moves the slope there: both standard errors are in closed form.

Source: response surfaces, Box & Wilson 1951; the weights, Cleveland 1979 (local regression) and Huber
1981. WINDOW and FAR are ours.

Not here: which settings a study reads (study/quality/tuning.py), the law over N and D (forms/response.py).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from scalelab.laws.observations import Array, Observations
from scalelab.laws.weighted_quantile import weighted_quantile

LEAST_RUNS = 8
"""Runs of different settings below which no surface is fitted."""
LEAST_SPARE = 3  # different settings beyond the constants of the surface
WINDOW = 0.03  # of ln L above the lowest point; beyond it a parabola is no description
FAR = 2.0  # robust standard deviations above the surface from which a run loses weight
WIDE, WIDE_ROUNDS = 3.0, 5  # the window of the first rounds over WINDOW, and rounds until it stays
ROUNDS = 60
EQUAL = 0.01  # share by which the tokens of a cell may differ: whole steps of another batch


@dataclass(frozen=True, eq=False)
class ResponseMinimum:
    """The lowest point of one surface over k settings."""

    place: Array
    """Best settings, ln, shape (k,)."""
    depth: float
    """The lowest ln L."""
    place_error: Array
    """Standard errors of the place, shape (k,)."""
    depth_error: float
    """Standard error of the depth."""
    curvature: Array
    """H, shape (k, k)."""
    spare: float
    """Degrees of freedom of the errors."""

    def interval(self, level: float) -> tuple[float, float]:
        """Both ends of the lowest loss, nats per token, at a level between 0 and 1."""
        half = float(stdtrit(self.spare, (1 + level) / 2)) * self.depth_error
        return float(np.exp(self.depth - half)), float(np.exp(self.depth + half))


def cells(N: Array, D: Array) -> Array:
    """The number of each run's cell: equal N, and D within EQUAL of the least; shape (n,)."""
    found = np.empty(len(N), int)
    size, start, number = np.nan, np.inf, -1
    for row in np.lexsort((D, N)):
        if N[row] != size or D[row] > start * (1 + EQUAL):
            size, start, number = N[row], D[row], number + 1
        found[row] = number
    return found


def lowest_point(x: Array, log_loss: Array, weight: Array, names: tuple[str, ...]) -> ResponseMinimum | str:
    """Return the lowest point of the surface through these runs, or in words why there is none.

    Args:
        x: Settings of each run, ln, shape (n, k).
        log_loss: ln L, shape (n,).
        weight: How much each run counts, shape (n,).
        names: Of the k settings, for the reason.
    """
    k = x.shape[1]
    tried, which = np.unique(x, axis=0, return_inverse=True)
    which = which.ravel()
    p = 1 + k + k * (k + 1) // 2
    if len(tried) < max(LEAST_RUNS, p + LEAST_SPARE):
        return f"{len(tried)} settings were tried, and a surface needs {max(LEAST_RUNS, p + LEAST_SPARE)}"
    few = [name for name, column in zip(names, tried.T, strict=True) if len(np.unique(column)) < 3]
    if few:
        return f"fewer than three values of {' and '.join(few)} were tried"
    middle, unit = tried.mean(axis=0), tried.std(axis=0)
    z = (x - middle) / unit
    X = _terms(z)
    if np.linalg.matrix_rank(X[_first(which)]) < p:
        return f"{' and '.join(names)} were tried in too few combinations"
    near = weight * np.exp(-(log_loss - log_loss.min()) / WINDOW)  # where to begin; the rounds forget it
    kept = np.ones(len(x))
    least = p + LEAST_SPARE
    found: Array | None = None
    for turn in range(ROUNDS):
        each = near * kept
        coefs = np.linalg.lstsq(X * np.sqrt(each)[:, None], np.sqrt(each) * log_loss, rcond=1e-10)[0]
        level, slope, H = _parts(coefs, k)
        if np.linalg.eigvalsh(H).min() <= 0:
            return f"the loss does not rise on all sides of a best {' and '.join(names)}"
        place = -np.linalg.solve(H, slope)
        if turn < WIDE_ROUNDS:  # afterwards the window stays: one that follows its own fit seeks out low runs
            inside = np.clip(place, z.min(axis=0) - 1, z.max(axis=0) + 1)
            excess = np.einsum("ni,ij,nj->n", z - inside, H, z - inside) / 2
            reach = WINDOW * (WIDE if turn < WIDE_ROUNDS - 1 else 1)
            reach = max(reach, 1.2 * np.sort(excess[_first(which)])[min(least, len(tried) - 1)])
            near = weight * np.clip(1 - (excess / reach) ** 2, 0, None) ** 2
        error = log_loss - X @ coefs
        scale = max(1.4826 * weighted_quantile(np.abs(error), near * kept, 0.5), 1e-12)
        far = error > FAR * scale
        kept = np.where(far, (FAR * scale / np.where(far, error, 1.0)) ** 2, 1.0)
        if turn > WIDE_ROUNDS and found is not None and np.allclose(coefs, found, rtol=0, atol=1e-9):
            break
        found = coefs
    outside = [
        f"{name} ({'smallest' if low else 'largest'})"
        for name, low, high in zip(names, place <= z.min(axis=0), place >= z.max(axis=0), strict=True)
        if low or high
    ]
    if outside:
        return f"the best {' and '.join(outside)} is at an end of the values tried"
    each = near * kept
    share = each / weight  # a run of weight 2 is two runs, each as near
    gram = np.linalg.pinv(X.T @ (X * each[:, None]), hermitian=True)
    square = X.T @ (X * (each * share)[:, None])
    variance = float(np.sum(each * error**2)) / max(float(np.sum(each) - np.trace(gram @ square)), 1e-12)
    cov = variance * gram @ square @ gram
    spare = max(float(np.sum(each) ** 2 / np.sum(each * share)) - p, 1.0)
    at = _terms(place[None])[0]
    moves = -np.linalg.solve(H, _slopes(place))
    return ResponseMinimum(
        place=place * unit + middle,
        depth=float(level + slope @ place / 2),
        place_error=np.sqrt(np.diag(moves @ cov @ moves.T)) * unit,
        depth_error=float(np.sqrt(at @ cov @ at)),
        curvature=H / np.outer(unit, unit),
        spare=spare,
    )


def _first(which: Array) -> Array:
    """The first run of each setting."""
    return np.unique(which, return_index=True)[1]


def _terms(z: Array) -> Array:
    """1, z_i, z_i^2 / 2 and z_i z_j of each row, shape (n, p)."""
    k = z.shape[1]
    squares = [z[:, i] * z[:, j] / (2 if i == j else 1) for i in range(k) for j in range(i, k)]
    return np.stack([np.ones(len(z)), *z.T, *squares], axis=1)


def _parts(coefs: Array, k: int) -> tuple[float, Array, Array]:
    """Level, slope and curvature at z = 0."""
    H = np.zeros((k, k))
    H[np.triu_indices(k)] = coefs[1 + k :]
    H = np.triu(H) + np.triu(H, 1).T
    return float(coefs[0]), coefs[1 : 1 + k], H


def _slopes(z: Array) -> Array:
    """What each constant adds to the slope of the surface at z, shape (k, p)."""
    k = len(z)
    found = [np.zeros(k), *np.eye(k)]
    for i in range(k):
        for j in range(i, k):
            each = np.zeros(k)
            each[i] += z[j]
            if i != j:
                each[j] += z[i]
            found.append(each)
    return np.array(found).T


@dataclass(frozen=True, eq=False)
class ResponseCells:
    """Every cell of a table with its surface, or why it has none."""

    cell: Array
    """Number of the cell of each run, shape (n,)."""
    minima: tuple[ResponseMinimum | str, ...]
    """By number."""

    @classmethod
    def of(
        cls, runs: Observations, x: Array, names: tuple[str, ...], cell: Array | None = None
    ) -> "ResponseCells":
        """The cells of runs with settings x (n, k), ln.

        Args:
            runs: The runs.
            x: Settings of each, ln.
            names: Of the settings.
            cell: Number of the cell of each run; None: equal N and D.
        """
        number = cells(runs.N, runs.D) if cell is None else cell
        rows = [number == c for c in range(number.max() + 1)]
        found = tuple(lowest_point(x[r], np.log(runs.L[r]), runs.weight[r], names) for r in rows)
        return cls(number, found)
