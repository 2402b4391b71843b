"""Golden runs: does a change of the program change any number that it stores?

    python analysis/golden.py record OUT.json [--source CHECKOUT] [--keep DIR]
    python analysis/golden.py compare BEFORE.json AFTER.json

`record` trains the smoke sweep, fits it, plans, launches the final run and post-trains it, all
through the command line of a checkout, in an empty directory with an empty cache, and writes every
stored number and word down: results, journals, weights, fits, plans, forecasts, outcomes, grades.
`compare` holds two recordings of one machine against each other. Values must be equal to the last
digit. What is read from a clock (seconds, rates, times, prices of measured time) is left out, as
are identifiers and digests: they name formats, not results. Exit status 0: no number changed;
values that are only in AFTER are listed and allowed. 1: something changed or is missing.

A commit that restructures the program is checked with it (two minutes on two cores).
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

HERE = Path(__file__).parents[1]
SWEEP = ["--set", "recipe.seq_len=128"]
"""The questions of post-training need a longer context than the smoke sweep's."""
POSTTRAIN = """
name: taught
question: Are the numbers of every stage the same?
base: plans/smoke-4e11
data: skills
grades: {prompts: 20, retention_tokens: 4096}
stages:
- {kind: sft, name: sft, sizes: [32, 200], batch: 8, epochs: 1, replay: 0.25, rates: {lr: 8e-3}}
- {kind: preferences, name: pairs, first: sft, judge: gold, prompts: 60, batch: 20, n_new: 12}
- {kind: reward, name: judge, start: sft, pairs: pairs, batch: 8, rates: {lr: 1e-3}}
- {kind: dpo, name: dpo, start: sft, pairs: pairs, batch: 8, epochs: 1, rates: {lr: 1e-3}}
- {kind: ppo, name: ppo, start: sft, reward: judge, steps: 4, batch: 16, n_new: 12,
   rates: {lr: 1e-3}}
- {kind: best_of, name: best, start: sft, proxy: judge, prompts: 6, draws: 4, n: [1, 2, 4],
   n_new: 12}
"""
COMMANDS = (
    ("sweep", "sweeps/smoke.yaml", *SWEEP),
    ("fit", "smoke", "--json", "fit.json", "--replicates", "400"),
    (
        *("plan", "smoke", "--budget", "4e11", "--law", "kaplan", "--replicates", "200"),
        *("--override", "numbers are compared, and nothing is forecast"),
    ),
    ("launch", "plans/smoke-4e11"),
    ("posttrain", "taught.yaml", "--json", "grades.json"),
)
CLOCK = re.compile(
    r"(^|\.)(t|pid|host|created|created_ms|finished_ms|ended|\w*seconds\w*|\w*_s|time|"
    r"tokens_per_s|mfu|n_resumes|rate|grad_s|cost|layouts|old_pipeline|throughput|took|"
    r"gpu_hours|days|dollars|kwh|co2_kg|began|code|versions|device|notes|parts)(\.|$)"
)
"""Keys whose values are read from a clock, a machine or a version."""
NAMES = re.compile(
    r"(^|\.)(\w*digest|run|id|dir|spec|stage_id|path|seal|schema|crc|file|files|format|"
    r"ids|weights|attempt|nonce|url|config_yaml|recipe|prediction|question|fix|where)(\.|$)"
)
"""Keys that name things. What they name is compared itself."""


def main() -> int:
    """Record or compare. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    record_ = commands.add_parser("record", help="run everything and write every number down")
    record_.add_argument("out", type=Path)
    record_.add_argument("--source", type=Path, default=HERE, help="the checkout to run")
    record_.add_argument("--keep", type=Path, help="work here and leave everything there")
    record_.add_argument("--again", action="store_true", help="only read what --keep left there")
    compare_ = commands.add_parser("compare", help="hold two recordings against each other")
    compare_.add_argument("before", type=Path)
    compare_.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.command == "compare":
        return compare(json.loads(args.before.read_text()), json.loads(args.after.read_text()))
    with tempfile.TemporaryDirectory() as scratch:
        place = args.keep or Path(scratch)
        if not args.again:
            run_all(args.source.resolve(), place)
        labels = labelled(place)
        found = {key: without_ids(value, labels) for key, value in sorted(recorded(place))}
    args.out.write_text(json.dumps(found, indent=0) + "\n")
    print(f"{len(found)} values in {args.out}")
    return 0


def run_all(source: Path, place: Path) -> None:
    """Every command, in `place`. A command that fails ends the recording."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "sweeps").mkdir(exist_ok=True)
    (place / "sweeps" / "smoke.yaml").write_bytes((source / "sweeps" / "smoke.yaml").read_bytes())
    (place / "taught.yaml").write_text(POSTTRAIN)
    environ = os.environ | {
        "SCALELAB_CACHE": str(place / "cache"),
        "PYTHONPATH": str(source),
        "OMP_NUM_THREADS": "1",
    }
    for command in COMMANDS:
        print("scalelab", *command, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "scalelab.cli", *command],
            cwd=place,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")


