"""Models by the names that people give them: plans, runs, stages, checkpoints."""

from pathlib import Path

from scalelab.errors import ConfigError
from scalelab.evals.measurement import FinishedRun
from scalelab.files import exists, is_component
from scalelab.plan.plan import Plan
from scalelab.records.run_table import run_table
from scalelab.records.stage_manifest import StageManifest, stages_path
from scalelab.train.run_directory import RunDir


def find_base(name: str, root: Path) -> Path:
    """Return the directory of a base model.

    Args:
        name: A plan that was launched, or the directory of a run or a checkpoint.
        root: Directory of all runs.


    Raises:
        ConfigError: Nothing of that name is here, or it is a plan that was not launched.
    """
    for place in (Path(name), Path("plans") / name):
        if exists(place / "plan.json"):
            launched = Plan.load(place)
            if launched.spec is None:
                raise ConfigError("the plan holds no run", where=str(place), fix="name a run's directory")
            return RunDir.of(launched.spec, root, launched.name).path
        if any(exists(place / file) for file in ("spec.yaml", "model.json", "config.json")):
            return place
    raise ConfigError(
        f"there is no model {name!r}",
        where="base",
        fix="name a plan that was launched (plans/NAME), a finished run's directory, or a checkpoint's",
    )


def find_model(text: str, root: Path) -> Path:
    """Return the directory of a model: as find_base, or NAME/STAGE of a post-training.

    Raises:
        ConfigError: There is none.
    """
    name, _, stage = text.partition("/")
    if stage and is_component(name) and exists(stages_path(root, name)):
        manifest = StageManifest.load(root, name)
        for planned in manifest.stages:
            if planned.stage == stage:
                return root / planned.dir
        raise ConfigError(
            f"the post-training {name!r} has no stage {stage!r}",
            where=f"models: {text}",
            fix=f"name one of: {', '.join(p.stage for p in manifest.stages)}",
        )
    return find_base(text, root)


def finished_runs(root: Path, sweep: str) -> list[FinishedRun]:
    """Return the finished runs of a sweep, for predictions.

    Raises:
        ConfigError: No run has finished.
    """
    table = run_table(root, sweep)
    done = table[table["status"] == "finished"]
    if done.empty:
        raise ConfigError(
            f"the sweep {sweep!r} has no finished run to predict from",
            where="prediction",
            fix=f"train it: scalelab sweep on its file; scalelab runs {sweep} shows its state",
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
