"""Tables of runs: written in other ways with the same answer, with one bad cell, or damaged.

    same_answer()              every other way to write the clean table
    bad_cells(n, seed)         one cell that is no number: refused, or its row left out and listed
    combined(n, seed)          two or three of the other ways at once
    damaged(n, seed)           bytes changed, for every format
    frames()                   tables in memory

The answer of a reader is {"rows": [(n_params, n_tokens, loss)], "excluded": [...]}, rows sorted.

Not here: conversions that a person asks for by a flag.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from fuzzing.check import Case

Rows = list[dict[str, Any]]
NAMES = ("n_params", "n_tokens", "loss")
BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20, 3e20, 1e21)


def clean_rows() -> Rows:
    """Return 35 runs of a Chinchilla surface with noise, numbers as people's tools write them."""
    draw = random.Random(0)
    rows = []
    for budget in BUDGETS:
        centre = math.sqrt(budget / 120)
        for k in (-2, -1, 0, 1, 2):
            n = round(centre * 1.7**k, -4)
            d = round(budget / (6 * n), -5)
            loss = 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
            rows.append(
                {
                    "n_params": n,
                    "n_tokens": d,
                    "loss": round(loss * draw.gauss(1, 0.002), 5),
                    "flops_planned": budget,
                    "run": f"run-{len(rows):02d}",
                }
            )
    return rows


CLEAN = clean_rows()
ANSWER = sorted(tuple(float(row[name]) for name in NAMES) for row in CLEAN)


def difference(found: list[tuple[float, ...]], right: list[tuple[float, ...]]) -> str | None:
    """Return how rows differ from the right ones; None if they do not."""
    if len(found) != len(right):
        return f"{len(found)} rows, and it should be {len(right)}"
    for one, two in zip(found, right, strict=True):
        if not all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(one, two, strict=True)):
            return f"{one} where it should be {two}"
    return None


def equal(answer: Any) -> str | None:
    """Return how an answer differs from that of the clean table."""
    wrong = difference(answer["rows"], ANSWER)
    return f"silent wrong answer: {wrong}" if wrong else None


def without(index: int) -> Callable[[Any], str | None]:
    """Return the check of a table of which one row has to be left out and listed."""
    right = [row for row in ANSWER if row != tuple(float(CLEAN[index][name]) for name in NAMES)]

    def wrong(answer: Any) -> str | None:
        found = difference(answer["rows"], right)
        if found is None and not answer["excluded"]:
            return "a row was left out and is not listed"
        return f"silent wrong answer: {found}" if found else None

    return wrong


