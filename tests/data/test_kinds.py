"""Files are read as what their names say they are, or refused with file and line."""

import bz2
import gzip
import json
import lzma

import pytest

from scalelab.data.base import DataConfig, SkippedDocuments
from scalelab.data.corpus import shards
from scalelab.data.files import compression, plain
from scalelab.data.files.records import rows_of
from scalelab.data.sources.text import TextFiles
from scalelab.errors import DataError

TEXTS = ['first, "quoted"', "second\nline; ünï\u2028x", "third\ttab"]


def csv_of(delimiter, texts=TEXTS):
    cells = ["n", "text", *(f'{i}{delimiter}"' + t.replace('"', '""') + '"' for i, t in enumerate(texts))]
    return delimiter.join(cells[:2]) + "\n" + "\n".join(cells[2:]) + "\n"


def zst(data):
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


PACKED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zst}
ROWS = [{"text": t, "n": i} for i, t in enumerate(TEXTS)]
KINDS = {
    ".jsonl": "".join(json.dumps(r) + "\n" for r in ROWS),
    ".ndjson": "\n\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS),
    ".json": json.dumps(ROWS, indent=2),
    ".csv": csv_of(","),
    ".tsv": csv_of("\t"),
}


def texts(path, **settings):
    skips = SkippedDocuments()
    return [d.text for d in TextFiles(paths=[str(path)], **settings).documents(skips)]


def refusal(path, **settings):
    with pytest.raises(DataError) as refused:
        texts(path, **settings)
    assert refused.value.fix
    return str(refused.value)


def written(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [str, str.upper])
def test_records_of_every_kind_give_their_texts(tmp_path, kind, packing, change):
    path = written(tmp_path / change(f"a{kind}{packing}"), PACKED[packing](KINDS[kind].encode()))

    assert texts(path) == TEXTS
    assert [row["text"] for _, row in rows_of(path)] == TEXTS


@pytest.mark.parametrize("packing", PACKED)
def test_plain_text_is_unpacked_in_any_case(tmp_path, packing):
    path = written(tmp_path / f"A.TXT{packing.upper()}", PACKED[packing](b"one\n\ntwo"))

    assert texts(path) == ["one\n\ntwo"]
    assert texts(path, document="paragraph") == ["one\n", "two"]


@pytest.mark.parametrize("packing", [p for p in PACKED if p])
@pytest.mark.parametrize("change", [lambda d: d[:-9], lambda d: b""], ids=["cut", "empty"])
def test_a_file_that_was_cut_short_is_refused(tmp_path, packing, change):
    data = PACKED[packing](b"".join(b"%d " % (i * i * 7919) for i in range(5000)))

    assert "it was cut short" in refusal(written(tmp_path / f"a.txt{packing}", change(data)))


@pytest.mark.parametrize("packing", [p for p in PACKED if p])
def test_several_streams_are_one_text_and_damage_is_refused(tmp_path, packing):
    pack = PACKED[packing]
    path = written(tmp_path / f"a.txt{packing}", pack(b"one ") + pack(b"two"))
    assert texts(path) == ["one two"]

    written(path, pack(b"one ") + b"what is this?")
    assert f"cannot decompress a.txt{packing}" in refusal(path)


@pytest.mark.parametrize("packing", [p for p in PACKED if p])
def test_a_decompression_bomb_is_refused(tmp_path, packing, monkeypatch):
    monkeypatch.setattr(compression, "RATIO_FROM", 2**20)
    path = written(tmp_path / f"a.txt{packing}", PACKED[packing](b"a line of words\n" * 2**17))

    assert "unpacks to more than 400 times its size" in refusal(path, document="line")


