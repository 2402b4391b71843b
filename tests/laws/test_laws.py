"""Every registered law keeps the contract of scalelab.testing.laws, and forecasts well.

A new law is tested by one line in LAWS and one in CASES. A case holds the law's truth, its
formula written again, and the runs to show it. The law's own code is nowhere used to make the
runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scalelab.laws import LAWS
from scalelab.testing.laws import LawCase, check_law, checks


def chinchilla(t, N, D):
    return t["E"] + t["A"] / N ** t["alpha"] + t["B"] / D ** t["beta"]


def kaplan(t, N, D):
    return ((t["N_c"] / N) ** (t["alpha_N"] / t["alpha_D"]) + t["D_c"] / D) ** t["alpha_D"]


def kaplan_steps(t, N, S, D):
    """The L that equals its own right side, by halving; the batch is D / S."""
    N, S, D = np.broadcast_arrays(np.asarray(N, float), S, D)
    low, high = np.full(N.shape, 1e-3), np.full(N.shape, 1e4)
    for _ in range(80):
        L = np.sqrt(low * high)
        least = S / (1 + 2.1e8 / L ** (1 / 0.21) * S / D)
        right = (t["N_c"] / N) ** t["alpha_N"] + (t["S_c"] / least) ** t["alpha_S"]
        above = right < L
        low, high = np.where(above, low, L), np.where(above, L, high)
    return L


def overtrained(t, N, D):
    C, M = 6 * N * D, D / N
    return t["E"] + (t["A"] * M ** t["eta"] + t["B"] * M ** -t["eta"]) * C ** -t["eta"]


def softmax(t, N, D):
    k = t["k"]
    return t["E"] + ((t["A"] / N ** t["alpha_N"]) ** (1 / k) + (t["B"] / D ** t["alpha_D"]) ** (1 / k)) ** k


def repeated(t, N, D, U):
    """The optimal size for U tokens from eq. 4 of Hoffmann et al. 2022, exponents tied."""
    G = (t["A"] / t["B"]) ** (1 / (2 * t["alpha"]))
    V = np.minimum(N, G * G * U)
    size = V + V * t["R_N"] * (1 - np.exp(-(N / V - 1) / t["R_N"]))
    data = U + U * t["R_D"] * (1 - np.exp(-(D / U - 1) / t["R_D"]))
    return t["E"] + t["A"] / size ** t["alpha"] + t["B"] / data ** t["beta"]


def response(t, N, D, lr, batch):
    x = np.log(lr / (t["c_lr"] * N ** t["lr_N"] * D ** t["lr_D"]))
    y = np.log(batch / (t["c_batch"] * N ** t["batch_N"] * D ** t["batch_D"]))
    return chinchilla(t, N, D) * np.exp((t["k_lr"] * x * x + t["k_batch"] * y * y) / 2 + t["k_both"] * x * y)


def bounded(t, N, D, U):
    h = t["A"] / N ** t["alpha"] + t["B"] / D ** t["beta"] + t["K"] * N ** t["gamma"] / U ** t["delta"]
    return t["E"] + (t["L0"] - t["E"]) * h / (1 + h)


def farseer(t, N, D):
    """The formula of the source: a power N^q has the constants s / q 1e9^-q and S - s / q."""

    def bent(level, slope, q):
        return t[slope] / t[q] * 1e9 ** -t[q] * N ** t[q] + t[level] - t[slope] / t[q]

    return np.exp(bent("S", "s", "q")) + np.exp(bent("Q", "B", "beta")) * D ** -np.exp(
        bent("R", "A", "alpha")
    )


def ladder(sizes=6, lengths=6):
    """Sizes times lengths: every size at every number of tokens."""
    N, D = np.meshgrid(np.geomspace(2e7, 2e9, sizes), np.geomspace(1e9, 2e11, lengths))
    return {"N": N.ravel(), "D": D.ravel()}


def steps():
    """Sizes times steps at a batch of 2^19 tokens."""
    N, S = np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(3e3, 2.5e5, 6))
    return {"N": N.ravel(), "S": S.ravel(), "D": S.ravel() * 2**19}


def routed():
    """Sizes times experts at one length."""
    N, M = np.meshgrid(np.geomspace(2e7, 2e9, 6), [1.0, 4.0, 16.0, 64.0, 256.0])
    return {"N": N.ravel(), "M": M.ravel(), "D": np.full(N.size, 1.3e11)}


def sparse(t, N, D, T):
    return t["E"] + t["A"] / N ** (t["alpha"] - t["sigma"]) / T ** t["sigma"] + t["B"] / D ** t["beta"]


def mixtures():
    """Sizes times lengths times 1, 4 and 16 times as many parameters as a token uses."""
    both, ratios = ladder(5, 4), np.array([1.0, 4.0, 16.0])
    N, D = (np.repeat(both[k], len(ratios)) for k in "ND")
    return {"N": N, "D": D, "T": N * np.tile(ratios, both["D"].size)}


def epochs():
    """Sizes times lengths times 1, 4, 16 and 40 epochs."""
    both, times = ladder(5, 4), np.array([1.0, 4.0, 16.0, 40.0])
    N, D = (np.repeat(both[k], len(times)) for k in "ND")
    return {"N": N, "D": D, "U": D / np.tile(times, both["D"].size)}


def tuned(N, D):
    """The best settings of RESPONSE."""
    return {"N": N, "D": D, "lr": 1.5 * N**-0.6 * D**0.2, "batch": 0.6 * D**0.55}


def settings():
    """36 cells, each at 7 learning rates and 6 batches around the best, not centred on it."""
    best = {k: np.repeat(v, 42) for k, v in tuned(**ladder()).items()}
    lr, batch = np.meshgrid(np.geomspace(0.2, 4, 7), np.geomspace(0.15, 8, 6))
    return best | {
        "lr": best["lr"] * np.tile(lr.ravel(), 36),
        "batch": best["batch"] * np.tile(batch.ravel(), 36),
    }


def slices(budgets=(1e18, 3e18, 1e19, 3e19, 1e20), sizes=7):
    """IsoFLOP slices around the best size of TRUTH."""
    C = np.repeat(budgets, sizes)
    N = 0.0963 * (C / 6) ** 0.5139 * np.tile(np.geomspace(1 / 4, 4, sizes), len(budgets))
    return {"N": N, "D": C / 6 / N, "flops_planned": C}


def curves(sizes=20, rows=30):
    """Training curves of 20 sizes, each from a quarter of its best D to four times it."""
    C = np.repeat(np.geomspace(1e18, 1e21, sizes), rows)
    N = 0.0963 * (C / 6) ** 0.5139
    D = C / 6 / N * np.tile(np.geomspace(1 / 4, 4, rows), sizes)
    return {"N": N, "D": D, "group": np.repeat(np.arange(sizes), rows)}


def best_loss(t, N=None, D=None, C=None):
    """A Chinchilla surface with the floor of t; at C FLOPs its lowest loss instead."""
    if C is None:
        return chinchilla(TRUTH | {"E": t.get("E", 0.0)}, N, D)
    if "E" in t:
        return t["E"] + t["K"] * C ** -t["gamma"]
    return (t["C_c"] / C) ** t["alpha_C"]


def ten_times_both(inputs):
    """One run of 100 times the largest compute."""
    return {k: 10 * inputs[k].max() for k in inputs if k != "flops_planned"}


TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
BOUNDED = {
    "E": 1.9,
    "L0": 9.0,
    "A": 50.0,
    "alpha": 0.35,
    "B": 450.0,
    "beta": 0.4,
    "K": 0.01,
    "gamma": 1.0,
    "delta": 1.0,
}
RESPONSE = {
    "E": 1.8,
    "A": 480.0,
    "B": 2100.0,
    "alpha": 0.35,
    "beta": 0.37,
    "c_lr": 1.5,
    "lr_N": -0.6,
    "lr_D": 0.2,
    "c_batch": 0.6,
    "batch_N": 0.0,
    "batch_D": 0.55,
    "k_lr": 0.02,
    "k_batch": 0.014,
    "k_both": -0.006,
}
FARSEER = {
    "S": -0.6,
    "s": -0.12,
    "q": 0.1,
    "Q": 4.5,
    "B": -0.8,
    "beta": -0.15,
    "R": -1.2,
    "A": -0.15,
    "alpha": 0.1,
}
GAMMA = 0.35 * 0.37 / 0.72
BEST = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)  # G of eq. 4
SCALE = (480 * BEST**-0.35 + 2100 * BEST**0.37) * 6**GAMMA


@dataclass(frozen=True, eq=False)
class Case(LawCase):
    """How to test one law, and how far it forecasts."""

    far: Callable[[dict], dict] = ten_times_both
    """From the evidence to inputs 100 times beyond it, where the law speaks of inputs."""
    along: Callable = lambda C, N: {"N": N, "D": C / 6 / N}
    """The inputs of a run of C FLOPs at N."""

    @property
    def end(self):
        """The largest compute in evidence."""
        return self.fit().evidence_end

    def best(self, C):
        """N and L of the lowest true loss at C FLOPs, by plain search."""

        def loss(x):
            return self.loss(self.truth, **self.along(C, np.exp(x)))

        x = np.linspace(np.log(1e4), np.log(1e14), 400)
        near = x[np.argmin(loss(x))]
        found = minimize_scalar(
            loss, bounds=(near - 0.1, near + 0.1), method="bounded", options={"xatol": 1e-9}
        )
        return float(np.exp(found.x)), float(found.fun)

    def forecast(self, **settings):
        """The loss 100 times beyond the evidence, forecast and true."""
        fit = self.fit(**settings)
        if self.constants:
            inputs = self.far(self.inputs)
            return float(fit.predict(**inputs)), float(self.loss(self.truth, **inputs))
        return float(np.ravel(fit.optimum(100 * self.end).L)[0]), self.best(100 * self.end)[1]


def case(name, loss, truth, inputs, **settings):
    """The case of a registered law."""
    return Case(LAWS[name](), truth, inputs, loss, **settings)


CASES = {
    "isoflop": case("isoflop", chinchilla, TRUTH, slices(), constants=False, exact=0.02),
    "chinchilla": case("chinchilla", chinchilla, TRUTH, ladder(), varied=("N", "D")),
    "kaplan": case(
        "kaplan",
        kaplan,
        {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
        ladder(),
        varied=("N", "D"),
    ),
    "kaplan_n": case(
        "kaplan_n",
        lambda t, N, D: (t["N_c"] / N) ** t["alpha_N"],
        {"N_c": 8.8e13, "alpha_N": 0.076},
        ladder(),
        far=lambda inputs: {"N": 100 * inputs["N"].max(), "D": 1e12},
        allots=False,
        too_few=2,
    ),
    "kaplan_d": case(
        "kaplan_d",
        lambda t, N, D: (t["D_c"] / D) ** t["alpha_D"],
        {"D_c": 5.4e13, "alpha_D": 0.095},
        ladder(),
        far=lambda inputs: {"N": 1e12, "D": 100 * inputs["D"].max()},
        allots=False,
        varied=("D",),
        too_few=2,
    ),
    "experts": case(
        "experts",
        lambda t, N, M, D=None: np.exp(t["k"]) * N ** -t["alpha"] * M ** (t["gamma"] * np.log(N) - t["beta"]),
        {"k": 2.58, "alpha": 0.085, "beta": 0.105, "gamma": 0.0042},
        routed(),
        far=lambda inputs: {"N": 100 * inputs["N"].max(), "M": np.array(1e4)},
        allots=False,
        varied=("N", "M"),
        too_few=4,
    ),
    "kaplan_steps": case(
        "kaplan_steps",
        kaplan_steps,
        {"N_c": 6.5e13, "S_c": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76},
        steps(),
        along=lambda C, N: {"N": N, "S": C / 6 / N, "D": C / 6 / N},  # one token a step
        varied=("N", "S"),
    ),
    "overtrained": case(
        "overtrained",
        overtrained,
        {"E": 1.5083, "A": 141.3, "B": 189.5, "eta": 0.1212},
        ladder(),
        varied=("N", "D"),
    ),
    "softmax": case(
        "softmax",
        softmax,
        {"E": 1.6, "A": 150.0, "B": 70.0, "alpha_N": 0.26, "alpha_D": 0.2, "k": 0.5},
        ladder(),
        varied=("N", "D"),
    ),
    "averaged": case(
        "averaged",
        softmax,
        {"E": 1.6, "A": 150.0, "B": 70.0, "alpha_N": 0.26, "alpha_D": 0.2, "k": 0.5},
        ladder(),
        constants=False,
        varied=("N", "D"),
    ),
    "repeated": case(
        "repeated",
        repeated,
        {"E": 1.869, "A": 520.8, "B": 1487.7, "alpha": 0.35266, "beta": 0.35266, "R_N": 5.31, "R_D": 15.39},
        epochs(),
        along=lambda C, N: {"N": N, "D": C / 6 / N, "U": C / 6 / N},
        varied=("N", "D"),
    ),
    "response": case(
        "response",
        response,
        RESPONSE,
        settings(),
        far=lambda inputs: tuned(10 * inputs["N"].max(), 10 * inputs["D"].max()),
        along=lambda C, N: tuned(N, C / 6 / N),
        varied=("N", "D", "lr", "batch"),
    ),
    "sparse": case(
        "sparse",
        sparse,
        {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37, "sigma": 0.12},
        mixtures(),
        allots=False,
        varied=("N", "D"),
    ),
    "bounded": case("bounded", bounded, BOUNDED, epochs(), allots=False, varied=("N", "D")),
    "farseer": case("farseer", farseer, FARSEER, ladder(9, 9), allots=False, varied=("N", "D"), too_few=59),
}


def of_compute(name, truth, **settings):
    """A law of the best loss alone, on the slices of a Chinchilla surface."""
    settings |= {"far": lambda _: {"C": 1e22}, "allots": False}
    return case(name, best_loss, truth, slices(), **settings)


CASES |= {
    "frontier": of_compute("frontier", {"E": 1.8, "K": SCALE, "gamma": GAMMA}, exact=1e-3),
    "kaplan_c": of_compute("kaplan_c", {"C_c": SCALE ** (1 / GAMMA), "alpha_C": GAMMA}, exact=5e-3),
    "envelope": case("envelope", chinchilla, TRUTH, curves(), constants=False, exact=0.05, weighs=False),
}


def test_every_law_has_a_case():
    assert {*CASES} <= {*LAWS}
    assert {name for name, place in LAWS.targets.items() if place.package == "scalelab"} == {*CASES}


@pytest.mark.parametrize(
    ("name", "check"),
    [(name, check) for name, case in CASES.items() for check in checks(case.law)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_keeps_the_contract(name, check):
    check(CASES[name])


@pytest.mark.parametrize("name", [name for name in LAWS if LAWS[name].uses])
def test_a_case_needs_no_more_than_a_name(name):
    check_law(name, allots=CASES[name].allots, too_few=2, varied=())


@pytest.fixture(params=CASES)
def subject(request):
    return CASES[request.param]


@pytest.fixture
def allotting(subject):
    if not subject.allots:
        pytest.skip("allots no compute")
    return subject


def test_finds_the_true_optima_of_noise_free_runs(allotting):
    fit = allotting.fit()
    budgets = allotting.inputs.get("flops_planned", fit.evidence_end * np.array([0.01, 0.1, 1.0]))
    for C in np.unique(budgets):
        best = fit.optimum(C)
        assert float(np.ravel(best.N)[0]) == pytest.approx(allotting.best(C)[0], rel=0.05)
        assert float(np.ravel(best.L)[0]) == pytest.approx(allotting.best(C)[1], rel=1e-3)


def test_extrapolates_100x_past_noisy_runs(subject):
    forecast, true = subject.forecast(noise=0.002)

    assert forecast == pytest.approx(true, rel=0.02)


def test_one_ruined_run_barely_moves_the_forecast(subject):
    honest, _ = subject.forecast(noise=0.002)

    ruined, _ = subject.forecast(noise=0.002, spoilt=len(subject.inputs["N"]) // 2)

    assert ruined == pytest.approx(honest, rel=0.01)


def test_forecasts_the_optimum_10x_past_noisy_runs(allotting):
    fit, C = allotting.fit(noise=0.001), 10 * allotting.end

    best = fit.optimum(C)

    N, L = allotting.best(C)
    assert float(np.ravel(best.N)[0]) == pytest.approx(N, rel=0.1)
    assert float(np.ravel(best.D)[0]) == pytest.approx(C / 6 / N, rel=0.1)
    assert float(np.ravel(best.L)[0]) == pytest.approx(L, rel=0.01)


def test_one_form_of_the_frontier_is_the_true_one(allotting):
    """Losses fall from about 3 to 2.25 on the way; the form without a floor falls too far."""
    C = 10 * allotting.end

    forms = allotting.fit().frontiers(C)

    L = allotting.best(C)[1]
    assert min(abs(loss / L - 1) for loss in forms.values()) < 0.002
    assert max(abs(loss / L - 1) for loss in forms.values()) < 0.1


def test_replicates_scatter_around_the_fit(allotting):
    fit, C = allotting.fit(noise=0.002), 10 * allotting.end

    drawn = fit.replicates(200, seed=0).optimum(C)

    low, high = np.quantile(drawn.N, [0.02, 0.98])
    assert low < float(np.ravel(fit.optimum(C).N)[0]) < high
    assert 1.005 < high / low < 3
