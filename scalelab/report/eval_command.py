"""`scalelab eval`: what models can do, measured alike, on one page.

file -> models -> measurements, each kept -> page -> MLflow
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalelab.errors import ConfigError
from scalelab.evals.evalfile import EvalFile
from scalelab.evals.measurements.base import Bench, FinishedRun, Kind, Measured
from scalelab.files import is_component, make_dir, place_of, write_json, write_text
from scalelab.leases import hold
from scalelab.posttrain.flow import find_base
from scalelab.report.measuring import AGGREGATE, everything
from scalelab.report.mirrored import or_later
from scalelab.track.mirror import log_evaluation
from scalelab.track.stages import StageManifest, stages_path
from scalelab.track.table import run_table

SCHEMA = 1


def run_eval(
    path: Path,
    overrides: list[str],
    root: Path,
    *,
    dry_run: bool,
    out: Path | None,
    json_out: Path | None,
) -> int:
    """Measure what an evaluation file asks for, and is not measured yet. Returns the exit code."""
    file = EvalFile.load(path, overrides)
    bench = bench_of(file, root)
    print(describe(bench))
    if dry_run:
        return 0
    problem = f"the evaluation {file.name!r} is being made by another process"
    with hold(place_of(root, file.name) / "eval.lock", problem, "wait for it, or stop it"):
        make_dir(bench.folder)
        found = everything(bench)
        digests = {name: bench.digest(name) for name in bench.models}
    folder = make_dir(out or Path("reports") / file.name)
    made = record(bench, digests, found)
    write_json(folder / "evals.json", made)
    if json_out is not None:
        write_json(json_out, made)
    write_text(folder / "README.md", page(bench, digests, found))
    print("\n" + "\n\n".join(one.text for one in found))
    print(f"\nreport: {folder / 'README.md'}")
    with or_later("the report"):
        key = f"eval:{file.digest}:{':'.join(digests.values())}"
        log_evaluation(root, file.name, folder, key, values(found), f"{len(found)} measurements")
    return 0


def bench_of(file: EvalFile, root: Path) -> Bench:
    """Everything that the measurements of a file are made with, found.

    Raises:
        ConfigError: A model, or a sweep with finished runs, is not there.
    """
    models = {name: find_model(said, root) for name, said in file.models.items()}
    sections = file.sections.values()
    sweeps = sorted({name for section in sections for name in section.sweeps()})
    return Bench(
        file,
        models,
        runs={name: finished_runs(root, name) for name in sweeps},
        inputs={
            one.name: models.get(one.name) or find_model(one.name, root)
            for section in sections
            for one in section.inputs()
        },
        folder=root / file.name / "evals",
        tell=lambda said: print(f"  measured: {said}", flush=True),
    )


def find_model(said: str, root: Path) -> Path:
    """The directory of a model: as find_base, or NAME/STAGE of a post-training.

    Raises:
        ConfigError: There is none.
    """
    name, _, stage = said.partition("/")
    if stage and is_component(name) and stages_path(root, name).exists():
        manifest = StageManifest.load(root, name)
        for planned in manifest.stages:
            if planned.stage == stage:
                return root / planned.dir
        raise ConfigError(
            f"the post-training {name!r} has no stage {stage!r}",
            where=f"models: {said}",
            fix=f"name one of: {', '.join(p.stage for p in manifest.stages)}",
        )
    return find_base(said, root)


def finished_runs(root: Path, sweep: str) -> list[FinishedRun]:
    """Finished runs of a sweep, for predictions."""
    table = run_table(root, sweep)
    done = table[table["status"] == "finished"]
    if done.empty:
        raise ConfigError(
            f"the sweep {sweep!r} has no finished run to predict from",
            where="prediction",
            fix=f"train it: scalelab sweep on its file; scalelab runs {sweep} says where it stands",
        )
    return [
        FinishedRun(
            root / row["dir"],
            flops=float(row["flops"]),
            n_params=float(row["n_params_matmul"]),
            n_tokens=float(row["n_tokens"]),
        )
        for _, row in done.iterrows()
    ]


def describe(bench: Bench) -> str:
    """What will be measured."""
    lines = [f"{bench.file.name}: {len(bench.models)} models"]
    lines += [f"  {name:<12} {where}" for name, where in bench.models.items()]
    for section in bench.file.sections.values():
        lines += [f"  {line}" for line in section.describe(bench)]
    return "\n".join(lines)


def page(bench: Bench, digests: Mapping[str, str], found: Sequence[Measured]) -> str:
    """The page as Markdown."""
    file = bench.file
    kinds = [kind for section in file.sections.values() for kind in section.kinds]
    parts = [f"# Evaluation: {file.name}"]
    if file.question:
        parts.append(f"Question: {file.question.strip()}")
    parts += _tables(found, kinds)
    for kind in (*kinds, AGGREGATE):
        those = [one for one in found if one.kind == kind.name]
        if those:
            parts.append(f"## {kind.title}")
            parts += [f"```\n{_of(one)}{one.text}\n```" for one in those]
    rows = [f"| {name} | `{digests[name]}` | {where} |" for name, where in bench.models.items()]
    parts += [
        "## Where this comes from",
        "\n".join(["| model | weights | directory |", "|---|---|---|", *rows]),
        "Every number in full: [evals.json](evals.json).",
    ]
    return "\n\n".join(parts) + "\n"


def _of(one: Measured) -> str:
    return f"{one.model}\n" if one.model else ""


def _tables(found: Sequence[Measured], kinds: Sequence[Kind]) -> list[str]:
    """Models by sets and tasks, at a glance."""
    made = []
    for kind in kinds:
        those = [one for one in found if one.kind == kind.name]
        if kind.score is None or not those:
            continue
        names = list(dict.fromkeys(one.name for one in those))
        models = list(dict.fromkeys(one.model for one in those))
        by = {(one.model, one.name): one.values.get(kind.score) for one in those}
        head = [kind.score_title, *names]
        lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for model in models:
            cells = [by.get((model, name)) for name in names]
            shown = ["" if cell is None else f"{cell:.3f}" for cell in cells]
            lines.append(f"| {model} | {' | '.join(shown)} |")
        made.append("\n".join(lines))
    return made


def record(bench: Bench, digests: Mapping[str, str], found: Sequence[Measured]) -> dict[str, Any]:
    """All of it for programs."""
    models = {
        name: {"dir": str(where), "digest": digests[name]} for name, where in bench.models.items()
    }
    return {
        "schema": SCHEMA,
        "name": bench.file.name,
        "file": bench.file.model_dump(mode="json"),
        "models": models,
        "measured": [vars(one) for one in found],
    }


def values(found: Sequence[Measured]) -> dict[str, float | None]:
    """For MLflow."""
    return {
        ".".join(str(part) for part in (one.kind, one.model, one.name, name) if part): value
        for one in found
        for name, value in one.values.items()
    }
