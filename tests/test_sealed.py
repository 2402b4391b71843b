"""What is read back is what was written, or it is refused by name: damage, edits, old files."""

import hashlib
import json
import os
from dataclasses import dataclass, field

import pytest

from scalelab.errors import RunError
from scalelab.files import inside, sweep_partials, whole, whole_dir, write_new
from scalelab.sealed import (
    Checksum,
    Damaged,
    Format,
    check_file,
    file_digest,
    line,
    read_lines,
    seal_text,
    synced_digest,
    unseal_text,
)


@dataclass(frozen=True)
class Part:
    name: str
    size: float


@dataclass(frozen=True)
class Thing:
    name: str
    n: int
    loss: float | None
    parts: tuple[Part, ...] = ()
    more: dict[str, list[float]] = field(default_factory=dict)


FORMAT = Format("thing", Thing, schema=2, unsealed=1)
THING = Thing("one", 713, 3.0707123456789, (Part("a", 1.0), Part("b", 2.5)), {"curve": [1.0, 2.0]})


@pytest.fixture
def path(tmp_path):
    FORMAT.write(tmp_path / "thing.json", THING)
    return tmp_path / "thing.json"


def test_a_record_comes_back_as_it_was(path):
    assert FORMAT.read(path) == THING
    assert json.loads(path.read_text())["schema"] == 2


def test_no_damage_is_believed(path, damages):
    for data in damages(path.read_bytes(), 600):
        path.write_bytes(data)
        found, refusal = None, None
        try:
            found = FORMAT.read(path)
        except RunError as error:
            refusal = error
        if refusal is None:
            assert found == THING  # only white space was changed
        else:
            assert str(refusal).count("\n  where: ") == str(refusal).count("\n  fix:   ") == 1
            assert str(path) in refusal.where


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("null", "it holds null, not a record"),
        ("[1]", "it holds [1], not a record"),
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ('{"schema": true}', "its schema is True"),
        ('{"schema": 2}', "it carries no seal"),
        ('{"schema": 3}', "its schema is 3; this version of scalelab reads 2"),
        ('{"schema": 2, "seal": "x", "n": NaN}', "it holds a value that is no JSON"),
        ('{"schema": 1, "name": "x", "n": 3}', "it has no loss"),
        ('{"schema": 1, "name": "x", "n": 3, "loss": 1, "los": 1}', "it has an unknown 'los'"),
        ('{"schema": 1, "name": "x", "n": "3", "loss": 1}', "n: Input should be a valid integer"),
        ('{"schema": 1, "name": "x", "n": true, "loss": 1}', "n: Input should be a valid integer"),
        ('{"schema": 1, "name": "x", "n": 3, "loss": 1, "parts": [{}]}', "parts.0"),
    ],
)
def test_each_way_of_being_no_record_is_named(path, text, problem):
    path.write_text(text)

    with pytest.raises(RunError) as refused:
        FORMAT.read(path)
    assert problem in refused.value.problem
    assert refused.value.problem.startswith("thing.json cannot be read as a thing: ")


def test_files_from_before_the_seals_are_read(path):
    path.write_text('{"schema": 1, "name": "old", "n": 3, "loss": null, "parts": []}')

    assert FORMAT.read(path) == Thing("old", 3, None)


def test_a_seal_cannot_be_taken_off_by_calling_a_file_old(path):
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"schema": 1}))

    with pytest.raises(RunError, match="its schema is 1, not 2"):
        FORMAT.read(path)


def test_a_record_of_another_kind_is_another_record(path):
    other = Format("other thing", Thing, schema=2)

    with pytest.raises(RunError, match="the seal does not match"):
        other.read(path)


def test_a_name_that_is_not_utf_8_can_be_read_back(path):
    FORMAT.write(path, Thing("caf\u00e9 \udce9", 1, None))

    assert FORMAT.read(path).name == "caf\u00e9 \\udce9"


def test_a_record_is_written_once(tmp_path):
    path = tmp_path / "once.json"

    assert FORMAT.write_once(path, THING)
    assert not FORMAT.write_once(path, Thing("two", 1, None))
    assert FORMAT.read(path) == THING
    assert [p.name for p in tmp_path.iterdir()] == ["once.json"]


