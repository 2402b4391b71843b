"""Every directory of a run or stage on the disk, whether or not a sweep or post-training names it now.

    run_directories(root)     each with its state, what uses it, and what differs from what is named now
    remove(root, ...)         removes directories that nothing uses

A manifest is rewritten with its file, and directories of an earlier recipe stay. A directory is in use
if a manifest names it, as a run or as the trunk of one that is not done, if a manifest that cannot be read
lies beside it, if the base of a post-training is its run, or if the caller says so. What differs are settings
in its spec.yaml that no directory named now has, beside those of the nearest one.

Not here: listings of what manifests name (listing.py), the text (report/listing/directories.py).
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.config import parse_yaml
from scalelab.errors import RunError, ScalelabError
from scalelab.files import exists, files_in, inside, is_component, is_dir, matching
from scalelab.leases import hold
from scalelab.records.manifest_kinds import KINDS, RESERVED
from scalelab.records.run_table import UNREADABLE
from scalelab.records.stage_manifest import StageManifest, list_posttrainings, stage_result
from scalelab.records.status import state_of
from scalelab.records.sweep_manifest import SweepManifest, list_sweeps
from scalelab.train.run_directory import RunDir, read_sealed_yaml
from scalelab.train.spec import RunResult, is_id

LOCK = "lock"
"""Lease of a sweep, a launched plan or a post-training in its directory while it runs."""
REMOVED = ".removed-"
"""Prefix of a directory that is being removed."""


@dataclass(frozen=True)
class RunDirectory:
    """One directory of a run or a stage."""

    dir: str
    """Relative to the directory of all runs: NAME/ID."""
    state: str
    users: tuple[str, ...]
    """What uses it, in words; empty: nothing does."""
    differences: tuple[str, ...] = ()
    """Settings, in words, that differ from what is named now; empty where it is in use, or without any."""
    problem: str | None = None
    """Why its spec or result cannot be read; None: they were read."""
    loss: float | None = None
    """Validation loss of a run, nats per token; None where there is none."""
    n_bytes: int = 0
    """Size of all its files."""

    @property
    def name(self) -> str:
        """Name of the sweep or post-training in whose directory it lies."""
        return self.dir.partition("/")[0]


def run_directories(root: Path, held: Mapping[str, str] | None = None) -> list[RunDirectory]:
    """Return every directory of a run or stage below the directory of all runs, by name.

    Args:
        root: Directory of all runs.
        held: Other uses, in words, by the id of a run: frozen forecasts.
    """
    users = _users(root)
    for dir, place in _places(root):
        if (use := (held or {}).get(place.name)) is not None:
            users.setdefault(dir, []).append(use)
    compared = {_group(dir) for dir, _ in _places(root) if not users.get(dir)}
    named: dict[str, list[dict[str, Any]]] = {}
    for dir, place in _places(root):
        if users.get(dir) and _group(dir) in compared:
            named.setdefault(_group(dir), []).append(_settings(place)[0])
    return [_read(dir, place, tuple(users.get(dir, ())), named) for dir, place in _places(root)]


def remove(root: Path, dirs: Sequence[str], held: Mapping[str, str] | None = None) -> None:
    """Remove directories that nothing uses and that no process works on.

    A directory is first moved aside, and moved back if something has begun to use it in the meantime.

    Args:
        root: Directory of all runs.
        dirs: The directories, as in RunDirectory.dir.
        held: As in run_directories.

    Raises:
        LaunchError: A process works on it, or on its sweep.
        RunError: Something uses it, it cannot be removed, or it is or lies below a symbolic link.
    """
    with ExitStack() as stack:
        for name in sorted({dir.partition("/")[0] for dir in dirs}):
            lock = inside(root, name) / LOCK
            problem = f"{name} is running, so nothing of it is removed"
            stack.enter_context(hold(lock, problem, "wait for it to end, or stop it"))
            for left in matching(lock.parent, f"{REMOVED}*"):  # of a removal that was killed
                shutil.rmtree(left, ignore_errors=True)
        for dir in dirs:
            with RunDir(inside(root, dir)).claimed():
                _remove(root, dir, held or {})


def _remove(root: Path, dir: str, held: Mapping[str, str]) -> None:
    path = inside(root, dir)
    aside = path.with_name(f"{REMOVED}{path.name}")
    try:
        os.rename(path, aside)
        try:
            users = [*_users(root).get(dir, ()), *(use for run, use in held.items() if run == path.name)]
        except BaseException:  # the next removal would take what was moved aside for unused
            os.rename(aside, path)
            raise
        if users:
            os.rename(aside, path)
        else:
            shutil.rmtree(aside)
    except OSError as error:
        raise RunError(
            f"{dir} cannot be removed: {error.strerror}",
            where=str(path),
            fix="check who owns the directory, and run the command again",
        ) from None
    if users:
        raise RunError(
            f"{dir} is in use and was not removed",
            where=f"used by {', '.join(users)}",
            fix="remove what uses it first, or leave it",
        )


def _places(root: Path) -> Iterator[tuple[str, Path]]:
    """Each directory with a spec, as NAME/ID and as a path. Symbolic links are left out."""
    for parent in matching(root):
        if (
            not is_component(parent.name)
            or parent.name in RESERVED
            or parent.is_symlink()
            or not is_dir(parent)
        ):
            continue
        for path in matching(parent):
            if is_component(path.name) and not path.is_symlink() and exists(path / "spec.yaml"):
                yield f"{parent.name}/{path.name}", path


def _users(root: Path) -> dict[str, list[str]]:
    """What uses each directory, in words."""
    users: dict[str, list[str]] = {}
    bases: list[tuple[str, str]] = []
    unreadable: list[str] = []
    for name in list_sweeps(root):
        try:
            for run in SweepManifest.load(root, name).runs:
                users.setdefault(run.dir, []).append(f"the sweep {name}")
                if run.trunk_dir is not None and not RunDir(root / run.dir).is_done:
                    trunk = users.setdefault(run.trunk_dir, [])
                    if (use := f"branches of the sweep {name} that are not done") not in trunk:
                        trunk.append(use)
        except ScalelabError:
            unreadable.append(name)
    for name in list_posttrainings(root):
        try:
            manifest = StageManifest.load(root, name)
        except ScalelabError:
            unreadable.append(name)
            continue
        for stage in manifest.stages:
            users.setdefault(stage.dir, []).append(f"the post-training {name}")
        bases.append((name, json.dumps(manifest.base) + manifest.config_yaml))
    for dir, place in _places(root):
        users_of = users.setdefault(dir, [])
        users_of += [
            f"the post-training {name}, which began from it" for name, text in bases if place.name in text
        ]
        if (parent := dir.partition("/")[0]) in unreadable:
            files = " or ".join(kind.file for kind in KINDS)
            users_of.append(f"perhaps {parent}, whose {files} cannot be read")
    return users


def _group(dir: str) -> str:
    """What a directory is compared with: the runs of its sweep, or the stages of its name."""
    name, _, last = dir.partition("/")
    return f"{name}/" if is_id(last) else f"{name}/{last.rpartition('-')[0]}"


def _read(
    dir: str, place: Path, users: tuple[str, ...], named: Mapping[str, Sequence[dict[str, Any]]]
) -> RunDirectory:
    run_dir = RunDir(place)
    result, state, differences = None, UNREADABLE, ()
    settings, problem = _settings(place)
    try:
        result = run_dir.result() if is_id(place.name) else stage_result(place)
        state, _ = state_of(run_dir, result)
    except RunError as error:
        problem = problem or error.problem
    if not users:
        differences = tuple(_differences(settings, named.get(_group(dir), ())))
    loss = result.loss if isinstance(result, RunResult) else None
    size = sum(path.lstat().st_size for path in files_in(place))
    return RunDirectory(dir, state, users, differences, problem, loss, size)


def _settings(place: Path) -> tuple[dict[str, Any], str | None]:
    """Every setting of a spec by its path, and why there are none; an unreadable spec has none."""
    try:
        data = parse_yaml(read_sealed_yaml(place / "spec.yaml"), str(place / "spec.yaml")).data
    except ScalelabError as error:
        return {}, error.problem
    return dict(_flat(data)), None


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flat(each, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _differences(settings: dict[str, Any], named: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Settings that differ from those of the nearest directory named now; first those that none of them has."""
    if not settings or not named:
        return

    def differing(other: dict[str, Any]) -> list[str]:
        return [key for key in dict.fromkeys((*settings, *other)) if settings.get(key) != other.get(key)]

    nearest = min(named, key=lambda other: len(differing(other)))
    keys = differing(nearest)
    new = [key for key in keys if all(settings.get(key) != other.get(key) for other in named)]
    for key in new or keys:
        yield f"{key} {_text(settings.get(key))} (now {_text(nearest.get(key))})"


def _text(value: Any) -> str:
    """A setting for eyes; lists and empty mappings as JSON."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return (
        "absent"
        if value is None
        else str(value)
        if isinstance(value, str)
        else json.dumps(value, default=str)
    )
