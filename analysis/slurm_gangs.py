"""A run of two nodes (FSDP on gloo) on Slurm's own daemons, with faults, compared with the same run left alone.

    python analysis/slurm_gangs.py [--steps 3000] [--faults rank,node,ctld,preempt,cut,wall] [--keep DIR]

    rank      kill -9 of the second process
    node      kill -9 of the second node's slurmd with its step daemons and processes
    ctld      kill -9 of slurmctld, started again at once
    preempt   a job of higher priority needs all nodes (PreemptMode=REQUEUE, GraceTime)
    cut       SIGSTOP of both slurmd and of all processes of the job, until the next attempt has saved on two other
              nodes; then SIGCONT, so that the earlier attempt finishes late
    wall      nothing: the wall time of the Slurm job comes before the end of the run

Each fault comes once, in the order given, after a new attempt has left a checkpoint of its own. Reported are the
attempts, the steps at which they began, the losses beside those of two processes and of one on this machine, and
files that do not hold.

Exit status: 0 if the run ended once with the loss and curves of the same two processes left alone, else 1. Needs
root, and the packages of tests/slurm_cluster.py.
Not here: runs of one process (slurm_faults.py).
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import prose, tiny_data  # noqa: E402
from slurm_cluster import SlurmCluster, unavailable  # noqa: E402

from scalelab.data.base import DataConfig  # noqa: E402
from scalelab.data.corpus import shards  # noqa: E402
from scalelab.hardware.layout import Layout  # noqa: E402
from scalelab.jobs.base import ExecutorConfig, Job, JobResources  # noqa: E402
from scalelab.jobs.driver import JobList, JobOutcomes, Limits, drive  # noqa: E402
from scalelab.jobs.executors.local import LocalConfig  # noqa: E402
from scalelab.jobs.executors.slurm import SlurmConfig  # noqa: E402
from scalelab.jobs.settings import LaunchConfig  # noqa: E402
from scalelab.jobs.view import JobLabels, LiveView  # noqa: E402
from scalelab.launch.job_settings import FinalSettings  # noqa: E402
from scalelab.train.run_directory import RunDir  # noqa: E402
from scalelab.train.spec import RunSpec  # noqa: E402

FAULTS = "rank,node,ctld,preempt,cut,wall"
MODEL = {
    "kind": "transformer",
    "n_layers": 2,
    "d_model": 16,
    "n_heads": 2,
    "n_kv_heads": 2,
    "head_size": 8,
    "d_ff": 48,
    "vocab_size": 257,
}
LAYOUT = Layout(shard=2)
APART_S = 10.0
"""Least time between two faults, in which a controller that was started again comes back."""


class Faults(LiveView):
    """A live view that does the next fault once a new attempt has left a checkpoint."""

    def __init__(self, cluster: SlurmCluster, run_dir: RunDir, faults: list[str]):
        super().__init__(JobLabels())
        self.cluster, self.run_dir, self.faults = cluster, run_dir, faults
        self.done: list[str] = []
        self._begun = time.monotonic()
        self._suspended: list[int] = []
        self._after, self._not_before = 0, 0.0

    def tick(self) -> None:
        """Do what is due."""
        super().tick()
        starts, saved = 0, []
        for event in self.run_dir.events():
            if event["event"] == "start":
                starts, saved = starts + 1, []
            elif event["event"] == "checkpoint":
                saved.append(event["step"])
        if starts <= self._after or len(saved) < 2:  # the first one is where it began
            return
        if self._suspended:
            alive = sum(Path(f"/proc/{pid}").exists() for pid in self._suspended)
            self._say(f"{alive} of {len(self._suspended)} processes of the earlier attempt go on")
            for pid in self._suspended:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self._suspended = []
        if self.faults and time.monotonic() >= self._not_before:
            name = self.faults.pop(0)
            self._not_before = time.monotonic() + APART_S
            self._after = starts if name != "ctld" else self._after
            self._say(f"attempt {starts}, step {saved[-1]}: {name}")
            self._do(name)
            self.done.append(name)

    def _say(self, words: str) -> None:
        print(f"{time.monotonic() - self._begun:6.0f} s  {words}", flush=True)

    def _do(self, name: str) -> None:
        cluster = self.cluster
        if name == "rank":
            os.kill(cluster.rank(1), signal.SIGKILL)
        elif name == "node":
            node = [name for name in cluster.names if cluster.tasks(name)][-1]
            cluster.kill_node(node, steps=True)
            cluster.start_node(node)
        elif name == "ctld":
            cluster.kill_ctld()
            cluster.start_ctld()
        elif name == "preempt":
            cluster.preempt()
        elif name == "cut":
            busy = [node for node in cluster.names if cluster.tasks(node)]
            self._suspended = [pid for node in busy for pid in cluster.cut_off(node)]
            for node in busy:
                cluster.report_down(node)


def run(run_dir: RunDir, config: ExecutorConfig, home: Path, view: LiveView, layout: Layout) -> JobOutcomes:
    """Run it on an executor."""
    settings = FinalSettings.of(layout, LaunchConfig(checkpoint_s=1.0)).to_json()
    resources = JobResources(layout.devices, 1)
    job = Job(run_dir.run, run_dir, "final", resources=resources, settings=settings)
    with closing(config.start(("scalelab.launch.training",), home)) as executor, view:
        return drive(JobList([job]), executor, view, Limits())


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--faults", default=FAULTS)
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
    os.environ |= {"SCALELAB_CACHE": str(home / "cache"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    data = tiny_data(text) | {"epochs": 10000}
    spec = RunSpec.model_validate(
        {
            "data": data,
            "data_digest": shards.prepare(DataConfig(**data)).digest,
            "seq_len": 32,
            "model": MODEL,
            "optimizer": {"lr_matrix": 3e-3, "lr_embedding": 3e-2, "lr_head": 3e-2, "lr_vector": 3e-3},
            "schedule": {"kind": "wsd", "warmup": 0.1, "cooldown": 0.5},
            "batch_tokens": 256,
            "n_steps": args.steps,
            "evaluation": {"tokens": 4096, "curve_points": 2, "curve_tokens": 1024},
            "precision": "fp32",
        }
    )
    dirs = {name: RunDir(home / name / "sweep" / spec.id) for name in ("slurm", "two", "one")}
    for each in dirs.values():
        each.create(spec)
    ours = dirs["slurm"]
    cluster = SlurmCluster(home / "cluster", n_nodes=4)
    os.environ["SLURM_CONF"] = str(cluster.conf)
    view = Faults(cluster, ours, [name for name in args.faults.split(",") if name])
    slurm = SlurmConfig(gpus=0, cpus=2, workers=1, minutes=2, save_s=30, processes_per_node=1, poll_s=1.0)
    try:
        outcomes = run(ours, slurm, ours.path.parent, view, LAYOUT)
    finally:
        cluster.close()
    ended = outcomes.ended[ours.run]
    print(
        f"{ended.outcome}: {ended.reason}; {outcomes.tries[ours.run]} tries; not reached: {view.faults or 'none'}"
    )
    for event in ours.events():
        if event["event"] in ("start", "resume", "interrupted", "lost", "checkpoint_passed_over", "end"):
            print("       ", {key: event[key] for key in ("event", "step", "reason") if key in event})
    if ended.outcome != "done":
        return 1
    for name, layout in (("two", LAYOUT), ("one", Layout())):
        run(dirs[name], LocalConfig(), dirs[name].path.parent, LiveView(JobLabels()), layout)
    results = {name: each.result() for name, each in dirs.items()}
    for name, result in results.items():
        dirs[name].check_file("model.safetensors", result.files)
        print(f"{name:>6}: loss {result.loss!r}")
    same = all(
        getattr(results["slurm"], part) == getattr(results["two"], part)
        for part in ("loss", "curve", "train_curve")
    )
    kinds = [event["event"] for event in ours.events()]
    print(
        f"equal to two processes left alone: {same}; {kinds.count('start')} attempts, {kinds.count('end')} ends"
    )
    if args.keep is None:
        shutil.rmtree(home)
    return int(not same or kinds.count("end") != 1 or bool(view.faults) or ended.outcome != "done")


if __name__ == "__main__":
    sys.exit(main())
