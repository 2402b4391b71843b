"""What a sweep planned: written whole, read back equal, mended by writing it anew."""

from dataclasses import replace

import pytest

from scalelab.errors import TrackError
from scalelab.records.sweep_manifest import SweepManifest, list_sweeps, manifest_path


@pytest.fixture
def written(tmp_path, family_in):
    family, _ = family_in(tmp_path)
    family.plan(3)
    return SweepManifest.load(tmp_path, "fam")


def test_a_manifest_reads_back_equal(written, tmp_path):
    written.write(tmp_path)

    assert SweepManifest.load(tmp_path, "fam") == written
    assert [run.run for run in written.runs] == ["run00", "run01", "run02"]


def test_a_new_plan_keeps_the_time_of_the_first(written, tmp_path):
    more = replace(written, created_ms=9, runs=written.runs[:1], digest="new")
    more.write(tmp_path)

    assert SweepManifest.load(tmp_path, "fam") == replace(more, created_ms=written.created_ms)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', '{"runs": []}'])
def test_what_cannot_be_read_is_refused_and_replaced_as_the_error_says(written, tmp_path, text):
    manifest_path(tmp_path, "fam").write_text(text)
    with pytest.raises(TrackError, match="cannot be read as a sweep manifest") as error:
        SweepManifest.load(tmp_path, "fam")
    assert error.value.where == str(tmp_path / "fam" / "sweep.json")
    assert error.value.fix.startswith("run `scalelab sweep` on its file again")

    written.write(tmp_path)

    assert SweepManifest.load(tmp_path, "fam") == written


def test_an_unknown_sweep_is_answered_with_those_there_are(written, tmp_path):
    with pytest.raises(TrackError, match="there is no sweep 'fan'") as error:
        SweepManifest.load(tmp_path, "fan")

    assert error.value.where == f"{tmp_path}, which holds: fam"


def test_only_directories_with_a_manifest_are_sweeps(written, tmp_path):
    (tmp_path / "single").mkdir()

    assert list_sweeps(tmp_path) == ["fam"]
    assert list_sweeps(tmp_path / "nowhere") == []
