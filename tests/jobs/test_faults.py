"""The driver and the leases on simulated machines: clocks, caches, disks, schedulers and processes fail.

python analysis/faults.py            ten thousand seeds
"""

from pathlib import Path

import pytest
from faults import KINDS, World, campaign, conditions
from simulated import Host, Process
from simulated_kernel import Kernel
from simulated_server import Server

from scalelab.leases import claim, holder
from scalelab.system import clock


def test_nothing_is_lost_or_done_twice_and_no_zombie_wins():
    happened, problems = campaign(range(10 * len(KINDS)))

    assert problems == []
    assert happened.total() > 1000


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_happens(kind):
    """A fault that is never injected proves nothing."""
    names = {"lost_renewals": "lost_renewal", "paused": "pause", "killed": "kill", "partial_write": "tear"}
    names |= {"late_write": "late", "driver_restart": "kill"}
    happened, problems = campaign(range(8), kinds=frozenset({kind}))

    assert problems == []
    assert happened[names.get(kind, kind)] > 0


def test_the_same_seed_is_the_same_run():
    with conditions():
        first, second = World(17).run(), World(17).run()

    assert first.kernel.now == second.kernel.now
    assert first.happened == second.happened


def test_names_come_in_the_order_in_which_they_were_made():
    """Some are random, so their alphabet is another in every run; listings are shuffled from this order."""
    server = Server(Kernel(seed=1))
    for name in ("c", "a", "b"):
        server.put(Path("/simulated") / name, server.new(b""))

    assert server.known(Path("/simulated")) == ["/simulated/c", "/simulated/a", "/simulated/b"]


@pytest.mark.parametrize(
    ("without", "kinds", "found"),
    [
        ("check", {"paused"}, "zombie"),  # no fence: a process that slept writes its result
        ("publish", {"paused"}, "zombie"),  # it slept between its check and its write
    ],
)
def test_without_a_protection_the_simulation_fails(without, kinds, found):
    for first in range(0, 400, 20):
        _, problems = campaign(range(first, first + 20), without, frozenset(kinds))
        if any(problem.startswith(found) for _, problem in problems):
            return
    pytest.fail(f"400 seeds without {without}, and no {found}")


@pytest.mark.parametrize(("without", "is_always_held"), [(None, True), ("caches", False)])
def test_a_lease_outlives_what_caches_show(without, is_always_held):
    """A minute is the longest that an NFS client keeps the time of a file, if its mount does not say more."""
    kernel = Kernel(seed=1)
    server, directory, seen = Server(kernel), Path("/simulated/run"), []
    here = Process(kernel, server, Host("here", stale_s=60.0), "holder")
    far = Process(kernel, server, Host("far", stale_s=60.0), "observer")

    def hold():
        lease = claim(directory)
        clock.sleep(1800.0)
        lease.release()

    def observe():
        clock.sleep(30.0)
        while kernel.now < 1700.0:
            seen.append(holder(directory) is not None)
            clock.sleep(7.0)

    with conditions(without):
        kernel.start(here, hold)
        kernel.start(far, observe)
        kernel.run()

    assert kernel.errors == []
    assert all(seen) == is_always_held
