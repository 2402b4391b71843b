"""Look through the history of the simulated file server for what must never happen (faults.py lists it).

Not here: the machines and the sweep (simulated_sweep.py).
"""

import itertools
import json
from pathlib import Path

from simulated_sweep import World, loss_of

from scalelab import leases
from scalelab.jobs.base import Job


def judge(world: World) -> list[str]:
    """Return the problems of a sweep that has run: what they are, with the job."""
    problems: list[str] = []
    for job in world.jobs:
        results = _creations(world, job.dir.result_path)
        if not results:
            problems.append(f"lost: {job.id} has no result")
            continue
        if len(results) > 1:
            problems.append(f"twice: the result of {job.id} was written {len(results)} times")
        done, text = results[0]
        result = json.loads(text)
        if result["loss"] != loss_of(job.id):
            problems.append(f"lost: {job.id} came to another loss")
        own = _claims(world, job, result["attempt"])
        after = _claims(world, job, result["attempt"] + 1)
        if after and own and after[0][0] < done and after[0][1].nonce != own[0][1].nonce:
            problems.append(f"zombie: attempt {result['attempt']} of {job.id} won after it was followed")
        for attempt in {attempt for name, attempt in world.began if name == job.id}:
            if all(at > done for at, _ in _claims(world, job, attempt)):
                problems.append(f"twice: attempt {attempt} of {job.id} trained what was done")
        problems += _robbed(world, job)
    return problems


def _robbed(world: World, job: Job) -> list[str]:
    """Return the attempts at a job that lost their lease while they lived."""
    problems, attempt = [], 1
    while (own := _claims(world, job, attempt)) and (after := _claims(world, job, attempt + 1)):
        (_, held), (then, follower) = own[0], after[0]
        holder = next(
            p
            for p in world.processes
            if (p.host.name, p.pid, p.started) == (held.machine, held.pid, held.started)
        )
        path = leases.numbered(job.dir.path, "lease", attempt)
        states = [s for s in world.server.names[str(path)] if s.since <= then and s.file is not None]
        beats = [s.mtime for s in states] + [then + states[-1].mtime - states[-1].since]
        is_silent = any(b - a > held.ttl_s for a, b in itertools.pairwise(beats))
        is_released = any('"released": true' in world.server.data[s.file].decode() for s in states)
        if follower.nonce != held.nonce and holder.died > then and not is_silent and not is_released:
            problems.append(f"robbed: attempt {attempt} of {job.id} was followed while it was alive")
        attempt += 1
    return problems


def _creations(world: World, path: Path) -> list[tuple[float, str]]:
    """When a name was given to a file, and the file's content."""
    found, before = [], None
    for state in world.server.names.get(str(path), ()):
        if state.file is not None and state.file != before:
            found.append((state.since, world.server.data[state.file].decode()))
        before = state.file
    return found


def _claims(world: World, job: Job, attempt: int) -> list[tuple[float, leases.Claim]]:
    path = leases.numbered(job.dir.path, "lease", attempt)
    return [(at, leases.CLAIM.parse(text)) for at, text in _creations(world, path)]
