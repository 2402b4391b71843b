"""Published figures of cost, memory and size, computed again with this project's own code.

    python analysis/published_checks.py [--out analysis]

Writes published_checks.md, the table, and history.png: models from GPT-1 to Llama 3 beside the
compute-optimal line. Each row names its source; `within` is how far the two may lie apart, which
is what the published figure was rounded to. tests/plan/test_published.py asserts every row.

Figures marked unverified were not read in their source. Nothing here is measured by us.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalelab.hardware.accelerators import accelerator
from scalelab.laws.forms.chinchilla import Chinchilla, optimum
from scalelab.laws.token_cost import TokenCost
from scalelab.model.transformer.flops import training_flops_per_token
from scalelab.plan.choose.inference_demand import serve
from scalelab.plan.cost.memory import CONVENTIONS, state_bytes, zero_bytes
from scalelab.plan.cost.price import FINAL, of_hours
from scalelab.plan.cost.training_time import TrainingTime
from scalelab.units import sci, si

H100, TPU_V4 = accelerator("h100"), accelerator("tpu-v4")
SIX_N = TokenCost(6.0, 0.0, 0.0)

# Least squares of Huber losses on the 240 points of Hoffmann et al. 2022, fig. 4, run to the end
# (Besiroglu et al. 2024, arXiv:2404.10102, stopped a little earlier, with EPOCH's constants).
REFIT = {"E": 1.81724, "A": 477.83, "B": 2143.42, "alpha": 0.34731, "beta": 0.36717}
EPOCH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
SARDANA = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.336, "beta": 0.283}
GOPHER_FLOPS, GOPHER_RANGE = 5.76e23, (9.8, 28.9)  # of tokens per parameter, 80%, by bootstrap

LLAMA_3 = "Grattafiori et al. 2024, arXiv:2407.21783"
LLAMA_CARD = {  # H100-hours, kg CO2e
    "8B": (1.46e6, 420e3),
    "70B": (7.0e6, 2_040e3),
    "405B": (30.84e6, 8_930e3),
    "family": (39.3e6, 11_390e3),
}
LLAMA_CHAIN = "derived from the paper at 400 TFLOP/s a device, 0.7 kW, 0.24 kg/kWh, $2"
HOFFMANN = "Hoffmann et al. 2022, arXiv:2203.15556, table 3"
ZERO = "Rajbhandari et al. 2020, arXiv:1910.02054, fig. 1 (unverified)"
PALM = "Chowdhery et al. 2022, arXiv:2204.02311"


@dataclass(frozen=True)
class Check:
    """One published figure and ours."""

    claim: str
    source: str
    computed: float
    published: float
    unit: str
    within: float
    """Share by which the two may differ."""

    @property
    def ratio(self) -> float:
        """Computed over published."""
        return self.computed / self.published

    @property
    def agrees(self) -> bool:
        """Whether they lie as near as they should."""
        return abs(self.ratio - 1) <= self.within


def checks() -> list[Check]:
    """Every row of the table."""
    return [*llama(), *deepseek(), *memory(), *chinchilla(), *sardana(), *utilisation()]


def llama() -> list[Check]:
    """Llama 3 405B from its parameters and tokens to carbon."""
    time = TrainingTime(6 * 405e9 * 15.6e12, 16_000, 400e12, "assumed", "400 TFLOP/s a GPU")
    chain = of_hours(
        FINAL,
        "planned",
        flops=time.flops,
        device_hours=time.device_hours,
        dollars_per_device_hour=2.0,
        device_kw=0.7,
        co2_kg_per_kwh=0.24,
    )
    name = "Llama 3 405B"
    return [
        Check(f"{name}: 6 N D", f"{LLAMA_3}, section 3.2", chain.flops, 3.8e25, "FLOPs", 0.01),
        Check(f"{name}: hours", LLAMA_CHAIN, chain.device_hours, 26e6, "H100-hours", 0.02),
        Check(f"{name}: on 16,000 devices", LLAMA_CHAIN, time.days, 70, "days", 0.03),
        Check(f"{name}: money", LLAMA_CHAIN, chain.dollars, 52e6, "dollars", 0.02),
        Check(f"{name}: carbon", LLAMA_CHAIN, chain.co2_kg, 4.4e6, "kg CO2e", 0.01),
        Check(
            f"{name}: share of 1e26 FLOPs, above which the US asked for reports",
            "Executive Order 14110, 2023-10-30, rescinded 2025-01-20",
            chain.flops / 1e26,
            0.38,
            "",
            0.01,
        ),
        *card(),
    ]


def card() -> list[Check]:
    """Carbon of the other Llama 3.1 models, at what the 405B model's hours and tonnes imply."""
    implied = LLAMA_CARD["405B"][1] / (LLAMA_CARD["405B"][0] * H100.power_w / 1000)
    rows = []
    for name, (hours, kg) in LLAMA_CARD.items():
        if name == "405B":
            continue
        found = of_hours(
            name,
            "spent",
            flops=0.0,
            device_hours=hours,
            device_kw=H100.power_w / 1000,
            co2_kg_per_kwh=implied,
        )
        claim = f"Llama 3.1 {name}: carbon of {si(hours)} hours at the {implied:.3f} kg/kWh "
        source = "model card of Llama 3.1, location-based (secondary)"
        rows.append(Check(f"{claim}of the 405B model", source, found.co2_kg, kg, "kg CO2e", 0.01))
    return rows


