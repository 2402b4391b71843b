"""`scalelab runs --all` and `scalelab clean`: what nothing names now is listed, and removed only when asked."""

import pytest

from scalelab.cli.main import main
from scalelab.cli.work import clean
from scalelab.errors import RunError
from scalelab.leases import claim
from scalelab.records.run_directories import remove, run_directories

OLD, NEW = "aaaaaaaaaa", "bbbbbbbbbb"


@pytest.fixture
def edited(tmp_path, family_in, monkeypatch):
    """A sweep whose two finished runs are of an earlier recipe, and its two present runs."""
    family, _ = family_in(tmp_path)
    for run in family.plan(2, prefix=OLD):
        family.train(run, range(3))
        family.end(run)
    family.planned = []
    for run in family.plan(2, prefix=NEW):
        spec = family.dir(run).spec_path
        spec.write_text(spec.read_text().replace("batch_tokens: 256", "batch_tokens: 512"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALELAB_RUNS", str(family.root))
    return family


def there(family):
    return sorted(path.name for path in (family.root / "fam").iterdir() if path.is_dir())


def words(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_directories_of_an_earlier_recipe_are_listed_with_what_differs(edited, capsys):
    found = {each.dir: each for each in run_directories(edited.root)}

    old, new = found[f"fam/{OLD}00"], found[f"fam/{NEW}00"]
    assert (old.state, old.users, old.differences) == ("finished", (), ("batch_tokens 256 (now 512)",))
    assert (new.state, new.users, new.differences) == ("planned", ("the sweep fam",), ())
    assert old.loss is not None
    assert old.n_bytes == sum(p.stat().st_size for p in edited.dir(f"{OLD}00").path.rglob("*") if p.is_file())
    assert main(["runs", "--all"]) == 0
    said = words(capsys)
    assert f"fam/{OLD}01 (finished): batch_tokens 256 (now 512)" in said
    assert said.endswith("Remove them: scalelab clean fam")
    assert main(["runs", "fam", "--all"]) == 0
    assert main(["runs", "other", "--all"]) == 2


def test_without_a_terminal_nothing_is_removed_unless_told(edited, capsys):
    assert main(["clean", "fam"]) == 2
    assert "--yes" in capsys.readouterr().err.partition("fix:")[2]
    assert main(["clean", "fam", "--dry-run"]) == 0
    assert len(there(edited)) == 4

    assert main(["clean", "fam", "--yes"]) == 0

    assert there(edited) == [f"{NEW}00", f"{NEW}01"]
    capsys.readouterr()
    assert main(["clean", "fam", "--yes"]) == 0
    assert "Nothing to remove" in words(capsys)


@pytest.mark.parametrize(("answer", "left"), [("y", 3), ("", 4), ("no", 4)])
def test_on_a_terminal_it_asks_first(edited, monkeypatch, capsys, answer, left):
    monkeypatch.setattr(clean.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)

    assert main(["clean", f"fam/{OLD}00"]) == 0
    assert len(there(edited)) == left
    del capsys


def test_a_terminal_that_is_closed_agrees_to_nothing(edited, monkeypatch, capsys):
    def closed(question):
        raise EOFError

    monkeypatch.setattr(clean.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", closed)

    assert main(["clean", f"fam/{OLD}00"]) == 0
    assert "Nothing was removed." in capsys.readouterr().out
    assert len(there(edited)) == 4


@pytest.mark.parametrize("name", [f"fam/{NEW}00", "fam/cccccccccc00", "nowhere", "../x", "fam/../fam"])
def test_what_is_in_use_or_is_not_there_is_refused(edited, capsys, name):
    assert main(["clean", name, "--yes"]) == 2

    said = capsys.readouterr().err
    assert said.count("\n  where: ") == said.count("\n  fix:   ") == 1
    assert len(there(edited)) == 4


def test_what_runs_stays(edited, capsys):
    lease = claim(edited.dir(f"{OLD}00").path)
    (edited.dir(f"{OLD}00").result_path).unlink()
    try:
        assert main(["clean", f"fam/{OLD}00", "--yes"]) == 2
        assert "is running" in capsys.readouterr().err
        assert main(["clean", "fam", "--yes"]) == 0
        assert there(edited) == [f"{OLD}00", f"{NEW}00", f"{NEW}01"]
    finally:
        lease.release()
    sweep = claim(edited.root / "fam", "lock")
    try:
        assert main(["clean", "fam", "--yes"]) == 2
        assert "fam is running" in capsys.readouterr().err
    finally:
        sweep.release()
    assert f"{OLD}00" in there(edited)


def test_a_run_of_a_forecast_stays(edited):
    held = {f"{OLD}00": "the forecast 0123456789ab"}

    found = {each.dir: each for each in run_directories(edited.root, held)}

    assert found[f"fam/{OLD}00"].users == ("the forecast 0123456789ab",)
    with pytest.raises(Exception, match="in use and was not removed"):
        remove(edited.root, [f"fam/{OLD}00"], held)
    assert len(there(edited)) == 4


def test_a_directory_moved_aside_comes_back_when_its_users_cannot_be_listed(edited, monkeypatch):
    def fails(root):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("scalelab.records.run_directories._users", fails)

    with pytest.raises(RunError, match="cannot be removed: Permission denied"):
        remove(edited.root, [f"fam/{OLD}00"])

    assert (edited.root / "fam" / f"{OLD}00" / "spec.yaml").is_file()
    assert not list((edited.root / "fam").glob(".removed-*"))


def test_beside_a_manifest_that_cannot_be_read_nothing_is_removed(edited, capsys):
    (edited.root / "fam" / "sweep.json").write_text("{")

    assert all(each.users for each in run_directories(edited.root))
    assert main(["clean", "fam", "--yes"]) == 0
    assert len(there(edited)) == 4
    del capsys


def test_a_spec_that_cannot_be_read_is_listed(edited):
    edited.dir(f"{OLD}00").spec_path.write_text("a: [")

    found = {each.dir: each for each in run_directories(edited.root)}[f"fam/{OLD}00"]
    assert found.problem
    assert found.differences == ()


def test_links_are_left_alone(edited, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "spec.yaml").write_text("a: 1\n")
    (edited.root / "fam" / "cccccccccc00").symlink_to(tmp_path / "precious")

    assert not any("cccccccccc00" in each.dir for each in run_directories(edited.root))
    assert main(["clean", "fam", "--yes"]) == 0
    assert (tmp_path / "precious" / "spec.yaml").exists()
