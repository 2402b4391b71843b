"""Stages side by side: a process for each whose inputs are there, until none is left.

A process that is killed is tried again from its stage's newest checkpoint. A stage that a person
has to fix something for, that another process holds, that diverged or failed, takes those that need
it with it; all others go on. An interrupt asks every process to save and stop.

Not here: one stage (worker.py).
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

from scalelab.errors import ScalelabError
from scalelab.launch.base import RETRIED, Outcome
from scalelab.launch.forks import fork_server, start
from scalelab.leases import holder
from scalelab.posttrain.flow import Planned

TRIES = 3
"""Of a stage whose process was killed."""
POLL_S = 0.1


@dataclass
class Ended:
    """How the stages ended."""

    outcomes: dict[str, tuple[Outcome, str | None]] = field(default_factory=dict)
    """By stage; those that were not begun are not here."""
    interrupted: bool = False

    @property
    def bad(self) -> dict[str, tuple[Outcome, str | None]]:
        """Stages that did not come to a result."""
        return {n: o for n, o in self.outcomes.items() if o[0] not in ("done", "interrupted")}


@dataclass
class _Process:
    planned: Planned
    process: BaseProcess
    report: Connection
    tries: int


def server(stages: Sequence[Planned]) -> ForkServerContext:
    """Where these stages are forked from: it has their modules."""
    modules = {type(planned.spec.stage).__module__ for planned in stages}
    return fork_server(("scalelab.posttrain.worker", *sorted(modules)))


class Abreast:
    """Processes of stages.

    Args:
        context: Where they are forked from (server).
        slots: At once.
        threads: CPU threads of each; None leaves it to torch.
        here: Whether a stage has to be done in this very process, because a person is asked.
    """

    def __init__(
        self,
        context: ForkServerContext,
        slots: int,
        threads: int | None,
        here: Callable[[Planned], bool],
    ):
        self._context = context
        self.slots, self.threads, self.here = slots, threads, here
        self._running: dict[str, _Process] = {}
        self._stopping = False

    def to_the_end(self, stages: Sequence[Planned], tell: Callable[[Planned, str], None]) -> Ended:
        """Do all stages; `tell` hears of each that begins ("begun") or ends (its outcome)."""
        ended, waiting = Ended(), list(stages)
        tries = dict.fromkeys((p.name for p in stages), 0)
        with self._interrupts():
            while (waiting and not self._stopping) or self._running:
                for planned in list(waiting):
                    if self._stopping or len(self._running) >= self.slots:
                        break
                    if self._is_hopeless(planned, ended):
                        waiting.remove(planned)
                    elif self._is_ready(planned, stages, ended):
                        waiting.remove(planned)
                        tries[planned.name] += 1
                        self._begin(planned, tries[planned.name], ended, tell)
                again = [p for p in self._ended(ended, tell) if tries[p.name] < TRIES]
                waiting = [*again, *waiting]
                if not self._running and not waiting:
                    break
                time.sleep(POLL_S)
        ended.interrupted = self._stopping
        return ended

    def _is_ready(self, planned: Planned, stages: Sequence[Planned], ended: Ended) -> bool:
        ours = {p.name for p in stages}
        return all(
            ended.outcomes.get(need, (None,))[0] == "done"
            for need in planned.spec.stage.needs()
            if need in ours
        )

    def _is_hopeless(self, planned: Planned, ended: Ended) -> bool:
        """Whether something that it needs did not come to a usable result."""
        hopeless = {name for name, (outcome, _) in ended.outcomes.items() if outcome != "done"}
        for need in planned.spec.stage.needs():
            if need in hopeless:
                ended.outcomes[planned.name] = ("refused", f"it needs {need}, which is not there")
                return True
        return False

    def _begin(self, planned: Planned, n: int, ended: Ended, tell) -> None:
        already = _standing(planned)
        if already is not None:
            planned.dir.run_dir.tidy()
            ended.outcomes[planned.name] = already
            tell(planned, already[0] if already[0] == "refused" else "already")
            return
        tell(planned, "begun")
        if self.here(planned):
            ended.outcomes[planned.name] = self._in_this_process(planned)
            tell(planned, ended.outcomes[planned.name][0])
            return
        from_child, to_parent = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work, args=(str(planned.dir.path), self.threads, to_parent), daemon=False
        )
        start(process)
        to_parent.close()
        self._running[planned.name] = _Process(planned, process, from_child, n)

    def _in_this_process(self, planned: Planned) -> tuple[Outcome, str | None]:
        from scalelab.posttrain.worker import outcome_of

        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            outcome = outcome_of(planned.dir, lambda: self._stopping)
        except ScalelabError as error:
            return "refused", str(error)
        except KeyboardInterrupt:  # what was said so far is on the disk
            self.stop()
            return "interrupted", None
        finally:
            signal.signal(signal.SIGINT, handler)
        return _standing(planned) or (outcome, None)

    def _ended(self, ended: Ended, tell) -> Iterator[Planned]:
        """Take note of processes that have ended; those to be tried again come back."""
        for name, running in list(self._running.items()):
            if running.process.is_alive() and not running.report.poll():
                continue
            try:
                outcome, reason = running.report.recv()
            except (EOFError, ConnectionError):
                running.process.join()
                outcome, reason = "killed", _how_it_died(running.process.exitcode)
                if holder(running.planned.dir.path) is None:
                    running.planned.dir.run_dir.append("lost", reason=reason)
            running.process.join()
            del self._running[name]
            if outcome == "interrupted" and not self._stopping:
                outcome, reason = "killed", "its process was asked to stop by nobody here"
            if outcome == "done":
                outcome, reason = _standing(running.planned) or ("error", "it left no result")
            if outcome in RETRIED and running.tries < TRIES and not self._stopping:
                tell(running.planned, f"{outcome}, tried again")
                yield running.planned
                continue
            ended.outcomes[name] = (outcome, reason)
            tell(running.planned, outcome)

    def stop(self) -> None:
        """Ask every process to save and stop."""
        self._stopping = True
        for running in self._running.values():
            if running.process.pid is not None and running.process.is_alive():
                os.kill(running.process.pid, signal.SIGTERM)

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in asked}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _work(path: str, threads: int | None, report: Connection) -> None:
    from scalelab.posttrain.worker import work  # torch: only in the processes that need it

    work(path, threads, report)


def _standing(planned: Planned) -> tuple[Outcome, str | None] | None:
    """How a stage with a result ended; None: it has none. One that does not hold is refused."""
    try:
        result = planned.dir.result()
    except ScalelabError as error:
        return "refused", str(error)
    if result is None:
        return None
    if result.status == "finished":
        return "done", None
    return "error", f"{result.status}: {result.reason}"


def _how_it_died(code: int | None) -> str:
    return f"its process ended by signal {-code}" if code and code < 0 else f"it exited with {code}"
