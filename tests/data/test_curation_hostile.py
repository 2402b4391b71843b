"""Damaged and hostile pages: chunks, compressed bodies, lengths, markup and text made to cost time."""

import gzip
import json
import os
import signal

import pytest
from curation import applied, english, record

from scalelab.cli.main import main
from scalelab.data.curate.base import Page
from scalelab.data.curate.extraction import own
from scalelab.data.curate.extraction.mathematics import keep_mathematics
from scalelab.data.curate.extraction.nesting import MAX_DEPTH, is_too_deep
from scalelab.data.curate.pages import files
from scalelab.data.curate.pages.files import PageFiles
from scalelab.data.curate.pages.warc import warc_pages
from scalelab.data.curate.stages.extract import Extract, _tidy
from scalelab.data.curate.stages.pii import PersonalData, masked
from scalelab.data.files import compression, listing, parquet_records
from scalelab.data.hashing import sha256
from scalelab.errors import DataError


def problems(path):
    return [(p.problem, p.data) for p in warc_pages(path, "a")]


def test_chunks_of_negative_size_or_past_the_end_are_no_endless_loop_and_no_page(archive):
    chunked = "Transfer-Encoding: chunked\r\n"
    bodies = [
        b"-6\r\nhello",  # no mark of a chunk: the body was stored without them
        b"5\r\nhello\r\n-a\r\nhello",
        b"5\r\nhello\r\nff\r\n world\r\n0\r\n\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
    ]
    found = problems(archive(*(record(f"https://a.org/{i}", b, more=chunked) for i, b in enumerate(bodies))))

    assert found == [("", bodies[0]), *[("damaged chunks", b"")] * 3]


