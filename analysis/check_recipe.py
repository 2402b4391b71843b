"""How often `scalelab check-recipe` catches planted faults, and how often it alarms without one.

    python analysis/check_recipe.py [--trials 20] [--check NAME[:TRIALS] ...] [--minutes M] [--first-seed 0]
                                    [--runs DIR] [--out FILE.md]
    python analysis/check_recipe.py --merge DIR [DIR ...] [--trials 20] [--out FILE.md]

A trial is one check of one recipe with seeds of its own. The clean recipe is muP; for the horizon check its rate falls
with the tokens as D^-.3 (Bjorck et al. 2024), because its batch stays. The faults change what a run of it gets, by a
stated size:

    inverted   coordinate, transfer   the rate of matrices rises as the width instead of falling: x16 at x4 width
    head       coordinate             the multiplier of the logits does not follow the width: x4 at x4 width
    horizon    horizon                the factor of the tokens has the wrong sign: x8^EXPONENT too high at x8 tokens

A factor of D^-.3 that is only missing is x1.9 at 8 times the tokens, .6 steps of the grid: by a limit of one step that
is no fault, and the check cannot see it. The languages are small, so
that the loss of a few hundred steps has a valley in the rate.

The reference width is the base width of each check, so a fault changes no run of the base width (of the shorter runs,
for horizon) and all recipes of a trial share those. The limits of coordinate were set on seeds from 100 on, as were
budgets and rates of the other two, whose limit is one step; the table is of seeds from 0 on.

Runs are kept in --runs, and what each trial found in trials.jsonl there: the same command resumes. With --minutes no
trial starts after that time, and the table says how many there are. One process, one thread; several calls,
each with a --check and --runs of its own, may share the work, and --merge makes one table of what they found, also with
earlier versions of this file, which the table then says. It trains nothing.
"""

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections import Counter
from pathlib import Path

import torch

from scalelab.config import short_hash
from scalelab.data.corpus import shards
from scalelab.files import append, make_dir, write_text
from scalelab.recipe_check import RECIPE_CHECKS, rate_sweep
from scalelab.recipe_check.base import RecipeMeasure
from scalelab.recipe_check.members import coordinate, horizon, transfer
from scalelab.recipe_check.members.coordinate import USUAL
from scalelab.recipe_check.runs import train_here
from scalelab.recipe_check.workbench import RecipeWorkbench
from scalelab.train.recipe import Recipe

EXPONENT = 1.05
"""Of the tokens, by which the rate of the fault of horizon is too high."""
WIDTH_REF = {"coordinate": 16, "transfer": 8, "horizon": 8}
SEEDS = {"coordinate": 3, "transfer": 2, "horizon": 2}
BUDGET = {"coordinate": 1e10, "transfer": 1e10, "horizon": 6e9}
WORDS = {"coordinate": (64, 4), "transfer": (18, 2), "horizon": (18, 2)}
"""Tokens and topics of the language."""
RATE = {
    "coordinate": 0.008,
    "transfer": 0.03,
    "horizon": {"kind": "horizon", "base": 0.03, "tokens_ref": 6600, "exponent": 0.3},
}

CASES = {
    "coordinate": ("clean", "inverted", "head"),
    "transfer": ("clean", "inverted"),
    "horizon": ("clean", "horizon"),
}
SIZES = {
    "inverted": "rate of matrices x16 at 4 times the width",
    "head": "logits x4 at 4 times the width",
    "horizon": f"rate x{8**EXPONENT:.1f} at 8 times the tokens",
    "clean": "none",
}


def recipe(check: str) -> Recipe:
    """MuP on the synthetic language, small enough for a check in seconds."""
    vocab, topics = WORDS[check]
    return Recipe.model_validate(
        {
            "data": {
                "source": {
                    "kind": "synthetic",
                    "vocab": vocab,
                    "topics": topics,
                    "documents": 6000,
                    "length": 65,
                },
                "validation": 0.05,
                "epochs": 4,
            },
            "seq_len": 32,
            "model": {"kind": "transformer", "n_layers": 1, "head_size": 8},
            "optimizer": {
                "lr": RATE[check],
                "width_ref": WIDTH_REF[check],
                "batch_ref": 64,
                "embedding_lr": 2,
                "head_lr": 4,
                "weight_decay": 0.1,
            },
            "batch": {"kind": "constant", "value": 64},
            "schedule": {"kind": "wsd", "warmup": 0.1, "cooldown": 0.5},
            "evaluation": {"tokens": 4096},
            "param": "mup",
        }
    )


