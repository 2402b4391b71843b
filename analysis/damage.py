"""Damage every kind of state file, run the command that reads it, and see what comes of it.

    python analysis/damage.py [--n 200] [--seed 0] [--only KIND] [--keep DIR]

Each case copies a small finished world, damages one file of it (one bit flipped, one digit changed,
the end cut off, emptied, `null`, removed), and runs a command that has to read it. Allowed are:

    the same     exit status 0 and the same numbers as without damage: an older copy was used, the
                 file was made anew, or nothing that matters was hit
    refused      exit status 2 and three lines (what, where, fix) that name the file

Then the advice is followed: a refusal that says to delete something is obeyed, the same command is
run again, and must end with exit status 0 and the same numbers. Anything else is a deviation: a
traceback, other numbers at exit status 0, another exit status, a refusal without its three lines,
advice that does not help. Exit status: 0 without deviations, else 1.
"""

import argparse
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import kills
import observe
from observe import World

WAYS = ("bit", "bit", "digit", "digit", "cut", "cut", "empty", "null", "missing")
THERE = WAYS[:-1]
"""For files whose absence is no damage but work that is still to do, and is listed as such."""
WITHOUT_MLFLOW = """
import importlib.util as u
real = u.find_spec
u.find_spec = lambda name, *rest: None if name.split('.')[0] == 'mlflow' else real(name, *rest)
"""
REFUSAL = re.compile(r"error: .+\n  where: .+(\n         .+)*\n  fix:   .+", re.MULTILINE)


@dataclass(frozen=True)
class Kind:
    """One kind of state file."""

    name: str
    files: str
    """A glob below the world."""
    argv: tuple[str, ...]
    """The command that reads it."""
    found: Callable[[World, str], Any]
    """What the command came to, from its world and what it printed."""
    prepare: Callable[[World], None] = lambda world: None
    """What is done to a copy of the world before the damage."""
    ways: tuple[str, ...] = WAYS
    remake: tuple[str, ...] = ()
    """The command that makes the file, where the one above only reads it."""


def printed(world: World, said: str) -> Any:
    """What the command printed, wherever the world lies."""
    return said.replace(str(world.path), "")


def result_of(place: str) -> Callable[[World, str], Any]:
    """Losses, curves and weights of the runs below a directory."""

    def found(world: World, said: str) -> Any:
        del said
        return observe.run_results(world.runs / place)

    return found


def fitted(world: World, said: str) -> Any:
    """The numbers of a fit."""
    del said
    return json.loads((world.path / "fit.json").read_text())


def exported(world: World, said: str) -> Any:
    """Tensors of an exported checkpoint."""
    del said
    return observe.tensors(world.path / "out" / "model.safetensors")


def stages(world: World, said: str) -> Any:
    """What the stages of a post-training came to."""
    del said
    return observe.stage_results(world.runs / "made")


def listed(world: World, said: str) -> Any:
    """Nothing: a listing goes on whatever it meets."""
    del world, said
    return None


def forget_late_stages(world: World) -> None:
    """Take away stages at the end, so that they are done again from what earlier ones left."""
    for pattern in ("grade.*", "best-*", "dpo-*"):
        for path in (world.runs / "made").glob(pattern):
            shutil.rmtree(path)


def begin_again(world: World) -> None:
    """Take away the interrupted run's progress, so that the corpus is read from the beginning."""
    for path in (world.runs / "single").iterdir():
        for name in ("checkpoints", "log.jsonl"):
            there = path / name
            shutil.rmtree(there) if there.is_dir() else there.unlink()


