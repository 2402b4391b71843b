"""What every mirror does: directories with a journal become MLflow runs below one parent.

One pass reads every journal from where the last pass stopped and sends what is new; a run
appears in MLflow with the first line of its journal. The state file only saves time: without
it, or where it is damaged, everything is sent again and nothing is doubled. It belongs to one
parent run, whose id no other store has: a store that was deleted and made anew is filled from the
beginning. A run that was deleted from the disk and trained again is another run under the same id:
it replaces the first.

Not here: what sweeps and post-trainings send (mirror.py, stage_mirror.py), the process that
makes the passes (sync.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from scalelab.config import parse_yaml
from scalelab.errors import ScalelabError, TrackError
from scalelab.sealed import Format
from scalelab.track import state
from scalelab.track.access import Refused, StoreDown
from scalelab.track.points import Point, began_ms, flat, journal_size, last_heard_ms
from scalelab.train.rundir import RunDir, read_events, read_sealed_yaml

if TYPE_CHECKING:
    from scalelab.track.mlflow_store import Store

STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "interrupted": "KILLED"}


class Asked(Protocol):
    """A manifest."""

    @property
    def created_ms(self) -> int:
        """When it was first written."""


class Result(state.Ended, Protocol):
    """What a result has at hand, whatever else it holds."""

    @property
    def finished_ms(self) -> int:
        """When it was written."""


AskedT = TypeVar("AskedT", bound=Asked)
ResultT = TypeVar("ResultT", bound=Result)


@dataclass(frozen=True)
class Child:
    """A directory that is mirrored as one MLflow run."""

    key: str
    """Ours: its id."""
    label: str
    """What messages call it."""
    name: str
    """For eyes, in a list of runs."""
    dir: RunDir
    tags: Mapping[str, str]
    """What was asked for."""


@dataclass(frozen=True)
class Sent:
    """What the store has of one child."""

    id: str
    """MLflow's, of its run."""
    began: int
    """When the journal began that was sent, milliseconds since 1970."""
    offset: int = 0
    """Where the next pass goes on in the journal, bytes."""
    n_bad: int = 0
    """Lines of the journal up to there that do not hold."""
    seen: dict[str, int] = field(default_factory=dict)
    """The last step of each metric."""
    state: str | None = None
    finished_ms: int | None = None
    """Of the result that was sent."""


@dataclass(frozen=True)
class SentState:
    """What a store has of one name: the state file."""

    parent: str
    """MLflow's id of the parent run."""
    runs: dict[str, Sent]
    """By the children's keys."""


SENT = Format(
    "mirror state",
    SentState,
    schema=1,
    error=TrackError,
    fix="delete it: everything is sent again, and nothing is doubled",
)


@dataclass(frozen=True)
class Ending:
    """What is sent of a child that has a result, beside its journal."""

    points: Sequence[Point]
    tags: Mapping[str, str]
    files: Sequence[Path]


@dataclass(frozen=True)
class Problem:
    """Something that could not be mirrored."""

    noun: str
    """What it is: run, stage or name."""
    text: str
    """Which, and why."""


@dataclass(frozen=True)
class Passed:
    """What one pass came to."""

    moved: int
    """Runs that had something to send."""
    problems: tuple[Problem, ...]
    """Runs that could not be mirrored, and why; the others were."""