def deepseek() -> list[Check]:
    """DeepSeek-V3's own bill."""
    source = "DeepSeek-AI 2024, arXiv:2412.19437, table 1"
    hours = 2.664e6 + 0.119e6 + 0.005e6
    bill = of_hours(
        "DeepSeek-V3", "spent", flops=6 * 37e9 * 14.8e12, device_hours=hours, dollars_per_device_hour=2.0
    )
    return [
        Check("DeepSeek-V3: all phases", source, hours, 2.788e6, "H800-hours", 1e-6),
        Check("DeepSeek-V3: at $2 an hour", source, bill.dollars, 5.576e6, "dollars", 1e-6),
    ]


def memory() -> list[Check]:
    """Bytes of weights, gradients and optimizer."""
    rows = [
        Check(
            "70B: weights, gradients and Adam, 16 bytes a parameter",
            "Rajbhandari et al. 2020, arXiv:1910.02054, section 3.1",
            state_bytes(70e9, "mixed"),
            1.12e12,
            "bytes",
            1e-6,
        ),
        Check(
            "GPT-3: weights in fp32",
            "Brown et al. 2020, arXiv:2005.14165: 175B parameters",
            175e9 * CONVENTIONS["fp32"].weights,
            700e9,
            "bytes",
            1e-6,
        ),
    ]
    for stage, published in enumerate((120, 31.4, 16.6, 1.9)):
        found = zero_bytes(7.5e9, 64, stage)
        claim = f"ZeRO {stage}: 7.5B parameters on 64 devices"
        rows.append(Check(claim, ZERO, found, published * 1e9, "bytes", 0.015))
    return rows


def chinchilla() -> list[Check]:
    """Hoffmann et al.'s table of optimal models, and the refit of their third approach."""
    table = (
        (400e6, 8.0e9, 1.92e19),
        (1e9, 20.2e9, 1.21e20),
        (10e9, 205.1e9, 1.23e22),
        (67e9, 1.5e12, 5.76e23),
        (175e9, 3.7e12, 3.85e24),
        (1e12, 21.2e12, 1.27e26),
    )
    rows = [
        # Sizes and tokens are printed with one or two digits.
        Check(f"Chinchilla: 6 N D of {si(N)} on {si(D)}", HOFFMANN, 6 * N * D, C, "FLOPs", 0.05)
        for N, D, C in table
    ]
    best = optimum(EPOCH, np.array(5.88e23), SIX_N)
    source = "Besiroglu et al. 2024, arXiv:2404.10102, its constants"
    claim = "refit of Chinchilla at 5.88e23 FLOPs"
    return [
        *rows,
        Check(f"{claim}: N*", source, float(best.N), 73.0e9, "parameters", 0.005),
        Check(f"{claim}: D*/N*", source, float(best.D / best.N), 18.4, "tokens a parameter", 0.005),
    ]


