"""Files of text: the same documents in every container, records that are wrong, and damaged bytes.

    same_answer()            every container and line end, compressed or not
    bad_records(n, seed)     one record that has no text: refused, or left out and counted
    damaged(n, seed)         bytes changed
    trees()                  directories with links that lead to the same file twice

The answer of a reader is {"documents": [text], "skipped": count}; texts without white space at their ends.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fuzzing.check import Case

WORDS = "the cat sat on a mat while dogs ran far over hills and rivers under clouds, café — 数 🙂 \\ \" ' <b>".split()


def documents(seed: int = 0, n: int = 25) -> list[str]:
    """Return documents of one line each."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(5, 30))) + f" number {i}" for i in range(n)]


CLEAN = documents()


def equal(answer: Any) -> str | None:
    """Return how an answer differs from the clean documents."""
    return _difference(answer["documents"], CLEAN)


def _difference(found: list[str], right: list[str]) -> str | None:
    if found == right:
        return None
    wrong = next((pair for pair in zip(found, right, strict=False) if pair[0] != pair[1]), None)
    return f"silent wrong answer: {len(found)} documents instead of {len(right)}, first {wrong!r:.200}"


def without(index: int) -> Callable[[Any], str | None]:
    """Return the check of a file in which one record has no text."""

    def wrong(answer: Any) -> str | None:
        found = _difference(answer["documents"], CLEAN[:index] + CLEAN[index + 1 :])
        if found is None and not answer["skipped"]:
            return "a record was left out and is not counted"
        return found

    return wrong


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def packings() -> dict[str, Callable[[bytes], bytes]]:
    """Return the compressions that are installed, by ending."""
    found = dict(PACKINGS)
    if find_spec("zstandard"):
        import zstandard

        found[".zst"] = zstandard.compress
    return found


def lines(records: list[Any], end: str = "\n", ascii_only: bool = True) -> bytes:
    """Return records as JSON lines."""
    return "".join(json.dumps(r, ensure_ascii=ascii_only) + end for r in records).encode("utf-8")


