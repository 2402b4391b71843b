"""job.json: what a job's processes are told, or a refusal in three lines."""

import json

import pytest

from scalelab.errors import LaunchError
from scalelab.jobs.base import Job, Resources
from scalelab.jobs.record import path_of, write_down, written_down
from scalelab.launch.base import LaunchConfig
from scalelab.launch.settings import FinalSettings
from scalelab.sealed import SEAL
from scalelab.train.layout import Layout
from scalelab.train.rundir import RunDir
from scalelab.train.stability import Stability

CONFIG = LaunchConfig(checkpoint_s=9.0, heartbeat_timeout_s=77.0, stability=Stability(patience=5))
LAYOUT = Layout(shard=2, recompute=True)


@pytest.fixture
def run_dir(tmp_path):
    found = RunDir(tmp_path / "runs" / "fam" / "run00")
    settings = FinalSettings.of(LAYOUT, CONFIG).to_json()
    write_down(Job("run00", found, "final", resources=Resources(2, 3), settings=settings), 3)
    return found


def told(error):
    """Whether an error is one that a person can act on."""
    assert len(str(error).splitlines()) == 3, error
    assert "job.json" in error.where
    assert "run the command that ma" in error.fix
    return True


def test_what_was_written_down_is_read(run_dir):
    record = written_down(run_dir)

    assert (record.kind, record.processes, record.threads) == ("final", 2, 3)
    found = FinalSettings.read(record.settings, run_dir)
    assert found.layout == LAYOUT
    assert (found.checkpoint_s, found.stall_timeout_s) == (9.0, 77.0)
    assert found.stability == CONFIG.stability


def test_no_damage_is_believed(run_dir, damages):
    path, before = path_of(run_dir), written_down(run_dir)
    for data in damages(path.read_bytes(), 200):
        path.write_bytes(data)
        try:
            assert written_down(run_dir) == before
        except LaunchError as error:
            told(error)
    path.unlink()
    with pytest.raises(LaunchError, match="there is no job here") as error:
        written_down(run_dir)
    assert told(error.value)


def test_wrong_types_in_settings_are_no_traceback(run_dir, wrong_types):
    """As a version of scalelab might write them that this one does not know."""
    refused = 0
    for changed in wrong_types(json.loads(path_of(run_dir).read_text())["settings"]):
        try:
            found = FinalSettings.read(changed, run_dir)
        except LaunchError as error:
            refused += told(error)
        else:
            assert found.stall_timeout_s > 0
            assert found.layout.devices >= 1
    assert refused > 50


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("kind", "dance", "its kind is 'dance'"), ("processes", 0, "it names 0 processes"),
     ("threads", 0, "processes of 0 threads")],
)  # fmt: skip
def test_a_record_that_makes_no_sense_is_refused(run_dir, field, value, words):
    from scalelab.jobs.record import JOB, JobRecord

    plain = json.loads(path_of(run_dir).read_text())
    del plain[SEAL], plain["schema"]
    JOB.write(path_of(run_dir), JobRecord(**plain | {field: value}))
    with pytest.raises(LaunchError, match=words) as error:
        written_down(run_dir)
    assert told(error.value)