def sardana() -> list[Check]:
    """Models sized for their use as well."""
    rows = []
    for N, demand, n_params, n_tokens in ((30e9, 5e12, 16.41e9, 3.26e12), (70e9, 1e13, 41.55e9, 7.92e12)):
        # D of the compute-optimal model of N parameters: alpha A / N^alpha = beta B / D^beta.
        price = SARDANA["alpha"] * SARDANA["A"] / N ** SARDANA["alpha"]
        D = (SARDANA["beta"] * SARDANA["B"] / price) ** (1 / SARDANA["beta"])
        best = serve(SARDANA, float(Chinchilla().loss(SARDANA, N=N, D=D)), demand)
        source = "Sardana et al. 2023, arXiv:2401.00448"
        claim = f"quality of {si(N)}, {si(demand)} tokens of use"
        rows += [
            Check(f"{claim}: N", source, best.n_params, n_params, "parameters", 0.005),
            Check(f"{claim}: D", source, best.n_tokens, n_tokens, "tokens", 0.005),
        ]
    return rows


def utilisation() -> list[Check]:
    """MFU from throughput and dense peaks."""
    per_token = training_flops_per_token(540_350_000_000, 118, 48 * 256, 2048)
    pods = 6144 * TPU_V4.peak_flops_per_s
    rows = [
        Check(
            "PaLM 540B: 6 N D on 780B tokens",
            f"{PALM} (secondary)",
            6 * 540.35e9 * 780e9,
            2527.2e21,
            "FLOPs",
            0.01,
        ),
        Check(
            "PaLM 540B: MFU at 238,300 tokens/s on 6,144 TPU v4",
            f"{PALM}, table 3 (throughput unverified)",
            238.3e3 * per_token / pods,
            0.462,
            "MFU",
            0.005,
        ),
    ]
    for tflops, published, where in (
        (430, 0.43, "8,192 devices"),
        (400, 0.41, "16,384 devices"),
        (380, 0.38, "16,384 devices, 131,072 tokens of context"),
    ):
        mfu = tflops * 1e12 / H100.peak_flops_per_s
        claim = f"Llama 3 405B: MFU at {tflops} TFLOP/s a device, {where}"
        source = f"{LLAMA_3}, table 4 (throughput unverified)"
        rows.append(Check(claim, source, mfu, published, "MFU", 0.02))
    return rows


@dataclass(frozen=True)
class Model:
    """A model that was published. D None: its makers did not say."""

    name: str
    year: int
    n_params: float
    """Active ones, where not all are."""
    n_tokens: float | None
    source: str
    is_sparse: bool = False
    repeats: bool = False
    """Whether its tokens were mostly repeats, which this law does not know."""

    @property
    def flops(self) -> float | None:
        """6 N D."""
        return None if self.n_tokens is None else 6 * self.n_params * self.n_tokens

    @property
    def tokens_per_param(self) -> float | None:
        """D / N."""
        return None if self.n_tokens is None else self.n_tokens / self.n_params

    @property
    def optimal(self) -> float | None:
        """D* / N* at the same FLOPs by the refit."""
        return None if self.flops is None else ratio_at(self.flops)

    @property
    def wasted(self) -> float | None:
        """Share of its FLOPs without which the best model would have its loss, by the refit."""
        if self.flops is None:
            return None
        gamma = REFIT["alpha"] * REFIT["beta"] / (REFIT["alpha"] + REFIT["beta"])
        best = float(optimum(REFIT, np.array(self.flops), SIX_N).L) - REFIT["E"]
        own = float(Chinchilla().loss(REFIT, N=self.n_params, D=self.n_tokens)) - REFIT["E"]
        return 1 - (best / own) ** (1 / gamma)


