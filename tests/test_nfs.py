"""Leases on a network file system, seen through two mounts of one directory, as by two machines.

$SCALELAB_TEST_NFS names them: /mnt/a:/mnt/b, of which the second is mounted with nosharecache. For instance, with
nfs-kernel-server and the directory /export in /etc/exports:

    mount -t nfs -o vers=4.2,actimeo=1 127.0.0.1:/export /mnt/a
    mount -t nfs -o vers=4.2,actimeo=1,nosharecache 127.0.0.1:/export /mnt/b
"""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from scalelab.leases import claim, holder
from scalelab.network_files import attribute_cache_s

MOUNTS = os.environ.get("SCALELAB_TEST_NFS")
HAS_NFS = "\tnfs" in Path("/proc/filesystems").read_text() if Path("/proc/filesystems").exists() else False
pytestmark = pytest.mark.skipif(
    MOUNTS is None,
    reason="SCALELAB_TEST_NFS names no mounts"
    if HAS_NFS
    else "this kernel has no NFS: mount: unknown filesystem type 'nfs'",
)

ELSEWHERE = """
import sys, time
from pathlib import Path
from scalelab import system
from scalelab.leases import claim
system._machine = lambda: "ffffffff"  # the processes of the other machine cannot be looked up
place, ttl_s, rounds = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
if rounds == 0:
    lease = claim(place, ttl_s=ttl_s)
    print("held", flush=True)
    time.sleep(600)
won = []
for i in range(rounds):
    sys.stdin.readline()
    lease = claim(place / str(i), ttl_s=ttl_s)
    if lease is not None:
        lease.publish(place / str(i) / "result", "theirs")
    print(int(lease is not None), flush=True)
"""


@pytest.fixture
def places():
    """One new directory, as both mounts show it, and how long a lease lasts there."""
    name = uuid.uuid4().hex
    here, there = (Path(mount) / name for mount in MOUNTS.split(":"))
    here.mkdir()
    return here, there, max(3.0, 3 * attribute_cache_s(here))


def started(place, ttl_s, rounds):
    return subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(place), str(ttl_s), str(rounds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_of_two_machines_one_claims_and_its_result_stands(places):
    here, there, ttl_s = places
    other = started(there, ttl_s, rounds=30)
    for i in range(30):
        other.stdin.write("\n")
        other.stdin.flush()
        lease = claim(here / str(i), ttl_s=ttl_s)
        if lease is not None:
            lease.publish(here / str(i) / "result", "ours")
        is_theirs = other.stdout.readline().strip() == "1"

        assert (lease is not None) != is_theirs
        assert (here / str(i) / "result").read_text() == ("theirs" if is_theirs else "ours")
    other.communicate()


def test_a_heartbeat_of_another_machine_keeps_its_lease_and_its_silence_frees_it(places):
    here, there, ttl_s = places
    other = started(there, ttl_s, rounds=0)
    assert other.stdout.readline() == "held\n"
    end = time.monotonic() + 3 * ttl_s
    while time.monotonic() < end:
        assert holder(here) is not None
        time.sleep(ttl_s / 20)
    other.kill()
    other.communicate()
    end = time.monotonic() + 3 * ttl_s
    while (ours := claim(here, ttl_s=ttl_s)) is None:
        assert time.monotonic() < end
        time.sleep(ttl_s / 20)
    assert ours.held.attempt == 2
