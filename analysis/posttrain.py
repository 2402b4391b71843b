"""Post-training with several seeds: what each step gives, and how much of it is luck.

    python analysis/posttrain.py [--seeds 0 1 2] [--file sweeps/posttrain/assistant.yaml]

For each seed the command that a person would type: `scalelab posttrain FILE --set seed=K`. What
is done is not done again. It writes analysis/posttrain.md, and overreach.png of the first seed
beside it. The base model is the same for all seeds: what differs is which conversations there
are, what is drawn, and the order of training.

Standard errors are over seeds, sd / sqrt(n), beside those over prompts. Differences between two
models are taken seed by seed.
"""

import argparse
import json
import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from scalelab.config import read
from scalelab.files import write_text
from scalelab.units import sci

HERE = Path(__file__).resolve().parent
FILE = HERE.parent / "sweeps" / "posttrain" / "assistant.yaml"
FIRST = "same"
PAIRS = (("sft", "base"), ("dpo", "sft"), ("ppo", "sft"), ("ppo-pushed", "sft"))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--file", type=Path, default=FILE)
    args = arguments.parse_args()
    name = read(args.file).data["name"]
    found = []
    for seed in args.seeds:
        called = name if seed == 0 else f"{name}-{seed}"
        command = [sys.executable, "-m", "scalelab.cli", "posttrain", str(args.file)]
        command += ["--set", f"seed={seed}", "--set", f"name={called}"]
        done = subprocess.run(command, check=False)
        if done.returncode:
            return done.returncode
        found.append(json.loads((Path("reports") / called / "posttrain.json").read_text()))
    figure = Path("reports") / (name if args.seeds[0] == 0 else f"{name}-{args.seeds[0]}")
    for shape in ("overreach", "series"):
        shutil.copy(figure / f"{shape}.png", HERE / f"posttrain_{shape}.png")
    write_text(HERE / "posttrain.md", page(args.seeds, found))
    print(HERE / "posttrain.md")
    return 0


def page(seeds: Sequence[int], found: Sequence[dict[str, Any]]) -> str:
    models = [m["model"] for m in found[0]["models"]]
    sets = list(found[0]["models"][0]["sets"])
    head = ["model", *(f"{s}: accuracy / gold" for s in sets), "bits/byte"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for model in models:
        cells = [model]
        for name in sets:
            both = [mean_of([_row(one, model, name)[what] for one in found]) for what in ("accuracy", "gold")]
            cells.append(" / ".join(both))
        cells.append(mean_of([_model(one, model)["bpb"] for one in found]))
        lines.append(f"| {' | '.join(cells)} |")
    parts = [
        "# Post-training, seed by seed",
        "`scalelab posttrain sweeps/posttrain/assistant.yaml` with seeds "
        f"{', '.join(map(str, seeds))}, on one base model; `python analysis/posttrain.py` makes "
        "this page. All measured: means over seeds ± their standard error; each seed asks 300 "
        "prompts a set. Gold: a point for a right answer, less .05 for each word. Bits per byte: "
        "the base's own validation text.",
        "\n".join(lines),
        "## What each step gives",
        f"Differences on the set `{FIRST}`, seed by seed; in brackets the 95% interval of their "
        "mean by Student's t, which is all that so few seeds can say.",
        "\n".join(differences(found, models)),
        "## Win rates over SFT, raw and at equal lengths",
        "\n".join(_wins(found, models)),
        "## A reward model that is pushed",
        "A weak reward model (270 noisy pairs) chosen by best of n, or climbed by PPO without a "
        "price on KL, is over-optimised: its own score rises while what answers are worth falls.",
        "\n".join(_pushed(found, seeds)),
        "![proxy and gold over the distance from the start](posttrain_overreach.png)",
        "## Does more data help?",
        "![accuracy over examples](posttrain_series.png)",
        "\n".join(_series(found)),
        "## What it took",
        _took(found),
    ]
    return "\n\n".join(parts) + "\n"


def _took(found: Sequence[dict[str, Any]]) -> str:
    flops = ", ".join(sci(one["flops"]) for one in found)
    seconds = ", ".join(f"{one['seconds']:.0f}" for one in found)
    return f"{flops} FLOPs [reckoned], and {seconds} s of all processes together [measured, two cores]."


def mean_of(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    error = np.std(known, ddof=1) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return f"{np.mean(known):.3f} ± {error:.3f}"


def differences(found: Sequence[dict[str, Any]], models: Sequence[str]) -> list[str]:
    lines = []
    for one, other in PAIRS:
        if one not in models or other not in models:
            continue
        for what in ("accuracy", "gold"):
            gaps = [_row(f, one, FIRST)[what] - _row(f, other, FIRST)[what] for f in found]
            lines.append(f"- {what}, {one} over {other}: {_interval(gaps)}")
    return lines


def _interval(gaps: Sequence[float]) -> str:
    shown = ", ".join(f"{gap:+.3f}" for gap in gaps)
    if len(gaps) < 2:
        return shown
    half = stats.t.ppf(0.975, len(gaps) - 1) * np.std(gaps, ddof=1) / math.sqrt(len(gaps))
    middle = np.mean(gaps)
    told = "told apart" if abs(middle) > half else "**not told apart**"
    return f"{middle:+.3f} [{middle - half:+.3f}, {middle + half:+.3f}] ({shown}): {told}"


def _wins(found: Sequence[dict[str, Any]], models: Sequence[str]) -> list[str]:
    lines = []
    for model in models:
        wins = [_model(one, model)["wins"] for one in found]
        if any(w is None for w in wins):
            continue
        raw = ", ".join(f"{w['raw']:.1%}" for w in wins)
        fair = ", ".join("unknown" if w["lc"] is None else f"{w['lc']:.1%}" for w in wins)
        lines.append(f"- {model} over {wins[0]['baseline']}: {raw}; at equal lengths {fair}")
    return lines


def _pushed(found: Sequence[dict[str, Any]], seeds: Sequence[int]) -> list[str]:
    lines = []
    for seed, one in zip(seeds, found, strict=True):
        for curve in one["curves"]:
            if curve["name"] == "ppo":
                continue
            gold, proxy, kl = (np.array(curve[k]) for k in ("gold", "proxy", "kl"))
            if len(gold) > 20:  # a step of PPO is one small batch: means over tenths
                gold, proxy, kl = (
                    np.array([part.mean() for part in np.array_split(v, 10)]) for v in (gold, proxy, kl)
                )
            peak = int(gold.argmax())
            lines.append(
                f"- seed {seed}, {curve['name']}: gold peaks at {gold[peak]:.3f} (KL "
                f"{kl[peak]:.2f} nats, proxy {proxy[peak]:.3f}) and ends at {gold[-1]:.3f} (KL "
                f"{kl[-1]:.2f}, proxy {proxy[-1]:.3f})"
            )
    return lines


def _series(found: Sequence[dict[str, Any]]) -> list[str]:
    sizes = [row["examples"] for row in found[0]["series"]]
    return [
        f"- {n} examples: accuracy {mean_of([one['series'][i]['accuracy'] for one in found])}, "
        f"gold {mean_of([one['series'][i]['gold'] for one in found])}"
        for i, n in enumerate(sizes)
    ]


def _model(one: dict[str, Any], name: str) -> dict[str, Any]:
    return next(m for m in one["models"] if m["model"] == name)


def _row(one: dict[str, Any], model: str, name: str) -> dict[str, Any]:
    return _model(one, model)["sets"][name]


if __name__ == "__main__":
    sys.exit(main())
