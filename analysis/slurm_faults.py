"""A sweep of many tiny runs on Slurm's own daemons, with faults, compared with the same runs on this machine.

    python analysis/slurm_faults.py [--runs 200] [--workers 4] \
        [--faults worker,ctld,node,zombies,driver,storm,full,cut] [--keep DIR] [--alone DIR]

    worker    kill -9 of one worker; its processes end with it
    ctld      kill -9 of slurmctld, started again at once
    node      kill -9 of a slurmd with its step daemons and all processes of its jobs
    zombies   kill -9 of a slurmd and its step daemons alone: the workers live on while Slurm starts others
    driver    kill -9 of the command that drives the sweep, and the same command again
    storm     scontrol requeue of every worker task
    full      the runs' disk is filled until the command gives up, then freed, and the same command again
    cut       SIGSTOP of a slurmd and of all processes of its jobs, SIGCONT after others took over what they were doing

Each fault comes once, in the order given, after equal shares of the runs have ended, while a run is being trained.
Workers that live for as long stop before their wall time of `--minutes`, and others are submitted.
Reported are runs that were lost, trained to their end twice, or ended with another loss than those of one process
here; files that do not hold; the CPU time of the drivers after their start, with that of Slurm's commands; and the
time from the start to the first end of a run.

Exit status: 0 without deviations, else 1. Needs root, and the packages of tests/slurm_cluster.py.
Not here: jobs of several processes (tests/launch/test_slurm.py).
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import prose  # noqa: E402
from observe import WITHOUT_MLFLOW  # noqa: E402
from slurm_cluster import SlurmCluster, unavailable  # noqa: E402

from scalelab.train.run_directory import RunDir  # noqa: E402

FAULTS = "worker,ctld,node,zombies,driver,storm,full,cut"
SWEEP = """
name: faults
question: Is each run trained once, whatever dies?
prediction: Yes.
recipe:
  data:
    source: {{kind: text, paths: ["{text}/*.txt"]}}
    tokenizer: {{kind: bytes}}
    validation: 0.2
    epochs: 1000
  seq_len: 32
  param_count: matmul
  model: {{kind: transformer, n_layers: 1, head_size: 8, ff_multiple: 8}}
  optimizer: {{lr: 3e-3}}
  batch: {{coefficient: 2, exponent: 0.5, min_tokens: 256, max_tokens: 256}}
  min_steps: 10
  evaluation: {{tokens: 1024, curve_points: 1, curve_tokens: 512}}
  precision: fp32
design: {{kind: ladder, sizes: [2e3], tokens: [{tokens}], seeds: {runs}}}
launch:
  executor: {executor}
  retries: 5
