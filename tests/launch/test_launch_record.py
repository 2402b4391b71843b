"""launch.json: what the processes of a launched run are told, or a refusal in three lines."""

import json
import shutil

import pytest

from scalelab.errors import LaunchError
from scalelab.launch.base import LaunchConfig
from scalelab.launch.ranks import write_down, written_down
from scalelab.train.layout import Layout
from scalelab.train.rundir import RunDir
from scalelab.train.stability import Stability

CONFIG = LaunchConfig(checkpoint_s=9.0, heartbeat_timeout_s=77.0, stability=Stability(patience=5))


@pytest.fixture
def run_dir(tmp_path):
    found = RunDir(tmp_path / "runs" / "fam" / "run00")
    write_down(found, Layout(shard=2, recompute=True), CONFIG, attempt=3)
    return found


def told(error):
    """Whether an error is one that a person can act on."""
    assert len(str(error).splitlines()) == 3, error
    assert "launch.json" in error.where
    assert "scalelab launch" in error.fix
    return True


def test_what_was_written_down_is_read(run_dir):
    found = written_down(run_dir)

    assert found.layout == Layout(shard=2, recompute=True)
    assert (found.checkpoint_s, found.stall_timeout_s, found.attempt) == (9.0, 77.0, 3)
    assert found.stability == CONFIG.stability


def test_a_record_from_before_the_seals_is_read(unsealed, run_dir):
    shutil.copy(unsealed / "sweeps" / "smoke-4e11" / "1ce35b485f33" / "launch.json", run_dir.path)

    found = written_down(run_dir)

    assert (found.layout, found.stability) == (Layout(), Stability())
    assert (found.checkpoint_s, found.stall_timeout_s, found.attempt) == (None, 900.0, None)


def test_no_damage_is_believed(run_dir, damages):
    path, before = run_dir.launch_path, written_down(run_dir)
    for data in damages(path.read_bytes(), 200):
        path.write_bytes(data)
        try:
            assert written_down(run_dir) == before
        except LaunchError as error:
            told(error)
    path.unlink()
    with pytest.raises(LaunchError, match="there is no launched run here") as error:
        written_down(run_dir)
    assert told(error.value)


def test_wrong_types_from_before_the_seals_are_no_traceback(unsealed, run_dir, wrong_types):
    path = unsealed / "sweeps" / "smoke-4e11" / "1ce35b485f33" / "launch.json"
    refused = 0
    for changed in wrong_types(json.loads(path.read_text())):
        run_dir.launch_path.write_text(json.dumps(changed))
        try:
            found = written_down(run_dir)
        except LaunchError as error:
            refused += told(error)
        else:
            assert found.stall_timeout_s > 0
            assert found.layout.devices >= 1
    assert refused > 80