def test_damaged_lines_are_skipped_and_counted(tmp_path, damages):
    path, written = tmp_path / "log", [{"t": i, "loss": 3.0 + i / 7} for i in range(20)]
    whole_text = "".join(map(line, written)).encode()
    for data in damages(whole_text, 600, 1, replaced=False):
        path.write_bytes(data)
        found = read_lines(path)
        assert all(record in written for record in found.records)
        assert len(found.records) >= len(written) - 2 or len(data) < len(whole_text)
        assert found.n_bad <= 2


def test_lines_are_read_on_from_where_reading_stopped(tmp_path):
    path = tmp_path / "log"
    path.write_text(line({"t": 1}) + line({"t": 2})[:-5])
    first = read_lines(path)
    path.write_text(line({"t": 1}) + line({"t": 2}))
    second = read_lines(path, first.offset)

    assert first.records == [{"t": 1}]
    assert second.records == [{"t": 2}]
    assert read_lines(tmp_path / "none") == ([], 0, 0)


def test_lines_from_before_the_checksums_are_taken_and_new_ones_without_are_not(tmp_path):
    path = tmp_path / "log"
    path.write_text('{"t": 1, "event": "start"}\n{"t":1}\n{"t": 2, "crc":"00000000"}\nnull\n[1]\n')

    assert read_lines(path) == ([{"t": 1, "event": "start"}], path.stat().st_size, 4)


def test_text_keeps_its_seal_and_reads_without(damages):
    text = "a: 1\nb: two\n"
    sealed = seal_text(text)

    assert unseal_text(sealed) == text
    assert unseal_text(text) == text  # from before
    for data in damages(sealed.encode(), 300, 2, replaced=False):
        try:
            found = unseal_text(data.decode(errors="replace"))
        except Damaged:
            continue
        assert found.startswith(text) or len(data) < len(sealed)


def test_digests_are_those_of_the_published_algorithms(tmp_path):
    """SHA-256 of "abc" as in FIPS 180-4; XXH3-128 of "a" as in XXH's own test vectors."""
    (tmp_path / "abc").write_text("abc")
    (tmp_path / "a").write_text("a")

    assert file_digest(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
    found = file_digest(tmp_path / "a", Checksum)
    assert found == "xxh3-128:a96faf705af16834e6c632b61e964e1f"


@pytest.mark.parametrize("kind", [hashlib.sha256, Checksum])
def test_a_file_is_checked_against_its_digest(tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 1000)
    digest = file_digest(path, kind)

    assert kind is Checksum or synced_digest(path) == digest
    check_file(path, digest)
    path.write_bytes(b"0123456789" * 999 + b"012345678X")
    with pytest.raises(Damaged, match="file is not what was written"):
        check_file(path, digest)
    path.unlink()
    with pytest.raises(Damaged, match="file is missing"):
        check_file(path, digest)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a//b", ".hidden", "", "a\nb", "a b"])
def test_names_that_lead_out_of_a_root_are_refused(tmp_path, name):
    with pytest.raises(RunError, match="not a path below"):
        inside(tmp_path, name)


def test_a_link_below_the_root_is_refused_and_the_root_may_be_one(tmp_path):
    (tmp_path / "real" / "sweep").mkdir(parents=True)
    (tmp_path / "root").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "away").symlink_to(tmp_path)

    assert inside(tmp_path / "root", "sweep/run") == tmp_path / "root" / "sweep" / "run"
    with pytest.raises(RunError, match="away is a symbolic link"):
        inside(tmp_path / "root", "away/run")


def test_what_killed_writers_left_is_swept_away_and_living_ones_are_not_disturbed(tmp_path):
    from scalelab.files import machine

    gone = tmp_path / f".thing.json.{machine()}.999999999.partial"
    gone_dir = tmp_path / f".thing.json.{machine()}.999999998.partial"
    far, alive = (
        tmp_path / f".thing.json.{who}.partial" for who in ("00000000.1", f"{machine()}.{os.getppid()}")
    )
    gone_dir.mkdir()
    for path in (gone, far, alive, gone_dir / "file"):
        path.write_text("half")

    with whole(tmp_path / "thing.json", "w") as file:
        file.write("x")
    assert sorted(tmp_path.iterdir()) == sorted([far, alive, tmp_path / "thing.json"])
    os.utime(far, (0, 0))
    sweep_partials(tmp_path)
    assert not far.exists()


def test_a_directory_is_whole_or_absent(tmp_path):
    def fails():
        with whole_dir(tmp_path / "d") as partial:
            (partial / "a").write_text("x")
            raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        fails()

    assert not list(tmp_path.iterdir())
    assert write_new(tmp_path / "d" / "b", "y")
