"""Formats of tables: recognised by content, limited in size, lines of the file in every message."""

import bz2
import gzip
import io
import json
import lzma
import sys
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest
import zstandard

from scalelab.records import table_bytes, text_table
from scalelab.records.table_bytes import has_table_ending

GOOD = "n_params,n_tokens,loss\n1e6,2e7,3.5\n2e6,4e7,3.25\n"
FRAME = pd.DataFrame({"n_params": [1e6, 2e6], "n_tokens": [2e7, 4e7], "loss": [3.5, 3.25]})
ROWS = FRAME.to_dict("records")


def zipped(**files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def written(writer, **more):
    packed = io.BytesIO()
    writer(FRAME, packed, **more)
    return packed.getvalue()


TEXTS = {
    "CSV, separated by commas": GOOD,
    "CSV, separated by semicolons": GOOD.replace(",", ";"),
    "CSV, separated by tabs": GOOD.replace(",", "\t"),
    "CSV, separated by vertical bars": GOOD.replace(",", "|"),
    "CSV, separated by commas, unpacked from gzip": gzip.compress(GOOD.encode()),
    "CSV, separated by commas, unpacked from zstandard": zstandard.compress(GOOD.encode()),
    "CSV, separated by commas, unpacked from bzip2": bz2.compress(GOOD.encode()),
    "CSV, separated by commas, unpacked from xz": lzma.compress(GOOD.encode()),
    "CSV, separated by commas, unpacked from zip": zipped(runs=GOOD),
    "JSON": json.dumps(ROWS),
    "JSON, unpacked from gzip": gzip.compress(json.dumps(ROWS).encode()),
    "JSONL": "\n".join(map(json.dumps, ROWS)),
    "parquet": written(pd.DataFrame.to_parquet),
    "feather": written(pd.DataFrame.to_feather),
}


@pytest.mark.parametrize("name", ["runs.csv", "RUNS.TXT"])
@pytest.mark.parametrize("words", TEXTS)
def test_a_format_is_recognised_by_its_content(tables, words, name):
    seen = tables.read(TEXTS[words], name)

    assert seen.reading.format == words
    assert seen.table["loss"].tolist() == [3.5, 3.25]
    assert seen.table["n_tokens"].tolist() == [2e7, 4e7]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode("utf-16"),
        GOOD.encode("utf-32"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        json.dumps(FRAME.to_dict("list")),
        b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
        zstandard.compress(GOOD[:30].encode()) + zstandard.compress(GOOD[30:].encode()),
    ],
)
def test_encodings_and_ends_of_lines(tables, content):
    assert tables.read(content).table["loss"].tolist() == [3.5, 3.25]


def test_excel_with_lines_above_its_header(tables, tmp_path):
    pytest.importorskip("openpyxl")
    FRAME.to_excel(tmp_path / "good.xlsx", startrow=3, index=False, sheet_name="runs")

    seen = tables.read((tmp_path / "good.xlsx").read_bytes(), "book.XLSX")

    assert seen.reading.format == "Excel, sheet 'runs'"
    assert seen.table["run"].tolist() == ["row 5", "row 6"]
    FRAME.assign(loss=[3.5, -1]).to_excel(tmp_path / "bad.xlsx", startrow=3, index=False)
    assert "rows 6 (-1.0)" in tables.refuse((tmp_path / "bad.xlsx").read_bytes()).where
    with pd.ExcelWriter(tmp_path / "two.xlsx") as book:
        FRAME.to_excel(book, sheet_name="a")
        FRAME.to_excel(book, sheet_name="b")
    assert "2 sheets with content: a, b" in tables.refuse((tmp_path / "two.xlsx").read_bytes()).problem


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ("\n\n" + GOOD.replace("3.25", "-1"), 5),
        ("sep=;\n" + GOOD.replace("3.25", "-1").replace(",", ";"), 4),
        ('n_params,n_tokens,loss,notes\n1,2,3,"a\nb"\n\n1,2,-1,c\n', 5),
        ("\n".join(map(json.dumps, [ROWS[0], ROWS[1] | {"loss": -1}])), 2),
        (json.dumps([ROWS[0], ROWS[1] | {"loss": -1}]), 2),
    ],
)
def test_rows_have_the_lines_of_their_file(tables, content, row):
    assert (
        tables.refuse(content).where.endswith(f"rows {row} (-1.0)")
        or f"rows {row} (-1)" in tables.refuse(content).where
    )