FIT = ("fit", "journey", "--law", "kaplan", "--replicates", "50", "--json", "fit.json")
RUN = ("run", "runs/single/RUN")
AGAIN = ("run", "runs/single2/RUN")
DATA = ("data", "journey.yaml")
KINDS = (
    Kind("spec.yaml", "runs/single/*/spec.yaml", RUN, result_of("single")),
    Kind("log.jsonl", "runs/single/*/log.jsonl", RUN, result_of("single")),
    Kind("lease", "runs/single/*/lease-*.json", RUN, result_of("single")),
    Kind("checkpoint meta", "runs/single/*/checkpoints/*/meta.json", RUN, result_of("single")),
    Kind("checkpoint", "runs/single/*/checkpoints/*/*.safetensors", RUN, result_of("single")),
    Kind(
        "corpus manifest", "cache/corpora/*/manifest.json", RUN, result_of("single"), begin_again, remake=DATA
    ),
    Kind("shards", "cache/corpora/*/train*", RUN, result_of("single"), begin_again, remake=DATA),
    Kind("held-out text", "cache/corpora/*/validation*", RUN, result_of("single"), begin_again, remake=DATA),
    Kind("tokenizer", "cache/corpora/*/tokenizer.json", RUN, result_of("single"), begin_again, remake=DATA),
    Kind("stamps", "cache/stamps/*", RUN, result_of("single"), begin_again),
    Kind("corpus keys", "cache/keys/*.json", DATA, printed),
    Kind("hashes", "cache/hashes/*.json", DATA, printed),
    Kind(
        "result.json", "runs/journey/*/result.json", FIT, fitted, ways=THERE, remake=("sweep", "journey.yaml")
    ),
    Kind("sweep.json", "runs/journey/sweep.json", FIT, fitted),
    Kind("result, listed", "runs/journey/*/result.json", ("runs", "journey"), listed),
    Kind("log, listed", "runs/journey/*/log.jsonl", ("runs",), listed),
    Kind("home", "runs/.homes/*", ("sweep", "again.yaml"), result_of("again")),
    Kind(
        "weights",
        "runs/single2/*/model.safetensors",
        ("export", "runs/single2/RUN", "out"),
        exported,
        remake=AGAIN,
    ),
    Kind(
        "result of weights",
        "runs/single2/*/result.json",
        ("export", "runs/single2/RUN", "out"),
        exported,
        remake=AGAIN,
    ),
    Kind("plan.json", "plan/plan.json", ("launch", "plan", "--dry-run"), printed),
    Kind("forecast.json", "plan/forecast.json", ("launch", "plan", "--dry-run"), printed),
    Kind(
        "ledger",
        "runs/forecasts/*.json",
        ("runs", "--forecasts"),
        printed,
        ways=THERE,
        remake=("launch", "plan"),
    ),
    Kind("job.json", "runs/begun/*/job.json", ("launch", "begun"), result_of("begun")),
    Kind("sharded meta", "runs/begun/*/checkpoints/*/*.json", ("launch", "begun"), result_of("begun")),
    Kind("sharded state", "runs/begun/*/checkpoints/*/*.distcp", ("launch", "begun"), result_of("begun")),
    Kind("posttrain.json", "runs/made/posttrain.json", ("posttrain", "made.yaml"), stages),
    Kind("stage result", "runs/made/*/result.json", ("posttrain", "made.yaml"), stages, forget_late_stages),
    Kind("stage spec", "runs/made/*/spec.yaml", ("posttrain", "made.yaml"), stages, forget_late_stages),
    Kind("model.json", "runs/made/*/model.json", ("posttrain", "made.yaml"), stages, forget_late_stages),
    Kind(
        "stage weights", "runs/made/*/*.safetensors", ("posttrain", "made.yaml"), stages, forget_late_stages
    ),
    Kind(
        "stage tokenizer",
        "runs/made/*/tokenizer.json",
        ("posttrain", "made.yaml"),
        stages,
        forget_late_stages,
    ),
    Kind("pairs", "runs/made/*/pairs.jsonl", ("posttrain", "made.yaml"), stages, forget_late_stages),
)


def damaged(data: bytes, way: str, draw: random.Random) -> bytes | None:
    """A copy of a file's bytes, damaged in one way. None: the file is removed."""
    copy = bytearray(data)
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    if way == "digit" and digits:
        i = draw.choice(digits)
        copy[i] = ord(draw.choice([d for d in "0123456789" if ord(d) != copy[i]]))
    elif way == "cut":
        del copy[draw.randrange(len(copy)) :]
    elif way in {"empty", "null"}:
        copy = bytearray(b"" if way == "empty" else b"null\n")
    elif way == "missing":
        return None
    else:
        copy[draw.randrange(len(copy))] ^= 1 << draw.randrange(8)
    return bytes(copy)


@dataclass
class Case:
    """One damaged file and what came of it."""

    kind: Kind
    file: str
    way: str
    verdict: str = ""
    words: str = ""


