"""How old the times are that a mount may show, and the leases that follow from it."""

from pathlib import Path

import pytest

from scalelab import network_files
from scalelab.leases import TTL_S, claim, expiry_s
from scalelab.network_files import attribute_cache_s

MOUNTS = """/dev/vda / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2,hard 0 0
server:/fast /home/fast nfs rw,vers=3,acregmin=1,acregmax=5,acdirmax=9 0 0
server:/none /home/none nfs4 rw,noac 0 0
server:/long /home/a\\040space nfs rw,actimeo=600 0 0
//server/share /smb cifs rw,actimeo=3 0 0
lustre@tcp:/scratch /scratch lustre rw,flock 0 0
host:/x /ssh fuse.sshfs rw 0 0
"""


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(network_files, "MOUNTS", tmp_path / "mounts")


@pytest.mark.parametrize(
    ("path", "seconds"),
    [
        ("/tmp/runs", 0.0),
        ("/home/me/runs", 60.0),
        ("/homeless/runs", 0.0),
        ("/home/fast/runs", 9.0),
        ("/home/none", 0.0),
        ("/home/a space/runs", 600.0),
        ("/smb/runs", 3.0),
        ("/scratch/runs", 0.0),
        ("/ssh/runs", 20.0),
    ],
)
def test_the_mount_says_how_long_times_are_kept(mounts, path, seconds):
    assert attribute_cache_s(Path(path)) == seconds
    assert expiry_s(Path(path)) == max(TTL_S, 3 * seconds)


def test_without_a_list_of_mounts_files_are_this_machine_s(tmp_path, monkeypatch):
    monkeypatch.setattr(network_files, "MOUNTS", tmp_path / "none")
    assert attribute_cache_s(tmp_path) == 0.0


def test_a_claim_lasts_as_long_as_its_file_system_needs(tmp_path, monkeypatch):
    (tmp_path / "mounts").write_text(f"server:/x {tmp_path} nfs4 rw,actimeo=100 0 0\n")
    monkeypatch.setattr(network_files, "MOUNTS", tmp_path / "mounts")
    assert claim(tmp_path / "run").held.ttl_s == 300.0
