"""Run the driver and the leases under simulated faults, and count what is lost, done twice or won by a zombie.

    python analysis/faults.py [--seeds 10000] [--first 0] [--without check]

Each seed is a sweep of three jobs (one needs another) on three compute nodes and two login nodes that share
a directory. Production code runs unchanged on simulated machines (simulated.py): the driver, leases, run
directories, sealed files. Simulated are the clock, the file server, the scheduler and the training. In the
first half hour of virtual time one to four kinds of fault happen; then nothing more goes wrong, drivers are
started until every job has its result, and the history of the server is judged:

    lost      a job without a result after six hours, or with another loss than an undisturbed run,
              or an end that the driver takes for our own bug
    twice     a result written twice, or training that began after the result was there
    zombie    a result of an attempt that another claim had followed
    robbed    a lease that was followed while its holder lived and its heartbeats arrived in time

Exit status: 0 with none of these, else 1. --without removes a protection, to see that it is needed:
check (every fence) or publish (the result's own fence; a check before the write remains). --kinds names the
kinds of fault of every seed.
"""

import argparse
import sys
import time as real_time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

from judge_faults import judge
from simulated_sweep import KINDS, World

from scalelab import leases
from scalelab.files import write_new
from scalelab.jobs import driver
from scalelab.system import system


@contextmanager
def conditions(without: str | None = None) -> Iterator[None]:
    """Poll as a cluster is polled, and leave a protection out.

    Args:
        without: As on the command line; or caches: leases that expire as fast as caches.
    """
    with ExitStack() as stack:

        def put(owner: object, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        put(driver, "POLL_S", 2.0)
        put(driver, "RECHECK_S", 5.0)
        put(leases, "attribute_cache_s", lambda path: system().node.stale_s)
        if without == "check":
            put(leases.Lease, "is_ours", lambda lease: True)
        if without in {"check", "publish"}:
            put(leases.Lease, "publish", lambda lease, path, text: lease.check() or write_new(path, text))
        if without == "caches":
            put(leases, "CACHES", 1)
        yield


def campaign(
    seeds: Sequence[int],
    without: str | None = None,
    kinds: frozenset[str] = frozenset(),
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Run some seeds.

    Args:
        seeds: One world each.
        without: Protection to leave out.
        kinds: Kinds of fault of every seed; empty: drawn.
        say: Called with each problem.

    Returns: Number of faults that happened by kind, and problems with their seeds.
    """
    happened: Counter[str] = Counter()
    problems: list[tuple[int, str]] = []
    with conditions(without):
        for seed in seeds:
            world = World(seed, kinds).run()
            happened.update(world.happened)
            for problem in world.problems + judge(world):
                problems.append((seed, problem))
                say(f"seed {seed} ({', '.join(sorted(world.kinds))}): {problem}")
    return happened, problems


def main() -> int:
    """Run a campaign from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--without", choices=("check", "publish"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=())
    args = parser.parse_args()
    began = real_time.perf_counter()
    seeds = range(args.first, args.first + args.seeds)
    happened, problems = campaign(seeds, args.without, frozenset(args.kinds), print)
    counts = Counter(problem.partition(":")[0] for _, problem in problems)
    print(
        f"{args.seeds} seeds in {real_time.perf_counter() - began:.0f} s, {happened.total()} faults: {dict(happened)}"
    )
    print(", ".join(f"{counts[kind]} {kind}" for kind in ("lost", "twice", "zombie", "robbed", "bug")))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