def test_objects_in_rows_are_columns(tables):
    row = {
        "name": "a",
        "state": "finished",
        "config": {"model": {"n_params": 1e6}, "lr": 1e-3},
        "summary": {"train": {"tokens": 2e7}, "eval": {"loss": 3.5}},
    }

    table = tables.read(json.dumps([row])).table

    assert table[["run", "n_params", "n_tokens", "loss", "learning_rate"]].values.tolist() == [
        ["a", 1e6, 2e7, 3.5, 1e-3]
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (gzip.compress(GOOD.encode())[:-9], "it cannot be unpacked"),
        (zstandard.compress(GOOD.encode())[:-5], "it cannot be unpacked: the file ends within a frame"),
        (lzma.compress(GOOD.encode())[:-9], "it cannot be unpacked"),
        (gzip.compress(b""), "the file is empty once unpacked"),
        (zipped(a=GOOD, b=GOOD), "it is an archive of 2 files"),
        (b"PK\3\4 and no more", "it cannot be unpacked"),
        (GOOD.encode("utf-16-le"), "the file is not text"),
        (GOOD.replace("3.5", "caf\xe9").encode("latin-1"), "not text in UTF-8: byte 0xe9 in line 2"),
        ("[" * 100_000, "its objects are nested too deeply"),
        ('{"n_params": 1, "n_params": 2}', "the name 'n_params' stands twice in one object"),
        ("[1, 2]", "a row is no JSON object but 1"),
        ("[]", "the table has no rows"),
        ('{"n_params": 1}\n{oops}\n', "it cannot be read as JSON"),
        ('{"n_params": [1, 2], "n_tokens": [1]}', "its columns have different lengths"),
        ('[{"n_params": [1], "n_tokens": 2, "loss": 3}]', "a cell of n_params is no number or word but list"),
        ('[{"n_params": true, "n_tokens": 2, "loss": 3}]', "n_params must be a positive number"),
        ('[{"n_params": NaN, "n_tokens": 2, "loss": 3}]', "n_params must be a positive number"),
        ('[{"n_params": %s, "n_tokens": 2, "loss": 3}]' % ("9" * 400), "n_params must be a positive number"),
        ('[{"n_params": %s, "n_tokens": 2, "loss": 3}]' % ("9" * 5000), "n_params must be a positive number"),
        (f"n_params,n_tokens,loss\n{'9' * 400},2,3\n", "n_params must be a positive number"),
        (TEXTS["parquet"][:-20], "it cannot be read as a table"),
        (TEXTS["feather"][:-20], "it cannot be read as a table"),
        (TEXTS["feather"][:200], "it cannot be read as a table"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "it is a workbook of Excel 2003 or older"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "bytes",  # compressed bytes hold the time
)
def test_a_damaged_file_is_refused(tables, content, problem):
    assert problem in tables.refuse(content).problem


def test_cells_of_parquet_that_are_no_numbers(tables, tmp_path):
    def refused(**columns):
        (FRAME.assign(run=["a", "b"]).assign(**columns)).to_parquet(tmp_path / "t.parquet")
        return tables.refuse((tmp_path / "t.parquet").read_bytes())

    assert "a cell of n_params is no number" in refused(n_params=[[1], [2]]).problem
    assert "row 1, the column run" in refused(run=[{"a": 1}, {"a": 2}]).where
    assert (
        "n_tokens must be a positive number" in refused(n_tokens=pd.to_datetime(["2020-01-01"] * 2)).problem
    )
    assert "loss must be a positive number" in refused(loss=[True, False]).problem


def test_what_fills_the_memory_is_refused_before_it_does(tables, tmp_path, monkeypatch):
    assert "has more than 200 MB" in tables.refuse(gzip.compress(b"\n" * 201_000_000, 1)).problem
    assert "has more than 200 MB" in tables.refuse(zstandard.compress(b"\n" * 201_000_000)).problem
    columns = {name: pa.array(np.zeros(16_000_000, np.int8)) for name in ("n_params", "n_tokens")}
    parquet.write_table(pa.table(columns), tmp_path / "bomb.parquet")
    feather.write_feather(pa.table(columns), tmp_path / "bomb.feather", compression="zstd")
    for name in ("bomb.parquet", "bomb.feather"):
        assert (tmp_path / name).stat().st_size < 1_000_000
        assert "rows of 2 columns" in tables.refuse((tmp_path / name).read_bytes()).problem
    monkeypatch.setattr(table_bytes, "LARGEST_OBJECTS", 1000)
    assert "the JSON has more than" in tables.refuse(json.dumps(ROWS * 50)).problem
    book = zipped(**{"xl/workbook.xml": "x" * 2000})
    assert "the workbook, once unpacked, has more than" in tables.refuse(book).problem


@pytest.mark.parametrize(
    ("name", "is_table"),
    [
        *(("runs.csv", True), ("RUNS.CSV", True), ("a/b.tsv.gz", True), ("t.xlsx", True), ("t.JSONL", True)),
        *(("isoflop", False), ("sweep.yaml", False), ("isoflop-6.4e12", False), ("notes.gz", False)),
    ],
)
def test_a_name_that_is_that_of_a_table(name, is_table):
    assert has_table_ending(name) == is_table


@pytest.mark.parametrize(
    ("library", "content", "extra"),
    [
        ("openpyxl", zipped(**{"xl/workbook.xml": ""}), "tables"),
        ("zstandard", zstandard.compress(b"x"), "tables"),
    ],
)
def test_a_library_that_is_not_there_is_named(tables, monkeypatch, library, content, extra):
    monkeypatch.setitem(sys.modules, library, None)

    error = tables.refuse(content)

    assert f"needs {library}" in error.problem
    assert error.fix.startswith(f"pip install 'scalelab[{extra}]'")


def test_a_log_of_short_lines_is_refused_before_it_fills_the_memory(tables, monkeypatch):
    monkeypatch.setattr(text_table, "MOST_ROWS", 1000)

    error = tables.refuse("n_params,n_tokens,loss\n" + "1,2,3\n" * 1001)

    assert error.problem == "it has more than 1,000 lines, and a run table has one a run"
    assert (
        len(tables.read("n_params,n_tokens,loss\n" + "".join(f"{i},2,3\n" for i in range(1, 1001))).table)
        == 1000
    )