def table(texts: list[str], delimiter: str, quoting: int = csv.QUOTE_MINIMAL) -> bytes:
    """Return texts as CSV or TSV with an id beside them."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting)
    writer.writerows([["id", "text"], *([i, text] for i, text in enumerate(texts))])
    return out.getvalue().encode()


def containers() -> Iterator[tuple[str, str, bytes, dict[str, Any]]]:
    """Yield (label, file name, bytes, settings of the reader) of the clean documents."""
    records = [{"id": i, "text": text} for i, text in enumerate(CLEAN)]
    paragraphs = {"document": "paragraph"}
    plain = "\n\n".join(CLEAN)
    yield "paragraphs", "a.txt", plain.encode(), paragraphs
    yield "paragraphs, CRLF", "a.txt", plain.replace("\n", "\r\n").encode(), paragraphs
    yield "paragraphs, byte-order mark", "a.txt", b"\xef\xbb\xbf" + plain.encode(), paragraphs
    yield "paragraphs, blanks", "a.txt", plain.replace("\n\n", "\n \t\n\n").encode(), paragraphs
    yield "paragraphs, CR", "a.txt", plain.replace("\n", "\r").encode(), paragraphs
    yield "paragraphs, UTF-16", "a.txt", plain.encode("utf-16"), paragraphs
    yield "lines", "a.txt", "\n".join(CLEAN).encode(), {"document": "line"}
    yield "lines, no ending", "a", "\n".join(CLEAN).encode(), {"document": "line"}
    yield "lines, upper case", "A.TXT", "\n".join(CLEAN).encode(), {"document": "line"}
    yield "records", "a.jsonl", lines(records), {}
    yield "records, UTF-8", "a.jsonl", lines(records, ascii_only=False), {}
    yield "records, ndjson", "a.ndjson", lines(records), {}
    yield "records, CRLF", "a.jsonl", lines(records, "\r\n"), {}
    yield "records, byte-order mark", "a.jsonl", b"\xef\xbb\xbf" + lines(records), {}
    yield "records, blank lines", "a.jsonl", lines(records, "\n\n  \n"), {}
    yield "records, no last end", "a.jsonl", lines(records).rstrip(b"\n"), {}
    yield "records, upper case", "A.JSONL", lines(records), {}
    yield "records, NaN beside", "a.jsonl", lines([r | {"score": float("nan")} for r in records]), {}
    yield (
        "records, 5,000 digits beside",
        "a.jsonl",
        lines(records).replace(b'"id": ', b'"id": ' + b"9" * 5000),
        {},
    )
    yield "records, deep beside", "a.jsonl", lines([r | {"x": [[[{"a": [1]}]]]} for r in records]), {}
    yield "another field", "a.jsonl", lines([{"text": "x", "body": t} for t in CLEAN]), {"field": "body"}
    yield (
        "nested field",
        "a.jsonl",
        lines([{"text": "x", "meta": {"text": t}} for t in CLEAN]),
        {"field": "meta.text"},
    )
    yield "a field with a dot", "a.jsonl", lines([{"meta.text": t} for t in CLEAN]), {"field": "meta.text"}
    yield "array", "a.json", json.dumps(records).encode(), {}
    yield "array, indented", "a.json", json.dumps(records, indent=2).encode(), {}
    yield "array, byte-order mark", "a.json", b"\xef\xbb\xbf" + json.dumps(records).encode(), {}
    yield "records in .json", "a.json", lines(records), {}
    yield "array in .jsonl", "a.jsonl", json.dumps(records).encode(), {}
    yield "array of text", "a.json", json.dumps(CLEAN).encode(), {}
    yield "columns", "a.csv", table(CLEAN, ","), {}
    yield "columns, semicolons", "a.csv", table(CLEAN, ";"), {}
    yield "columns, quoted", "a.csv", table(CLEAN, ",", csv.QUOTE_ALL), {}
    yield "columns, byte-order mark", "a.csv", b"\xef\xbb\xbf" + table(CLEAN, ","), {}
    yield "columns, tabs", "a.tsv", table(CLEAN, "\t"), {}
    yield "columns, upper case", "A.CSV", table(CLEAN, ","), {}
    if find_spec("pyarrow"):
        import pyarrow as pa
        from pyarrow import parquet

        for label, columns, settings in (
            ("parquet", {"text": CLEAN, "id": list(range(len(CLEAN)))}, {}),
            ("parquet, large text", {"text": pa.array(CLEAN, pa.large_string())}, {}),
            ("parquet, dictionary", {"text": pa.array(CLEAN).dictionary_encode()}, {}),
            (
                "parquet, nested",
                {"meta": [{"text": t} for t in CLEAN], "text": ["x"] * len(CLEAN)},
                {"field": "meta.text"},
            ),
            ("parquet, a dot", {"meta.text": CLEAN}, {"field": "meta.text"}),
            ("parquet, bytes", {"text": [t.encode() for t in CLEAN]}, {}),
        ):
            out = io.BytesIO()
            parquet.write_table(pa.table(columns), out)
            yield label, "a.parquet", out.getvalue(), settings


MUST_READ = (
    *("paragraphs", "paragraphs, CRLF", "paragraphs, byte-order mark", "lines", "records", "records, CRLF"),
    *("records, upper case", "records, byte-order mark", "another field", "nested field", "array", "columns"),
    *("columns, tabs", "parquet", "parquet, large text", "parquet, nested", "records, blank lines"),
    *("records, UTF-8", "records, no last end"),
)


def same_answer() -> Iterator[Case]:
    """Yield every container, plain and compressed."""
    for label, name, data, settings in containers():
        must = "read" if label in MUST_READ else ""
        for ending, pack in packings().items():
            if ending and name.endswith("parquet"):
                continue
            yield Case(
                f"text: {label}{ending}",
                name + ending,
                pack(data),
                expected=equal,
                settings=settings,
                must=must,
            )
    data = lines([{"text": text} for text in CLEAN])
    half = data.index(b"\n", len(data) // 2) + 1
    for ending, pack in packings().items():
        if ending:
            label = f"text: two members{ending}"
            yield Case(label, f"a.jsonl{ending}", pack(data[:half]) + pack(data[half:]), expected=equal)
            label = f"text: cut{ending}"
            yield Case(label, f"a.jsonl{ending}", pack(data)[:-1], must="refused")
            yield Case(f"text: plain in{ending}", f"a.jsonl{ending}", data, must="refused")
            yield Case(f"text: bomb{ending}", f"a.txt{ending}", make=_bomb(pack), must="refused")
    yield Case("text: gz and zeros", "a.jsonl.gz", gzip.compress(data) + b"\0" * 512, expected=equal)
    yield Case("text: gz without its name", "a.jsonl", gzip.compress(data), must="refused")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", data)
    yield Case("text: zip", "a.zip", zipped.getvalue(), must="refused")
    yield Case("text: PDF", "a.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + data, must="refused")
    yield Case("text: Latin-1", "a.txt", "café über".encode("latin-1") * 100, must="refused")
    yield Case("text: 50 MB line", "a.txt", make=_long(b"", b""), settings={"document": "line"})
    yield Case("text: 50 MB record", "a.jsonl", make=_long(b'{"text": "', b'"}\n'))
    yield Case(
        "text: separators within",
        "a.jsonl",
        lines([{"text": t + "\u2028next\x85x\x0cy"} for t in CLEAN], ascii_only=False),
        expected=lambda answer: None if len(answer["documents"]) == len(CLEAN) else "cut at a separator",
    )


def _bomb(pack: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return what makes a small file of 2 GB of text: equal members one behind another."""

    def make(path: Path) -> None:
        path.write_bytes(pack(b"word " * 2_000_000) * 200)

    return make


