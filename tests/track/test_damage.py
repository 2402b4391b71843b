"""Manifests and mirror states: no damage is believed, nothing leads out of the runs."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from listing_text import listing

from scalelab.errors import RunError, ScalelabError, TrackError
from scalelab.records.evidence import evidence
from scalelab.records.manifest_kinds import POSTTRAINING, SWEEP, kinds_of
from scalelab.records.run_table import run_table
from scalelab.records.stage_manifest import StageManifest
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.tracking.journal_mirror import SentRun
from scalelab.tracking.mlflow_store import StoreExperiment
from scalelab.tracking.sweep_mirror import Mirror
from scalelab.tracking.sync import Syncer

LOAD = {"sweep.json": SweepManifest.load, "posttrain.json": StageManifest.load}

FORMAT = {"sweep.json": SWEEP.format(SweepManifest), "posttrain.json": POSTTRAINING.format(StageManifest)}


@pytest.fixture
def root(unsealed, tmp_path):
    """The runs from before the seals: two sweeps, of which one is a plan's, a post-training."""
    shutil.copytree(unsealed / "sweeps", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def manifest(root, request):
    """One of those manifests: (its path, what it holds). Parameter: "smoke/sweep.json sealed"."""
    place, _, age = request.param.partition(" ")
    name, _, file = place.partition("/")
    found = LOAD[file](root, name)
    if age == "sealed":
        found.write(root)
    return root / place, found


every_manifest = pytest.mark.parametrize(
    "manifest",
    [f"{place}{age}" for place in ("smoke/sweep.json", "taught/posttrain.json") for age in (" sealed", "")],
    indirect=True,
)


def load(path):
    return LOAD[path.name](path.parents[1], path.parent.name)


def told(error):
    """Whether an error is one that a person can act on."""
    assert len(str(error).splitlines()) == 3, error
    assert error.where
    assert error.fix
    return True


def test_runs_from_before_the_seals_are_read(root):
    for name, runs in (("smoke", 9), ("smoke-4e11", 1)):
        seen = evidence(run_table(root, name), SweepManifest.load(root, name).param_count)
        assert len(seen.table) == runs
        assert listing(root, name).count(" finished ") == runs
    assert listing(root, "taught").count(" finished ") == 12
    counts = [line.split() for line in listing(root, None).splitlines()]
    assert ["smoke", "9", "9"] in counts
    assert ["taught", "12", "12"] in counts


def test_a_manifest_written_again_is_sealed_and_says_the_same(root):
    for name, file in (("smoke", "sweep.json"), ("taught", "posttrain.json")):
        path = root / name / file
        before = load(path)
        before.write(root)

        assert json.loads(path.read_text())["schema"] == 2
        assert load(path) == before


@every_manifest
def test_no_damage_of_a_manifest_is_believed(manifest, damages, request):
    """One from before the seals has no digest: there only what names a place is checked."""
    path, before = manifest
    is_sealed = "sealed" in request.node.name
    for data in damages(path.read_bytes(), 150):
        path.write_bytes(data)
        try:
            found = load(path)
        except TrackError as error:
            told(error)
        else:
            assert found == before or not is_sealed


@pytest.mark.parametrize("manifest", ["smoke/sweep.json", "taught/posttrain.json"], indirect=True)
def test_wrong_types_in_a_manifest_from_before_the_seals_are_no_traceback(manifest, wrong_types):
    path, _ = manifest
    record = json.loads(path.read_text())
    for name in ("runs", "stages"):
        if name in record:
            record[name] = record[name][:1]
    refused = 0
    for changed in wrong_types(record):
        path.write_text(json.dumps(changed))
        try:
            load(path)
        except ScalelabError as error:
            refused += told(error)
        else:
            listing(path.parents[1], path.parent.name)
    assert refused > 60


OUTSIDE = [
    "../x/y",
    "..",
    "",
    "smoke",
    "smoke/",
    "/etc/passwd",
    "smoke/a/b",
    "smoke/..",
    "./smoke",
    "smoke/.x",
    "sm\u0000oke/a",
    "smoke\\a/b",
]


@pytest.mark.parametrize("dir", OUTSIDE)
@every_manifest
def test_every_directory_of_a_manifest_is_one_below_a_name(manifest, dir, request):
    path, _ = manifest
    record = json.loads(path.read_text())
    record.pop("seal", None)
    (record.get("runs") or record["stages"])[0]["dir"] = dir
    if "sealed" in request.node.name:
        record["seal"] = FORMAT[path.name]._seal(record)
    path.write_text(json.dumps(record))

    with pytest.raises(TrackError, match=r"is not a directory NAME/ID below runs") as error:
        load(path)

    assert told(error.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sweep": "other"}, "it is that of 'other', not of 'smoke'"),
        ({"sweep": "../smoke"}, "it is that of '../smoke', not of 'smoke'"),
        ({"param_count": "all"}, "param_count: Input should be"),
    ],
)
def test_a_manifest_is_that_of_its_own_directory(root, change, problem):
    path = root / "smoke" / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(TrackError, match=problem) as error:
        load(path)

    assert told(error.value)


