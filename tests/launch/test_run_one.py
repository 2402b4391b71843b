"""`scalelab run`: a run's own directory is believed, a copy is another run, an edit is refused."""

import pytest

from scalelab.errors import RunError
from scalelab.launch.commands import run_one
from scalelab.train.rundir import RunDir


@pytest.fixture
def run_dir(tmp_path, tiny_spec):
    spec = tiny_spec(n_steps=4)
    found = RunDir(tmp_path / "runs" / "sweep" / spec.id)
    found.create(spec)
    return found


@pytest.mark.parametrize("name", ["", "spec.yaml"])
def test_an_edited_spec_in_a_run_s_directory_is_refused_and_nothing_is_trained(
    run_dir, tmp_path, name
):
    text = run_dir.spec_path.read_text()
    run_dir.spec_path.write_text(text.replace("n_steps: 4", "n_steps: 5"))

    with pytest.raises(RunError, match=r"spec\.yaml has been changed") as error:
        run_one(run_dir.path / name, tmp_path / "runs")
    assert "edit a copy outside" in error.value.fix
    assert not (tmp_path / "runs" / "single").exists()


def test_an_edited_copy_is_another_run(run_dir, tmp_path, capsys):
    text = run_dir.spec_path.read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("n_steps: 4", "n_steps: 5"))

    assert run_one(tmp_path / "mine.yaml", tmp_path / "runs") == 0
    (made,) = (tmp_path / "runs" / "single").iterdir()
    assert made.name != run_dir.run
    assert '"n_steps": 5' in capsys.readouterr().out


def test_a_run_is_trained_where_it_stands(run_dir, tmp_path, capsys):
    assert run_one(run_dir.path, tmp_path / "runs") == 0
    assert run_dir.is_done
    assert run_dir.run in capsys.readouterr().out
