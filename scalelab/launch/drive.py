"""The driver of a sweep: each run trained once, whatever happens on the way.

    prepare data -> design -> plan -> (lock) -> submit, longest first -> poll -> retry -> end

Everything that decides what is left to do is on the disk, so the same command goes on after
an interrupt, a crash or a power cut. A run with a result is never trained again, also when
another sweep has trained it. A run that another sweep is training is waited for, and taken over
should that sweep give it up.
"""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from scalelab.errors import LaunchError
from scalelab.files import place_of
from scalelab.launch.base import RETRIED, Ended, Executor
from scalelab.launch.live import LiveView
from scalelab.launch.plan import PlannedWork
from scalelab.launch.sweepfile import SweepFile
from scalelab.leases import hold, holder
from scalelab.track.manifest import PlannedRun, SweepManifest
from scalelab.train.rundir import LEASE

POLL_S = 0.05
LOOK_S = 1.0
"""Between two looks at a run that another process is training."""


@dataclass
class Outcomes:
    """How the runs of one drive ended, by run id."""

    ended: dict[str, Ended] = field(default_factory=dict)
    interrupted: bool = False

    def of(self, *kinds: str) -> list[Ended]:
        """The endings of these kinds."""
        return [ended for ended in self.ended.values() if ended.outcome in kinds]


@contextmanager
def the_only_driver(root: Path, sweep: str) -> Iterator[None]:
    """Hold a sweep's directory. Raises LaunchError where another process drives it."""
    with hold(
        place_of(root, sweep) / "lock",
        f"the sweep {sweep!r} is being run by another process",
        "wait for it, stop it, or give this sweep another name (--set name=...)",
    ):
        yield


def write_down(file: SweepFile, work: list[PlannedWork], root: Path) -> None:
    """The sweep's manifest and its run directories, before anything starts."""
    count, seq_len = file.recipe.param_count, file.recipe.seq_len
    planned = []
    for w in work:
        p, spec = w.proposal, w.proposal.spec
        size = spec.model.size(seq_len)
        planned.append(
            PlannedRun(
                run=w.run_dir.run,
                dir=str(w.run_dir.path.relative_to(root)),
                flops_planned=p.flops_planned,
                n_params_planned=p.n_params_planned,
                n_params=size.count(count),
                n_tokens_planned=p.n_tokens_planned,
                n_tokens=spec.n_tokens,
                n_steps=spec.n_steps,
                flops=p.flops,
                seed=spec.seed,
                group=spec.ids[-1],
            )
        )
    SweepManifest(
        sweep=file.name,
        digest=file.digest,
        param_count=count,
        question=file.question,
        prediction=file.prediction,
        target_flops=file.target_flops,
        config_yaml=file.to_yaml(),
        created_ms=time.time_ns() // 1_000_000,
        runs=tuple(planned),
    ).write(root)
    for w in work:
        if w.state == "done":
            w.run_dir.tidy()
        else:
            w.run_dir.create(w.proposal.spec)


def drive(file: SweepFile, work: list[PlannedWork], executor: Executor, view: LiveView) -> Outcomes:
    """Train what is left to train. Returns how each run ended.

    Ctrl-C asks the runs to save and stop; a second Ctrl-C ends them at once. Either way the
    same command goes on later.

    Raises:
        LaunchError: A person has to mend something first (a full disk, a corpus that is
            gone): what still ran was saved and stopped.
    """
    queue = deque(sorted((w for w in work if w.state != "done"), key=_length, reverse=True))
    by_run = {w.run_dir.run: w for w in queue}
    tries: dict[str, int] = dict.fromkeys(by_run, 0)
    elsewhere: dict[str, float] = {}  # run to the time of the next look
    outcomes, running, refusal = Outcomes(), set(), None
    with _interrupts(executor) as interrupts:
        while queue or running or elsewhere:
            stopping = interrupts() or refusal is not None
            if stopping:
                queue.clear()
                elsewhere.clear()
            elif queue and executor.has_room(queue[0].run_dir):
                w = queue.popleft()
                run = w.run_dir.run
                if w.run_dir.is_done:  # by another sweep, since we planned
                    outcomes.ended[run] = Ended(w.run_dir, "done")
                    view.ended(outcomes.ended[run], again=False)
                elif holder(w.run_dir.path, LEASE) is not None:
                    elsewhere[run] = time.monotonic() + LOOK_S
                    view.elsewhere(run)
                else:
                    tries[run] += 1
                    running.add(run)
                    view.started(run)
                    executor.submit(w.run_dir)
                continue
            for ended in executor.poll():
                run = ended.run_dir.run
                running.discard(run)
                if ended.outcome == "elsewhere" and not stopping:
                    tries[run] -= 1
                    elsewhere[run] = time.monotonic() + LOOK_S
                    view.elsewhere(run)
                    continue
                again = ended.outcome in RETRIED and tries[run] <= file.launch.retries
                again = again and not stopping
                view.ended(ended, again)
                if again:
                    queue.append(by_run[run])
                else:
                    outcomes.ended[run] = ended
                if ended.outcome == "refused" and refusal is None:
                    refusal = ended
                    executor.stop()
            for run in [run for run, at in elsewhere.items() if at <= time.monotonic()]:
                elsewhere[run] = time.monotonic() + LOOK_S
                run_dir = by_run[run].run_dir
                if run_dir.is_done or holder(run_dir.path, LEASE) is None:
                    del elsewhere[run]
                    queue.append(by_run[run])
            view.tick()
            time.sleep(POLL_S)
        outcomes.interrupted = interrupts() > 0
    if refusal is not None:
        problem, _, rest = (refusal.reason or "").partition("\n  where: ")
        where, _, fix = rest.partition("\n  fix:   ")
        raise LaunchError(problem, where=where or str(refusal.run_dir.path), fix=fix)
    return outcomes


def _length(work: PlannedWork) -> float:
    """How long a run takes, in some unit: the longest go first, so that the end is short."""
    return work.seconds if work.seconds is not None else work.proposal.flops


@contextmanager
def _interrupts(executor: Executor) -> Iterator[Callable[[], int]]:
    """Count Ctrl-C and SIGTERM: the first stops gently, the second at once."""
    count = 0

    def heard(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal count
        count += 1
        (executor.stop if count == 1 else executor.kill)()

    before = {s: signal.signal(s, heard) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: count
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