"""
SLURM = (
    "{{kind: slurm, gpus: 0, cpus: 1, slots: 1, workers: {workers}, minutes: {minutes}, poll_s: {poll_s}}}"
)
DISK_BYTES = 256 << 20
"""Size of the file system of the runs."""
PATIENCE_S = 300.0


class Driver:
    """The command that drives the sweep in a folder, started again as often as asked."""

    def __init__(self, folder: Path, environ: dict[str, str], sweep: str):
        self.folder, self.environ = folder, environ
        folder.mkdir(exist_ok=True)
        (folder / "sweep.yaml").write_text(sweep)
        self.log = folder / "driver.log"
        self.start_up_s, self.driving_s, self.commands_s, self.wall_s = 0.0, 0.0, 0.0, 0.0
        """CPU seconds of all drivers until their jobs were queued, after that, and of Slurm's commands; and the
        wall time after that."""
        self.start()

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "scalelab", "sweep", "sweep.yaml", "--no-timing"]
        with open(self.log, "ab") as log:
            self._from = log.tell()
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environ, stdout=log, stderr=log, start_new_session=True
            )
        self._started: float | None = None
        self._cpu = self._children = 0.0

    @property
    def words(self) -> str:
        """What the driver that was started last has written."""
        with open(self.log, "rb") as log:
            log.seek(self._from)
            return log.read().decode()

    def measure(self) -> None:
        """Take the CPU time of the process, until it ends."""
        with suppress(OSError):
            parts = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            if parts[0] != "Z":
                tick = os.sysconf("SC_CLK_TCK")
                self._cpu = (int(parts[11]) + int(parts[12])) / tick
                self._children = (int(parts[13]) + int(parts[14])) / tick
        if self._started is None and " to train, " in self.words:
            self._started, self._started_at = self._cpu, time.monotonic()

    def end(self, *, kill: bool = False) -> int:
        """Kill it, or wait for it, and return its exit status."""
        if kill:
            self.process.kill()
        code = self.process.wait()
        if self._started is None:
            started = self._cpu
        else:
            started = self._started
            self.wall_s += time.monotonic() - self._started_at
        self.start_up_s += started
        self.driving_s += self._cpu - started
        self.commands_s += self._children
        return code

    def n_done(self) -> int:
        """Number of runs with a result."""
        return len(list(self.folder.glob("runs/faults/*/result.json")))


class Campaign:
    """The faults of one sweep."""

    def __init__(self, cluster: SlurmCluster, driver: Driver):
        self.cluster, self.driver = cluster, driver
        self._cut_pids: list[int] = []
        self._cut_runs: list[tuple[Path, int]] = []
        """Runs that were in training when a node was cut off, with the numbers of their claims."""
        self._cut_at = 0.0
        self.findings: list[str] = []

    def tasks(self) -> list[int]:
        """Process ids of everything that runs in jobs."""
        return [task for node in ("n1", "n2") for task in self.cluster.tasks(node)]

    def in_flight(self) -> list[Path]:
        """Directories of the runs that are being trained."""
        found = self.driver.folder.glob("runs/faults/*/log.jsonl")
        return [path.parent for path in found if not (path.parent / "result.json").exists()]

    def do(self, name: str) -> bool:
        """Do one fault; False if there was nothing to do it to, so that it is tried again."""
        cluster, tasks = self.cluster, self.tasks()
        if name == "driver":
            self.driver.end(kill=True)
            self.driver.start()
            return True
        if name == "full":
            return self._fill()
        if not tasks or not self.in_flight():
            return False
        node = "n1" if cluster.tasks("n1") else "n2"
        if name == "worker":
            os.kill(cluster.workers(node)[0], signal.SIGKILL)
        elif name == "ctld":
            cluster.kill_ctld()
            cluster.start_ctld()
        elif name in ("node", "zombies"):
            cluster.kill_node(node, steps=name == "node")
            cluster.start_node(node)
        elif name == "cut":
            self._cut(node)
        elif name == "storm":
            running = set(cluster("squeue", "-h", "-t", "R", "-o", "%A").split())
            cluster("scontrol", "requeue", ",".join(running))
        return True

    def _cut(self, node: str) -> None:
        """Suspend a node; it is resumed by `heal`."""
        pids = self.cluster.cut_off(node)
        self._cut_runs = [(place, attempt_of(place)) for place in self.in_flight()]
        self._cut_pids, self._cut_at = pids, time.monotonic()

    def heal(self, *, now: bool = False) -> None:
        """Resume a node that was cut off once others have its runs."""
        if not self._cut_pids:
            return
        took_over = all(attempt_of(place) > attempt for place, attempt in self._cut_runs)
        waited = time.monotonic() - self._cut_at
        if not (took_over or now):
            return
        if not took_over:
            self.findings.append(f"cut: after {waited:.0f} s nobody had taken over its runs")
        for pid in self._cut_pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        print(
            f"        the node is back after {waited:.0f} s, {self.driver.n_done()} runs have ended",
            flush=True,
        )
        self._cut_pids = []

    def end(self) -> None:
        """Let late workers finish."""
        self.heal(now=True)
        deadline = time.monotonic() + PATIENCE_S
        while self.tasks() and time.monotonic() < deadline:
            time.sleep(0.5)

    def _fill(self) -> bool:
        """Fill the disk of the runs until the driver gives up, free it, and start the driver again."""
        ballast = self.driver.folder / "runs" / "ballast"
        begun = time.monotonic()
        while self.driver.process.poll() is None and time.monotonic() - begun < PATIENCE_S:
            with suppress(OSError), open(ballast, "ab", 0) as file:
                while True:
                    file.write(bytes(4096))
            self.driver.measure()
            time.sleep(0.2)
        if self.driver.process.poll() is None:
            self.findings.append(f"full: the command went on for {PATIENCE_S:.0f} s")
        code = self.driver.end(kill=True)
        words = re.findall(r"^(?:error|  where|  fix): .*", self.driver.words, re.MULTILINE)
        print(f"        exit status {code} after {time.monotonic() - begun:.0f} s:", *words, sep="\n        ")
        if code != 2 or "No space left on device" not in " ".join(words):
            self.findings.append("full: no message that a person could act on")
        ballast.unlink()
        self.driver.start()
        return True


def attempt_of(place: Path) -> int:
    """Number of the newest claim of a run."""
    names = [path.name for path in place.glob("lease-*.json")]
    return max((int(name.removeprefix("lease-").removesuffix(".json")) for name in names), default=0)


def results(folder: Path) -> dict[int, tuple]:
    """Loss and curves of each run by its seed; every file is verified."""
    found = {}
    for path in folder.glob("runs/faults/*/result.json"):
        run_dir = RunDir(path.parent)
        result = run_dir.result()
        run_dir.check_file("model.safetensors", result.files)
        found[result.seed] = (result.loss, result.curve, result.train_curve)
    return found


def ends(folder: Path) -> list[int]:
    """Number of ends in the journal of each run."""
    return [path.read_text().count('"event":"end"') for path in folder.glob("runs/faults/*/log.jsonl")]


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--tokens", type=float, default=2e4)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--minutes", type=int, default=3)
    parser.add_argument("--poll-s", type=float, default=5.0)
    parser.add_argument("--faults", default=FAULTS)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--alone", type=Path, help="the local-runs of an earlier campaign of as many runs")
    args = parser.parse_args()
    if (why := unavailable()) is not None:
        print(f"no Slurm here: {why}", file=sys.stderr)
        return 2
    home = args.keep or Path(tempfile.mkdtemp())
    text = home / "text"
    text.mkdir(parents=True)
    for i in range(20):
        (text / f"{i:02d}.txt").write_text(prose(300, seed=i))
    hidden = home / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(WITHOUT_MLFLOW)  # the mirror would count among the commands
    cluster = SlurmCluster(home / "slurm")
    environ = cluster.environ | {
        "PYTHONPATH": f"{hidden}:{ROOT}",
        "SCALELAB_CACHE": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    faults = [name for name in args.faults.split(",") if name]
    marks = [args.runs * (i + 1) // (len(faults) + 1) for i in range(len(faults))]
    folder = home / "slurm-runs"
    runs = folder / "runs"
    runs.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", runs], check=True)
    try:
        sizes = {"text": text, "runs": args.runs, "tokens": args.tokens}
        executor = SLURM.format(workers=args.workers, minutes=args.minutes, poll_s=args.poll_s)
        begun, first = time.monotonic(), None
        driver = Driver(folder, environ, SWEEP.format(executor=executor, **sizes))
        campaign = Campaign(cluster, driver)
        try:
            while driver.process.poll() is None:
                driver.measure()
                n = driver.n_done()
                first = first or (time.monotonic() - begun if n else None)
                campaign.heal()
                if faults and n >= marks[0]:
                    at, flying = time.monotonic() - begun, len(campaign.in_flight())
                    if campaign.do(faults[0]):
                        print(
                            f"{at:6.0f} s  {n} runs have ended, {flying} in training: {faults[0]}", flush=True
                        )
                        faults, marks = faults[1:], marks[1:]
                time.sleep(0.2)
            code, took = driver.end(), time.monotonic() - begun
            campaign.end()
            workers = len(list(runs.glob("faults/.queue/workers/*.json")))
        finally:
            cluster.close()
        alone = args.alone or home / "local-runs"
        if args.alone is None:
            Driver(alone, environ, SWEEP.format(executor="local", **sizes)).end()
        ours, theirs = results(folder), results(alone)
        twice = sum(n > 1 for n in ends(folder))
    finally:
        if args.keep is not None:
            shutil.copytree(runs, home / "kept", ignore=shutil.ignore_patterns("*.safetensors"))
        subprocess.run(["umount", "-l", runs], check=True)
    other = sum(ours[run] != theirs.get(run) for run in ours)
    lost = args.runs - len(ours)
    used, wall = driver.driving_s + driver.commands_s, driver.wall_s
    print(f"exit status {code}; not reached: {','.join(faults) or 'none'}", *campaign.findings, sep="\n")
    print(
        f"{len(ours)} of {args.runs} runs (local {len(theirs)}): {lost} lost, {twice} twice, {other} other losses"
    )
    print(f"{took:.0f} s, first end after {first or 0:.0f} s, {workers} workers started")
    print(f"drivers: {driver.start_up_s:.2f} CPU s until their jobs were queued; then {driver.driving_s:.2f}")
    print(
        f"and {driver.commands_s:.2f} in Slurm's commands in {wall:.0f} s: {100 * used / wall:.2f}% of a core"
    )
    if args.keep is None:
        shutil.rmtree(home)
    return int(bool(lost or twice or other or code or faults or campaign.findings))


if __name__ == "__main__":
    sys.exit(main())
