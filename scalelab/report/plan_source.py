"""What a plan rests on: runs of a sweep or of a table, a recipe, a corpus, a measured pace.

    from_sweep(root, name)    runs/NAME: its evidence, its recipe, its corpus, what it has spent
    from_table(path)          anybody's table; the recipe is that of a sweep file, if one is named

A pace is what the largest runs did on their own device: FLOPs per second, measured. It says how
long a final run takes there when no peak is known from which to count.

Not here: what is made of it (plan_command.py).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.config import parse_yaml
from scalelab.data import shards
from scalelab.data.shards import Corpus
from scalelab.data.stream import count_windows
from scalelab.errors import DataError, PlanError
from scalelab.launch.sweepfile import SweepFile
from scalelab.laws.observations import Observations
from scalelab.laws.study import DEFAULT_LAWS, Study, study
from scalelab.plan.band import RunCurve
from scalelab.report.answer import columns_read, observations
from scalelab.report.fit_table import columns_of
from scalelab.track.evidence import Evidence, evidence
from scalelab.track.manifest import SweepManifest
from scalelab.track.table import run_table
from scalelab.track.tablefile import read_table
from scalelab.train.recipe import Recipe
from scalelab.train.rundir import RunDir

LEVEL = 0.8  # of every interval of a plan
LARGEST = 0.9  # of the most FLOPs of a run: those of the same budget
ENDED = ("finished", "diverged", "failed")


@dataclass(frozen=True)
class Pace:
    """What runs did per second on one device. Measured."""

    flops_per_s: float
    """Of one run, by the exact count."""
    runs: int
    """How many it was measured on."""
    device: str
    precision: str
    threads: int
    mfu: float | None
    """Share of the device's dense peak; None where that is unknown."""

    def __str__(self) -> str:
        place = f"{self.device}, {self.precision}"
        if self.threads:
            place += f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"the {self.runs} runs of the largest budget, each on {place}"


@dataclass(frozen=True)
class Spent:
    """What a sweep has taken so far. Measured."""

    flops: float
    """Of all runs that have ended, by the exact count."""
    lost_flops: float
    """Of these, in runs that diverged or failed."""
    runs: int
    lost_runs: int
    """Diverged and failed ones."""
    seconds: float
    """Training and evaluation, one run after the other."""
    lost_seconds: float
    """Of these, in runs that diverged or failed."""
    device: str


@dataclass(frozen=True, eq=False)
class Source:
    """Evidence, and what is known about how it was made."""

    name: str
    """Of the sweep, or of the table's file without its ending."""
    where: str
    """What messages call it."""
    seen: Evidence
    flop_count: str
    recipe: Recipe | None = None
    recipe_yaml: str | None = None
    """The sweep file that the recipe stands in."""
    vocab_size: int | None = None
    data_digest: str | None = None
    corpus: Corpus | None = None
    """None where it is not prepared here."""
    spent: Spent | None = None
    pace: Pace | None = None
    curves: Sequence[RunCurve] = ()
    """Validation losses on the way, of the runs in evidence."""
    train_curves: Sequence[RunCurve] = ()

    @cached_property
    def observations(self) -> Observations:
        """The runs, without columns that only single laws read."""
        return observations(self.seen.table, self.flop_count, ())

    @property
    def unique_tokens(self) -> int | None:
        """Training tokens of the corpus, each once; None where it is not here."""
        if self.corpus is None or self.recipe is None:
            return None
        return count_windows(self.corpus.n_train, self.recipe.seq_len) * self.recipe.seq_len

    def study(self, target: float | None, args: Any) -> Study:
        """Every law on this evidence, at a target.

        Args:
            target: FLOPs; None for the default, ten times the largest budget.
            args: Of the command: law, unique_tokens, replicates.
        """
        laws = tuple(args.law or DEFAULT_LAWS)
        table = self.seen.table
        asked = args.law is None and args.unique_tokens is not None
        if asked and "n_tokens_unique" in table:
            repeats = table["n_tokens"] > 1.01 * table["n_tokens_unique"]
            laws += ("repeated",) if repeats.any() else ()
        return study(
            observations(table, self.flop_count, laws),
            target_flops=target,
            param_count=self.seen.param_count,
            flop_count=self.flop_count,
            kind=self.seen.kind,
            level=LEVEL,
            replicates=args.replicates,
            laws=laws,
            excluded=[(item["run"], item["reason"]) for item in self.seen.excluded],
        )


def from_sweep(root: Path, name: str, count: str | None = None) -> Source:
    """A sweep of our own.

    Raises:
        TrackError: There is no such sweep.
        DataError: Its runs are no evidence.
        PlanError: Another count of parameters is asked for than its recipe has.
    """
    manifest = SweepManifest.load(root, name)
    table = run_table(root, name)
    seen = evidence(table, manifest.param_count)
    file = SweepFile.parse(parse_yaml(manifest.config_yaml, f"the sweep file of {name}"))
    _refuse_count(count, file.recipe, name)
    used = set(seen.table["run"])
    dirs = {p.run: RunDir(root / p.dir) for p in manifest.runs if p.run in used}
    first = next(iter(dirs.values()))
    digest = str(seen.table["data_digest"].iloc[0])
    corpus = None
    with suppress(DataError):  # a plan needs it only to count its tokens
        corpus = shards.open_corpus(digest)
    return Source(
        name=name,
        where=f"the sweep {name}",
        seen=seen,
        flop_count="exact",
        recipe=file.recipe,
        recipe_yaml=manifest.config_yaml,
        vocab_size=first.spec().model.vocab_size,
        data_digest=digest,
        corpus=corpus,
        spent=_spent(table),
        pace=_pace(seen),
        **_curves(seen, dirs),
    )