@pytest.mark.parametrize(
    ("name", "data", "what", "line"),
    [
        ("a.json", '[{"text": "x"},\n{"text": }]', "not JSON", 2),
        ("a.json", '[{"text": "x"}\n\n{"text": "y"}]', "in place of a comma", 3),
        ("a.json", '[{"text": "x"}', "the array does not end", 1),
        ("a.json", '[{"text": "x"},]', "not JSON", 1),
        ("a.json", '[{"text": "x"}]\n\n{}', "the array has ended, but the file goes on", 3),
        ("a.json", '["x",\n"y"]', "the record is str, not an object", 1),
        ("a.json", '[{"text": "x"},\n {"text": "a", "text": "b"}]', "'text' occurs twice", 2),
        ("a.json", '{"data": [{"text": "x"}]}', "no field 'text'", 1),
        ("a.json", "7" * 5000, "not JSON", 1),
        ("a.jsonl", '{"text": "a"}\n{"text": "a", "m": {"k": 1, "k": 2}}', "'k' occurs twice", 2),
        ("a.jsonl", '{"text": "a"}\n' + "[" * 100_000, "nested too deeply", 2),
        ("a.csv", "id,text\n1,a\n\n2,b,c\n", "3 cells, but the header names 2", 4),
        ("a.csv", "id,text\n1\n", "1 cells, but the header names 2", 2),
        ("a.csv", 'id,text\n1,"a\nb\n', "not a row of a table", 2),
        ("a.csv", "text,text\n1,a\n", "two columns are named 'text'", 1),
        ("a.csv", "id,body\n1,a\n", "no field 'text'", 2),
        ("a.txt", b"one\ntwo\ncaf\xe9", "byte 0xe9 at 11", 3),
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}', "byte 0xe9 at 13 of the line", 2),
        ("a.json", b'[{"text": "a"},\n{"text": "caf\xe9"}]', "byte 0xe9 at 29", 2),
        ("a.csv", b"id,text\n1,caf\xe9\n", "byte 0xe9 at 5 of the line", 2),
        ("a.txt", "one\ntwo\0", "a zero byte at 7", 2),
    ],
)
def test_a_fault_is_refused_with_its_line(tmp_path, name, data, what, line):
    path = written(tmp_path / name, data)

    said = refusal(path)

    assert what in said
    assert f"where: {path}:{line}\n" in said


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        ("text".encode("utf-16"), "iconv -f UTF-16"),
        (gzip.compress(b"x", mtime=0), "let its name end in .gz"),
        (b"PK\x03\x04\0\0", "a zip archive"),
        (b"PAR1\0", "let its name end in .parquet"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, data, advice):
    assert advice in refusal(written(tmp_path / "a.txt", data))


def test_json_objects_one_behind_the_other_are_records(tmp_path):
    path = written(tmp_path / "a.json", '\ufeff{"text": "a"}\n{\n"text": "b"} {"text": "c"}\r\n')

    assert [where for where, _ in rows_of(path)] == [f"{path}:1", f"{path}:2", f"{path}:3"]
    assert texts(path) == ["a", "b", "c"]


def test_a_fault_in_a_large_file_is_named_and_not_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr("scalelab.data.files.json_records.MAX_BYTES", 2**20)
    data = '[{"text": "x"},\n{"text": "a" "b"},\n' + '{"text": "words"},\n' * 400_000 + '{"text": "y"}]'

    said = refusal(written(tmp_path / "a.json", data))

    assert "not JSON: Expecting ',' delimiter" in said
    assert f"{tmp_path / 'a.json'}:2\n" in said


def test_records_longer_than_a_piece_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "_CHUNK", 7)
    long = ["é" * n + '\\"{[,' for n in (1, 50, 3, 200)]

    for name, data in {
        "a.json": json.dumps([{"text": t} for t in long], ensure_ascii=False, indent=1),
        "a.jsonl": "\r\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in long),
        "a.csv": csv_of(",", long),
    }.items():
        assert texts(written(tmp_path / name, data)) == long, name


def test_a_line_end_is_any_of_three_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "_CHUNK", 3)
    path = written(tmp_path / "a.txt", "\ufeffa\r\r\nb\r\n\r\nc\x85\u2028d\n\ufeffe\r")

    assert texts(path, document="line") == ["a\r", "b\r\n", "c\x85\u2028d\n", "\ufeffe\r"]
    assert texts(path) == ["a\r\r\nb\r\n\r\nc\x85\u2028d\n\ufeffe\r"]


def test_old_line_ends_divide_paragraphs(tmp_path):
    path = written(tmp_path / "a.txt", "one\r\rtwo\rmore\r\rthree")

    assert texts(path, document="paragraph") == ["one\r", "two\rmore\r", "three"]


def test_an_escaped_zero_is_a_character(tmp_path):
    assert texts(written(tmp_path / "a.jsonl", '{"text": "a\\u0000b"}')) == ["a\0b"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "A.TGZ"])
def test_an_archive_is_named_as_one(tmp_path, name):
    assert "unpack the archive" in refusal(written(tmp_path / name, PACKED[".gz"](b"a\0" * 512)))


def test_a_mark_at_the_start_of_a_line_of_json_is_no_character(tmp_path):
    path = written(tmp_path / "a.jsonl", '\ufeff{"text": "a"}\n\ufeff{"text": "b"}\n')

    assert texts(path) == ["a", "b"]