HISTORY = (
    Model(
        "GPT-1",
        2018,
        117e6,
        0.96 * 8.64e19 / (6 * 117e6),
        "Radford et al. 2018; D, repeats included, from 0.96 PF-days (unverified)",
        repeats=True,
    ),
    Model("GPT-2", 2019, 1.54e9, None, "Radford et al. 2019; tokens were not published"),
    Model("GPT-3", 2020, 175e9, 300e9, "Brown et al. 2020, arXiv:2005.14165"),
    Model("Gopher", 2021, 280e9, 300e9, "Rae et al. 2021, arXiv:2112.11446"),
    Model("Chinchilla", 2022, 70e9, 1.4e12, "Hoffmann et al. 2022, arXiv:2203.15556"),
    Model("PaLM", 2022, 540e9, 780e9, "Chowdhery et al. 2022, arXiv:2204.02311"),
    Model("LLaMA 65B", 2023, 65.2e9, 1.4e12, "Touvron et al. 2023, arXiv:2302.13971"),
    Model("Llama 2 70B", 2023, 70e9, 2e12, "Touvron et al. 2023, arXiv:2307.09288"),
    Model("Llama 3 405B", 2024, 405e9, 15.6e12, LLAMA_3),
    Model("Llama 3 8B", 2024, 8.03e9, 15e12, f"{LLAMA_3}; D is 'over 15T' (model card)"),
    Model(
        "DeepSeek-V3",
        2024,
        37e9,
        14.8e12,
        "DeepSeek-AI 2024, arXiv:2412.19437; 37B of 671B are active",
        is_sparse=True,
    ),
    Model("OLMo 2 13B", 2024, 13.7e9, 5e12, "OLMo et al. 2025, arXiv:2501.00656"),
    Model("OLMo 2 32B", 2025, 32.2e9, 6e12, "allenai.org/blog/olmo2-32B, 2025-03-13: up to 6T"),
)


def ratio_at(flops: float) -> float:
    """Tokens per parameter of the compute-optimal model, by the refit."""
    best = optimum(REFIT, np.array(flops), SIX_N)
    return float(best.D / best.N)


def page(rows: Sequence[Check], models: Sequence[Model]) -> str:
    """Both tables as Markdown."""
    failed = [r for r in rows if not r.agrees]
    verdict = "all agree" if not failed else f"{len(failed)} do not: {'; '.join(r.claim for r in failed)}"
    lines = [
        "# Published figures, computed again [literature]",
        "",
        f"{len(rows)} figures, {verdict}. `python analysis/published_checks.py` makes this file "
        "and history.png; tests/plan/test_published.py asserts every row. `within` is what the "
        "published figure was rounded to, or how loosely it was said.",
        "",
        "| claim | source | computed here | published | unit | ratio | within | verdict |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(r) for r in rows),
        "",
        "What the chain of Llama 3 leaves out shows beside the model card: 30.84M H100-hours were "
        "spent on the 405B model (secondary), 17% more than 26.3M at 400 TFLOP/s, so over the "
        f"whole run the MFU was {6 * 405e9 * 15.6e12 / (30.84e6 * 3600 * 989e12):.1%}, restarts "
        "and all else included.",
        "",
        "## From GPT-1 to Llama 3",
        "",
        "![history](history.png)",
        "",
        "C = 6 N D, with the active parameters of a sparse model. Optimal is D*/N* at the same C "
        "by the third approach of Hoffmann et al. refitted on their 240 digitised points [fitted; "
        "beyond about 1e22 FLOPs extrapolated]; at Gopher's compute its 80% interval is "
        f"[{GOPHER_RANGE[0]}, {GOPHER_RANGE[1]}], from noise alone. Wasted is the share of C "
        "without which the best model would reach the same loss by that law, for training alone: "
        "a smaller model trained for longer is cheaper to use, and no law says that other data "
        "and other recipes have the same optimum. Of a sparse model, and of repeated tokens, it "
        "says nothing.",
        "",
        "| model | year | N | D | C | D / N | optimal | over optimal | wasted | source |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(m) for m in models),
        "",
    ]
    return "\n".join(lines)


def _line(r: Check) -> str:
    within = f"{r.within:.1%}" if r.within > 1e-4 else "exact"
    verdict = "agrees" if r.agrees else "DIFFERS"
    return (
        f"| {r.claim} | {r.source} | {_figure(r.computed)} | {_figure(r.published)} | {r.unit} "
        f"| {r.ratio:.4f} | {within} | {verdict} |"
    )


def _figure(value: float, digits: int = 4) -> str:
    return sci(value, digits) if value >= 1e5 else f"{value:,.{digits}g}"


