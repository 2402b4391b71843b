"""Sources of a plan: runs of a sweep or of a table, a recipe, a corpus, a measured throughput.

    from_sweep(root, name)    runs/NAME: its evidence, its recipe, its corpus, its cost so far
    from_table(path)          an external table, with the recipe of a sweep file if one is given

The throughput is that of the largest runs on their own device, in FLOPs per second. It gives the
time of a final run where the peak of the device is unknown.

Not here: the plan (planner.py).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.config import parse_yaml
from scalelab.data.corpus import shards
from scalelab.data.corpus.shards import Corpus
from scalelab.data.corpus.stream import count_windows
from scalelab.data.vocabulary import vocab_size_of
from scalelab.errors import DataError, PlanError, within
from scalelab.laws.observations import Observations
from scalelab.plan.forecast.band import RunCurve
from scalelab.plan.request import PlanRequest
from scalelab.records.evidence import Evidence, evidence
from scalelab.records.external_table import parse_columns, read_table
from scalelab.records.run_table import run_table
from scalelab.records.runs import Runs
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.records.table_reading import TableReading
from scalelab.records.table_units import TableUnits
from scalelab.study.from_table import columns_read, count_of_flops, observations
from scalelab.study.quality.unit_checks import unit_findings
from scalelab.study.study import DEFAULT_LAWS, Study, study
from scalelab.sweep.file import SweepFile
from scalelab.train.recipe import Recipe
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunResult
from scalelab.train.spent import spent
from scalelab.units import si

LEVEL = 0.8  # level of every interval of a plan
LARGEST = 0.9  # share of the FLOPs of the largest run above which runs count as of the same budget


@dataclass(frozen=True)
class MeasuredThroughput:
    """Throughput of runs on one device, measured."""

    flops_per_s: float
    """FLOPs per second of one run, by the exact count."""
    runs: int
    """Number of runs that it was measured on."""
    device: str
    precision: str
    threads: int
    mfu: float | None
    """Share of the dense peak of the device; None where the peak is unknown."""

    def __str__(self) -> str:
        place = f"{self.device}, {self.precision}"
        if self.threads:
            place += f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"the {self.runs} runs of the largest budget, each on {place}"


@dataclass(frozen=True)
class SpentCompute:
    """Compute and time spent on a sweep so far, measured."""

    flops: float
    """FLOPs of all runs that have ended, by the exact count, each trunk counted once."""
    lost_flops: float
    """Part of `flops` in runs that diverged or failed."""
    runs: int
    lost_runs: int
    """Number of runs that diverged or failed."""
    seconds: float
    """Seconds of training and evaluation, summed over the runs, each trunk counted once."""
    lost_seconds: float
    """Part of `seconds` in runs that diverged or failed."""
    device: str


@dataclass(frozen=True, eq=False)
class PlanSource:
    """Evidence, with its recipe, corpus, cost and throughput where they are known."""

    name: str
    """Name of the sweep, or file name of the table without its suffix."""
    where: str
    """Description of the source in messages."""
    argument: str | None
    """What `scalelab fit` takes to read it: the name of a sweep or the path of a table; None for a DataFrame."""
    seen: Evidence
    flop_count: str
    recipe: Recipe | None = None
    recipe_yaml: str | None = None
    """Text of the sweep file that contains the recipe."""
    vocab_size: int | None = None
    data_digest: str | None = None
    corpus: Corpus | None = None
    """None where the corpus is not prepared on this machine."""
    recipe_file: Path | None = None
    """Sweep file of the recipe of a table."""
    tokens_available: float | None = None
    """Training tokens of a corpus that is not prepared on this machine, as stated; None where unknown."""
    spent: SpentCompute | None = None
    throughput: MeasuredThroughput | None = None
    curves: Sequence[RunCurve] = ()
    """Validation loss curves of the runs in evidence."""
    train_curves: Sequence[RunCurve] = ()
    """Training loss curves of the same runs."""

    @cached_property
    def observations(self) -> Observations:
        """Runs in evidence, without columns that only some laws read."""
        return observations(self.seen.table, self.flop_count, ())

    @property
    def unique_tokens(self) -> int | None:
        """Number of training tokens of the corpus, counted or stated; None where unknown."""
        if self.corpus is None or self.recipe is None:
            return None if self.tokens_available is None else int(self.tokens_available)
        return count_windows(self.corpus.n_train, self.recipe.seq_len) * self.recipe.seq_len

    def with_tokens_available(self, tokens: float | None) -> "PlanSource":
        """Return the source with the stated number of training tokens of a corpus that is not prepared.

        Args:
            tokens: Training tokens; None where not stated.

        Raises:
            PlanError: There is no recipe, the corpus is prepared and has another number, or it is
                not prepared and nothing is stated.
        """
        if tokens is None:
            if self.recipe is not None and self.data_digest is None:
                raise PlanError(
                    "the corpus of the recipe is not prepared, so the run cannot be launched",
                    where=f"recipe.data of {self.recipe_file}",
                    fix=f"prepare it: scalelab data {self.recipe_file}; or plan without it: state its training "
                    "tokens, such as --tokens-available 300e9",
                )
            return self
        if self.recipe is None:
            raise PlanError(
                "--tokens-available requires a recipe",
                where=self.where,
                fix="add --recipe SWEEP.yaml, or leave --tokens-available out",
            )
        counted = self.unique_tokens
        if counted is not None and abs(tokens / counted - 1) > 0.01:
            raise PlanError(
                f"--tokens-available is {si(tokens)}, and the corpus of the recipe has {si(counted)} training tokens",
                where=f"corpus {self.data_digest} of {self.where}",
                fix="leave --tokens-available out: the corpus is prepared",
            )
        return self if counted is not None else replace(self, tokens_available=tokens)

    def study(self, target: float | None, request: PlanRequest) -> Study:
        """Return the study of this evidence, with every law evaluated at a target.

        Args:
            target: Training FLOPs; None for ten times the largest budget.
            request: Provides laws, unique_tokens and replicates.
        """
        laws = request.law or DEFAULT_LAWS
        table = self.seen.table
        requested = not request.law and request.unique_tokens is not None
        if requested and "n_tokens_unique" in table:
            repeats = table["n_tokens"] > 1.01 * table["n_tokens_unique"]
            laws += ("repeated",) if repeats.any() else ()
        with within(self.where):
            return study(
                observations(table, self.flop_count, laws),
                target_flops=target,
                param_count=self.seen.param_count,
                flop_count=self.flop_count,
                kind=self.seen.kind,
                level=LEVEL,
                replicates=request.replicates,
                laws=laws,
                excluded=[(item["run"], item["reason"]) for item in self.seen.excluded],
                findings=unit_findings(self.seen, self.flop_count),
            )


def from_sweep(root: Path, name: str, count: str | None = None) -> PlanSource:
    """Return a sweep as the source of a plan.

    Args:
        root: The runs directory.
        name: Name of the sweep.
        count: Which count of parameters N is; None for that of the recipe.

    Raises:
        TrackError: There is no such sweep.
        DataError: Its runs cannot be used as evidence.
        PlanError: The requested count of parameters is not that of the recipe.
    """
    manifest = SweepManifest.load(root, name)
    manifest.refuse_tuned()
    table = run_table(root, name)
    seen = evidence(table, manifest.param_count)
    file = SweepFile.parse(parse_yaml(manifest.config_yaml, f"the sweep file of {name}"))
    _refuse_count(count, file.recipe, name)
    used = set(seen.table["run"])
    dirs = {p.run: RunDir(root / p.dir) for p in manifest.runs if p.run in used}
    first = next(iter(dirs.values()))
    digest = str(seen.table["data_digest"].iloc[0])
    corpus = None
    with suppress(DataError):  # only its number of tokens is used
        corpus = shards.open_corpus(digest)
    return PlanSource(
        name=name,
        where=f"the sweep {name}",
        argument=name,
        seen=seen,
        flop_count="exact",
        recipe=file.recipe,
        recipe_yaml=manifest.config_yaml,
        vocab_size=first.spec().model.vocab_size,
        data_digest=digest,
        corpus=corpus,
        spent=_spent([RunDir(root / p.dir).result() for p in manifest.runs]),
        throughput=_throughput(seen),
        **_curves(seen, dirs),
    )


def from_table(
    path: Path,
    columns: str,
    count: str | None = None,
    recipe: Path | None = None,
    laws: Sequence[str] = (),
    decimal: str | None = None,
    units: str = "",
) -> PlanSource:
    """Return an external table as the source of a plan, with the recipe of a sweep file or without.

    Args:
        path: The table.
        columns: Names of its columns, such as "n_params=N,loss=L".
        count: Which count of parameters N is; None for that of the table, or of the recipe.
        recipe: Sweep file with the recipe; None for no recipe.
        laws: Laws to be fitted; `columns` may also name the columns that they read.
        decimal: Decimal sign of numbers in text, point or comma; None for as the cells show.
        units: Units of its columns, such as "n_params=M"; empty for ours.

    Raises:
        DataError: The table cannot be read, or its runs cannot be used as evidence.
        ConfigError: The sweep file is invalid.
        PlanError: Table and recipe count parameters differently.
    """
    stated = TableUnits.parse(units)
    table, reading = read_table(path, parse_columns(columns), columns_read(laws), decimal, stated.names)
    table = stated.apply(table, str(path), reading.conversions)
    return _external(table, (reading, stated), path.stem, str(path), str(path), count, recipe)


def from_runs(runs: Runs, count: str | None = None, recipe: Path | None = None) -> PlanSource:
    """Return runs of an external table as a source, with the recipe of a sweep file or without one.

    Args:
        runs: Runs of records.runs.read_external.
        count: Which count of parameters is N; None: that asked of the runs, or of the recipe, or of the table.
        recipe: The sweep file.

    Raises:
        PlanError: Table and recipe count parameters differently.
    """
    seen = runs.evidence
    how = (seen.reading, seen.units)
    return _external(runs.table, how, runs.stem, runs.name, runs.path, count or runs.asked_count, recipe)


def _external(
    raw: Any,
    how: tuple[TableReading | None, TableUnits | None],
    name: str,
    where: str,
    argument: str | None,
    count: str | None,
    recipe: Path | None,
) -> PlanSource:
    file = None if recipe is None else SweepFile.load(recipe)
    if file is not None:
        _refuse_count(count, file.recipe, str(recipe))
    reading, units = how
    seen = evidence(raw, count or (file and file.recipe.param_count), where, reading)
    seen = seen._replace(where=where, units=units)
    flop_count = count_of_flops(seen.table)
    known: dict[str, Any] = {}
    if file is not None:
        corpus = None
        with suppress(DataError):  # the text may be on another machine
            corpus = shards.find(file.recipe.data)
        known = {
            "recipe": file.recipe,
            "recipe_file": recipe,
            "recipe_yaml": file.to_yaml(),
            "vocab_size": corpus.vocab_size if corpus else vocab_size_of(file.recipe.data),
            "data_digest": corpus and corpus.digest,
            "corpus": corpus,
        }
    return PlanSource(name, where, argument, seen, flop_count, throughput=_throughput(seen), **known)


def _refuse_count(requested: str | None, recipe: Recipe, where: str) -> None:
    if requested not in (None, recipe.param_count):
        raise PlanError(
            f"--param-count is {requested}, and the recipe builds models by the {recipe.param_count} count",
            where=where,
            fix="leave --param-count out, or plan from a table without a recipe",
        )


def _spent(results: Sequence[RunResult | None]) -> SpentCompute | None:
    """What the runs that have ended took; a trunk is lost where all of its branches are."""
    ended = [result for result in results if result is not None]
    if not ended:
        return None
    finished = [result for result in ended if result.status == "finished"]
    whole, kept = spent(ended), spent(finished)
    return SpentCompute(
        flops=whole.flops,
        lost_flops=whole.flops - kept.flops,
        runs=len(ended),
        lost_runs=len(ended) - len(finished),
        seconds=whole.seconds,
        lost_seconds=whole.seconds - kept.seconds,
        device=", ".join(sorted({result.device for result in ended})),
    )


def _throughput(seen: Evidence) -> MeasuredThroughput | None:
    """Throughput of the runs whose compute is within LARGEST of the largest."""
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
    # The mean rate is the sum of FLOPs over the sum of seconds.
    flops = runs["flops"].to_numpy(float)
    seconds = flops / (runs["tokens_per_s"] * runs["flops_per_token"]).to_numpy(float)
    mfu = runs.get("mfu")
    return MeasuredThroughput(
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
                RunCurve(row.run, row.n_params, row.n_tokens, result.n_steps, result.loss, tuple(points))
            )
    return found