def test_too_much_for_one_document_is_refused(tmp_path, monkeypatch):
    for module in (plain, "scalelab.data.files.json_records", "scalelab.data.sources.text"):
        target = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{target}.MAX_BYTES", 2**20)
    monkeypatch.setattr("scalelab.data.files.delimited_records.MAX_BYTES", 2**20)
    long = "a" * 3_000_000

    assert "the line has more than" in refusal(written(tmp_path / "a.jsonl", '{"text": "' + long + '"}'))
    assert "the record has more than" in refusal(written(tmp_path / "a.json", '[{"text": "' + long + '"}]'))
    assert "one document has more than" in refusal(written(tmp_path / "a.txt", long))
    assert "the line has more than" in refusal(tmp_path / "a.txt", document="line")
    lines = "some words\n" * 200_000
    assert "the paragraph has more than" in refusal(written(tmp_path / "b.txt", lines), document="paragraph")
    rows = 'text\n"' + "some words\n" * 200_000 + '"\n'
    assert "not a row of a table: field larger" in refusal(written(tmp_path / "c.csv", rows))


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_a_table_is_cut_by_the_delimiter_of_its_header(tmp_path, delimiter):
    assert texts(written(tmp_path / "a.csv", csv_of(delimiter))) == TEXTS


def test_a_field_inside_an_object_is_named_by_its_path(tmp_path):
    row = {"meta": {"text": "inner", "n": {"text": "deep"}}, "text": ["x"], "a.b": "dotted"}
    path = written(tmp_path / "a.jsonl", json.dumps(row))

    assert texts(path, field="meta.text") == ["inner"]
    assert texts(path, field="meta.n.text") == ["deep"]
    assert texts(path, field="a.b") == ["dotted"]
    for wrong in ("meta.body", "meta.text.more", "text.0", "a", ""):
        said = refusal(path, field=wrong)
        assert f"no field {wrong!r}" in said
        assert "there are: meta.text, meta.n, text, a.b" in said
    assert "'text' holds list, not text" in refusal(path)


def test_a_column_inside_a_column_of_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"meta": {"text": "inner"}, "a.b": "dotted", "a": {"b": "x"}, "bin": b"x"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "A.PARQUET")
    path = tmp_path / "A.PARQUET"

    assert texts(path, field="meta.text") == ["inner"]
    assert texts(path, field="a.b") == ["dotted"]
    assert "no field 'meta.no'" in refusal(path, field="meta.no")
    assert "holds bytes, not text" in refusal(path, field="bin")


def test_what_is_left_out_is_counted_and_shown(tmp_path, prose, capsys):
    rows = [{"text": t} for t in prose(40)] + [{"text": None}, {"text": " \n"}]
    path = written(tmp_path / "a.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "again.jsonl").symlink_to(path)
    source = {"kind": "text", "paths": [str(tmp_path / "*.jsonl")]}

    corpus = shards.prepare(DataConfig(source=source, tokenizer={"vocab_size": 300}, validation=0.2))

    assert corpus.manifest.skipped == {
        "second path to the same file": {"count": 1, "examples": [str(tmp_path / "again.jsonl")]},
        "empty": {"count": 2, "examples": ["a.jsonl:41", "a.jsonl:42"]},
    }
    said = " ".join(capsys.readouterr().err.split())
    assert "left out of the corpus: 1 second path to the same file, 2 empty" in said


def test_names_of_records_keep_their_directories(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        written(tmp_path / folder / "x.jsonl", '{"text": "' + folder + '"}')

    found = TextFiles(paths=[str(tmp_path / "*" / "x.jsonl")]).documents(SkippedDocuments())

    assert [d.name for d in found] == ["a/x.jsonl:1", "b/x.jsonl:1"]


@pytest.mark.parametrize("at", range(4, 60, 7))
def test_a_damaged_parquet_file_is_refused_without_control_characters(tmp_path, at):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.Table.from_pylist([{"text": t} for t in TEXTS]), path, write_page_checksum=True
    )
    data = bytearray(path.read_bytes())
    data[at : at + 6] = b"\x0f\xff\x1b[3\xee"
    path.write_bytes(data)

    said = refusal(path)

    assert said.startswith(("cannot read a.parquet as parquet: ", "the table has no column"))
    assert said.replace("\n", "").isprintable()


def test_names_of_fields_reach_a_message_without_control_characters(tmp_path):
    path = written(tmp_path / "a.jsonl", json.dumps({"a\x1b[31m\n": 1}))

    assert refusal(path).replace("\n", "").isprintable()