def _row(m: Model) -> str:
    if m.flops is None:
        cells = ["unknown"] * 6
    else:
        over = m.tokens_per_param / m.optimal
        wasted = "-" if m.is_sparse or m.repeats else f"{m.wasted:.0%}"
        cells = [
            si(m.n_tokens),
            sci(m.flops),
            _ratio(m.tokens_per_param),
            _ratio(m.optimal),
            f"{_ratio(over)}x",
            wasted,
        ]
    active = " active" if m.is_sparse else ""
    return f"| {m.name} | {m.year} | {si(m.n_params)}{active} | {' | '.join(cells)} | {m.source} |"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


BLUE, ORANGE, INK, GREY = "#0072b2", "#d55e00", "#1b1b1b", "#6f6f6f"  # Okabe and Ito
BESIDE = {  # where a name stands from its mark, points, and which end of it
    "GPT-1": (9, 0, "left", "center"),
    "GPT-3": (-9, 0, "right", "center"),
    "Gopher": (0, -11, "center", "top"),
    "Chinchilla": (10, -13, "left", "center"),
    "PaLM": (9, -4, "left", "center"),
    "LLaMA 65B": (-9, 8, "right", "center"),
    "Llama 2 70B": (9, 3, "left", "center"),
    "Llama 3 405B": (0, 10, "center", "bottom"),
    "Llama 3 8B": (-9, 0, "right", "center"),
    "DeepSeek-V3": (9, 3, "left", "center"),
    "OLMo 2 13B": (-9, 0, "right", "center"),
    "OLMo 2 32B": (-9, -4, "right", "center"),
}


def draw(models: Sequence[Model], path: Path) -> None:
    """Tokens per parameter against compute, and the compute-optimal line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(8.0, 5.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    inside, beyond = np.geomspace(6e18, 1e22, 50), np.geomspace(1e22, 3e26, 50)
    ax.plot(inside, [ratio_at(c) for c in inside], color=INK, lw=1.6)
    ax.plot(beyond, [ratio_at(c) for c in beyond], color=INK, lw=1.6, ls=(0, (4, 2.5)))
    ax.annotate(
        "compute-optimal: refit of Hoffmann et al.,\nsolid where it was fitted, dashed beyond",
        (6e19, ratio_at(6e19)),
        (0, -8),
        textcoords="offset points",
        va="top",
        ha="left",
        fontsize=9,
        color=INK,
    )
    low, high = GOPHER_RANGE
    ax.plot([GOPHER_FLOPS] * 2, [low, high], color=GREY, lw=5, alpha=0.45, solid_capstyle="butt")
    ax.annotate(
        "80% interval\nat Gopher's compute",
        (GOPHER_FLOPS, low),
        (-7, 0),
        textcoords="offset points",
        va="center",
        ha="right",
        fontsize=8,
        color=GREY,
    )
    for m in models:
        if m.flops is None:
            continue
        above = m.tokens_per_param > m.optimal
        colour = BLUE if above else ORANGE
        ax.plot(
            m.flops,
            m.tokens_per_param,
            "o" if above else "v",
            ms=7.5,
            color=colour,
            mew=1.6,
            mfc="white" if m.is_sparse else colour,
        )
        dx, dy, ha, va = BESIDE[m.name]
        ax.annotate(
            f"{m.name}, {m.year}",
            (m.flops, m.tokens_per_param),
            (dx, dy),
            textcoords="offset points",
            ha=ha,
            va=va,
            fontsize=9,
            color=colour,
        )
    ax.set(xscale="log", yscale="log", xlim=(6e18, 3e26), ylim=(0.6, 4e3))
    ax.set_xlabel("training compute 6 N D, FLOPs")
    ax.set_ylabel("training tokens per (active) parameter")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, lw=0.6)
    ax.set_title(
        "Too large for its tokens (triangles, below), or trained for longer than is optimal "
        "(circles, above)\nOpen mark: active parameters of a sparse model. GPT-2's tokens are "
        "unknown.",
        loc="left",
        fontsize=9.5,
    )
    figure.savefig(path)


def main() -> None:
    """Compute, write, draw."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = options.parse_args()
    (args.out / "published_checks.md").write_text(page(checks(), HISTORY), encoding="utf-8")
    draw(HISTORY, args.out / "history.png")


if __name__ == "__main__":
    main()
