"""`scalelab launch`: the final run of a plan, from its frozen forecast to its end.

    plan + forecast (verified) -> gate -> ledger -> run directory -> processes -> result

The final run is a sweep of one: runs/<plan>/<run id>/ with a manifest beside it, so that lists,
tables, fits and MLflow meet it as they meet every other run. The loop, the recipe and the data
are those of the evidence. What is new is around them: several processes, checkpoints beside the
training, and a look at the forecast's band at every logged loss (watch.py).

Not here: the choice of N and D (the plan room), the page about what came true (the report room).
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from scalelab.data import shards
from scalelab.data.shards import Corpus
from scalelab.data.stream import refuse_too_many
from scalelab.errors import LaunchError, PlanError
from scalelab.files import place_of
from scalelab.jobs.base import Ended, Job, Resources
from scalelab.jobs.drive import Listed, drive
from scalelab.jobs.live import LiveView
from scalelab.jobs.record import write_down
from scalelab.launch.base import LaunchConfig
from scalelab.launch.settings import FinalSettings
from scalelab.launch.sweeping import memory
from scalelab.launch.watch import FinalWords
from scalelab.leases import hold
from scalelab.plan.final import Plan
from scalelab.plan.frozen import FrozenForecast
from scalelab.plan.layout import words
from scalelab.plan.ledger import enter
from scalelab.track.manifest import PlannedRun, SweepManifest
from scalelab.track.sync import Syncer
from scalelab.train.divide import refuse_layout
from scalelab.train.layout import Layout
from scalelab.train.rundir import RunDir
from scalelab.train.spec import RunResult
from scalelab.units import sci, si

TRAINING = ("scalelab.launch.training",)
"""What the one process of a launched run needs."""
AMONG_MANY = (*TRAINING, "scalelab.train.parallel")
"""What a process of a launched run needs that has others beside it; seconds of imports."""


@dataclass(frozen=True)
class FinalRun:
    """A plan that is ready to be launched, or has been."""

    plan: Plan
    frozen: FrozenForecast
    layout: Layout
    run_dir: RunDir
    result: RunResult | None
    ended: Ended | None
    behind: str | None
    """What the mirror in MLflow still lacks, in words."""
    restarts: int = 0


def ready(path: Path, root: Path, layout: str, override: str | None) -> FinalRun:
    """The plan in a directory, checked, with its place on the disk.

    Args:
        path: Where `scalelab plan` wrote plan.json and forecast.json.
        root: Of all runs.
        layout: "replicate=2,tensor=2"; empty for the plan's own.
        override: Why to launch where the gate refuses.

    Raises:
        PlanError: The plan or its forecast cannot be read, was altered, or is refused.
        LaunchError: The layout cannot carry the run.
        RunError: A symbolic link stands in the place of the run.
    """
    plan = Plan.load(path)
    frozen = FrozenForecast.load(path / "forecast.json")
    if plan.spec is None:
        raise PlanError(
            "the plan holds no run: it was made without a recipe",
            where=str(path / "plan.json"),
            fix="plan from a sweep, or name one's file: scalelab plan ... --recipe SWEEP.yaml",
        )
    plan.refuse_contradiction(frozen, path)
    place_of(root, plan.name)
    chosen = parse_layout(layout, plan.layout)
    refuse_layout(chosen, plan.spec)
    run_dir = RunDir.of(plan.spec, root, plan.name)
    return FinalRun(plan, frozen, chosen, run_dir, run_dir.result(), None, None)


def launch(final: FinalRun, root: Path, config: LaunchConfig) -> FinalRun:
    """Train it to its end, or to where it was stopped; what is done is not done again.

    Raises:
        LaunchError: A person has to fix something first.
    """
    plan, run_dir = final.plan, final.run_dir
    job = _job(final, config)
    corpus = _corpus(plan)
    with _the_only_launcher(root, plan.name):
        enter(root, final.frozen)
        _write_manifest(final, root)
        run_dir.create(plan.spec)
        if run_dir.is_done:
            run_dir.tidy()
            return replace(final, result=run_dir.result())
        preload = TRAINING if final.layout.devices == 1 else AMONG_MANY
        syncer = Syncer.start(root, plan.name)
        try:
            with (
                closing(config.executor.start(preload)) as executor,
                LiveView(FinalWords(plan.spec, final.frozen)) as view,
            ):
                outcomes = drive(Listed([job]), executor, view, config.limits)
        finally:
            behind = syncer.finish()
    del corpus
    restarts = max(0, outcomes.tries[job.id] - 1)
    ended = outcomes.ended.get(job.id) or Ended(job, "interrupted")
    return replace(final, result=run_dir.result(), ended=ended, behind=behind, restarts=restarts)


def _job(final: FinalRun, config: LaunchConfig) -> Job:
    spec = final.plan.spec
    return Job(
        final.run_dir.run,
        final.run_dir,
        "final",
        resources=Resources(
            final.layout.devices,
            config.threads,
            memory=lambda kind, there: memory(spec, kind, there),
        ),
        settings=FinalSettings.of(final.layout, config).to_json(),
    )


def prepare(final: FinalRun, root: Path, config: LaunchConfig) -> str:
    """Write down all that torchrun's processes need, and say how to start them."""
    _corpus(final.plan)
    enter(root, final.frozen)
    _write_manifest(final, root)
    final.run_dir.create(final.plan.spec)
    write_down(_job(final, config))
    return (
        f"torchrun --nnodes N --nproc-per-node {final.layout.devices}/N --max-restarts 0 "
        f"--rdzv-backend c10d --rdzv-endpoint HOST:29400 -m scalelab.jobs.worker "
        f"{final.run_dir.path}"
    )