def test_a_compressed_body_is_read_to_its_last_member_and_refused_where_it_was_cut_short(archive):
    packed = "Content-Encoding: gzip\r\n"
    text = english(30).encode()
    one, two = gzip.compress(text), gzip.compress(b" and more")
    bodies = [one + two, one + b"\0\0", one[: len(one) // 2], one + b"<p>no member</p>"]
    found = problems(archive(*(record(f"https://a.org/{i}", b, more=packed) for i, b in enumerate(bodies))))

    assert found == [
        ("", text + b" and more"),
        ("", text),
        ("compressed body cut short", b""),
        ("damaged compression", b""),
    ]


def test_a_length_that_is_no_number_is_refused(archive):
    damaged = record("https://a.org/", b"<p>x</p>").replace(b"Content-Length: ", b"Content-Length: abc", 1)
    with pytest.raises(DataError, match=r"record 1 of a\.warc states the length 'abc"):
        list(warc_pages(archive(damaged, name="a.warc"), "a"))


def in_time(work, seconds=10):
    """Run a function that is linear in its input, and fail where it has not ended after very long."""

    def late(*_):
        pytest.fail("the time is not proportional to the length of the text")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return work()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "part", ["<math>", "<math", "<math><annotation encoding='application/x-tex'>", "<script type='math/tex'>"]
)
def test_mathematics_that_is_never_closed_is_left_as_it_is(part):
    html = part * 50_000
    assert in_time(lambda: keep_mathematics(html)) == html


def test_annotations_of_other_kinds_before_the_tex_are_passed_over():
    html = (
        '<math display="block"><annotation-xml encoding="MathML-Content"><ci>x</ci></annotation-xml>'
        '<annotation encoding="application/x-tex">x^2</annotation></math >'
    )
    assert keep_mathematics(html) == "<span>$$x^2$$</span>"


def test_long_runs_of_space_and_digits_cost_no_more_than_their_length():
    spaces = "word" + " \t" * 200_000 + "end  \n \nmore \t"
    assert in_time(lambda: _tidy(spaces)) == "word" + " \t" * 200_000 + "end\n\nmore"
    digits = ("+" + "1" * 39 + " ") * 5000
    assert in_time(lambda: masked(digits, ("phone",))) == (digits, {})
    for row in ("1 ", "9999 ", "9-", "+99 9 ", "AA99 ", "+99999.99999 "):
        text = row * 100_000
        assert in_time(lambda text=text: masked(text, PersonalData().mask))[0].count("<") < 100_000


@pytest.mark.parametrize("part", ["<!--", "<", "<![CDATA[", "<a x", "<div ", "<a x='", "<!x", "</a "])
def test_what_is_opened_and_never_closed_is_text_for_the_extractor_of_our_own(part):
    text = english(4)
    html = f"<p>{text}</p>" + part * 100_000
    assert in_time(lambda: own.extract(html)).startswith(text)


def test_a_page_that_is_nested_too_deeply_is_rejected_before_any_extractor_sees_it():
    deep = "<html><body>" + "<div>" * (MAX_DEPTH + 1) + english(9) + "</div>" * (MAX_DEPTH + 1)
    flat = "<html><body>" + "<div><p>" * 1000 + "</div>" * 1000 + f"<DIV>{english(9)}</DIV>" * 2000
    sloppy = "<p>" * 3000 + "<b>" * 3000 + english(9)

    given = [Page(name, html.encode()) for name, html in (("deep", deep), ("flat", flat), ("sloppy", sloppy))]
    kept, rejected, _, _ = applied(Extract(extractor="own"), given)

    assert [(r[0], r[1]) for r in rejected] == [("deep", "markup cannot be parsed")]
    assert [d.name for d in kept] == ["flat", "sloppy"]
    assert in_time(lambda: is_too_deep("<div>" * 3_000_000))


@pytest.mark.parametrize(
    "html",
    [
        "<tbody>x" * 200_000,
        "<p>" * 300_000 + "</ul>" * 300_000,
        "<button>" * 150_000 + "<body>" * 150_000,
        "<thead><p>x</table>" * 100_000,
        "<td>x" * 200_000,
    ],
    ids=["tbody", "ul", "body", "table", "td"],
)
def test_elements_that_need_no_closing_tag_cost_no_more_than_their_length(html):
    assert not is_too_deep(html)
    in_time(lambda: own.extract(html))


# Files


@pytest.fixture
def small_limits(monkeypatch):
    """Limits of a few kilobytes in place of megabytes."""
    for module in (compression, parquet_records):
        monkeypatch.setattr(module, "RATIO_FROM", 1 << 12)
    monkeypatch.setattr(files, "MAX_PAGE_BYTES", 1 << 12)


def written(path, text="word " * 200, n=200, **about):
    """A parquet file of n rows with the same text, which is stored once."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": [text] * n}), path, **about)
    return path


def test_parquet_that_stands_for_far_more_text_than_it_has_bytes_is_refused(
    tmp_path, small_limits, monkeypatch
):
    """Once by what the footer says of a page, once by the rows that share one text."""
    plain = written(tmp_path / "plain.parquet", "a" * 10_000, compression="zstd", use_dictionary=False)
    shared = written(tmp_path / "shared.parquet", "".join(map(chr, range(33, 733))), n=20_000)
    for path, words in ((plain, "row group 0, column text"), (shared, "row ")):
        with pytest.raises(DataError, match="unpacks to more than 400 times its size") as caught:
            list(PageFiles(paths=[str(path)]).pages(PageFiles(paths=[str(path)]).shards(1)[0]))
        assert words in caught.value.where
    monkeypatch.setattr(parquet_records, "RATIO_FROM", 1 << 30)
    monkeypatch.setattr(parquet_records, "MAX_COLUMN_BYTES", 1 << 10)
    with pytest.raises(DataError, match=r"a row group of plain\.parquet has 2,000") as caught:
        list(parquet_records.parquet_records(plain, None))
    assert "smaller row groups" in caught.value.fix


@pytest.mark.parametrize("columns", [["text", "raw"], ["text", "meta", "tags", "raw"]])
def test_parquet_with_repeated_text_is_read_as_it_was_written(tmp_path, columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"text": f"text {i % 3}", "meta": {"url": f"u{i % 2}", "n": i}, "tags": ["a", None], "raw": b"\0"}
        for i in range(50)
    ] + [{"text": None, "meta": None, "tags": [], "raw": None}]
    rows = [{name: row[name] for name in columns} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=20)

    assert list(parquet_records.parquet_records(tmp_path / "a.parquet", None)) == list(enumerate(rows, 1))


def test_a_record_that_is_too_large_for_a_page_is_rejected_without_its_text(tmp_path, small_limits):
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": "x" * 5000}) + "\n" + json.dumps({"text": "y"}) + "\n"
    )
    source = PageFiles(paths=[str(tmp_path)])

    assert [(p.problem, p.data) for p in source.pages(source.shards(1)[0])] == [
        ("page too large", b""),
        ("", b"y"),
    ]


@pytest.mark.parametrize(
    "name", ["a.jsonl.gz", "a.json.gz", "a.txt.gz", "a.html.gz", "a.html.bz2", "a.csv.xz"]
)
def test_a_bomb_of_any_kind_is_refused_or_rejected(tmp_path, small_limits, name):
    import bz2
    import lzma

    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}["." + name.split(".")[-1]]
    row = b'{"text": "a"}\n' if "json" in name else b"text\n" if "csv" in name else b"a \n"
    (tmp_path / name).write_bytes(pack(row * 400_000))
    source = PageFiles(paths=[str(tmp_path)])
    place = source.shards(1)[0]
    if name.split(".")[1] in {"html", "txt"}:
        (found,) = source.pages(place)
        assert found.data == b""
        assert found.problem in {"page too large", "expands like a decompression bomb"}
    else:
        with pytest.raises(DataError, match=r"unpacks to more than 400 times|more than .* MiB of text"):
            list(source.pages(place))


def test_a_directory_is_walked_once_with_hidden_files_and_behind_links(tmp_path):
    site = tmp_path / "site"
    for name in ("a.html", "sub/b.html", ".hidden/c.html"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(f"<p>{name}</p>")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/d.html").write_text("<p>d</p>")
    (site / "sub/up").symlink_to("..")
    (site / "sub/self").symlink_to("self")
    (site / "behind").symlink_to(tmp_path / "elsewhere")

    found = [data for _, path in PageFiles(paths=[str(site)])._files() for data in [path.read_text()]]

    assert sorted(found) == ["<p>.hidden/c.html</p>", "<p>a.html</p>", "<p>d</p>", "<p>sub/b.html</p>"]


@pytest.mark.parametrize("target", ["nowhere", "a.html"])
def test_a_link_that_leads_nowhere_or_to_itself_is_refused_and_not_left_out(tmp_path, target):
    (tmp_path / "b.html").write_text("<p>b</p>")
    (tmp_path / "a.html").symlink_to(target)
    with pytest.raises(DataError, match=r"a\.html is a symbolic link to a file that cannot be reached"):
        PageFiles(paths=[str(tmp_path)]).fingerprint(sha256)


def test_a_pipe_that_is_named_like_a_page_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.html")
    with pytest.raises(DataError, match=r"a\.html is a named pipe"):
        PageFiles(paths=[str(tmp_path)]).fingerprint(sha256)


def test_a_directory_or_file_that_cannot_be_read_is_refused_and_not_left_out(tmp_path, monkeypatch):
    """Tests may run as root, who may read everything, so the system's answer is made here."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/a.html").write_text("<p>a</p>")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(listing.os, "scandir", scandir)
        with pytest.raises(DataError, match="cannot read secret: Permission denied") as caught:
            PageFiles(paths=[str(tmp_path)]).fingerprint(sha256)
    assert caught.value.where.endswith("secret")
    assert caught.value.fix

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    from scalelab.data.files import opening

    monkeypatch.setattr(opening, "open_regular", refuse)
    with pytest.raises(DataError, match=r"cannot read a\.html: Permission denied"):
        list(files.page_of_file("a", tmp_path / "secret/a.html").data)


# The command


def nothing(site):
    del site


def cut_in_a_member(site):
    whole = b"".join(gzip.compress(record(f"https://a.org/{i}", english(20, i).encode())) for i in range(3))
    (site / "a.warc.gz").write_bytes(whole[: len(whole) - 300])


def empty_archive(site):
    (site / "a.warc").touch()


def empty_packed_archive(site):
    (site / "a.warc.gz").touch()


def no_record_in_a_member(site):
    (site / "a.warc.gz").write_bytes(gzip.compress(b""))


def empty_pages(site):
    (site / "a.html").touch()


def damaged_parquet(site):
    (site / "a.parquet").write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, "holds no file of pages"),
        (cut_in_a_member, "cut short"),
        (empty_archive, "a.warc holds no record"),
        (empty_packed_archive, "a.warc.gz holds no record"),
        (no_record_in_a_member, "a.warc.gz holds no record"),
        (empty_pages, "no document is left: the stage extract kept 0 of 1"),
        (damaged_parquet, "cannot read a.parquet as parquet"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_command_refuses_with_place_and_fix_and_leaves_nothing(
    make, words, tmp_path, monkeypatch, capsys
):
    if make is damaged_parquet:
        pytest.importorskip("pyarrow")
    elif "archive" in make.__name__ or "member" in make.__name__:
        pytest.importorskip("fastwarc")
    (tmp_path / "site").mkdir()
    make(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(
        "name: a\nsource: {kind: files, paths: [site]}\nstages:\n  - {kind: extract, extractor: own}\n"
        "tokenizer: {kind: bytes}\n"
    )

    assert main(["data", "a.yaml"]) == 2

    err = capsys.readouterr().err
    assert words in err
    assert "where:" in err
    assert "fix:" in err
    assert "Traceback" not in err
    assert not (tmp_path / "curated").exists()
