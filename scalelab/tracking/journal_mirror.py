"""Base of all mirrors: directories with a journal become MLflow runs below one parent run.

Each pass reads every journal from where the last pass stopped and sends new events; a run appears
in MLflow with the first line of its journal. The state file only saves time: if it is missing or
damaged, everything is sent again without duplicates. It belongs to one parent run, whose id is
unique to its store: a store that was deleted and recreated is filled from the beginning. A run that
was deleted from the disk and trained again replaces the earlier one under the same id.

Not here: content of sweeps and post-trainings (sweep_mirror.py, stage_mirror.py), the process that
makes the passes (sync.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from scalelab.config import parse_yaml
from scalelab.errors import ScalelabError, TrackError
from scalelab.files import looking
from scalelab.records import status
from scalelab.sealed import Format
from scalelab.tracking.lineage import MirroredDataset, MirroredModel
from scalelab.tracking.payload import MetricPoint, began_ms, flat, journal_size, last_heard_ms
from scalelab.tracking.report_mirror import send_missing
from scalelab.tracking.store_errors import StoreDown, StoreRefused
from scalelab.train.run_directory import RunDir, read_events, read_sealed_yaml

if TYPE_CHECKING:
    from scalelab.tracking.mlflow_store import Store

STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "interrupted": "KILLED"}


class MirroredManifest(Protocol):
    """The part of a manifest that every mirror needs."""

    @property
    def created_ms(self) -> int:
        """Time of the first writing, milliseconds since 1970."""


class MirroredResult(status.EndStatus, Protocol):
    """The part of a result that every mirror needs."""

    @property
    def finished_ms(self) -> int:
        """Time of writing, milliseconds since 1970."""


ManifestT = TypeVar("ManifestT", bound=MirroredManifest)
ResultT = TypeVar("ResultT", bound=MirroredResult)


@dataclass(frozen=True)
class MirroredRun:
    """A directory that is mirrored as one MLflow run."""

    key: str
    """Id of the run or stage."""
    label: str
    """Label in messages."""
    name: str
    """Display name in MLflow's list of runs."""
    dir: RunDir
    tags: Mapping[str, str]
    """Requested size and budget, as tags."""
    flops_per_token: float | None = None
    """Training FLOPs of one token; None if unknown."""


@dataclass(frozen=True)
class SentRun:
    """State of one child in the store."""

    id: str
    """MLflow's id of its run."""
    began: int
    """Start of the journal that was sent, milliseconds since 1970."""
    offset: int = 0
    """Position in the journal where the next pass continues, bytes."""
    n_bad: int = 0
    """Number of damaged journal lines up to there."""
    seen: dict[str, int] = field(default_factory=dict)
    """The last step of each metric."""
    state: str | None = None
    finished_ms: int | None = None
    """Time of the result that was sent, milliseconds."""


@dataclass(frozen=True)
class SentState:
    """Content of the state file: what a store has of one name."""

    parent: str
    """MLflow's id of the parent run."""
    runs: dict[str, SentRun]
    """Sent runs by the children's keys."""


SENT = Format(
    "mirror state",
    SentState,
    schema=1,
    error=TrackError,
    fix="delete it: everything is sent again, without duplicates",
)


@dataclass(frozen=True)
class FinalRecord:
    """Data sent for a child with a result, in addition to its journal."""

    points: Sequence[MetricPoint]
    tags: Mapping[str, str]
    files: Sequence[Path]
    params: Mapping[str, str] = field(default_factory=dict)
    dataset: MirroredDataset | None = None
    """The data of the child; None if unknown."""
    model: MirroredModel | None = None
    """The model that the child left; None without one."""


@dataclass(frozen=True)
class ParentRecord:
    """Data sent for the parent run."""

    state: str
    tags: Mapping[str, str]
    points: Sequence[MetricPoint] = ()
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class MirrorProblem:
    """Something that could not be mirrored."""

    noun: str
    """Kind of thing: run, stage or name."""
    text: str
    """Description of the problem."""


@dataclass(frozen=True)
class PassSummary:
    """Result of one pass."""

    moved: int
    """Number of runs with something to send."""
    problems: tuple[MirrorProblem, ...]
    """Runs that could not be mirrored, with reasons; all others were."""
    is_restored: bool = False
    """True if the experiment had been deleted in MLflow and was restored."""