class Lab:
    """The world that every case begins with a copy of."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.pristine = self._world(folder / "pristine")
        self.run = ""
        self.expected: dict[str, Any] = {}

    def _world(self, path: Path) -> World:
        world = World(path, path / "cache")
        hidden = path / "hidden"
        hidden.mkdir(exist_ok=True)
        (hidden / "sitecustomize.py").write_text(WITHOUT_MLFLOW)
        world.environ["PYTHONPATH"] = f"{hidden}:{world.environ['PYTHONPATH']}"
        return world

    def build(self) -> None:
        """The world, unless it was kept from before, and what undamaged commands give."""
        built = self.folder / "built"
        if not built.exists():
            self._build()
            built.write_text(self.run)
        self.run = built.read_text()
        for kind in KINDS:
            self.expected[kind.name] = self._undamaged(kind)

    def _build(self) -> None:
        """A sweep, a run and a launch that were interrupted, a plan, a post-training."""
        world, path = self.pristine, self.pristine.path
        text = kills.write_text_files(self.folder / "text", 40, 300)
        sweep = observe.SWEEP.replace("TEXT", str(text))
        (path / "journey.yaml").write_text(sweep)
        again = sweep.replace("name: journey", "name: again")
        (path / "again.yaml").write_text(again.replace("[4e9, 1e10, 2.4e10]", "[4e9, 5e9]"))
        based = sweep.replace("name: journey", "name: base").replace("seq_len: 32", "seq_len: 128")
        (path / "base.yaml").write_text(based.replace("[4e9, 1e10, 2.4e10]", "[1e10]"))
        kills.must(world, "sweep", "journey.yaml")
        kills.must(world, "sweep", "base.yaml")
        plan = ("plan", "journey", "--law", "kaplan", "--replicates", "200")
        kills.must(world, *plan, "--budget", "3e10", "--out", "plan")
        kills.must(world, *plan, "--budget", "4e10", "--out", "begun")
        kills.must(world, "launch", "plan")
        self._interrupt("launch", "begun", "--set", "checkpoint_s=0.1")
        base = min(
            (world.runs / "base").glob("*/result.json"),
            key=lambda path: json.loads(path.read_text())["n_params_total"],
        ).parent
        made = kills.POSTTRAIN.replace("BASE", str(base.relative_to(path)))
        (path / "made.yaml").write_text(made)
        kills.must(world, "posttrain", "made.yaml")
        runs = (json.loads(p.read_text()) for p in (world.runs / "journey").glob("*/result.json"))
        longest = max((r for r in runs if r["flops"] < 2e10), key=lambda r: r["n_steps"])
        final = world.runs / "journey" / longest["run"] / "spec.yaml"
        self.run = final.parent.name
        for place in ("single", "single2"):
            there = world.runs / place / self.run
            there.mkdir(parents=True)
            shutil.copy(final, there)
        for _ in range(2):
            self._interrupt("run", f"runs/single/{self.run}")
        kills.must(world, "run", f"runs/single2/{self.run}")

    def _interrupt(self, *argv: str) -> None:
        """Begin a command, and ask it to save and stop once it has got somewhere."""
        world = self.pristine
        before = self._lines()
        process = world.start(*argv)
        while process.poll() is None and self._lines() < before + 30:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate()
        if process.returncode != 130:
            raise SystemExit(f"{argv} was not interrupted: {process.returncode}\n{out}\n{errors}")

    def _lines(self) -> int:
        logs = self.pristine.runs.glob("*/*/log.jsonl")
        return sum(log.read_bytes().count(b"\n") for log in logs)

    def copy(self, name: str, kind: Kind) -> World:
        """A copy of the pristine world, prepared for a kind of damage."""
        world = World(self.folder / name, self.folder / name / "cache")
        shutil.copytree(self.pristine.path, world.path, dirs_exist_ok=True)
        world = self._world(world.path)
        kind.prepare(world)
        return world

    def argv(self, command: tuple[str, ...]) -> list[str]:
        """A command of KINDS, with the run's id."""
        return [part.replace("RUN", self.run) for part in command]

    def _undamaged(self, kind: Kind) -> Any:
        world = self.copy(f"undamaged-{kind.name.replace(' ', '-')}", kind)
        done = world(*self.argv(kind.argv))
        if done.returncode != 0:
            raise SystemExit(f"{kind.name}: fails undamaged\n{done.stdout}\n{done.stderr}")
        found = kind.found(world, done.stdout)
        shutil.rmtree(world.path)
        return found

    def judge(self, number: int, case: Case, draw: random.Random) -> Case:
        """Damage one file of a fresh copy, run its command, and judge what came of it."""
        kind = case.kind
        world = self.copy(f"case-{number:04d}", kind)
        files = sorted(p for p in world.path.glob(kind.files) if p.is_file())
        if not files:
            case.verdict, case.words = "DEVIATION", "there is no such file"
            return case
        path = draw.choice(files)
        case.file = str(path.relative_to(world.path))
        data = damaged(path.read_bytes(), case.way, draw)
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        done = world(*self.argv(kind.argv))
        case.verdict, case.words = self._verdict(kind, world, done)
        if case.verdict == "refused" and "delete" in case.words:
            self._follow_advice(case, world, done.stderr)
        if not case.verdict.startswith("DEVIATION"):
            shutil.rmtree(world.path)
        return case

    def _verdict(self, kind: Kind, world: World, done: Any) -> tuple[str, str]:
        said = done.stdout + done.stderr
        if "Traceback (most recent call last)" in said:
            return "DEVIATION: traceback", said.strip().splitlines()[-1][:200]
        if done.returncode == 0:
            if kind.found(world, done.stdout) == self.expected[kind.name]:
                return "the same", ""
            return "DEVIATION: other numbers at exit status 0", done.stdout[-200:]
        if done.returncode != 2:
            return f"DEVIATION: exit status {done.returncode}", said[-300:]
        match = REFUSAL.search(done.stderr)
        if match is None:
            return "DEVIATION: no three lines", done.stderr[-300:]
        return "refused", match[0]

    def _follow_advice(self, case: Case, world: World, said: str) -> None:
        """Delete what the refusal says, run the command again, and hold it to the same numbers."""
        match = re.search(r"  where: (\S+)", said)
        place = world.path / match[1].rstrip(",:").split(":")[0] if match else None
        if place is None or not place.exists() or world.path not in place.resolve().parents:
            return
        if "this directory" in said and place.is_dir():
            shutil.rmtree(place)
        elif place.is_dir():
            return
        elif "result.json beside it" in said:
            (place.parent / "result.json").unlink(missing_ok=True)
        else:
            place.unlink()
        if case.kind.remake:
            world(*self.argv(case.kind.remake))
        done = world(*self.argv(case.kind.argv))
        verdict, words = self._verdict(case.kind, world, done)
        if verdict == "the same":
            case.verdict = "refused, then the same"
        elif verdict.startswith("DEVIATION"):
            case.verdict, case.words = f"{verdict} (after the advice)", f"{case.words}\n{words}"
        else:
            case.verdict = "refused, twice"


