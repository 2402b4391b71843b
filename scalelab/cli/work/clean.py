"""`scalelab clean`: remove run directories that nothing uses, after asking.

Not here: which directories are in use, and their removal (records/run_directories.py).
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from scalelab.errors import ConfigError, RunError, TrackError
from scalelab.plan.forecast.ledger import forecast_runs
from scalelab.records.run_directories import RunDirectory, remove, run_directories
from scalelab.report.document import Document
from scalelab.report.listing.directories import unused_blocks
from scalelab.report.render.terminal import render_terminal
from scalelab.screen import ask, echo
from scalelab.units import size_text

RUNNING = "running"


def run(names: Sequence[str], root: Path, *, is_agreed: bool, is_dry_run: bool) -> int:
    """List the directories, ask, remove them, and return the exit status.

    Args:
        names: Names of sweeps and post-trainings, or single directories NAME/ID.
        root: Directory of all runs.
        is_agreed: Whether to remove without asking.
        is_dry_run: Whether only to list.

    Raises:
        TrackError: A name stands for nothing.
        RunError: A single directory is in use or running.
        ConfigError: There is no terminal on which to ask.
    """
    held = forecast_runs(root)
    every = run_directories(root, held)
    chosen = list(dict.fromkeys(each for name in names for each in _chosen(name.rstrip("/"), every, root)))
    if not chosen:
        echo(f"Nothing to remove: every directory of {', '.join(names)} is in use.")
        return 0
    echo(render_terminal(Document("Clean", unused_blocks(chosen))))
    if is_dry_run:
        return 0
    if not is_agreed and not _is_confirmed(chosen):
        echo("Nothing was removed.")
        return 0
    remove(root, [each.dir for each in chosen], held)
    echo(
        f"Removed {len(chosen)} ({size_text(sum(each.n_bytes for each in chosen))}). MLflow keeps its copies."
    )
    return 0


def _chosen(name: str, every: Iterable[RunDirectory], root: Path) -> list[RunDirectory]:
    """The directories that a name stands for: those of a sweep that nothing uses, or a single one."""
    if single := [each for each in every if each.dir == name]:
        (found,) = single
        if found.users or found.state == RUNNING:
            raise RunError(
                f"{name} is {'running' if found.state == RUNNING else 'in use'} and is not removed",
                where=f"used by {', '.join(found.users)}" if found.users else str(root / name),
                fix="leave it; `scalelab runs --all` lists the directories that nothing uses",
            )
        return single
    of_name = [each for each in every if each.name == name]
    if not of_name:
        there = sorted({each.name for each in every})
        raise TrackError(
            f"no run directory is named {name!r}",
            where=f"{root}, which holds: {', '.join(there) or 'none'}",
            fix="name a sweep or a directory that `scalelab runs --all` lists",
        )
    return [each for each in of_name if not each.users and each.state != RUNNING]


def _is_confirmed(chosen: Sequence[RunDirectory]) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(
            "nothing was removed: there is no terminal on which to ask",
            where=f"scalelab clean, {len(chosen)} directories",
            fix="add --yes to remove without asking, or --dry-run to list only",
        )
    try:
        answer = ask(f"Remove {len(chosen)}? This cannot be undone. [y/N] ")
    except EOFError:  # Ctrl-D
        answer = ""
        echo()
    return answer.strip().lower() in {"y", "yes"}
