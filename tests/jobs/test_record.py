"""job.json: what a job's processes are told, or a refusal in three lines."""

import json

import pytest

from scalelab.errors import LaunchError
from scalelab.hardware.layout import Layout
from scalelab.jobs.base import Job, JobResources
from scalelab.jobs.record import path_of, read_record, write_record
from scalelab.jobs.settings import LaunchConfig
from scalelab.launch.job_settings import FinalSettings
from scalelab.sealed import SEAL
from scalelab.train.process_timeouts import ProcessTimeouts
from scalelab.train.run_directory import RunDir
from scalelab.train.stability import Stability

TIMEOUTS = ProcessTimeouts(start_s=5000, first_step_s=300)
CONFIG = LaunchConfig(
    checkpoint_s=9.0,
    heartbeat_timeout_s=77.0,
    stability=Stability(patience=5),
    timeouts=TIMEOUTS,
    gradient_sums="micro_batch",
)
LAYOUT = Layout(shard=2, recompute=True)


@pytest.fixture
def run_dir(tmp_path):
    found = RunDir(tmp_path / "runs" / "fam" / "run00")
    settings = FinalSettings.of(LAYOUT, CONFIG).to_json()
    write_record(Job("run00", found, "final", resources=JobResources(2, 3), settings=settings), 3)
    return found


def told(error):
    """Whether an error is one that a person can act on."""
    assert len(str(error).splitlines()) == 3, error
    assert "job.json" in error.where
    assert "run the command that ma" in error.fix
    return True


def test_what_was_written_down_is_read(run_dir):
    record = read_record(run_dir)

    assert (record.kind, record.processes, record.threads) == ("final", 2, 3)
    found = FinalSettings.read(record.settings, run_dir)
    assert found.layout == LAYOUT
    assert (found.checkpoint_s, found.stall_timeout_s) == (9.0, 77.0)
    assert found.stability == CONFIG.stability
    assert found.timeouts == TIMEOUTS
    assert found.gradient_sums == "micro_batch"


def test_a_record_from_before_these_were_settings_has_the_defaults(run_dir):
    settings = dict(read_record(run_dir).settings)
    del settings["timeouts"], settings["gradient_sums"]

    found = FinalSettings.read(settings, run_dir)
    assert found.timeouts == ProcessTimeouts()
    assert found.gradient_sums == "auto"


def test_gradient_sums_that_are_unknown_are_refused(run_dir):
    settings = {**read_record(run_dir).settings, "gradient_sums": "never"}
    with pytest.raises(LaunchError, match="gradient_sums is 'never'") as error:
        FinalSettings.read(settings, run_dir)
    assert told(error.value)


def test_the_driver_waits_longer_for_the_first_step_of_a_launched_run():
    assert CONFIG.launched_limits.first_step_timeout_s == 5077.0
    assert CONFIG.launched_limits.heartbeat_timeout_s == CONFIG.limits.heartbeat_timeout_s == 77.0
    assert CONFIG.limits.first_step_timeout_s is None


def test_no_damage_is_believed(run_dir, damages):
    path, before = path_of(run_dir), read_record(run_dir)
    for data in damages(path.read_bytes(), 200):
        path.write_bytes(data)
        try:
            assert read_record(run_dir) == before
        except LaunchError as error:
            told(error)
    path.unlink()
    with pytest.raises(LaunchError, match="there is no job here") as error:
        read_record(run_dir)
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
    [
        ("kind", "dance", "its kind is 'dance'"),
        ("processes", 0, "it names 0 processes"),
        ("threads", 0, "processes of 0 threads"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(run_dir, field, value, words):
    from scalelab.jobs.record import JOB, JobRecord

    plain = json.loads(path_of(run_dir).read_text())
    del plain[SEAL], plain["schema"]
    JOB.write(path_of(run_dir), JobRecord(**plain | {field: value}))
    with pytest.raises(LaunchError, match=words) as error:
        read_record(run_dir)
    assert told(error.value)
