"""A sweep of many tiny runs on Slurm's own daemons, with faults, compared with the same runs on this machine.

    python analysis/slurm_faults.py [--runs 200] [--workers 4] \
        [--faults worker,ctld,node,zombies,driver,storm] [--keep DIR]

    worker    kill -9 of one worker with its processes
    ctld      kill -9 of slurmctld, started again at once
    node      kill -9 of a slurmd with its step daemons and all processes of its jobs
    zombies   kill -9 of a slurmd and its step daemons alone: the workers live on while Slurm starts others
    driver    kill -9 of the command that drives the sweep, and the same command again
    storm     scontrol requeue of every worker task

Each fault comes once, in the order given, after equal shares of the runs have ended. Reported are runs that were
lost, trained to their end twice, or ended with another loss than those of one process here; the CPU time of the
drivers; and the time from the start to the first end of a run.

Exit status: 0 without deviations, else 1. Needs root, and the packages of tests/slurm_cluster.py.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import prose  # noqa: E402
from slurm_cluster import SlurmCluster, unavailable  # noqa: E402

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
design: {{kind: ladder, sizes: [2e3], tokens: [5e3], seeds: {runs}}}
launch:
  executor: {executor}
  retries: 5
"""
SLURM = "{{kind: slurm, gpus: 0, cpus: 1, slots: 1, workers: {workers}, minutes: 60, poll_s: {poll_s}}}"


def driver(folder: Path, environ: dict[str, str], executor: str, runs: int, text: Path) -> subprocess.Popen:
    """Start the sweep in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "sweep.yaml").write_text(SWEEP.format(text=text, runs=runs, executor=executor))
    log = open(folder / "driver.log", "ab")  # noqa: SIM115  (the process's, as long as it lives)
    command = [sys.executable, "-m", "scalelab", "sweep", "sweep.yaml", "--no-timing"]
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process without its children."""
    try:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def results(folder: Path) -> dict[str, tuple]:
    """Loss and curves of each run by its id."""
    found = {}
    for path in folder.glob("runs/faults/*/result.json"):
        record = json.loads(path.read_text())
        found[path.parent.name] = (record["loss"], record["curve"], record["train_curve"])
    return found


def ends(folder: Path) -> list[int]:
    """Number of ends in the journal of each run."""
    return [path.read_text().count('"event":"end"') for path in folder.glob("runs/faults/*/log.jsonl")]


def fault(name: str, cluster: SlurmCluster, process: subprocess.Popen) -> bool:
    """Do one fault; False if there was nothing to do it to, so that it is tried again."""
    running = [task for node in ("n1", "n2") for task in cluster.tasks(node)]
    if name == "driver":
        process.kill()
        process.wait()
        return True
    if not running:
        return False
    if name == "worker":
        os.kill(running[0], signal.SIGKILL)
    elif name == "ctld":
        cluster.kill_ctld()
        cluster.start_ctld()
    elif name in ("node", "zombies"):
        node = "n1" if cluster.tasks("n1") else "n2"
        cluster.kill_node(node, steps=name == "node")
        cluster.start_node(node)
    elif name == "storm":
        cluster("scontrol", "requeue", ",".join(set(cluster("squeue", "-h", "-t", "R", "-o", "%A").split())))
    return True


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--poll-s", type=float, default=5.0)
    parser.add_argument("--faults", default="worker,ctld,node,zombies,driver,storm")
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    if (why := unavailable()) is not None:
        print(f"no Slurm here: {why}", file=sys.stderr)
        return 2
    home = args.keep or Path(tempfile.mkdtemp())
    text = home / "text"
    text.mkdir(parents=True)
    for i in range(20):
        (text / f"{i:02d}.txt").write_text(prose(300, seed=i))
    cluster = SlurmCluster(home / "slurm")
    environ = cluster.environ | {
        "PYTHONPATH": str(ROOT),
        "SCALELAB_CACHE": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    executor = SLURM.format(workers=args.workers, poll_s=args.poll_s)
    faults = [name for name in args.faults.split(",") if name]
    marks = [args.runs * (i + 1) // (len(faults) + 1) for i in range(len(faults))]
    begun, first, used, spent = time.monotonic(), None, 0.0, 0.0
    try:
        process = driver(home / "slurm-runs", environ, executor, args.runs, text)
        while True:
            code, used = process.poll(), cpu_s(process.pid) or used
            n = len(list((home / "slurm-runs").glob("runs/faults/*/result.json")))
            first = first or (time.monotonic() - begun if n else None)
            if faults and n >= marks[0] and code is None and fault(faults[0], cluster, process):
                print(f"{time.monotonic() - begun:6.0f} s  {n} runs have ended: {faults[0]}", flush=True)
                if faults[0] == "driver":
                    spent, used = spent + used, 0.0
                    process = driver(home / "slurm-runs", environ, executor, args.runs, text)
                faults.pop(0)
                marks.pop(0)
            if code is not None:
                break
            time.sleep(0.2)
        took = time.monotonic() - begun
        workers = len(list((home / "slurm-runs").glob("runs/faults/.queue/workers/*.json")))
    finally:
        cluster.close()
    alone = driver(home / "local-runs", environ, "local", args.runs, text)
    alone.wait()
    ours, theirs = results(home / "slurm-runs"), results(home / "local-runs")
    other = sum(ours[run] != theirs[run] for run in ours if run in theirs)
    twice = sum(n > 1 for n in ends(home / "slurm-runs"))
    lost = args.runs - len(ours)
    print(f"exit status {code}; not reached: {','.join(faults) or 'none'}")
    print(
        f"{len(ours)} of {args.runs} runs (local {len(theirs)}): {lost} lost, {twice} twice, {other} other losses"
    )
    print(f"{took:.0f} s, first end after {first or 0:.0f} s, {workers} workers started")
    print(f"drivers: {spent + used:.2f} CPU s, {100 * (spent + used) / took:.2f}% of a core")
    if args.keep is None:
        shutil.rmtree(home)
    return int(bool(lost or twice or other or code or faults or len(theirs) != args.runs))


if __name__ == "__main__":
    sys.exit(main())
