"""Files as people keep them, and what is said about files that are not what they should be."""

import gzip
import json
import sysconfig

import pytest

from scalelab.data.base import SkippedDocuments
from scalelab.data.hashing import sha256
from scalelab.data.sources.pycode import PyCode
from scalelab.data.sources.text import TextFiles
from scalelab.errors import DataError

RECORDS = ["first text", "second\ntext, ünïcode", "third"]


def texts(source):
    return [document.text for document in source.documents(SkippedDocuments())]


def refusal(path, **settings):
    """What is said when the file is read."""
    with pytest.raises(DataError) as refused:
        texts(TextFiles(paths=[str(path)], **settings))
    assert "\n  fix:   " in str(refused.value)
    return str(refused.value)


def packed(path, data):
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl_gives_a_document_a_record(tmp_path, suffix):
    rows = "".join(json.dumps({"body": r, "n": 1}) + "\n\n" for r in RECORDS).encode()
    path = packed(tmp_path / f"a.jsonl{suffix}", rows)

    assert texts(TextFiles(paths=[str(path)], field="body")) == RECORDS


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_plain_file_is_one_document_as_it_stands(tmp_path, suffix):
    path = packed(tmp_path / f"a.txt{suffix}", "line\r\nünï\n\n".encode())

    assert texts(TextFiles(paths=[str(path)])) == ["line\r\nünï\n\n"]


def test_parquet_gives_a_document_a_row(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"text": [*RECORDS, None], "n": [1, 2, 3, 4]})
    parquet.write_table(table, tmp_path / "a.parquet")
    skips = SkippedDocuments()

    found = [d.text for d in TextFiles(paths=[str(tmp_path / "*.parquet")]).documents(skips)]

    assert found == RECORDS
    assert skips.to_dict() == {"empty": {"count": 1, "examples": ["a.parquet:4"]}}


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("file", ["one\ntwo\n\n \nthree"]),
        ("paragraph", ["one\ntwo\n", "three"]),
        ("line", ["one\n", "two\n", "three"]),
    ],
)
def test_a_plain_file_can_be_many_documents(tmp_path, unit, expected):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\ntwo\n\n \nthree")

    assert texts(TextFiles(paths=[str(tmp_path / "a.txt")], document=unit)) == expected


def test_several_zst_frames_are_one_file(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    frames = [zstandard.ZstdCompressor().compress(part) for part in (b"one ", b"two")]
    (tmp_path / "a.txt.zst").write_bytes(b"".join(frames))

    assert texts(TextFiles(paths=[str(tmp_path / "a.txt.zst")])) == ["one two"]


def test_files_are_read_once_in_the_order_of_their_paths(tmp_path, monkeypatch):
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)

    found = texts(TextFiles(paths=["**/*.txt", "b.txt", str(tmp_path / "a.txt")]))

    assert found == ["a.txt", "b.txt", "sub/c.txt"]


def test_empty_files_among_others_are_noted(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.txt").write_text("text")
    skips = SkippedDocuments()

    found = list(TextFiles(paths=[str(tmp_path / "*.txt")]).documents(skips))

    assert len(found) == 1
    assert skips.to_dict() == {"without text": {"count": 1, "examples": ["a.txt"]}}


def test_the_fingerprint_sees_content_and_names_but_not_the_place(tmp_path):
    prints = []
    for place, name, text in [
        ("one", "a.txt", "same"),
        ("two", "a.txt", "same"),
        ("three", "b.txt", "same"),
        ("four", "a.txt", "else"),
    ]:
        (tmp_path / place).mkdir()
        (tmp_path / place / name).write_text(text)
        prints.append(TextFiles(paths=[f"{tmp_path}/{place}/*"]).fingerprint(sha256))

    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_missing_file_is_refused(tmp_path):
    assert f"there is no file {tmp_path}/no.txt" in refusal(tmp_path / "no.txt")


def test_a_glob_that_matches_nothing_is_refused(tmp_path):
    said = refusal(tmp_path / "*.txt")

    assert "matches no file" in said
    assert "where: working directory" in said


def test_a_directory_in_place_of_a_file_is_refused(tmp_path):
    said = refusal(tmp_path)

    assert "is a directory, not a file of text" in said
    assert f"{tmp_path}/**/*.txt" in said


def test_what_the_system_refuses_is_told(tmp_path):
    # Root may read everything, so a path that nobody can open stands in for one that we cannot.
    assert "File name too long" in refusal(tmp_path / ("x" * 300))
    assert "Not a directory" in refusal_of_hash(tmp_path)


def refusal_of_hash(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError) as refused:
        sha256(tmp_path / "file" / "below")
    return str(refused.value)


@pytest.mark.parametrize(
    ("data", "what"), [(b"GIF89a\x01\x00\x02", "a zero byte at 7"), (b"caf\xe9 au lait", "byte 0xe9 at 3")]
)
@pytest.mark.parametrize("unit", ["file", "line"])
def test_a_file_that_is_not_text_is_named(tmp_path, data, what, unit):
    (tmp_path / "x.txt").write_bytes(data)

    assert f"x.txt is not UTF-8 text: {what}" in refusal(tmp_path / "x.txt", document=unit)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"text": "cut off', "not JSON: "),
        ('{"body": "b", "id": 3}', "no field 'text'"),
        ('["text"]', "the record is list, not an object"),
        ('{"text": 7}', "the field 'text' holds int, not text: 7"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
        ("\udcff", "byte 0xff at 0 of the line"),
    ],
)
def test_a_bad_record_is_named_with_its_line(tmp_path, line, what):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line.encode("utf-8", "surrogateescape") + b"\n")

    said = refusal(path)

    assert what in said
    assert f"where: {path}:3\n" in said