def from_table(
    path: Path,
    columns: str,
    count: str | None = None,
    recipe: Path | None = None,
    laws: Sequence[str] = (),
) -> Source:
    """An external table, with the recipe of a sweep file beside it or without one.

    Args:
        path: The table.
        columns: What it calls our columns, as a person writes it: "n_params=N,loss=L".
        count: Of parameters, that N is; None: the table's own, or the recipe's.
        recipe: The sweep file.
        laws: That will be fitted; `columns` may name the columns that they read.

    Raises:
        DataError: The table is none, or its runs are no evidence.
        ConfigError: The sweep file says what it cannot.
        PlanError: Table and recipe count parameters differently, or the corpus is not prepared.
    """
    raw = read_table(path, columns_of(columns), columns_read(laws))
    file = None if recipe is None else SweepFile.load(recipe)
    if file is not None:
        _refuse_count(count, file.recipe, str(recipe))
    seen = evidence(raw, count or (file and file.recipe.param_count), str(path))
    flop_count = "exact" if "flops" in seen.table else "6ND"
    known: dict[str, Any] = {}
    if file is not None:
        corpus = shards.find(file.recipe.data)
        if corpus is None:
            raise PlanError(
                "the corpus of the recipe is not prepared, so the run cannot be written down",
                where=f"recipe.data of {recipe}",
                fix=f"prepare it: scalelab data {recipe}",
            )
        known = {
            "recipe": file.recipe,
            "recipe_yaml": file.to_yaml(),
            "vocab_size": corpus.vocab_size,
            "data_digest": corpus.digest,
            "corpus": corpus,
        }
    return Source(path.stem, str(path), seen, flop_count, pace=_pace(seen), **known)


def _refuse_count(asked: str | None, recipe: Recipe, where: str) -> None:
    if asked not in (None, recipe.param_count):
        raise PlanError(
            f"N is to be the {asked} count, the recipe builds models by the {recipe.param_count} "
            "count",
            where=where,
            fix="leave --param-count out, or plan from a table without a recipe",
        )


def _spent(table: Any) -> Spent | None:
    ended = table[table["status"].isin(ENDED)]
    if ended.empty:
        return None
    lost = ended[ended["status"] != "finished"]
    flops = ended["flops"].fillna(0.0)
    seconds = ended["train_s"].fillna(0.0) + ended["eval_s"].fillna(0.0)
    return Spent(
        flops=float(flops.sum()),
        lost_flops=float(flops[lost.index].sum()),
        runs=len(ended),
        lost_runs=len(lost),
        seconds=float(seconds.sum()),
        lost_seconds=float(seconds[lost.index].sum()),
        device=", ".join(sorted(set(ended["device"].dropna()))),
    )


def _pace(seen: Evidence) -> Pace | None:
    """Measured on the runs of the largest compute, within LARGEST of each other."""
    table = seen.table
    needed = {"tokens_per_s", "flops_per_token", "device", "precision", "flops"}
    if seen.kind != "measured" or not needed <= set(table):
        return None
    known = table[table["tokens_per_s"].notna() & table["flops_per_token"].notna()]
    if known.empty:
        return None
    largest = known.loc[known["flops"].idxmax()]
    same = (known["device"] == largest["device"]) & (known["precision"] == largest["precision"])
    runs = known[same & (known["flops"] > LARGEST * largest["flops"])]
    # Time adds up, rates do not: all FLOPs over all seconds.
    flops = runs["flops"].to_numpy(float)
    seconds = flops / (runs["tokens_per_s"] * runs["flops_per_token"]).to_numpy(float)
    mfu = runs.get("mfu")
    return Pace(
        flops_per_s=float(flops.sum() / seconds.sum()),
        runs=len(runs),
        device=str(largest["device"]),
        precision=str(largest["precision"]),
        threads=int(largest["threads"]) if "threads" in runs else 0,
        mfu=None if mfu is None or mfu.isna().any() else float(np.mean(mfu)),
    )


def _curves(seen: Evidence, dirs: dict[str, RunDir]) -> dict[str, list[RunCurve]]:
    found: dict[str, list[RunCurve]] = {"curves": [], "train_curves": []}
    for row in seen.table.itertuples():
        result = dirs[row.run].result()
        if result is None or result.loss is None:
            continue
        for key, points in (("curves", result.curve), ("train_curves", result.train_curve)):
            found[key].append(
                RunCurve(
                    row.run, row.n_params, row.n_tokens, result.n_steps, result.loss, tuple(points)
                )
            )
    return found
