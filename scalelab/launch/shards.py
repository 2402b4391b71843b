"""The process of a group of shards of a curation: the work on each, under the lease of the group's directory.

What is left on the disk are the files of the stage (data/curate/store.py). A group has no result of its own: it is
done when each of its shards is. So a group that was killed goes on with the first shard that is not complete.

Not here: which groups there are (curation.py), the work itself (data/curate/shard_work.py).
"""

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict
from typing import Any

from scalelab.data.curate.shard_work import ShardJob, is_done, run_job
from scalelab.errors import LaunchError
from scalelab.jobs.base import Outcome
from scalelab.jobs.record import JOB, path_of
from scalelab.jobs.worker import Assignment
from scalelab.sealed import Damaged, typed

OF_EACH = ("index", "documents", "sha256", "places", "hashes")
"""Fields of ShardJob that differ between the shards of a group."""


def run_shards(assignment: Assignment) -> Outcome:
    """Do the work on a group of shards.

    Raises:
        LaunchError: The settings are damaged, or this machine lacks the directory that paths start at.
        DataError: Pages or documents cannot be read.
        LeaseTaken: Another process works on the group.
        RunError: The disk refuses what is written.
    """
    with assignment.dir.claimed("group of shards") as (ours, _):
        jobs, cwd = _read(assignment)
        with _working_directory(cwd):
            for n, job in enumerate(jobs, 1):
                if not is_done(job):
                    if assignment.stop():
                        return "interrupted"
                    ours.guard()
                    run_job(job)
                    ours.append("checkpoint", step=n)
                ours.append("step", step=n)
    return "done"


def settings_of(jobs: Sequence[ShardJob]) -> dict[str, Any]:
    """Return the settings of the job of a group, whose shards differ in OF_EACH alone. JSON types."""
    common = asdict(jobs[0])
    shards = [{name: getattr(job, name) for name in OF_EACH} for job in jobs]
    for shard in shards:
        shard |= {"places": list(shard["places"]), "hashes": list(shard["hashes"])}
    return {
        "directory": os.getcwd(),
        "common": {name: value for name, value in common.items() if name not in OF_EACH},
        "shards": shards,
    }


def _read(assignment: Assignment) -> tuple[list[ShardJob], str]:
    """Return the shards of a group, and the directory that relative paths start at."""
    settings: Mapping[str, Any] = assignment.settings
    try:
        shards, common, cwd = settings["shards"], settings["common"], settings["directory"]
        jobs = [typed(ShardJob, common | shard) for shard in shards]
        if not jobs or not isinstance(cwd, str):
            raise Damaged("it names no shards, or no directory")
    except (KeyError, TypeError, Damaged) as error:
        raise JOB.refusal(path_of(assignment.dir), Damaged(f"its settings are no shards: {error}")) from None
    return jobs, cwd


def _working_directory(path: str) -> "chdir[str]":
    """Return a context in the directory in which the curation was begun: settings may hold relative paths."""
    if not os.path.isdir(path):
        raise LaunchError(
            f"the directory in which the curation was begun is not on {socket.gethostname()}",
            where=path,
            fix="run scalelab in a directory that all machines share",
        )
    return chdir(path)
