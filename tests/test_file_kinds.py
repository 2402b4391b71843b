"""A file of another kind than a command takes, and a name where no file is: the right one is named."""

from pathlib import Path

import pytest

from scalelab.cli.arguments import is_table
from scalelab.cli.main import COMMANDS, main
from scalelab.config import Config
from scalelab.data.curate.file import CurationFile
from scalelab.errors import ConfigError
from scalelab.evals.file import file_type
from scalelab.file_kinds import KINDS, command_for, kind_of, refuse_other_path, similar_path
from scalelab.launch.single_run import run_one
from scalelab.plan.cost.rates import SHIPPED, Rates
from scalelab.posttrain.pipeline import PosttrainFile, StageSpec
from scalelab.sweep.file import SweepFile
from scalelab.sweep.tune_file import TuneFile
from scalelab.train.spec import RunSpec
from scalelab.yaml_document import read

ROOT = Path(__file__).parents[1]
FILES = {
    "sweep": ROOT / "sweeps/isoflop.yaml",
    "tune": ROOT / "sweeps/tune.yaml",
    "posttrain": ROOT / "sweeps/posttrain/assistant.yaml",
    "eval": ROOT / "sweeps/eval/compared.yaml",
    "rates": SHIPPED,
    "curation": ROOT / "sweeps/data/debian.yaml",
}
LOADS = {
    "sweep": SweepFile,
    "tune": TuneFile,
    "posttrain": PosttrainFile,
    "eval": file_type(),
    "rates": Rates,
    "curation": CurationFile,
    "run": RunSpec,
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty directory with one sweep file, in which the command line is at work."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/isoflop.yaml").write_text(FILES["sweep"].read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_keys_of_a_kind_are_required_fields_of_its_config():
    for name, config in (*LOADS.items(), ("stage", StageSpec)):
        required = {field for field, info in config.model_fields.items() if info.is_required()}
        assert set(KINDS[name].keys) <= required, name


def test_every_kind_that_has_a_config_is_one_of_the_table():
    assert {config.file_kind for config in LOADS.values()} == set(LOADS)
    assert Config.file_kind is None


@pytest.mark.parametrize("kind", FILES)
def test_the_files_of_the_repository_are_recognised_and_load(kind):
    assert kind_of(read(FILES[kind]).data) == kind
    assert LOADS[kind].load(FILES[kind])


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("expected", LOADS)
def test_a_file_of_another_kind_is_answered_with_its_command(kind, expected):
    if kind == expected:
        return
    with pytest.raises(ConfigError) as refused:
        LOADS[expected].load(FILES[kind])

    assert f"is {KINDS[kind].name}, not {KINDS[expected].name}" in refused.value.problem
    assert KINDS[kind].command.replace("PATH", str(FILES[kind])) in refused.value.fix
    assert refused.value.where.startswith(str(FILES[kind]) + ":")


def test_a_file_with_the_keys_of_two_kinds_is_read_as_what_was_asked(tmp_path):
    (tmp_path / "both.yaml").write_text("recipe: {}\ndesign: {}\nmodels: {a: b}\n")

    with pytest.raises(ConfigError, match="unknown key 'recipe'"):
        LOADS["eval"].load(tmp_path / "both.yaml")


@pytest.mark.parametrize(
    ("argv", "problem", "fix"),
    [
        (("sweep", "isoflop"), "cannot read isoflop", "did you mean sweeps/isoflop.yaml?"),
        (("sweep", "sweeps/isoflp.yaml"), "cannot read", "did you mean sweeps/isoflop.yaml?"),
        (("sweep", "sweeps/isoflop.yml"), "cannot read", "did you mean sweeps/isoflop.yaml?"),
        (("sweep", "qqq.yaml"), "cannot read qqq.yaml", "name a readable YAML file"),
        (("sweep", "sweeps"), "sweeps is a directory", "name a file in it: sweeps/isoflop.yaml"),
        (("sweep", "t.csv"), "t.csv is a table of runs", "use it with scalelab fit t.csv"),
        (("sweep", "plans/p"), "plans/p is a plan", "use it with scalelab launch plans/p"),
        (("run", "plans/p"), "plans/p is a plan", "use it with scalelab launch plans/p"),
        (("launch", "sweeps/isoflop.yaml"), "not a plan", "use it with scalelab sweep sweeps/isoflop.yaml"),
        (("fit", "sweeps/isoflop.yaml"), "not a table", "use it with scalelab sweep sweeps/isoflop.yaml"),
        (("plan", "sweeps/isoflop.yaml", "--budget", "1e9"), "not a table", "use it with scalelab sweep"),
        (("swep", "x"), "no command 'swep'; did you mean 'sweep'?", "scalelab --help"),
        (("sweeps/isoflop.yaml",), "no command", "scalelab sweep sweeps/isoflop.yaml"),
        (("\udcff",), "no command", "scalelab --help"),
    ],
    ids=lambda value: " ".join(value).replace("\udcff", "bytes") if isinstance(value, tuple) else None,
)
def test_the_command_line_says_what_was_meant(elsewhere, capsys, argv, problem, fix):
    (elsewhere / "t.csv").write_text("n_params,n_tokens,loss\n")
    (elsewhere / "plans/p").mkdir(parents=True)
    (elsewhere / "plans/p/plan.json").write_text("{}")

    assert main(list(argv)) == 2

    shown = capsys.readouterr().err
    assert problem in shown
    assert f"fix:   {fix}" in shown or fix in shown.partition("fix:")[2]
    assert not (elsewhere / "runs").exists()


def test_every_command_still_has_its_own_name(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
    capsys.readouterr()


def test_a_path_of_an_unknown_kind_passes(tmp_path):
    (tmp_path / "notes.yaml").write_text("a: 1")
    (tmp_path / "broken.yaml").write_text("a: [")
    for name in ("chats.jsonl.gz", "sweep.yaml.gz", "text.zst", "t.CSV.gz"):
        (tmp_path / name).write_bytes(b"")

    assert command_for(tmp_path / "t.CSV.gz") == f"scalelab fit {tmp_path / 't.CSV.gz'}"
    unknown = ("notes.yaml", "broken.yaml", "gone", "chats.jsonl.gz", "sweep.yaml.gz", "text.zst")
    for path in (tmp_path, *(tmp_path / name for name in unknown)):
        refuse_other_path(path, "plan")
        assert command_for(path) is None
    assert similar_path(tmp_path / "zzz") is None
    assert is_table(str(tmp_path / "notes.yaml"))


def test_a_run_directory_is_run_and_the_directory_of_a_sweep_is_not(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/sweep.json").write_text("{}")

    with pytest.raises(ConfigError, match="is the directory of a sweep, not a run directory") as refused:
        run_one(tmp_path / "s", tmp_path)
    assert "scalelab fit s" in refused.value.fix