def _long(before: bytes, after: bytes) -> Callable[[Path], None]:
    """Return what makes a file of one line of 50 MB."""

    def make(path: Path) -> None:
        with open(path, "wb") as file:
            file.write(before)
            for _ in range(50):
                file.write(b"word " * 200_000)
            file.write(after)

    return make


def trees() -> Iterator[Case]:
    """Yield directories in which a glob reaches the same file more than once."""
    half = len(CLEAN) // 2

    def base(path: Path) -> None:
        (path / "a").mkdir(parents=True)
        (path / "b").mkdir()
        (path / "a" / "1.jsonl").write_bytes(lines([{"text": t} for t in CLEAN[:half]]))
        (path / "b" / "2.jsonl").write_bytes(lines([{"text": t} for t in CLEAN[half:]]))

    def loop(path: Path) -> None:
        base(path)
        (path / "loop").symlink_to(".")
        (path / "b" / "up").symlink_to("..")

    def linked(path: Path) -> None:
        base(path)
        (path / "link").symlink_to("a")
        (path / "c.jsonl").symlink_to("a/1.jsonl")

    def hard(path: Path) -> None:
        base(path)
        (path / "z.jsonl").hardlink_to(path / "a" / "1.jsonl")

    def strange(path: Path) -> None:
        base(path)
        (path / "a" / "ünï 数 [1].jsonl").write_bytes(b"")

    everything = {"patterns": ("**/*.jsonl",)}
    for label, make in {
        "no link": base,
        "loops": loop,
        "links": linked,
        "hard link": hard,
        "names": strange,
    }.items():
        yield Case(f"text tree: {label}", "tree", make=make, expected=equal, must="read", settings=everything)
    twice = {"patterns": ("**/*.jsonl", "a/*.jsonl", "./b/2.jsonl", "a/../b/2.jsonl")}
    yield Case("text tree: several patterns", "tree", make=base, expected=equal, must="read", settings=twice)


VALUES = (
    *("null", '""', '"  "', "3", "true", "[]", '["x"]', "{}", '{"a": 1}', '"\\ud800"', '"a\\u0000b"', "NaN"),
    *('"\\x"', '"unfinished', "nothing", "1e999", "9" * 5000, "[" * 100_000, '"\x01"', '"a"}{"text": "b"'),
)
"""Values of the field of text, as JSON."""


def bad_records(n: int, seed: int) -> Iterator[Case]:
    """Yield files in which one record has no text."""
    draw = random.Random(f"records {seed}")
    for i in range(n):
        at, value = draw.randrange(len(CLEAN)), draw.choice(VALUES)
        written = [json.dumps({"text": text}) for text in CLEAN]
        written[at] = draw.choice(
            (
                f'{{"text": {value}}}',
                f'{{"text": {value}}}',
                f'{{"txt": {value}}}',
                f"{value}",
                f'{{"text" {value}}}',
            )
        )
        if draw.random() < 0.7:
            name, text = "a.jsonl", "\n".join(written)
        else:
            name, text = "a.json", "[" + ",\n".join(written) + "]"
        # "a\0b" and white space are text to some; whoever reads them must at least lose no other.
        strict = without(at) if value not in ('"a\\u0000b"', '"  "', '"\x01"') else lambda answer: None
        label = f"text-record-{seed}-{i}: {written[at][:50]!r} in {name}"
        yield Case(label, name, text.encode("utf-8", "surrogatepass"), expected=strict)


def damaged(n: int, seed: int) -> Iterator[Case]:
    """Yield files with changed bytes."""
    draw = random.Random(f"text damaged {seed}")
    forms = [
        (name + ending, pack(data), settings)
        for _, name, data, settings in containers()
        for ending, pack in packings().items()
    ]
    for i in range(n):
        name, data, settings = draw.choice(forms)
        yield Case(f"text-damaged-{seed}-{i}: {name}: {{}}", name, changed(data, draw), settings=settings)


def changed(data: bytes, draw: random.Random) -> bytes:
    """Return bytes with one thing changed."""
    copy = bytearray(data)
    at = draw.randrange(len(copy))
    way = draw.choice(("bit", "bit", "cut", "splice", "zero", "byte", "end", "middle", "double"))
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
        copy[at] = draw.choice(b'\x07\x1b\x80\xff",;{}[]:\\\n\r\t |#')
    elif way == "end":
        copy += draw.choice((b"\x1a", b"\0", b"}", b'"', b"\xff\xfe", b"{", b"[", bytes(100)))
    elif way == "middle":
        del copy[at : at + draw.randint(1, 100)]
    else:
        copy += bytes(copy)
    return bytes(copy)