class FaultyWorkbench(RecipeWorkbench):
    """A workbench whose runs have a fault."""

    fault = "clean"
    shortest = None
    """Tokens of the first run."""

    def spec(self, model, n_tokens, seed, batch_tokens=None):
        """See RecipeWorkbench."""
        spec = super().spec(model, n_tokens, seed, batch_tokens)
        wider = model.width() / self.recipe.optimizer.width_ref
        if self.fault == "inverted":
            rate = spec.optimizer.lr_matrix * wider**2
            return spec.model_copy(
                update={"optimizer": spec.optimizer.model_copy(update={"lr_matrix": rate})}
            )
        if self.fault == "head":
            # muP divides the logits by the width relative to the reference.
            flat = spec.model.model_copy(update={"output_multiplier": spec.model.output_multiplier * wider})
            return spec.model_copy(update={"model": flat})
        if self.fault == "horizon":
            self.shortest = self.shortest or n_tokens
            times = (n_tokens / self.shortest) ** EXPONENT
            return spec.model_copy(update={"optimizer": spec.optimizer.with_rates_times(times)})
        return spec


def trial(check: str, case: str, number: int, first_seed: int, corpus, runs: Path) -> dict:
    """Return what one trial found, as JSON types. Seconds are CPU seconds; null where some of its runs were kept
    from an earlier call.
    """
    n = SEEDS[check]
    seeds = tuple(first_seed + n * number + i for i in range(n))
    mine = recipe(check)
    bench = FaultyWorkbench(mine, corpus, runs / ".checks" / check, train_here, BUDGET[check], seeds)
    bench.fault = case
    before, begun = sum(1 for _ in bench.directory.glob("*/result.json")), time.process_time()
    finding = RECIPE_CHECKS[check]().run(bench)
    seconds, worst = time.process_time() - begun, finding.worst
    new = sum(1 for _ in bench.directory.glob("*/result.json")) - before
    return {
        "check": check,
        "case": case,
        "seeds": list(seeds),
        "setting": setting(check),
        "verdict": finding.verdict,
        "worst": worst.to_json(),
        "settings": {k: v for k, v in finding.settings.items() if "best" not in k},
        "measures": [m.to_json() for m in finding.measures],
        "n_runs": len(bench.used),
        "n_trained": new,
        "seconds": seconds,
    }


def setting(check: str) -> str:
    """Digest of what a trial of a check is and how it is judged, its seeds and its fault aside."""
    rates = [rate_sweep.STEP, rate_sweep.FIRST, rate_sweep.MOST_STEPS, rate_sweep.SHARE]
    constants = {
        "coordinate": [
            coordinate.FACTORS,
            [*coordinate.STAGES.items()],
            coordinate.HIDDEN,
            coordinate.LOGITS,
        ],
        "transfer": [transfer.FACTORS, transfer.THRESHOLD, *rates],
        "horizon": [horizon.LONGER, horizon.THRESHOLD, EXPONENT, *rates],
    }
    return short_hash([recipe(check).digest, BUDGET[check], constants[check]])


