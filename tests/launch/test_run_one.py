"""`scalelab run`: a run's own directory is believed, a copy is another run, an edit is refused."""

import pytest

from scalelab.cli.main import main


@pytest.fixture
def run_dir(tmp_path, tiny_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny_run(tmp_path / "runs" / "sweep", n_steps=4)


@pytest.mark.parametrize("name", ["", "spec.yaml"])
def test_an_edited_spec_in_a_run_s_directory_is_refused_and_nothing_is_trained(
    run_dir, tmp_path, name, capsys
):
    text = run_dir.spec_path.read_text()
    run_dir.spec_path.write_text(text.replace("n_steps: 4", "n_steps: 5"))

    assert main(["run", str(run_dir.path / name)]) == 2
    said = capsys.readouterr().err
    assert "spec.yaml has been changed" in said
    assert "edit a copy outside" in said
    assert not (tmp_path / "runs" / "single").exists()


def test_an_edited_copy_is_another_run(run_dir, tmp_path, capsys):
    text = run_dir.spec_path.read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("n_steps: 4", "n_steps: 5"))

    assert main(["run", str(tmp_path / "mine.yaml")]) == 0
    (made,) = (tmp_path / "runs" / "single").iterdir()
    assert made.name != run_dir.run
    assert '"n_steps": 5' in capsys.readouterr().out


def test_a_run_is_trained_where_it_stands(run_dir, tmp_path, capsys):
    assert main(["run", str(run_dir.path)]) == 0
    assert run_dir.is_done
    assert run_dir.run in capsys.readouterr().out


def test_a_run_that_diverges_is_no_success(tmp_path, tiny_spec, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rates = {"lr_matrix": 1e30, "lr_embedding": 1e30, "lr_head": 1e30, "lr_vector": 1e30}
    (tmp_path / "hot.yaml").write_text(tiny_spec(n_steps=20, optimizer=rates).to_yaml())

    assert main(["run", "hot.yaml"]) == 1
    shown = capsys.readouterr()
    assert '"status": "diverged"' in shown.out
    assert "diverged: " in shown.err
    assert "lower the learning rates in the copy" in shown.err