def describe(final: FinalRun) -> str:
    """What is about to be launched, in a few lines."""
    plan, spec, frozen = final.plan, final.plan.spec, final.frozen
    size = spec.model.size(spec.seq_len)
    interval = frozen.quoted
    within = "no interval" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
    lines = [
        f"{plan.name}: {si(size.count(frozen.param_count))} parameters ({frozen.param_count}), "
        f"{si(spec.n_tokens)} tokens, {spec.n_steps} steps of {spec.batch_tokens}, "
        f"{sci(size.flops_per_token * spec.n_tokens)} FLOPs",
        f"forecast {frozen.digest[:12]} [EXTRAPOLATED {frozen.reach:.3g}x by {frozen.law}]: "
        f"loss {frozen.loss:.3f}, {frozen.level:.0%} interval {within}",
        f"layout: {words(final.layout)}; run directory {final.run_dir.path}",
    ]
    lines += [f"warning: {warning}" for warning in frozen.warnings]
    return "\n".join(lines)


def parse_layout(text: str, otherwise: Layout) -> Layout:
    """`replicate=2,tensor=2` as a layout; empty gives the other one.

    Raises:
        LaunchError: A word that is no axis, or a value that is no number.
    """
    if not text:
        return otherwise
    known = {f.name: f.type for f in fields(Layout)}
    values: dict[str, int | bool] = {}
    for pair in text.split(","):
        name, _, value = pair.partition("=")
        flag = name in {"recompute", "offload"}
        if name not in known or not (flag or value.isdigit()):
            raise LaunchError(
                f"cannot read {pair!r} in the layout",
                where="--layout",
                fix=f"write it as replicate=2,tensor=2; axes: {', '.join(known)}",
            )
        values[name] = True if flag else int(value)
    return Layout(**values)


def _corpus(plan: Plan) -> Corpus:
    """The corpus that the plan was made for, long enough."""
    spec = plan.spec
    corpus = shards.prepare(spec.data)
    if corpus.digest != spec.data_digest:
        raise LaunchError(
            f"the corpus is {corpus.digest} now, the plan was made on {spec.data_digest}",
            where=f"{corpus.path}",
            fix="put the text back as it was, or sweep and plan again on the new one",
        )
    refuse_too_many(corpus, spec.seq_len, spec.n_tokens, spec.data.epochs)
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
    ).write(root)


@contextmanager
def _the_only_launcher(root: Path, name: str) -> Iterator[None]:
    problem = f"the plan {name!r} is being launched by another process"
    with hold(root / name / "lock", problem, "wait for it, or stop it"):
        yield