def kept(path: Path) -> dict:
    """Trials of earlier calls, by check, case, seeds and setting. A line that was cut short is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["check"], row["case"], tuple(row["seeds"]), row["setting"]] = row
    return found


def merged(places: list[Path]) -> dict:
    """Trials that several calls kept, as kept() returns them, those of earlier versions included.

    A trial that two of them found differently is refused.
    """
    found = {}
    for place in places:
        rows = kept(place / "trials.jsonl")
        if not rows:
            raise SystemExit(f"no trials in {place / 'trials.jsonl'}: name the --runs of earlier calls")
        for (check, case, seeds, _), row in rows.items():
            before = found.setdefault((check, case, seeds, setting(check)), row)
            if (before["verdict"], before["worst"]) != (row["verdict"], row["worst"]):
                raise SystemExit(
                    f"{place}: {check}, {case}, seeds {seeds} is {row['verdict']} {row['worst']['value']}, elsewhere "
                    f"{before['verdict']} {before['worst']['value']}: leave one of the directories out"
                )
    return found


def earlier(check: str, rows: list) -> list[str]:
    """A line about trials of an earlier version of the recipe or the check; none without any."""
    found = Counter(row["setting"] for row in rows if row["setting"] != setting(check))
    return [
        f"- {check}: {n} of {len(rows)} trials have the setting {digest}, this version {setting(check)}"
        for digest, n in found.items()
    ]


def line(check: str, case: str, found: list) -> str:
    """A row of the table."""
    verdicts = Counter(row["verdict"] for row in found)
    values = [row["worst"]["value"] for row in found if row["worst"]["value"] is not None]
    spread = f"{min(values):+.2f} to {max(values):+.2f}" if values else "-"
    limit = max(m["threshold"] for m in found[0]["measures"])
    trained = sum(row["n_trained"] for row in found) / len(found)
    spent = f"{sum(row['seconds'] for row in found) / len(found):.1f}"
    counts = " | ".join(f"{verdicts[v]}" for v in ("fails", "undecided", "ok"))
    runs = f"{found[0]['n_runs']} | {trained:.0f}"
    return f"| {check} | {case} | {SIZES[case]} | {len(found)} | {counts} | {spread} | {limit:g} | {runs} | {spent} |"


def usual_limit(found: list) -> str:
    """What a limit of .05, right for models hundreds of units wide, would say of the clean recipe here."""
    worst = [max(abs(m["value"]) for m in row["measures"]) for row in found]
    alarms = sum(
        any(RecipeMeasure(**_fields(m, USUAL)).verdict == "fails" for m in row["measures"]) for row in found
    )
    return (
        f"- coordinate, clean: the largest |slope| of a trial is {min(worst):.2f} to {max(worst):.2f}; a limit of "
        f"{USUAL:g}, which suits models hundreds of units wide, would alarm in {alarms} of {len(found)} trials"
    )


def _fields(measure: dict, threshold: float) -> dict:
    return {k: v for k, v in measure.items() if k != "verdict"} | {"threshold": threshold}


def main() -> None:
    """Run the trials and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--check", action="append", metavar="NAME[:TRIALS]", default=[])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no trial after so long")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument(
        "--merge", type=Path, nargs="+", metavar="DIR", help="--runs of earlier calls, to be read alone"
    )
    parser.add_argument("--out", type=Path, help="file of the table (default: printed alone)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * args.minutes
    if args.merge:
        known, end = merged(args.merge), float("-inf")
    else:
        record = make_dir(args.runs) / "trials.jsonl"
        known = kept(record)
    rows, settings = [], []
    for asked in args.check or CASES:
        check, _, trials = asked.partition(":")
        corpus, found = None, {case: [] for case in CASES[check]}
        for number in range(int(trials or args.trials)):
            for case in CASES[check]:
                n = SEEDS[check]
                seeds = tuple(args.first_seed + n * number + i for i in range(n))
                row = known.get((check, case, seeds, setting(check)))
                if row is None and time.monotonic() < end:
                    corpus = corpus or shards.prepare(recipe(check).data)
                    row = trial(check, case, number, args.first_seed, corpus, args.runs)
                    append(record, json.dumps(row) + "\n")
                    worst = row["worst"]
                    print(
                        f"{check} {case} {number}: {row['verdict']}, {worst['name']} {worst['value']} "
                        f"[{worst['low']}, {worst['high']}], {row['seconds']:.1f} s",
                        flush=True,
                    )
                if row is not None:
                    found[case].append(row)
        rows += [line(check, case, each) for case, each in found.items() if each]
        some = next((each[0] for each in found.values() if each), None)
        if some is not None:
            words = ", ".join(f"{key} {value}" for key, value in some["settings"].items())
            settings.append(f"- {check}: {words}")
            settings += earlier(check, [row for each in found.values() for row in each])
        if check == "coordinate" and found["clean"]:
            settings.append(usual_limit(found["clean"]))
    text = TEXT.format(first=args.first_seed, rows="\n".join(rows), settings="\n".join(settings))
    if args.out is None:
        print(text)
    else:
        write_text(args.out, text)


TEXT = """# Faults that `scalelab check-recipe` catches, and false alarms [measured]

`python analysis/check_recipe.py` makes this file; its head says what the faults are. Each trial trains runs of its
own seeds, from {first} on. The limits of coordinate were set on other seeds; those of transfer and horizon are one
step, set beforehand. A fault is caught where the verdict is "fails". The aim is 18 of 20 faults, 1 of 20 false alarms:
with fewer trials than 20 the table does not show that it is met.
`value` is the measure that decides, least to largest over the trials: d ln rms / d ln width, or steps of a factor
of 3 in the rate. `runs` are those that a check reads, of which `trained` were not shared with another recipe of the
table; seconds are CPU seconds of the trained ones.

| check | recipe | size of the fault | trials | fails | undecided | ok | value | limit | runs | trained | seconds |
|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
{rows}

Settings:

{settings}
"""


if __name__ == "__main__":
    main()
