"""Runs with a known answer: losses drawn from a law, on a design, under a noise.

    simulate("chinchilla", design=IsoFlopDesign((1e18, 1e19)), noise=Gaussian(0.003))
    truth("chinchilla", None, 1e21)      N*, D*, L* that a fit of those runs must find

    L_i = noise(l(N_i, D_i; constants)),    C = 6 N D

Symbols: N parameters, D tokens, C FLOPs, L loss in nats per token, U unique tokens, S steps.
Nothing here was trained: whoever shows such numbers says [simulated].

The truth is found by minimising the printed formula along D = C / (6 N), without the law's own
optimum, so that the one can be held against the other. It is good to about 1e-7 of N*.

Not here: which runs, and which noise (designs.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from scalelab.errors import DataError
from scalelab.laws import LAWS
from scalelab.laws.base import Law, Optimum
from scalelab.laws.columns import BATCH_TOKENS, STEPS, UNIQUE_TOKENS
from scalelab.laws.observations import Array, Observations
from scalelab.registry import did_you_mean
from scalelab.study.simulate.designs import MOST_RUNS, Noise, SimulatedDesign, SimulatedIsoFlop


@dataclass(frozen=True, eq=False)
class KnownLaw:
    """A law whose constants are known."""

    law: Law
    params: Mapping[str, float]
    epochs: float = 1.0
    """Times that each unique token is seen."""
    batch_tokens: float | None = None
    """Tokens per step; None: steps are unknown."""

    @classmethod
    def of(
        cls,
        law: str | Law,
        params: Mapping[str, float] | None = None,
        *,
        epochs: float = 1.0,
        batch_tokens: float | None = None,
    ) -> "KnownLaw":
        """A law by name or as it is, with its published constants where `params` has no other.

        Args:
            law: A law, or its name.
            params: Constants; those not given are the published ones.
            epochs: Times that each token is seen.
            batch_tokens: Tokens per optimizer step; None: unknown.

        Raises:
            DataError: The law is no formula, reads a column that no design makes, or a constant
                or setting is not what it must be.
        """
        law = LAWS[law]() if isinstance(law, str) else law
        if not law.uses:
            raise DataError(
                f"{type(law).__name__} is no formula of the loss, so nothing can be drawn from it",
                where="the law of a simulation",
                fix=f"use one of: {', '.join(k for k in LAWS if LAWS[k].uses)}",
            )
        given = dict(params or {})
        if strange := [name for name in given if name not in law.names]:
            raise DataError(
                f"{strange[0]!r} is no constant of {type(law).__name__}"
                + did_you_mean(strange[0], list(law.names)),
                where="the constants of a simulation",
                fix=f"name these: {', '.join(law.names)}",
            )
        every = {**law.published, **given}
        known = {name: float(every.get(name, np.nan)) for name in law.names}
        settings = {**known, "epochs": epochs, "batch_tokens": 1.0 if batch_tokens is None else batch_tokens}
        for name, value in settings.items():
            if not (np.isfinite(value) and (value > 0 or name in law.signed)):
                fix = f"give a {'finite' if name in law.signed else 'positive, finite'} number"
                raise DataError(f"{name} = {value}", where="the law of a simulation", fix=fix)
        if epochs < 1:
            fix = "use 1 or more"
            raise DataError(f"epochs = {epochs}", where="the law of a simulation", fix=fix)
        found = cls(law, known, epochs, batch_tokens)
        made = found.columns(np.ones(1))
        for column in law.columns:
            if column == STEPS and batch_tokens is None:
                raise DataError(
                    f"{type(law).__name__} needs steps, and no batch size says how many there are",
                    where="the law of a simulation",
                    fix="give batch_tokens, such as 1e6",
                )
            if column.name not in made:
                raise DataError(
                    f"{type(law).__name__} needs {column.name} ({column.meaning}), and no design "
                    "says what it is",
                    where="the law of a simulation",
                    fix=f"simulate a law of other columns: {', '.join(made)}",
                )
        return found

    def columns(self, D: Array) -> dict[str, Array]:
        """The named columns of runs of D tokens."""
        found = {UNIQUE_TOKENS.name: D / self.epochs}
        if self.batch_tokens is not None:
            found[STEPS.name] = D / self.batch_tokens
            found[BATCH_TOKENS.name] = np.full(np.shape(D), float(self.batch_tokens))
        return found

    def loss(self, N: Array, D: Array) -> Array:
        """The loss that the law gives N and D; NaN where it has none."""
        made = self.columns(D)
        inputs = {"N": N, "D": D, "C": 6 * N * D}
        inputs |= {column.symbol: made[column.name] for column in self.law.columns}
        with np.errstate(all="ignore"):
            return np.asarray(
                self.law.loss(self.params, **{name: inputs[name] for name in self.law.uses}), float
            )

    def best(self, C: float) -> float:
        """N* at C FLOPs on D = C / (6 N); NaN where no interior N is best."""
        x = np.linspace(0, np.log(C / 6), 2000)  # from one parameter to one token

        def loss(x: Array) -> Array:
            N = np.exp(np.asarray(x, float))
            return self.loss(N, C / (6 * N))

        L = loss(x)
        if not {"N", "D"} <= set(self.law.uses) or not np.isfinite(L).any():
            return float("nan")
        k = int(np.nanargmin(L))
        if not 0 < k < len(x) - 1:
            return float("nan")
        found = minimize_scalar(
            lambda at: float(loss(at)),
            bounds=(x[k - 1], x[k + 1]),
            method="bounded",
            options={"xatol": 1e-11},
        )
        return float(np.exp(found.x))

    def truth(self, C: Array | float) -> Optimum | None:
        """The optimum at C FLOPs; None where the law has none along D = C / (6 N)."""
        C = np.asarray(C, float)
        N = np.array([self.best(float(c)) for c in C.ravel()]).reshape(C.shape)
        if not np.isfinite(N).all():
            return None
        D = C / (6 * N)
        return Optimum(C, N, D, self.loss(N, D))

    def exponent(self, C: float) -> float | None:
        """The power a of N* ~ C^a, from C / e to C e; None where there is no optimum."""
        ends = self.truth(np.array([C / np.e, C * np.e]))
        return None if ends is None else float(np.diff(np.log(ends.N))[0] / 2)


def simulate(
    law: str | Law | KnownLaw,
    params: Mapping[str, float] | None = None,
    design: SimulatedDesign | None = None,
    noise: Noise | Sequence[Noise] = (),
    seed: int = 0,
) -> Observations:
    """Runs of a design, their losses drawn from a law.

    Args:
        law: A formula, its name in LAWS, or a Known law with epochs and batch.
        params: Constants; those left out are the published ones.
        design: Which runs; None takes IsoFlopDesign().
        noise: Any of NOISES, applied in this order; none leaves the law itself.
        seed: Of the noise.

    Raises:
        DataError: The law or the design cannot be, or a loss is not a positive number.
    """
    if seed < 0:
        raise DataError(f"seed = {seed}", where="the noise of a simulation", fix="give 0 or more")
    known = law if isinstance(law, KnownLaw) else KnownLaw.of(law, params)
    design = SimulatedIsoFlop() if design is None else design
    N, D, planned = design.points(lambda C: _centre(known, C))
    seeds = int(design.seeds)
    if len(N) * seeds > MOST_RUNS:
        fix = "ask for fewer budgets, sizes or seeds"
        where = "the design of a simulation"
        raise DataError(f"{len(N) * seeds:,} runs, more than {MOST_RUNS:,}", where=where, fix=fix)
    N, D, planned = (np.repeat(value, seeds) for value in (N, D, planned))
    L, C = known.loss(N, D), 6 * N * D
    rng = np.random.default_rng(seed)
    for each in [noise] if isinstance(noise, Noise) else noise:
        L = each(L, C, rng)
    digits = len(str(len(N)))
    return Observations.of(
        N,
        D,
        L,
        run=np.array([f"sim-{i:0{digits}d}" for i in range(1, len(N) + 1)]),
        C=C,
        flops_planned=planned,
        seed=np.tile(np.arange(seeds), len(N) // seeds),
        columns=known.columns(D),
    )


def truth(law: str | Law, params: Mapping[str, float] | None, C: Array | float) -> Optimum | None:
    """The optimum of a law with these constants at C = 6 N D FLOPs; None: it allots nothing."""
    return KnownLaw.of(law, params).truth(C)


def _centre(known: KnownLaw, C: float) -> float:
    best = known.best(C)
    if not np.isfinite(best):
        raise DataError(
            f"{type(known.law).__name__} has no best size at {C:.3g} FLOPs to put a slice around",
            where="the design of a simulation",
            fix="use a ladder or a grid, other constants, or another law",
        )
    return best


def table_columns(runs: Observations, known: KnownLaw) -> dict[str, Any]:
    """Return simulated runs as columns of a table that `scalelab fit` reads."""
    columns = {
        "n_params": runs.N,
        "n_tokens": runs.D,
        "flops": runs.C,
        "flops_planned": runs.flops_planned,
        "loss": runs.L,
        "seed": runs.seed,
        "run": runs.run,
        "status": np.full(len(runs), "simulated"),
    }
    named = dict(runs.columns)
    if known.epochs == 1:
        del named[UNIQUE_TOKENS.name]  # every token is new
    return columns | named