def cases(n: int, only: str | None, draw: random.Random) -> Iterator[Case]:
    """Cases in turn over kinds and ways."""
    kinds = [kind for kind in KINDS if only in (None, kind.name)]
    for i in range(n):
        kind = kinds[i % len(kinds)]
        yield Case(kind, "", draw.choice(kind.ways))


def main() -> int:
    """Build, damage, report. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200, help="cases (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[kind.name for kind in KINDS])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR and keep it")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once (default 2)")
    args = parser.parse_args()
    folder = (args.keep or Path(tempfile.mkdtemp(prefix="damage-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lab = Lab(folder)
    lab.build()
    print(f"built in {folder}", file=sys.stderr, flush=True)
    draw = random.Random(args.seed)
    todo = list(cases(args.n, args.only, draw))

    def judge(numbered: tuple[int, Case]) -> Case:
        i, case = numbered
        lab.judge(i, case, random.Random(args.seed * 100_003 + i))
        print(f"{i:4d}  {case.verdict:28} {case.way:8} {case.file}", file=sys.stderr, flush=True)
        return case

    with ThreadPoolExecutor(args.jobs) as pool:
        done = list(pool.map(judge, enumerate(todo)))
    bad = report(done)
    if not bad and args.keep is None:
        shutil.rmtree(folder)
    return 1 if bad else 0


def report(done: list[Case]) -> int:
    """Print a table by kind; returns how many cases deviate."""
    verdicts = sorted({case.verdict.split(":")[0] for case in done})
    print(f"| kind | cases | {' | '.join(verdicts)} |")
    print("|---" * (2 + len(verdicts)) + "|")
    for kind in dict.fromkeys(case.kind.name for case in done):
        counts = Counter(c.verdict.split(":")[0] for c in done if c.kind.name == kind)
        cells = " | ".join(str(counts[verdict]) for verdict in verdicts)
        print(f"| {kind} | {counts.total()} | {cells} |")
    bad = [case for case in done if case.verdict.startswith("DEVIATION")]
    for case in bad:
        print(f"\n{case.verdict}: {case.way} {case.file}\n{case.words}")
    print(f"\n{len(done)} cases, {len(bad)} deviations")
    return len(bad)


if __name__ == "__main__":
    sys.exit(main())