def recorded(place: Path) -> Iterator[tuple[str, Any]]:
    """Every stored value by a name that no identifier enters."""
    for manifest in sorted(place.glob("runs/*/sweep.json")):
        asked = json.loads(manifest.read_text())
        name = manifest.parent.name
        yield from flat(asked, f"sweep:{name}")
        for i, run in enumerate(asked["runs"]):
            yield from directory(place / "runs" / run["dir"], f"run:{name}:{i}")
    for manifest in sorted(place.glob("runs/*/posttrain.json")):
        asked = json.loads(manifest.read_text())
        for stage in asked["stages"]:
            yield from directory(place / "runs" / stage["dir"], f"stage:{stage['stage']}")
    for pattern in ("plans/*/*.json", "fit.json", "grades.json", "runs/forecasts/*.json", "reports/*/*.json"):
        for path in sorted(place.glob(pattern)):
            name = re.sub(r"[0-9a-f]{12}", "forecast", str(path.relative_to(place)))
            yield from flat(json.loads(path.read_text()), name)


def labelled(place: Path) -> dict[str, str]:
    """Every id of a run or a stage, and what to call it instead."""
    labels: dict[str, str] = {}
    for manifest in sorted(place.glob("runs/*/sweep.json")):
        for i, run in enumerate(json.loads(manifest.read_text())["runs"]):
            labels[run["run"]] = f"<run {manifest.parent.name} {i}>"
    for manifest in sorted(place.glob("runs/*/posttrain.json")):
        for stage in json.loads(manifest.read_text())["stages"]:
            labels[stage["id"]] = f"<stage {stage['stage']}>"
    return labels


def without_ids(value: Any, labels: dict[str, str]) -> Any:
    """A value in which ids are called by their labels, and digests are not there at all."""
    if not isinstance(value, str):
        return value
    for found, label in labels.items():
        value = value.replace(found, label)
    return re.sub(r"\b[0-9a-f]{12}\b|\b[0-9a-f]{64}\b", "<digest>", value)


def directory(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    """A run's or a stage's result, journal and tensors."""
    yield from flat(json.loads((path / "result.json").read_text()), f"{name}.result")
    counts: dict[str, int] = {}
    for line in (path / "log.jsonl").read_text().splitlines():
        event = json.loads(line)
        kind = event.pop("event")
        if kind in {"step", "eval", "end", "forecast"}:
            counts[kind] = counts.get(kind, -1) + 1
            yield from flat(event, f"{name}.log.{kind}.{counts[kind]}")
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="np") as opened:
            for tensor in sorted(opened.keys()):
                data = opened.get_tensor(tensor).tobytes()
                digest = hashlib.blake2b(data, digest_size=16).hexdigest()
                yield f"{name}.{file.stem}/{tensor}", digest
    for file in sorted([*path.glob("*.jsonl"), *path.glob("*.txt")]):
        if file.name != "log.jsonl":
            rows = [re.sub(r',"crc":"\w+"', "", row) for row in file.read_text().splitlines()]
            text = json.dumps([_loaded(row) for row in rows], sort_keys=True)
            yield f"{name}.{file.name}", hashlib.sha256(text.encode()).hexdigest()


def _loaded(row: str) -> Any:
    try:
        return json.loads(row)
    except ValueError:
        return row


def flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A nested record as dotted names and values, without clocks, machines and identifiers."""
    if CLOCK.search(name) or NAMES.search(name):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from flat(inner, f"{name}.{i}")
    else:
        yield name, value


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print what differs. Returns 0 where nothing that was recorded has changed."""
    changed = [key for key in before if key in after and before[key] != after[key]]
    gone = [key for key in before if key not in after]
    new = [key for key in after if key not in before]
    for title, keys in (("changed", changed), ("gone", gone), ("new", new)):
        for key in keys[:40]:
            print(f"{title}: {key}: {before.get(key, '-')!r} -> {after.get(key, '-')!r}")
        if len(keys) > 40:
            print(f"{title}: and {len(keys) - 40} more")
    same = len(before) - len(changed) - len(gone)
    print(f"{same} of {len(before)} values equal, {len(changed)} changed, {len(gone)} gone, {len(new)} new")
    return 1 if changed or gone else 0


if __name__ == "__main__":
    sys.exit(main())