def test_a_run_lies_in_a_directory_of_its_own_name(root):
    path = root / "smoke" / "sweep.json"
    record = json.loads(path.read_text())
    record["runs"][0]["dir"] = record["runs"][1]["dir"]
    path.write_text(json.dumps(record))

    with pytest.raises(TrackError, match="run 6930f60c79db has the directory 'smoke/71c6ab628390'"):
        load(path)


@pytest.mark.parametrize("name", ["../runs/smoke", "smoke/../smoke", "/", "", ".", "a b", "x/y"])
def test_a_name_leads_nowhere_else(root, name):
    for ask in (kinds_of, listing, SweepManifest.load, StageManifest.load):
        with pytest.raises(RunError, match="cannot be the name of a") as error:
            ask(root, name)
        assert told(error.value)


def test_the_ledger_of_forecasts_is_no_sweep(root):
    before = SweepManifest.load(root, "smoke")

    with pytest.raises(TrackError, match="'forecasts' cannot be the name of a sweep") as error:
        replace(before, sweep="forecasts").write(root)

    assert told(error.value)


def test_nothing_is_written_through_a_link_in_the_place_of_a_sweep(root, tmp_path):
    """Nor read, nor listed as if it were here; the others are."""
    before = SweepManifest.load(root, "smoke")
    elsewhere = tmp_path / "elsewhere"
    (root / "smoke").rename(elsewhere)
    (root / "smoke").symlink_to(elsewhere)
    files = {path: path.read_bytes() for path in elsewhere.iterdir() if path.is_file()}

    for act in (
        lambda: before.write(root),
        lambda: SweepManifest.load(root, "smoke"),
        lambda: Syncer.start(root, "smoke"),
    ):
        with pytest.raises(RunError, match="smoke is a symbolic link") as error:
            act()
        assert told(error.value)

    assert {path: path.read_bytes() for path in elsewhere.iterdir() if path.is_file()} == files
    lines = listing(root, None).splitlines()
    assert lines[1].split() == ["smoke", "?"]
    assert lines[2].split()[:2] == ["smoke-4e11", "1"]
    assert any(line.startswith("  - smoke is unreadable: ") for line in lines)


def test_no_first_manifest_is_written_through_a_link(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "fresh").symlink_to(elsewhere)

    with pytest.raises(RunError, match="fresh is a symbolic link"):
        replace(SweepManifest.load(root, "smoke"), sweep="fresh").write(root)

    assert not list(elsewhere.iterdir())


def test_a_run_behind_a_link_is_refused(root, tmp_path):
    run = root / "smoke" / "6930f60c79db"
    run.rename(tmp_path / "elsewhere")
    run.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RunError, match="6930f60c79db is a symbolic link") as error:
        SweepManifest.load(root, "smoke")

    assert told(error.value)


@pytest.mark.parametrize("file", ["sweep.json", ".sync.json"])
def test_a_link_in_the_place_of_a_file_is_replaced(root, tmp_path, file):
    target, link = tmp_path / "target", root / "smoke" / file
    manifest = SweepManifest.load(root, "smoke")
    target.write_text("{}")
    link.unlink(missing_ok=True)
    link.symlink_to(target)

    if file == "sweep.json":
        manifest.write(root)
    else:
        state_of_mirror(root)._save_state()

    assert target.read_text() == "{}"
    assert not link.is_symlink()


@pytest.mark.parametrize("is_there", [True, False])
def test_the_log_of_the_syncer_is_not_written_through_a_link(root, tmp_path, is_there):
    target = tmp_path / "target"
    if is_there:
        target.write_text("mine")
    (root / "smoke" / "sync.log").symlink_to(target)

    with pytest.raises(RunError, match=r"sync\.log is a symbolic link") as error:
        Syncer.start(root, "smoke")

    assert told(error.value)
    assert target.exists() == is_there
    assert not is_there or target.read_text() == "mine"


def state_of_mirror(root):
    """A mirror of a sweep that has sent something to a store that is not asked for anything."""
    mirror = Mirror(root, "smoke", SimpleNamespace(experiment=lambda name: StoreExperiment("1")))
    mirror._parent = "p0"
    mirror._state = {
        "6930f60c79db": SentRun("m1", 17, 4096, 2, {"train_loss": 713}, "running"),
        "71c6ab628390": SentRun("m2", 18, 8192, 0, {"train_loss": 30}, "finished", 99),
    }
    return mirror


def test_a_damaged_state_of_the_mirror_is_as_good_as_none(root, damages):
    mirror = state_of_mirror(root)
    mirror._save_state()
    path = root / "smoke" / ".sync.json"
    assert mirror._load_state() == mirror._state

    for data in damages(path.read_bytes(), 200):
        path.write_bytes(data)
        assert mirror._load_state() in ({}, mirror._state)
    path.unlink()
    assert mirror._load_state() == {}
    path.mkdir()
    assert mirror._load_state() == {}


def test_a_state_of_another_store_is_as_good_as_none(root):
    mirror = state_of_mirror(root)
    mirror._save_state()
    mirror._parent = "p1"

    assert mirror._load_state() == {}