def test_the_fields_that_are_there_are_listed(tmp_path, jsonl):
    path = jsonl(tmp_path / "a.jsonl", ["x"], field="body")

    assert "there are: body" in refusal(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_compressed_file_that_was_cut_short_is_refused(tmp_path, suffix, kind):
    rows = b"".join(b'{"text": "%d"}\n' % (i * i * 7919) for i in range(3000))
    path = packed(tmp_path / f"a.{kind}{suffix}", rows)
    path.write_bytes(path.read_bytes()[:-40])

    assert "ends in the middle: it was cut short" in refusal(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_is_not_compressed_at_all_is_refused(tmp_path, suffix):
    if suffix == ".zst":
        pytest.importorskip("zstandard")
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(b"plain words")

    assert f"cannot decompress a.txt{suffix}" in refusal(path)


def test_a_parquet_file_that_is_none_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 but no more")

    assert "cannot read a.parquet as parquet" in refusal(path)


def test_a_missing_column_is_refused_with_those_there_are(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"body": ["x"], "id": [1]})
    parquet.write_table(table, tmp_path / "a.parquet")

    said = refusal(tmp_path / "a.parquet")

    assert "no column 'text'" in said
    assert "there are: body, id" in said


@pytest.mark.parametrize(("package", "name"), [("zstandard", "a.txt.zst"), ("pyarrow", "a.parquet")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package, name):
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, package, None)

    said = refusal(tmp_path / name)

    assert f"needs {package}, which is not installed" in said
    assert "pip install 'scalelab[text]'" in said


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of our own."""
    for name, data in {
        "b.py": b"b = 1\n",
        "a/x.py": b"x = 1\n",
        "a/test/t.py": b"t = 1\n",
        "test_support.py": b"s = 1\n",
        "latin.py": b"# caf\xe9\n",
        "empty.py": b"",
        "a/notes.txt": b"no code",
        "site-packages/p.py": b"p = 1\n",
        "a/dist-packages/q.py": b"q = 1\n",
        "__pycache__/c.py": b"c = 1\n",
    }.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "lib"))


@pytest.mark.usefixtures("library")
def test_pycode_reads_the_library_and_notes_what_it_leaves_out():
    skips = SkippedDocuments()

    names = [document.name for document in PyCode().documents(skips)]

    assert names == ["a/test/t.py", "a/x.py", "b.py", "test_support.py"]
    assert skips.to_dict() == {
        "empty": {"count": 1, "examples": ["empty.py"]},
        "not UTF-8": {"count": 1, "examples": ["latin.py"]},
    }


@pytest.mark.usefixtures("library")
def test_pycode_leaves_tests_out_when_asked():
    names = [document.name for document in PyCode(tests=False).documents(SkippedDocuments())]

    assert names == ["a/x.py", "b.py", "test_support.py"]


def test_a_python_without_its_library_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))

    with pytest.raises(DataError, match=r"keeps no \.py files of its own"):
        PyCode().fingerprint(sha256)
