"""`scalelab eval`: what models can do, measured alike, on one page.

file -> models -> measurements, each kept -> page -> MLflow
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalelab.errors import ConfigError
from scalelab.evals.evalfile import EvalFile
from scalelab.files import is_component, make_dir, place_of, write_json, write_text
from scalelab.leases import hold
from scalelab.posttrain.flow import find_base
from scalelab.report.measured import Measured
from scalelab.report.measuring import Measuring
from scalelab.report.mirrored import or_later
from scalelab.track.mirror import log_evaluation
from scalelab.track.stages import StageManifest, stages_path
from scalelab.track.table import run_table

SCHEMA = 1
TITLES = {
    "perplexity": "Loss on named sets",
    "task": "Tasks",
    "side_by_side": "The same model, asked in two ways",
    "exported": "Exported copies",
    "pairwise": "Win rates",
    "positions": "The judge and the order of answers",
    "verbosity": "What the judge gives for length",
    "judge": "The judge",
    "ranking": "Rankings",
    "contamination": "Contamination",
    "prediction": "Downstream prediction",
    "aggregate": "Over everything",
}


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
    models = {name: find_model(said, root) for name, said in file.models.items()}
    sweeps = {name for asked in file.prediction for name in (asked.sweep, *asked.against)}
    runs = {name: finished_runs(root, name) for name in sorted(sweeps)}
    judges = judges_of(file, models, root)
    print(describe(file, models, runs))
    if dry_run:
        return 0
    problem = f"the evaluation {file.name!r} is being made by another process"
    with hold(place_of(root, file.name) / "eval.lock", problem, "wait for it, or stop it"):
        measuring = Measuring(
            file, models, judges, make_dir(root / file.name / "evals"),
            lambda said: print(f"  measured: {said}", flush=True),
        )  # fmt: skip
        found = measuring.everything(runs)
        digests = {name: measuring.digest(where) for name, where in models.items()}
    folder = make_dir(out or Path("reports") / file.name)
    made = record(file, models, digests, found)
    write_json(folder / "evals.json", made)
    if json_out is not None:
        write_json(json_out, made)
    write_text(folder / "README.md", page(file, models, digests, found))
    print("\n" + "\n\n".join(one.text for one in found))
    print(f"\nreport: {folder / 'README.md'}")
    with or_later("the report"):
        key = f"eval:{file.digest}:{':'.join(digests.values())}"
        log_evaluation(root, file.name, folder, key, values(found), f"{len(found)} measurements")
    return 0


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


def judges_of(file: EvalFile, models: Mapping[str, Path], root: Path) -> dict[str, Path]:
    """What the judge of a file is made from, by its own name for it. Raises ConfigError."""
    if file.pairwise is None:
        return {}
    judge = file.pairwise.judge
    return {
        name: models.get(name) or find_model(name, root)
        for name in (*judge.needs(), *judge.files())
    }


def finished_runs(root: Path, sweep: str) -> list[dict[str, Any]]:
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
        {
            "path": root / row["dir"],
            "flops": float(row["flops"]),
            "n_params": float(row["n_params_matmul"]),
            "n_tokens": float(row["n_tokens"]),
        }
        for _, row in done.iterrows()
    ]


def describe(file: EvalFile, models: Mapping[str, Path], runs: Mapping[str, Sequence[Any]]) -> str:
    """What will be measured."""
    lines = [f"{file.name}: {len(models)} models"]
    lines += [f"  {name:<12} {where}" for name, where in models.items()]
    sets = [s.name for s in file.perplexity]
    tasks = [t.name for t in file.tasks]
    items = [c.name for c in file.contamination]
    for what, names in (("loss on", sets), ("tasks", tasks), ("contamination by", items)):
        if names:
            lines.append(f"  {what}: {', '.join(names)}")
    if file.pairwise:
        lines.append(
            f"  pairwise: {file.pairwise.prompts} prompts, judged by {file.pairwise.judge.kind}"
        )
    for asked in file.prediction:
        lines.append(
            f"  prediction: {asked.task} from {len(runs[asked.sweep])} runs of {asked.sweep}"
        )
    return "\n".join(lines)


def page(
    file: EvalFile,
    models: Mapping[str, Path],
    digests: Mapping[str, str],
    found: Sequence[Measured],
) -> str:
    """The page as Markdown."""
    parts = [f"# Evaluation: {file.name}"]
    if file.question:
        parts.append(f"Question: {file.question.strip()}")
    parts += _tables(found)
    for kind, title in TITLES.items():
        those = [one for one in found if one.kind == kind]
        if those:
            parts.append(f"## {title}")
            parts += [f"```\n{_of(one)}{one.text}\n```" for one in those]
    rows = [f"| {name} | `{digests[name]}` | {where} |" for name, where in models.items()]
    parts += [
        "## Where this comes from",
        "\n".join(["| model | weights | directory |", "|---|---|---|", *rows]),
        "Every number in full: [evals.json](evals.json).",
    ]
    return "\n\n".join(parts) + "\n"


def _of(one: Measured) -> str:
    return f"{one.model}\n" if one.model else ""


def _tables(found: Sequence[Measured]) -> list[str]:
    """Models by sets and tasks, at a glance."""
    made = []
    for kind, what, title in (
        ("perplexity", "bits_per_byte", "Bits per byte [measured]"),
        ("task", "accuracy", "Accuracy [measured]"),
    ):
        those = [one for one in found if one.kind == kind]
        if not those:
            continue
        names = list(dict.fromkeys(one.name for one in those))
        models = list(dict.fromkeys(one.model for one in those))
        by = {(one.model, one.name): one.values.get(what) for one in those}
        lines = [f"| {title} | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
        for model in models:
            cells = [by.get((model, name)) for name in names]
            shown = ["" if cell is None else f"{cell:.3f}" for cell in cells]
            lines.append(f"| {model} | {' | '.join(shown)} |")
        made.append("\n".join(lines))
    return made


def record(
    file: EvalFile,
    models: Mapping[str, Path],
    digests: Mapping[str, str],
    found: Sequence[Measured],
) -> dict[str, Any]:
    """All of it for programs."""
    return {
        "schema": SCHEMA,
        "name": file.name,
        "file": file.model_dump(mode="json"),
        "models": {name: {"dir": str(models[name]), "digest": digests[name]} for name in models},
        "measured": [vars(one) for one in found],
    }


def values(found: Sequence[Measured]) -> dict[str, float | None]:
    """For MLflow."""
    return {
        ".".join(str(part) for part in (one.kind, one.model, one.name, name) if part): value
        for one in found
        for name, value in one.values.items()
    }