def as_csv(rows: Rows, separator: str = ",", end: str = "\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    """Return rows as CSV."""
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def renamed(rows: Rows, names: dict[str, str]) -> Rows:
    """Return rows with other names of columns."""
    return [{names.get(name, name): value for name, value in row.items()} for row in rows]


def reshuffled(rows: Rows, draw: random.Random) -> Rows:
    """Return rows and columns in another order."""
    names = list(rows[0])
    draw.shuffle(names)
    rows = [{name: row[name] for name in names} for row in rows]
    draw.shuffle(rows)
    return rows


def with_extra(rows: Rows, draw: random.Random) -> Rows:
    """Return rows with columns that have nothing to do with a law."""
    return [
        row
        | {
            "notes": draw.choice(("", "a, b", 'say "x"', "two\nlines", "é 数", "=1+1", "<b>x</b>")),
            "commit": f"{draw.getrandbits(64):x}",
            "created_at": "2024-03-01T12:00:00Z",
            "train/grad_norm": draw.random(),
            "Unnamed: 0": i,
        }
        for i, row in enumerate(rows)
    ]


def numbers(rows: Rows, write: Callable[[float], str], names: tuple[str, ...] = NAMES) -> Rows:
    """Return rows with numbers written in another way."""
    return [row | {name: write(row[name]) for name in names} for row in rows]


def _suffixed(value: float) -> str:
    for letter, unit in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= unit:
            return f"{value / unit:.12g}{letter}"
    return f"{value:.12g}"


SYNONYMS = (
    {"n_params": "N", "n_tokens": "D", "loss": "L"},
    {"n_params": "params", "n_tokens": "tokens", "loss": "val_loss"},
    {"n_params": "N_Params", "n_tokens": "N Tokens", "loss": "Loss"},
    {"n_params": "model.n_params", "n_tokens": "train_tokens", "loss": "eval/loss"},
    {"n_params": "params.n_params", "n_tokens": "params.n_tokens", "loss": "metrics.val_loss"},
    {"n_params": "parameters", "n_tokens": "training_tokens", "loss": "validation loss"},
    {"n_params": "num_params", "n_tokens": "num_tokens", "loss": "test_loss", "run": "Name"},
    {"n_params": " n_params", "n_tokens": "n_tokens ", "loss": " loss "},
)


def texts(draw: random.Random) -> Iterator[tuple[str, str, bytes]]:
    """Yield (label, file name, bytes) of the clean table written in other ways."""
    plain = as_csv(CLEAN)
    csvs: dict[str, str] = {
        "as it is": plain,
        "rows and columns reordered": as_csv(reshuffled(CLEAN, draw)),
        "extra columns": as_csv(with_extra(CLEAN, draw)),
        "extra columns reordered": as_csv(reshuffled(with_extra(CLEAN, draw), draw)),
        "semicolons": as_csv(CLEAN, ";"),
        "tabs": as_csv(CLEAN, "\t"),
        "bars": as_csv(CLEAN, "|"),
        "all quoted": as_csv(CLEAN, quoting=csv.QUOTE_ALL),
        "decimal comma": as_csv(CLEAN, ";").replace(".", ","),
        "decimal comma, tabs": as_csv(CLEAN, "\t").replace(".", ","),
        "decimal comma, quoted": as_csv(
            numbers(CLEAN, lambda v: str(v).replace(".", ","), (*NAMES, "flops_planned"))
        ),
        "byte-order mark": "\ufeff" + plain,
        "CRLF": as_csv(CLEAN, end="\r\n"),
        "CR": as_csv(CLEAN, end="\r"),
        "no last line end": plain.rstrip("\n"),
        "blank lines at the end": plain + "\n\n",
        "blank lines between": plain.replace("\n", "\n\n"),
        "rows of commas": plain + ",,,,\n" * 3,
        "spaces after commas": plain.replace(",", ", "),
        "spaces around cells": as_csv(numbers(CLEAN, lambda v: f"  {v} ")),
        "whole numbers": as_csv(numbers(CLEAN, lambda v: str(int(v)), ("n_params", "n_tokens"))),
        "scientific": as_csv(numbers(CLEAN, lambda v: f"{v:.9E}")),
        "plus signs": as_csv(numbers(CLEAN, lambda v: f"+{v}")),
        "thousands commas": as_csv(numbers(CLEAN, lambda v: f"{int(v):,}", ("n_params", "n_tokens"))),
        "thousands spaces": as_csv(
            numbers(CLEAN, lambda v: f"{int(v):,}".replace(",", " "), ("n_params", "n_tokens"))
        ),
        "thousands no-break": as_csv(
            numbers(CLEAN, lambda v: f"{int(v):,}".replace(",", "\xa0"), ("n_params", "n_tokens"))
        ),
        "thousands points": as_csv(
            numbers(
                numbers(CLEAN, lambda v: str(v).replace(".", ","), ("loss",)),
                lambda v: f"{int(v):,}".replace(",", "."),
                ("n_params", "n_tokens"),
            ),
            ";",
        ),
        "suffixes": as_csv(numbers(CLEAN, _suffixed, ("n_params", "n_tokens"))),
        "every row twice": as_csv([row for row in CLEAN for _ in (0, 1)]),
        "an index": pd.DataFrame(CLEAN).to_csv(),
        "statuses": as_csv([row | {"status": "finished"} for row in CLEAN]),
        "W&B states": as_csv([row | {"State": "finished"} for row in CLEAN]),
        "MLflow statuses": as_csv([row | {"status": "FINISHED"} for row in CLEAN]),
        "an empty column": as_csv([row | {"group": "", "reason": ""} for row in CLEAN]),
    }
    for names in SYNONYMS:
        csvs[f"names {', '.join(names.values())}"] = as_csv(renamed(CLEAN, names))
    dead = [
        {
            "n_params": 1e8,
            "n_tokens": 1e9,
            "loss": loss,
            "flops_planned": 1e18,
            "run": f"dead-{i}",
            "x": state,
        }
        for i, (state, loss) in enumerate(
            (("crashed", ""), ("failed", "NaN"), ("killed", "9.1"), ("running", "5.5"), ("preempted", ""))
        )
    ]
    done = [row | {"x": "finished"} for row in CLEAN]
    csvs["dead runs"] = as_csv(renamed(done + dead, {"x": "status"}))
    csvs["dead runs of W&B"] = as_csv(renamed(dead + done, {"x": "State"}))
    for label, text in csvs.items():
        yield label, "runs.csv", text.encode()
    yield "UTF-16", "runs.csv", plain.encode("utf-16")
    yield "tabs in a .tsv", "runs.tsv", as_csv(CLEAN, "\t").encode()
    yield "a .txt", "runs.txt", plain.encode()
    yield "upper case", "RUNS.CSV", plain.encode()
    yield "gz", "runs.csv.gz", gzip.compress(plain.encode())
    yield "bz2", "runs.csv.bz2", bz2.compress(plain.encode())
    yield "xz", "runs.csv.xz", lzma.compress(plain.encode())
    yield "two gz members", "runs.csv.gz", b"".join(map(gzip.compress, _halves(plain.encode())))
    yield "JSON array", "runs.json", json.dumps(CLEAN).encode()
    yield "JSON of columns", "runs.json", pd.DataFrame(CLEAN).to_json().encode()
    yield "JSON lines", "runs.jsonl", "".join(json.dumps(row) + "\n" for row in CLEAN).encode()
    yield "JSON lines in .json", "runs.json", "".join(json.dumps(row) + "\n" for row in CLEAN).encode()
    yield "JSON, numbers as text", "runs.json", json.dumps(numbers(CLEAN, str)).encode()
    yield from binary(CLEAN)


def binary(rows: Rows) -> Iterator[tuple[str, str, bytes]]:
    """Yield rows in the formats whose packages are installed."""
    if find_spec("zstandard"):
        import zstandard

        yield "zst", "runs.csv.zst", zstandard.compress(as_csv(rows).encode())
    if find_spec("pyarrow"):
        for label, frame in {
            "parquet": pd.DataFrame(rows),
            "parquet of an index": pd.DataFrame(rows).set_index("run"),
            "parquet of text": pd.DataFrame(rows).astype(str),
            "parquet of float32": pd.DataFrame(rows).astype({"flops_planned": "float32"}),
            "parquet of categories": pd.DataFrame(rows).astype({"run": "category"}),
            "parquet of nullable": pd.DataFrame(rows).convert_dtypes(),
        }.items():
            out = io.BytesIO()
            frame.to_parquet(out)
            yield label, "runs.parquet", out.getvalue()
        out = io.BytesIO()
        pd.DataFrame(rows).to_feather(out)
        yield "feather", "runs.feather", out.getvalue()
    if find_spec("openpyxl"):
        for label, frame in {
            "xlsx": pd.DataFrame(rows),
            "xlsx of text": pd.DataFrame(rows).astype(str),
        }.items():
            out = io.BytesIO()
            frame.to_excel(out, index=False)
            yield label, "runs.xlsx", out.getvalue()


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]


MUST_READ = (
    *("as it is", "rows and columns reordered", "extra columns", "extra columns reordered", "CRLF"),
    *("all quoted", "semicolons", "tabs", "decimal comma", "byte-order mark", "gz", "zst", "parquet"),
    *("whole numbers", "scientific", "no last line end", "blank lines at the end", "upper case"),
    *("suffixes", "thousands commas", "JSON array", "JSON lines", "dead runs", "dead runs of W&B"),
    *("statuses", "W&B states", "MLflow statuses", "an index", "feather", "every row twice"),
)
"""Ways that have to be read. The others may be refused, with the reason; none is read differently."""


def same_answer(seed: int = 0) -> Iterator[Case]:
    """Yield every other way to write the clean table."""
    for label, name, data in texts(random.Random(seed)):
        must = "read" if label in MUST_READ else ""
        yield Case(f"table: {label}", name, data, expected=equal, must=must)


GARBAGE = (
    *("", "NaN", "nan", "inf", "-inf", "N/A", "-", "None", "null", "0", "-1", "1e400", "-1e400", "9" * 400),
    *("0x10", "1.2.3", "1e", "abc", "True", "FALSE", "2024-01-01", "12:30", "#REF!", "=1+1", "[1, 2]"),
    *(
        "{'a': 1}",
        "3.5%",
        "<b>3</b>",
        "\x1b[31m3",
        "3 4",
        "3;4",
        "1e5e5",
        "--3",
        "3-",
        "1e-400",
        "?",
        "3 ± 1",
    ),
    *("3\n4", "\u202e3", "three", "3j", "1/3", "~3", ">3", "3…", "$3", ",3", "1,2,3", "0.0", "'"),
)
"""Cells that are no positive number, whoever reads them."""


def bad_cells(n: int, seed: int) -> Iterator[Case]:
    """Yield tables with one cell that is no number: refused, or its row left out and listed."""
    draw = random.Random(f"cells {seed}")
    for i in range(n):
        row, name, value = draw.randrange(len(CLEAN)), draw.choice(NAMES), draw.choice(GARBAGE)
        rows = [dict(r) for r in CLEAN]
        rows[row][name] = value
        form = draw.choice(("csv", "csv", "csv", "semicolon", "json", "jsonl", "quoted", "parquet"))
        data, file = as_csv(rows).encode(), "runs.csv"
        if form == "semicolon":
            data = as_csv(rows, ";").encode()
        elif form == "quoted":
            data = as_csv(rows, quoting=csv.QUOTE_ALL).encode()
        elif form in ("json", "jsonl"):
            rows[row][name] = draw.choice(
                (None, True, [1, 2], {"a": 1}, "x", "", -1, 0, float("nan"), 10**400)
            )
            value = repr(rows[row][name])
            file = f"runs.{form}"
            data = (
                json.dumps(rows).encode()
                if form == "json"
                else "".join(json.dumps(r) + "\n" for r in rows).encode()
            )
        elif form == "parquet" and find_spec("pyarrow"):
            odd = draw.choice(([1.0, 2.0], {"a": 1}, b"x", "x", True, None))
            frame = pd.DataFrame(rows)
            cells = [_like(odd, CLEAN[k][name]) for k in range(len(CLEAN))]
            cells[row] = odd
            frame[name] = cells
            out = io.BytesIO()
            frame.to_parquet(out)
            value, file, data = repr(odd), "runs.parquet", out.getvalue()
        label = f"table-cell-{seed}-{i}: {name} of row {row} = {value[:30]!r} ({form})"
        yield Case(label, file, data, expected=without(row))


def _like(odd: Any, value: float) -> Any:
    """Return a number as the type of a bad cell: all cells of a column of parquet have one type."""
    if isinstance(odd, bool):
        return odd
    for kind, wrapped in (
        (list, [value]),
        (dict, {"a": value}),
        (bytes, str(value).encode()),
        (str, str(value)),
    ):
        if isinstance(odd, kind):
            return wrapped
    return value


def combined(n: int, seed: int) -> Iterator[Case]:
    """Yield the clean table with several harmless changes at once."""
    draw = random.Random(f"combined {seed}")
    for i in range(n):
        rows, done = [dict(row) for row in CLEAN], []
        if draw.random() < 0.5:
            rows = reshuffled(with_extra(rows, draw), draw)
            done.append("extra, reordered")
        if draw.random() < 0.3:
            names = draw.choice(SYNONYMS)
            rows = renamed(rows, names)
            done.append("names")
        else:
            names = {}
        number = [names.get(name, name) for name in NAMES]
        way = draw.choice(("none", "suffix", "comma", "scientific", "decimal comma"))
        if way == "suffix":
            rows = numbers(rows, _suffixed, tuple(number[:2]))
        elif way == "comma":
            rows = numbers(rows, lambda v: f"{int(v):,}", tuple(number[:2]))
        elif way == "scientific":
            rows = numbers(rows, lambda v: f"{v:.9e}", tuple(number))
        elif way == "decimal comma":
            rows = numbers(rows, lambda v: str(v).replace(".", ","), tuple(number))
        separator = ";" if way == "decimal comma" else draw.choice((",", ";", "\t"))
        quoting = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        text = as_csv(rows, separator, draw.choice(("\n", "\r\n")), quoting)
        data = (draw.choice(("", "\ufeff")) + text).encode()
        name = draw.choice(("runs.csv", "runs.CSV", "runs.csv.gz"))
        if name.endswith("gz"):
            data = gzip.compress(data)
        label = f"table-combined-{seed}-{i}: {', '.join([*done, way, repr(separator), name])}"
        yield Case(label, name, data, expected=equal)


def damaged(n: int, seed: int) -> Iterator[Case]:
    """Yield tables with changed bytes, and tables of rows that do not belong together."""
    draw = random.Random(f"damaged {seed}")
    forms = [(name, data) for _, name, data in texts(random.Random(0)) if len(data) < 100_000]
    for i in range(n):
        name, data = draw.choice(forms)
        copy = bytearray(data)
        at = draw.randrange(len(copy))
        way = draw.choice(("bit", "cut", "splice", "zero", "byte", "line", "name", "empty", "header", "end"))
        if way == "bit":
            for _ in range(draw.randint(1, 5)):
                copy[draw.randrange(len(copy))] ^= 1 << draw.randrange(8)
        elif way == "cut":
            del copy[at:]
        elif way == "splice":
            other = draw.randrange(len(copy))
            copy[at:at] = copy[other : other + draw.randint(1, 200)]
        elif way == "zero":
            copy[at:at] = b"\0"
        elif way == "byte":
            copy[at] = draw.choice(b"\x07\x1b\x80\xff\",;'\n\r\t |#")
        elif way == "line":
            copy[at:at] = draw.choice((b"\n", b"\n,\n", b"\nmean,,2.1\n", b'\n"', b"x" * 2_000_000))
        elif way == "name":
            name = draw.choice(("runs", "runs.parquet", "runs.json", "runs.xlsx", "runs.gz", "runs.csv.zst"))
        elif way == "empty":
            copy = bytearray(
                draw.choice((b"", b"\n", b",", b"{}", b"[]", b"null", b"\0", b"PK\x03\x04", b"PAR1"))
            )
        elif way == "header":
            first = bytes(copy).split(b"\n")[0]
            copy[:0] = draw.choice(
                (first + b"\n", b"# comment\n", b"title\n\n", b"sep=;\n", b"," * 5000 + b"\n")
            )
        else:
            copy += draw.choice((b"\x1a", b"\0", b"Total,,,\n", b'"', b"\xff\xfe", bytes(copy)))
        yield Case(f"table-damaged-{seed}-{i}: {name}: {way} at {at}", name, bytes(copy))


def malformed_json() -> Iterator[Case]:
    """Yield JSON that is no table, and JSON that is one in an unusual form."""
    deep = [CLEAN[0] | {"config": {"a": {"b": list(range(5))}}}, *CLEAN[1:]]
    twice = json.dumps(CLEAN).replace('"loss": ', '"loss": 1.0, "loss": ', 1)
    for label, text in {
        "nested extra": json.dumps(deep),
        "a key twice": twice,
        "100,000 brackets": "[" * 100_000,
        "a number": "3",
        "array of arrays": json.dumps([list(row.values()) for row in CLEAN]),
        "array of numbers": "[1, 2, 3]",
        "object of objects": json.dumps({str(i): row for i, row in enumerate(CLEAN)}),
        "wrapped": json.dumps({"runs": CLEAN}),
        "5,000 digits": json.dumps(CLEAN).replace('"loss": ', '"loss": ' + "9" * 5000, 1),
        "half a surrogate": json.dumps(CLEAN).replace("run-00", "\\ud800", 1),
        "escapes in names": json.dumps(CLEAN).replace("run-00", "\\u001b[31m", 1),
        "rows of different keys": json.dumps(
            [{k: v for k, v in r.items() if i % 5 or k != "loss"} for i, r in enumerate(CLEAN)]
        ),
    }.items():
        yield Case(f"table json: {label}", "runs.json", text.encode())


def frames() -> Iterator[tuple[str, Any, Callable[[Any], str | None]]]:
    """Yield (label, DataFrame or what is none, check) of tables in memory."""
    frame = pd.DataFrame(CLEAN)
    text = frame.astype(str)
    odd = frame.astype({"loss": object})
    yield "as it is", frame, equal
    yield "reordered", frame.sample(frac=1, random_state=0), equal
    yield "index of names", frame.set_index("run", drop=False), equal
    yield "index of one label", frame.set_axis([0] * len(frame)), equal
    yield "nullable", frame.convert_dtypes(), equal
    yield "text", text, equal
    yield "whole numbers as objects", frame.assign(n_params=[int(v) for v in frame["n_params"]]), equal
    yield "numpy objects", frame.assign(loss=[np.float64(v) for v in frame["loss"]]).astype(object), equal
    yield "categories", frame.astype({"loss": "category"}), equal
    for label, value in {
        "list": [1.0],
        "dict": {"a": 1},
        "None": None,
        "complex": 1j,
        "True": True,
        "date": pd.Timestamp("2024-01-01"),
        "a 400-digit integer": 10**400,
        "bytes": b"3",
        "class": dict,
        "NaT": pd.NaT,
        "NA": pd.NA,
    }.items():
        bad = odd.copy()
        bad.at[3, "loss"] = value
        yield f"a cell of {label}", bad, without(3)
    yield "complex column", frame.assign(loss=frame["loss"] + 0j), equal
    yield "dates", frame.assign(loss=pd.Timestamp("2024-01-01")), lambda answer: "dates were read as losses"
    yield "booleans", frame.assign(loss=True), lambda answer: "truth values were read as losses"
    yield "no rows", frame.iloc[:0], lambda answer: "no rows were read"
    yield "no columns", pd.DataFrame(), lambda answer: "nothing was read"
    yield "a column twice", pd.concat([frame, frame[["loss"]]], axis=1), lambda answer: "one of two was taken"
    yield "columns of two levels", frame.set_axis(pd.MultiIndex.from_product([["x"], frame]), axis=1), equal
    yield "columns of numbers", frame.set_axis(range(5), axis=1), lambda answer: "columns without names"
    yield "sparse", frame.astype({"loss": pd.SparseDtype("float64")}), equal


def frame_cases() -> Iterator[Case]:
    """Yield the tables in memory as cases, whose file is not read."""
    for label, frame, expected in frames():
        yield Case(f"table in memory: {label}", "frame", settings={"frame": frame}, expected=expected)


def odd_numbers(n: int, seed: int) -> Iterator[Case]:
    """Yield tables of positive numbers that no sweep would give: whatever a fit says, it is finite and whole."""
    draw = random.Random(f"odd {seed}")
    for i in range(n):
        rows = [dict(row) for row in CLEAN]
        way = draw.choice(tuple(ODD))
        rows = ODD[way](rows, draw)
        if draw.random() < 0.3:
            rows = rows[: draw.choice((1, 2, 3, 4, 5, 6, 7, 10))]
        yield Case(
            f"table-odd-{seed}-{i}: {way}, {len(rows)} rows",
            "runs.csv",
            as_csv(rows).encode(),
            expected=whole,
        )


def whole(answer: Any) -> str | None:
    """Return what a forecast lacks: a number that is none, or text that shows one."""
    bad = [name for name, value in answer["forecast"].items() if not math.isfinite(value)]
    if bad:
        return f"the forecast of {bad[0]} is {answer['forecast'][bad[0]]}"
    shown = [word for word in answer["text"].split() if word.strip("[],()").lower() in ("nan", "inf", "-inf")]
    return f"the text shows {shown[0]}" if shown else None


def _scaled(name: str, *factors: float) -> Callable[[Rows, random.Random], Rows]:
    return lambda rows, draw: [row | {name: row[name] * draw.choice(factors)} for row in rows]


def _all_scaled(name: str) -> Callable[[Rows, random.Random], Rows]:
    def change(rows: Rows, draw: random.Random) -> Rows:
        factor = 10.0 ** draw.choice((-300, -30, -9, -6, -3, 3, 6, 9, 30, 250))
        return [row | {name: row[name] * factor} for row in rows]

    return change


def _set(name: str, value: Callable[[Any, random.Random], float]) -> Callable[[Rows, random.Random], Rows]:
    return lambda rows, draw: [row | {name: value(row, draw)} for row in rows]


def _one(name: str, *factors: float) -> Callable[[Rows, random.Random], Rows]:
    def change(rows: Rows, draw: random.Random) -> Rows:
        row = draw.choice(rows)
        row[name] *= draw.choice(factors)
        return rows

    return change


ODD: dict[str, Callable[[Rows, random.Random], Rows]] = {
    "as it is": lambda rows, draw: rows,
    "equal losses": _set("loss", lambda row, draw: 3.0),
    "equal sizes": _set("n_params", lambda row, draw: 1e8),
    "equal data": _set("n_tokens", lambda row, draw: 1e9),
    "random losses": _set("loss", lambda row, draw: draw.uniform(1, 10)),
    "losses rise": _set("loss", lambda row, draw: 1 + row["n_params"] ** 0.1),
    "losses without a floor": _set("loss", lambda row, draw: row["n_params"] ** -0.3),
    "losses near zero": _all_scaled("loss"),
    "sizes in other units": _all_scaled("n_params"),
    "data in other units": _all_scaled("n_tokens"),
    "budgets in other units": _all_scaled("flops_planned"),
    "one loss far off": _one("loss", 1e-6, 0.1, 3, 1e6, 1e300),
    "one size far off": _one("n_params", 1e-9, 1e-3, 1e3, 1e9, 1e250),
    "one length far off": _one("n_tokens", 1e-9, 1e-3, 1e3, 1e9, 1e250),
    "no budgets": lambda rows, draw: [{k: v for k, v in row.items() if k != "flops_planned"} for row in rows],
    "one budget": lambda rows, draw: [row for row in rows if row["flops_planned"] == 1e20],
    "two sizes a budget": lambda rows, draw: [row for k, row in enumerate(rows) if k % 5 in (1, 3)],
    "one size a budget": lambda rows, draw: rows[2::5],
    "half of each valley": lambda rows, draw: [row for k, row in enumerate(rows) if k % 5 < 3],
    "no noise": _set(
        "loss", lambda row, draw: 1.69 + 406.4 / row["n_params"] ** 0.34 + 410.7 / row["n_tokens"] ** 0.28
    ),
    "much noise": _set("loss", lambda row, draw: row["loss"] * draw.gauss(1, 0.2)),
    "seeds": lambda rows, draw: [
        row | {"loss": row["loss"] * draw.gauss(1, 0.002), "run": f"{row['run']}-{s}", "seed": s}
        for row in rows
        for s in (0, 1)
    ],
    "a group": lambda rows, draw: [row | {"group": "all"} for row in rows],
    "groups": lambda rows, draw: [row | {"group": draw.choice("abc")} for row in rows],
    "weights": lambda rows, draw: [row | {"weight": draw.choice((1e-12, 1, 1e12))} for row in rows],
}
"""Names of what is odd, and how the clean rows become so."""