class JournalMirror(ABC, Generic[AskedT, ResultT]):
    """One name's mirror in one store, pass by pass. Hold `the_only_writer` around each.

    Args:
        root: Where all runs are.
        name: The sweep's or the post-training's, and the experiment's.
        store: Where it is mirrored.
    """

    noun: ClassVar[str]
    """What each child is: run, stage."""
    prefix: ClassVar[str]
    """Of the parent's key."""
    state_file: ClassVar[str]
    """Where it notes what was sent, in the directory of its name."""

    def __init__(self, root: Path, name: str, store: "Store"):
        self.root, self.name, self.store = root, name, store
        self._experiment = store.experiment(name)
        self._parent_key = f"{self.prefix}:{name}"
        self._state_path = root / name / self.state_file
        self._state: dict[str, Sent] = {}
        self._parent: str | None = None
        self._described: Mapping[str, str] | None = None
        self._results: dict[str, tuple[tuple[int, int, int], ResultT]] = {}
        self.sent = 0
        """Runs brought up to date so far: a pass that is dropped has still got on."""

    @abstractmethod
    def _load(self) -> AskedT:
        """The manifest. Raises TrackError where it is missing or cannot be read."""

    @abstractmethod
    def _children(self, asked: AskedT) -> list[Child]:
        """What was asked for, in its order."""

    @abstractmethod
    def _is_ours(self, child: Child) -> bool:
        """Whether the child is mirrored here, and not under the name that it was trained for."""

    @abstractmethod
    def _read(self, run_dir: RunDir) -> ResultT | None:
        """A child's result. Raises RunError where it cannot be read."""

    @abstractmethod
    def _points(self, events: list[dict[str, Any]], seen: dict[str, int]) -> list[Point]:
        """Metrics of journal events; `seen` is brought forward as in points.first_points."""

    @abstractmethod
    def _ending(self, child: Child, result: ResultT, seen: Mapping[str, int]) -> Ending:
        """What is sent of a result. `seen` has the last step of each metric of the journal."""

    @abstractmethod
    def _words(
        self, asked: AskedT, results: Mapping[str, ResultT | None], last: bool
    ) -> tuple[str, dict[str, str]]:
        """The parent's state, and its other tags."""

    def pass_over(self, *, last: bool = False) -> Passed:
        """Send what is new.

        Args:
            last: Nothing is being driven any more: runs without a result are marked as they
                stand, and what is in the store is checked against what should be.

        Raises:
            StoreDown: Come again; what was sent stays sent.
            TrackError: The manifest is missing or cannot be read.
        """
        asked = self._load()
        if self._parent is None:
            self._parent = self.store.run(
                self._experiment, self._parent_key, self.name, start_ms=asked.created_ms
            ).id
        self._state = self._load_state()
        done = self._send_all(asked, last)
        if last and self._forget_strays():
            again = self._send_all(asked, last)
            done = Passed(done.moved + again.moved, again.problems)
        return done

    def _load_state(self) -> dict[str, Sent]:
        try:
            sent = SENT.read(self._state_path)
        except (FileNotFoundError, TrackError):
            return {}  # lost or damaged: all is sent again, and nothing is doubled
        return dict(sent.runs) if sent.parent == self._parent else {}

    def _send_all(self, asked: AskedT, last: bool) -> Passed:
        moved, problems = 0, []
        results: dict[str, ResultT | None] = {}
        for child in self._children(asked):
            results[child.key] = None
            try:
                results[child.key] = result = self._result(child)
                if self._is_ours(child):
                    moved += self._send(child, result, last)
            except ScalelabError as error:
                problems.append(self._problem(child, str(error)))
            except Refused as error:
                # It may have been deleted by hand since we met it: meet it afresh, once.
                if self._state.pop(child.key, None) is not None:
                    raise StoreDown(str(error)) from error
                problems.append(self._problem(child, f"MLflow refused it: {error}"))
        try:
            self._describe(asked, results, last)
        except Refused as error:
            self._parent = self._described = None
            raise StoreDown(str(error)) from error
        return Passed(moved, tuple(problems))

    def _problem(self, child: Child, why: str) -> Problem:
        return Problem(self.noun, f"{child.label} is not mirrored: {why}")

    def _result(self, child: Child) -> ResultT | None:
        """A child's result, read once for as long as its file stays the same."""
        try:
            stat = child.dir.result_path.stat()
        except OSError:
            return None
        now = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if child.key in self._results and self._results[child.key][0] == now:
            return self._results[child.key][1]
        result = self._read(child.dir)
        if result is not None:
            self._results[child.key] = (now, result)
        return result

    def _send(self, child: Child, result: ResultT | None, last: bool) -> bool:
        """Bring one child up to date. Whether there was anything to do."""
        run_dir, known = child.dir, self._state.get(child.key)
        finished = result.finished_ms if result else None
        if finished is not None and known is not None and known.finished_ms == finished:
            return False
        began = began_ms(run_dir, finished)
        if began is None:
            return False  # not one line of its journal yet
        if known is not None and (known.began != began or journal_size(run_dir) < known.offset):
            known = None
        fresh = known is None
        if fresh:
            self._state.pop(child.key, None)
        before = known or Sent(id="", began=began)
        events, offset, n_bad = read_events(run_dir.log_path, before.offset)
        n_bad += before.n_bad
        # Between two tries nobody trains the run, and asking who holds its lock might be in the
        # way of the one who is about to take it: until the last pass, what has begun runs.
        now, reason = state.state_of(run_dir, result) if last or result else ("running", None)
        if not (events or fresh or result) and (not last or before.state == now):
            return False
        # A run that was lost and went on has a reason no more: an empty tag says so.
        tags = {"scalelab.state": now, "scalelab.reason": reason or ""}
        if n_bad:
            tags["scalelab.log_lines_skipped"] = str(n_bad)
        run_id = self._create(child, began) if fresh else before.id
        seen = dict(before.seen)
        points = self._points(events, seen)
        if result is not None:
            ending = self._ending(child, result, seen)
            points = [*points, *ending.points]
            tags |= ending.tags
            for path in ending.files:
                self.store.artifact(run_id, path)
        self.store.log(run_id, points=points, tags=tags)
        if before.state != now:
            end = last_heard_ms(run_dir, began) if finished is None else finished
            self.store.status(run_id, STATUS.get(now, "RUNNING"), end)
        self._state[child.key] = replace(
            before, id=run_id, offset=offset, n_bad=n_bad, seen=seen, state=now,
            finished_ms=finished,
        )  # fmt: skip
        self._save_state()
        self.sent += 1
        return True

    def _create(self, child: Child, began: int) -> str:
        path = child.dir.spec_path  # read before the store hears of the run
        params = dict(flat(parse_yaml(read_sealed_yaml(path), str(path)).data))
        run = self.store.run(
            self._experiment,
            child.key,
            child.name,
            start_ms=began,
            parent=self._parent,
            of_this_start=True,
        )
        assert self._parent is not None
        tags = {**child.tags, "mlflow.parentRunId": self._parent}
        self.store.log(run.id, params=params, tags=tags)
        return run.id

    def _save_state(self) -> None:
        assert self._parent is not None
        SENT.write(self._state_path, SentState(self._parent, self._state))

    def _forget_strays(self) -> bool:
        """Forget runs that the store has not, or has under another id. Whether there were any."""
        there = self.store.runs(self._experiment)
        strays = [run for run, known in self._state.items() if there.get(run) != known.id]
        for run in strays:
            del self._state[run]
        if there.get(self._parent_key) != self._parent:
            self._parent = self._described = None
            raise StoreDown(f"the run of {self._parent_key} is not in the store any more")
        return bool(strays)

    def _describe(self, asked: AskedT, results: Mapping[str, ResultT | None], last: bool) -> None:
        """The parent's words, state and status; sent when they have changed."""
        assert self._parent is not None
        now, words = self._words(asked, results, last)
        tags = {"scalelab.state": now, **words}
        if tags == self._described:
            return
        self.store.log(self._parent, tags=tags)
        ends = [result.finished_ms for result in results.values() if result is not None]
        end = max(ends, default=asked.created_ms)
        self.store.status(self._parent, STATUS.get(now, "RUNNING"), end)
        self._described = tags
