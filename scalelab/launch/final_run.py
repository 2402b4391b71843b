"""The final run of a plan, from its frozen forecast to its result (`scalelab launch`).

    plan + forecast (verified) -> gate -> ledger -> run directory -> processes -> result

The final run is a sweep of one run: runs/<plan>/<run id>/ with a manifest beside it, so that
listings, tables, fits and MLflow handle it like any other run. The loop, the recipe and the data are
those of the sweep. What differs is around them: several processes, checkpoints written beside the
training, and a comparison with the forecast's band at every logged loss (final_view.py).

Not here: the choice of N and D (scalelab/plan), the page that compares forecast and result
(scalelab/report/outcome).
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from scalelab.data.corpus import shards
from scalelab.data.corpus.mixture import held_out_windows, refuse_too_many
from scalelab.data.corpus.shards import Corpus
from scalelab.errors import LaunchError, PlanError
from scalelab.files import place_of
from scalelab.hardware.layout import Layout, parse_layout
from scalelab.jobs.base import Job, JobOutcome, JobResources
from scalelab.jobs.driver import JobList, drive
from scalelab.jobs.record import write_record
from scalelab.jobs.settings import LaunchConfig
from scalelab.jobs.view import LiveView
from scalelab.launch.final_view import FinalRunLabels
from scalelab.launch.job_settings import FinalSettings
from scalelab.leases import hold
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.forecast.gate import refuse, too_far
from scalelab.plan.forecast.ledger import enter
from scalelab.plan.freezing import noted_refusals
from scalelab.plan.plan import Plan
from scalelab.records.sweep_manifest import PlannedRun, SweepManifest, list_sweeps
from scalelab.tracking.sync import Syncer
from scalelab.train.engines.layout_checks import refuse_layout
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunResult

TRAINING = ("scalelab.launch.training", "scalelab.train.checkpoints.sharded")
"""Modules that the only process of a launched run needs."""
PARALLEL_TRAINING = (*TRAINING, "scalelab.train.engines.parallel")
"""Modules that each of several processes of a launched run needs; imports take seconds."""


@dataclass(frozen=True)
class FinalRun:
    """A plan that is ready to be launched or was launched."""

    plan: Plan
    frozen: FrozenForecast
    layout: Layout
    run_dir: RunDir
    result: RunResult | None
    ended: JobOutcome | None
    behind: str | None
    """Message of the MLflow mirror if it has not caught up."""
    restarts: int = 0


def ready(path: Path, root: Path, layout: str, override: str | None) -> FinalRun:
    """Return the plan in a directory, checked, with its run directory.

    Args:
        path: Directory with plan.json and forecast.json, as written by `scalelab plan`.
        root: Directory of all runs.
        layout: Layout such as "replicate=2,tensor=2"; empty for the plan's own.
        override: Reason to launch although the gate refuses; None without one.

    Raises:
        PlanError: The plan or its forecast cannot be read, was altered, or is refused.
        LaunchError: The layout cannot carry the run.
        RunError: A symbolic link stands in the place of the run.
    """
    plan = Plan.load(path)
    if plan.forecast is None:
        _refuse_unfrozen(plan, path)
    frozen = FrozenForecast.load(path / "forecast.json")
    if plan.spec is None:
        raise PlanError(
            "the plan holds no run: it was made without a recipe, or without the recipe's corpus",
            where=str(path / "plan.json"),
            fix="plan from a sweep, or name a sweep file: scalelab plan ... --recipe SWEEP.yaml; prepare its corpus "
            "with scalelab data SWEEP.yaml",
        )
    plan.refuse_contradiction(frozen, path)
    place_of(root, plan.name)
    refuse(too_far(frozen.reach), override or frozen.override)
    chosen = parse_layout(layout, plan.layout)
    refuse_layout(chosen, plan.spec)
    run_dir = RunDir.of(plan.spec, root, plan.name)
    return FinalRun(plan, frozen, chosen, run_dir, run_dir.result(), None, None)


def _refuse_unfrozen(plan: Plan, path: Path) -> None:
    if plan.sweep is None:
        problem, fix = "it is the cost of a model alone", "plan from a sweep: scalelab plan NAME --budget C"
    else:
        refusals = noted_refusals(plan.notes)
        problem = "; ".join(("its forecast was not frozen", *(reason for reason, _ in refusals)))
        fix = "; ".join(dict.fromkeys(f"plan again: {fix}" for _, fix in refusals)) or "plan again"
    raise PlanError(f"the plan has no run: {problem}", where=str(path / "plan.json"), fix=fix)


def launch(final: FinalRun, root: Path, config: LaunchConfig) -> FinalRun:
    """Train the final run until it ends or is interrupted; a finished run is not repeated.

    Raises:
        LaunchError: A person has to fix something first.
    """
    plan, run_dir = final.plan, final.run_dir
    job = _job(final, config)
    corpus = _corpus(plan)
    with _launch_lock(root, plan.name):
        if run_dir.is_done:
            _record(final, root)
            run_dir.tidy()
            return replace(final, result=run_dir.result())
        preload = TRAINING if final.layout.devices == 1 else PARALLEL_TRAINING
        with closing(config.executor.start(preload, root / plan.name)) as executor:
            executor.check(job)
            _record(final, root)
            syncer = Syncer.start(root, plan.name)
            try:
                with LiveView(FinalRunLabels(plan.spec, final.frozen)) as view:
                    outcomes = drive(JobList([job]), executor, view, config.launched_limits)
            finally:
                behind = syncer.finish()
    del corpus
    restarts = max(0, outcomes.tries[job.id] - 1)
    ended = outcomes.ended.get(job.id) or JobOutcome(job, "interrupted")
    return replace(final, result=run_dir.result(), ended=ended, behind=behind, restarts=restarts)


def _record(final: FinalRun, root: Path) -> None:
    """Enter the forecast into the ledger, write the manifest and create the run directory."""
    enter(root, final.frozen)
    _write_manifest(final, root)
    final.run_dir.create(final.plan.spec)


def _job(final: FinalRun, config: LaunchConfig) -> Job:
    spec = final.plan.spec
    return Job(
        final.run_dir.run,
        final.run_dir,
        "final",
        resources=JobResources(
            # Without an estimate of its memory it has its device to itself, and all of it.
            final.layout.devices,
            config.threads,
            precision=spec.precision,
        ),
        settings=FinalSettings.of(final.layout, config).to_json(),
    )


def prepare(final: FinalRun, root: Path, config: LaunchConfig) -> str:
    """Write all files that torchrun's processes need and return the command that starts them."""
    _corpus(final.plan)
    _record(final, root)
    write_record(_job(final, config))
    return (
        f"torchrun --nnodes N --nproc-per-node {final.layout.devices}/N --max-restarts 0 "
        f"--rdzv-backend c10d --rdzv-endpoint HOST:29400 -m scalelab.jobs.worker "
        f"{final.run_dir.path}"
    )