class JournalMirror(ABC, Generic[ManifestT, ResultT]):
    """Mirror of one name in one store. Hold `writer_lock` around each pass.

    Args:
        root: Directory of all runs.
        name: Name of the sweep or post-training, and of the experiment.
        store: MLflow's store.
    """

    noun: ClassVar[str]
    """Kind of the children: run or stage."""
    prefix: ClassVar[str]
    """Prefix of the parent's key."""
    state_file: ClassVar[str]
    """File name of the state file, in the directory of its name."""

    def __init__(self, root: Path, name: str, store: "Store"):
        self.root, self.name, self.store = root, name, store
        experiment = store.experiment(name)
        self._experiment, self.is_restored = experiment.id, experiment.is_restored
        self._parent_key = f"{self.prefix}:{name}"
        self._state_path = root / name / self.state_file
        self._state: dict[str, SentRun] = {}
        self._parent: str | None = None
        self._described: ParentRecord | None = None
        self._reports: Mapping[str, str] = {}
        self._results: dict[str, tuple[tuple[int, int, int], ResultT]] = {}
        self.sent = 0
        """Number of runs brought up to date so far; an aborted pass counts too."""

    @abstractmethod
    def _load(self) -> ManifestT:
        """The manifest. Raises TrackError where it is missing or cannot be read."""

    @abstractmethod
    def _children(self, manifest: ManifestT) -> list[MirroredRun]:
        """Planned runs or stages, in order."""

    @abstractmethod
    def _is_ours(self, child: MirroredRun) -> bool:
        """True if the child is mirrored here and not under the name that it was trained for."""

    @abstractmethod
    def _read(self, run_dir: RunDir) -> ResultT | None:
        """A child's result. Raises RunError where it cannot be read."""

    @abstractmethod
    def _points(
        self, child: MirroredRun, events: list[dict[str, Any]], seen: dict[str, int]
    ) -> list[MetricPoint]:
        """Metrics of journal events; `seen` is updated as in payload.first_points."""

    @abstractmethod
    def _ending(self, child: MirroredRun, result: ResultT, seen: Mapping[str, int]) -> FinalRecord:
        """Data to send for a result. `seen` has the last step of each metric of the journal."""

    @abstractmethod
    def _overview(
        self, manifest: ManifestT, results: Mapping[str, ResultT | None], last: bool
    ) -> ParentRecord:
        """What the parent shows of all its children, reports and related work."""

    def pass_over(self, *, last: bool = False) -> PassSummary:
        """Send what is new.

        Args:
            last: Whether training is over: runs without a result get their present state, and the
                store's content is verified.

        Raises:
            StoreDown: The store failed; a later pass continues from here.
            TrackError: The manifest is missing or cannot be read.
        """
        manifest = self._load()
        if self._parent is None:
            self._parent = self.store.run(
                self._experiment, self._parent_key, self.name, start_ms=manifest.created_ms
            ).id
        self._state = self._load_state()
        if last:
            there = self.store.runs(self._experiment)
            self._reports = send_missing(self.store, self._experiment, there, self.root, self.name)
        done = self._send_all(manifest, last)
        if last and self._forget_strays():
            again = self._send_all(manifest, last)
            done = PassSummary(done.moved + again.moved, again.problems)
        return done

    def _load_state(self) -> dict[str, SentRun]:
        try:
            sent = SENT.read(self._state_path)
        except (FileNotFoundError, TrackError):
            return {}  # lost or damaged: everything is sent again, without duplicates
        return dict(sent.runs) if sent.parent == self._parent else {}

    def _send_all(self, manifest: ManifestT, last: bool) -> PassSummary:
        moved, problems = 0, []
        results: dict[str, ResultT | None] = {}
        for child in self._children(manifest):
            results[child.key] = None
            try:
                results[child.key] = result = self._result(child)
                if self._is_ours(child):
                    moved += self._send(child, result, last)
            except ScalelabError as error:
                problems.append(self._problem(child, str(error)))
            except StoreRefused as error:
                # It may have been deleted by hand since: look it up again, once.
                if self._state.pop(child.key, None) is not None:
                    raise StoreDown(str(error)) from error
                problems.append(self._problem(child, f"MLflow refused it: {error}"))
        try:
            self._describe(manifest, results, last)
        except StoreRefused as error:
            self._parent = self._described = None
            raise StoreDown(str(error)) from error
        return PassSummary(moved, tuple(problems))

    def _problem(self, child: MirroredRun, why: str) -> MirrorProblem:
        return MirrorProblem(self.noun, f"{child.label} is not mirrored: {why}")

    def _result(self, child: MirroredRun) -> ResultT | None:
        """A child's result, cached while its file is unchanged."""
        try:
            with looking(child.dir.result_path):
                stat = child.dir.result_path.stat()
        except FileNotFoundError:
            return None
        now = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if child.key in self._results and self._results[child.key][0] == now:
            return self._results[child.key][1]
        result = self._read(child.dir)
        if result is not None:
            self._results[child.key] = (now, result)
        return result

    def _send(self, child: MirroredRun, result: ResultT | None, last: bool) -> bool:
        """Bring one child up to date; True if there was anything to do."""
        run_dir, known = child.dir, self._state.get(child.key)
        finished = result.finished_ms if result else None
        if finished is not None and known is not None and known.finished_ms == finished:
            return False
        began = began_ms(run_dir, finished)
        if began is None:
            return False  # its journal is still empty
        if known is not None and (known.began != began or journal_size(run_dir) < known.offset):
            known = None
        fresh = known is None
        if fresh:
            self._state.pop(child.key, None)
        before = known or SentRun(id="", began=began)
        events, offset, n_bad = read_events(run_dir.log_path, before.offset)
        n_bad += before.n_bad
        # Between two tries no process holds the run's lease, and testing the lease could get in the
        # way of the next holder: until the last pass, a started run counts as running.
        now, reason = status.state_of(run_dir, result) if last or result else ("running", None)
        if not (events or fresh or result) and (not last or before.state == now):
            return False
        # A lost run that was resumed has no reason any more: clear the tag.
        tags = {"scalelab.state": now, "scalelab.reason": reason or ""}
        if n_bad:
            tags["scalelab.log_lines_skipped"] = str(n_bad)
        run_id = self._create(child, began) if fresh else before.id
        seen = dict(before.seen)
        points = self._points(child, events, seen)
        params: Mapping[str, str] = {}
        if result is not None:
            ending = self._ending(child, result, seen)
            points = [*points, *ending.points]
            tags |= ending.tags
            params = ending.params
            for path in ending.files:
                self.store.artifact(run_id, path)
            if ending.dataset is not None:
                self.store.dataset(run_id, ending.dataset)
            if ending.model is not None:
                self.store.model(self._experiment, run_id, ending.model, ending.dataset)
        self.store.log(run_id, points=points, params=params, tags=tags)
        if before.state != now:
            end = last_heard_ms(run_dir, began) if finished is None else finished
            self.store.status(run_id, STATUS.get(now, "RUNNING"), end)
        self._state[child.key] = replace(
            before, id=run_id, offset=offset, n_bad=n_bad, seen=seen, state=now, finished_ms=finished
        )
        self._save_state()
        self.sent += 1
        return True

    def _create(self, child: MirroredRun, began: int) -> str:
        path = child.dir.spec_path  # read before the run is created in the store
        params = dict(flat(parse_yaml(read_sealed_yaml(path), str(path)).data))
        run = self.store.run(
            self._experiment, child.key, child.name, start_ms=began, parent=self._parent, of_this_start=True
        )
        assert self._parent is not None
        tags = {**child.tags, "mlflow.parentRunId": self._parent}
        self.store.log(run.id, params=params, tags=tags)
        return run.id

    def _save_state(self) -> None:
        assert self._parent is not None
        SENT.write(self._state_path, SentState(self._parent, self._state))

    def _forget_strays(self) -> bool:
        """Forget runs that the store lacks or has under another id; True if there were any."""
        there = self.store.runs(self._experiment)
        strays = [run for run, known in self._state.items() if there.get(run) != known.id]
        for run in strays:
            del self._state[run]
        if there.get(self._parent_key) != self._parent:
            self._parent = self._described = None
            raise StoreDown(f"the run of {self._parent_key} is not in the store any more")
        return bool(strays)

    def _describe(self, manifest: ManifestT, results: Mapping[str, ResultT | None], last: bool) -> None:
        """Send the parent's note, metrics, state and status if they have changed."""
        assert self._parent is not None
        found = self._overview(manifest, results, last)
        if found == self._described:
            return
        now = found.state
        self.store.log(self._parent, points=found.points, tags={"scalelab.state": now, **found.tags})
        for path in found.files:
            self.store.artifact(self._parent, path)
        ends = [result.finished_ms for result in results.values() if result is not None]
        end = max(ends, default=manifest.created_ms)
        self.store.status(self._parent, STATUS.get(now, "RUNNING"), end)
        self._described = found
