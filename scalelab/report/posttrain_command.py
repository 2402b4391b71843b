"""`scalelab posttrain`: from a base model to an assistant, stage by stage, and its page.

file -> base, stages -> plan and cost -> stages side by side -> grades -> page -> MLflow
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from scalelab.evals.checkpoint import described
from scalelab.files import place_of, write_json
from scalelab.jobs.base import Ended, Job
from scalelab.jobs.drive import Limits, Listed, Outcomes, drive
from scalelab.jobs.live import LiveView, Shown, Words
from scalelab.leases import hold
from scalelab.posttrain.flow import Planned, PosttrainFile, find_base, plan, write_down
from scalelab.posttrain.jobs import jobs_of, preload
from scalelab.report.mirrored import or_later
from scalelab.report.posttrain_page import text, write_page
from scalelab.report.posttrained import gather, record
from scalelab.track.mirror import log_evaluation
from scalelab.track.sync import Syncer
from scalelab.units import duration, sci, si


def run_posttrain(
    path: Path,
    overrides: list[str],
    root: Path,
    *,
    dry_run: bool,
    out: Path | None,
    json_out: Path | None,
) -> int:
    """Do what a post-training file asks for, and is not done yet. Returns the exit code."""
    file = PosttrainFile.load(path, overrides)
    base = find_base(file.base, root)
    stages = plan(file, base, root)
    known = about(base, root)
    print(describe(file, stages, known))
    if dry_run:
        return 0
    problem = f"the post-training {file.name!r} is being done by another process"
    with hold(place_of(root, file.name) / "lock", problem, "wait for it, or stop it"):
        write_down(file, stages, known, root)
        syncer = Syncer.start(root, file.name)
        try:
            with (
                closing(file.executor.start(preload(stages))) as executor,
                LiveView(StageWords(stages)) as view,
            ):
                jobs = Listed(jobs_of(stages))
                outcomes = drive(jobs, executor, view, LIMITS)
        finally:
            behind = syncer.finish()
    if behind is not None:
        print(behind)
    if outcomes.interrupted:
        print("stopped; the same command goes on from here")
        return 130
    return _conclude(file, stages, known, outcomes, root, out, json_out)


def _conclude(
    file: PosttrainFile,
    stages: Sequence[Planned],
    known: Mapping[str, Any],
    outcomes: Outcomes,
    root: Path,
    out: Path | None,
    json_out: Path | None,
) -> int:
    why = {name: ended.reason or ended.outcome for name, ended in outcomes.ended.items()}
    data = gather(file, stages, known, why)
    folder = out or Path("reports") / file.name
    page = write_page(data, folder)
    if json_out is not None:
        write_json(json_out, record(data))
    print("\n" + text(data))
    print(f"\nreport: {page}")
    with or_later("the report"):
        log_evaluation(
            root, file.name, folder, f"posttrain:{file.digest}:{file.seed}", _values(data),
            f"grades of {len(data.models)} models",
        )  # fmt: skip
    bad = [e for e in outcomes.ended.values() if e.outcome not in {"done", "blocked"}]
    for ended in bad:
        print(f"error: stage {ended.job.id} ({ended.outcome}): {ended.reason}", file=sys.stderr)
        if ended.outcome == "refused":
            print(f"  where: {ended.where}\n  fix:   {ended.fix}", file=sys.stderr)
        trace = ended.job.dir.path / "traceback.txt"
        if ended.outcome == "error" and trace.exists():
            print(f"  {trace}", file=sys.stderr)
    if not bad:
        return 0
    return 2 if all(ended.outcome == "refused" for ended in bad) else 1


def describe(file: PosttrainFile, stages: Sequence[Planned], known: Mapping[str, Any]) -> str:
    """What will be done, and what it takes at most, before anything is done."""
    lines = [f"{file.name}: from {known['path']}"]
    if known.get("n_params_total") is not None:
        lines[0] += f" ({si(known['n_params_total'])} parameters, context {known['seq_len']})"
    if file.question:
        lines.append(f"question: {' '.join(file.question.split())}")
    lines.append(f"  {'stage':<18}{'kind':<13}{'from':<22}{'state':<13}{'FLOPs at most':<14}")
    for p in stages:
        if p.spec.stage.grade_of() is not None:
            continue
        result = p.dir.result()
        state = "to do" if result is None else result.status
        if result is None and p.dir.run_dir.checkpoints.exists():
            state = "begun"
        cost = at_most(p, known)
        lines.append(
            f"  {p.name:<18}{p.spec.stage.kind:<13}{', '.join(p.spec.stage.needs()):<22}"
            f"{state:<13}{'not known yet' if cost is None else sci(cost):<14}".rstrip()
        )
    grades = [p for p in stages if p.spec.stage.grade_of() is not None]
    if grades:
        each = f" on {file.grades.prompts} prompts of each test set" if file.grades else ""
        lines.append(f"  and {len(grades)} models graded{each}")
    return "\n".join(lines)


def at_most(planned: Planned, known: Mapping[str, Any]) -> float | None:
    """FLOPs of a stage if every row filled the context; None where nobody can say yet."""
    rows, passes = planned.spec.stage.most_rows()
    per_token = known.get("flops_per_token")
    if rows is None or per_token is None:
        return None
    return rows * known["seq_len"] * passes * per_token / 3


def about(base: Path, root: Path) -> dict[str, Any]:
    """What is known of the base model, from its directory; unknown is None."""
    known: dict[str, Any] = {"path": str(base)}
    if not (base / "model.json").exists() and (base / "spec.yaml").exists():
        from scalelab.track.table import every_run
        from scalelab.train.rundir import RunDir

        run_dir = RunDir(base)
        spec, result = run_dir.spec(), run_dir.result()
        size = spec.model.size(spec.seq_len)
        known |= {
            "run": run_dir.run,
            "n_params_total": size.n_params_total,
            "flops_per_token": size.flops_per_token,
            "seq_len": spec.seq_len,
            "loss": None if result is None else result.loss,
            "bpb": None if result is None else result.bpb,
            "flops": None if result is None else result.flops,
            "n_tokens": None if result is None else result.n_tokens,
        }
        others = every_run(root, None)
        before = others[
            (others["data_digest"] == spec.data_digest) & (others["run"] != run_dir.run)
        ]
        known["flops_before"] = float(before.drop_duplicates("run")["flops"].sum())
        return known
    if (base / "model.json").exists():
        config, model = described(base)
        seq_len = model.seq_len
    else:
        from scalelab.model.huggingface import config_of

        config, seq_len = config_of(base)
    size = config.size(seq_len)
    return known | {
        "seq_len": seq_len,
        "n_params_total": size.n_params_total,
        "flops_per_token": size.flops_per_token,
    }


LIMITS = Limits(stop_on_refusal=False, heartbeat_timeout_s=float("inf"))
"""A stage may be silent for as long as a test set takes: grading is one step."""


class StageWords(Words):
    """What is said of stages while they are done."""

    noun = "stages"

    def __init__(self, stages: Sequence[Planned]):
        self._stages = {p.name: p for p in stages}

    def shown(self, job: Job) -> Shown:
        """By name and kind."""
        return Shown(job.id, {"stage": job.id, "kind": self._stages[job.id].spec.stage.kind})

    def state(self, ended: Ended) -> str:
        """What it came to, and what it read where it wrote that down."""
        if ended.outcome != "done":
            return ended.outcome
        planned = self._stages[ended.job.id]
        stage, result = planned.spec.stage, planned.dir.result()
        shown = [f"{k} {value:.3f}" for k, value in stage.display(result).headline.items()]
        example = stage.example(planned.dir.path)
        cost = f"done in {duration(result.seconds)}, {sci(result.flops)} FLOPs"
        return (
            cost + (f": {', '.join(shown)}" if shown else "") + (f"; {example}" if example else "")
        )


def _values(data: Any) -> dict[str, float | None]:
    values: dict[str, float | None] = {"flops": data.flops, "seconds": data.seconds}
    for model in data.models:
        for name, grade in model.sets.items():
            for what in ("accuracy", "gold"):
                values[f"{model.model}.{name}.{what}"] = getattr(grade, what)
        values[f"{model.model}.bpb"] = model.bpb
    return values