def _corpus(plan: Plan) -> Corpus:
    """The corpus that the plan was made for, checked to be long enough."""
    spec = plan.spec
    corpus = shards.prepare(spec.data)
    if corpus.digest != spec.data_digest:
        raise LaunchError(
            f"the corpus has digest {corpus.digest}, the plan was made on {spec.data_digest}",
            where=f"{corpus.path}",
            fix="restore the original text, or run the sweep and the plan again on the new text",
        )
    refuse_too_many(corpus, spec.data, spec.seq_len, spec.n_tokens, spec.stable_tokens)
    held_out_windows(corpus, spec.seq_len)
    return corpus


def _write_manifest(final: FinalRun, root: Path) -> None:
    plan, spec, frozen = final.plan, final.plan.spec, final.frozen
    size = spec.model.size(spec.seq_len)
    planned = PlannedRun(
        run=final.run_dir.run,
        dir=str(final.run_dir.path.relative_to(root)),
        flops_planned=frozen.target_flops,
        n_params_planned=frozen.planned["n_params"],
        n_params=size.count(frozen.param_count),
        n_tokens_planned=frozen.planned["n_tokens"],
        n_tokens=spec.n_tokens,
        n_steps=spec.n_steps,
        flops=size.flops_per_token * spec.n_tokens,
        seed=spec.seed,
        group=spec.ids[-1],
    )
    interval = frozen.quoted
    within = "" if interval is None else f", {frozen.level:.0%} in {interval}"
    SweepManifest(
        sweep=plan.name,
        digest=frozen.digest[:12],
        param_count=frozen.param_count,
        question=f"Does the forecast {frozen.digest[:12]} come true?",
        prediction=f"Loss {frozen.loss:.4f} nats per token{within}, by {frozen.law}.",
        target_flops=frozen.target_flops,
        config_yaml=plan.recipe_yaml,
        created_ms=time.time_ns() // 1_000_000,
        runs=(planned,),
        source=plan.sweep if plan.sweep in list_sweeps(root) else None,
    ).write(root)


@contextmanager
def _launch_lock(root: Path, name: str) -> Iterator[None]:
    problem = f"the plan {name!r} is being launched by another process"
    with hold(root / name / "lock", problem, "wait for it, or stop it"):
        yield
