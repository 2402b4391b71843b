"""Pages: every source conforms; encodings, mathematics, extraction by hand; damaged and hostile files."""

import gzip
import json
import os
import stat
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest
from curation import english, page, record
from pydantic import ValidationError

from scalelab.data.curate import PAGE_SOURCES
from scalelab.data.curate.base import MAX_PAGE_BYTES, name_hash
from scalelab.data.curate.extraction import own
from scalelab.data.curate.extraction.encodings import decoded
from scalelab.data.curate.extraction.mathematics import keep_mathematics
from scalelab.data.curate.pages import debian
from scalelab.data.curate.pages.debian import DebianDocs, licences
from scalelab.data.curate.pages.files import PageFiles
from scalelab.data.curate.pages.warc import warc_pages
from scalelab.data.curate.stages.extract import EXTRACTORS
from scalelab.data.hashing import sha256
from scalelab.errors import DataError
from scalelab.testing.page_sources import check_page_source


def all_pages(source):
    return [page for group in source.shards(10**9) for page in source.pages(group)]


# Sources


def tar_package(folder, name, files, version="1.0"):
    """A package as the stub of dpkg-deb below unpacks it: a tar archive of usr/share/doc/NAME."""
    tree = folder / f"tree-{name}"
    for path, text in files.items():
        place = tree / "usr/share/doc" / name / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    archive = folder / f"{name}_{version}_all.deb"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, ".")
    return archive


@pytest.fixture
def package_client(tmp_path, monkeypatch):
    """Stubs of apt-get and dpkg-deb; apt-get copies from the folder `mirror`, and logs its calls."""
    binaries, mirror = tmp_path / "bin", tmp_path / "mirror"
    binaries.mkdir()
    mirror.mkdir()
    scripts = {
        "apt-get": f'echo "$@" >> {tmp_path}/calls\ncp {mirror}/"$2"_*.deb . || {{ echo "E: no $2" >&2; exit 100; }}',
        "dpkg-deb": 'if [ "$1" = -x ]; then mkdir -p "$3"; tar -xf "$2" -C "$3"; else basename "$2" | cut -d_ -f2; fi',
    }
    for name, script in scripts.items():
        path = binaries / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{binaries}:/usr/bin:/bin")
    monkeypatch.setattr(debian, "SYSTEM_DOCS", tmp_path / "nothing")
    return mirror


def test_files_conform(tmp_path):
    def make(n):
        for i in range(n):
            (tmp_path / "site" / f"part{i % 2}").mkdir(parents=True, exist_ok=True)
            (tmp_path / "site" / f"part{i % 2}" / f"{i}.html").write_text(page(english(5, i)))
        return PageFiles(paths=[str(tmp_path / "site")])

    check_page_source(make)


def test_debian_docs_conform(tmp_path, package_client, monkeypatch):
    def make(n):
        tar_package(package_client, "some-doc", {f"html/{i}.html": page(english(5, i)) for i in range(n)})
        monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path / f"cache-{n}"))
        return DebianDocs(packages=["some-doc"])

    check_page_source(make)


def test_every_source_of_pages_is_tested_here():
    assert set(PAGE_SOURCES) == {"files", "debian_docs"}


def test_a_package_is_fetched_once_and_its_licences_are_read(tmp_path, package_client):
    form = "https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    text = f"Format: {form}\n\nFiles: *\nLicense: Apache-2.0\n\nFiles: b\nLicense: MIT\n text\n"
    tar_package(package_client, "some-doc", {"a.html": page(english(5)), "copyright": text, "b.png": "x"})
    source = DebianDocs(packages=["some-doc"])

    first, second = all_pages(source), all_pages(source)

    assert first == second
    assert [p.name for p in first] == ["some-doc/doc/some-doc/a.html"]
    assert first[0].meta == {"package": "some-doc", "licence": "Apache-2.0, MIT"}
    assert source.facts()["packages"][0]["licences"] == ["Apache-2.0", "MIT"]
    assert (tmp_path / "calls").read_text() == "download some-doc\n"


def test_what_the_system_has_stands_in_for_a_package_that_cannot_be_fetched(
    tmp_path, package_client, monkeypatch, capsys
):
    (tmp_path / "docs/other-doc").mkdir(parents=True)
    (tmp_path / "docs/other-doc/a.html").write_text(page(english(5)))
    monkeypatch.setattr(debian, "SYSTEM_DOCS", tmp_path / "docs")

    found = all_pages(DebianDocs(packages=["other-doc"]))

    assert [p.name for p in found] == ["other-doc/a.html"]
    assert "cannot be fetched" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-doc", "cannot be fetched: apt-get failed: E: no no-such-doc"),
        ("Bad name", "is no name of a package"),
        ("--x", "no name"),
    ],
)
def test_a_package_that_is_nowhere_is_refused(package_client, name, words):
    with pytest.raises(DataError, match=words):
        all_pages(DebianDocs(packages=[name]))


def test_archives_are_chosen_by_their_version_and_kept_apart(tmp_path, package_client):
    for version in ("9.0", "10.0"):
        tar_package(tmp_path, "some-doc", {"a.html": page(f"version {version}")}, version)

    def found(*packages):
        source = DebianDocs(packages=list(packages), archives=str(tmp_path))
        return source.facts()["packages"][0]["version"], all_pages(source)[0].data

    (old, old_page), (new, new_page) = found("some-doc=9.0"), found("some-doc=10.0")

    assert (old, new) == ("9.0", "10.0")
    assert b"version 9.0" in old_page
    assert b"version 10.0" in new_page
    with pytest.raises(DataError, match=r"2 archives are of some-doc: .*10\.0.*9\.0"):
        found("some-doc")
    with pytest.raises(DataError, match=r"no archive of some-doc has the version 9\.1"):
        found("some-doc=9.1")
    with pytest.raises(DataError, match=r"no archive other-doc_\*\.deb"):
        found("other-doc")


def test_another_version_than_was_asked_for_is_refused(package_client):
    archive = tar_package(package_client, "some-doc", {"a.html": page("one")})
    archive.rename(package_client / "some-doc=2.0_1.0_all.deb")  # what the stub of apt-get hands out
    with pytest.raises(DataError, match=r"has the version 1\.0, not 2\.0"):
        all_pages(DebianDocs(packages=["some-doc=2.0"]))


def test_what_the_system_has_is_read_anew_and_never_as_another_version(tmp_path, package_client, monkeypatch):
    (tmp_path / "docs/other-doc").mkdir(parents=True)
    monkeypatch.setattr(debian, "SYSTEM_DOCS", tmp_path / "docs")
    for text in ("one", "two"):
        (tmp_path / "docs/other-doc/a.html").write_text(page(text))
        assert text.encode() in all_pages(DebianDocs(packages=["other-doc"]))[0].data

    with pytest.raises(DataError, match=r"other-doc=2\.0 cannot be fetched") as error:
        all_pages(DebianDocs(packages=["other-doc=2.0"]))
    assert "has the version unknown" in error.value.where


def test_pages_that_were_changed_in_the_cache_are_refused(package_client):
    tar_package(package_client, "some-doc", {"a.html": page("one")})
    source = DebianDocs(packages=["some-doc"])
    source.fingerprint(sha256)
    Path(source.shards(10**9)[0][0]).write_text(page("two"))

    with pytest.raises(DataError, match="are not those that were stored"):
        DebianDocs(packages=["some-doc"]).fingerprint(sha256)


def test_links_out_of_a_package_are_not_followed(tmp_path, package_client):
    outside = tmp_path / "outside/doc"
    outside.mkdir(parents=True)
    (outside / "secret.html").write_text(page("secret"))
    (outside / "copyright").write_text("License: Secret\n")
    tree = tmp_path / "tree/usr"
    tree.mkdir(parents=True)
    (tree / "share").symlink_to(tmp_path / "outside")
    with tarfile.open(package_client / "link-doc_1.0_all.deb", "w") as tar:
        tar.add(tmp_path / "tree", ".")

    with pytest.raises(DataError, match="holds no HTML pages"):
        all_pages(DebianDocs(packages=["link-doc"]))
    assert licences(tmp_path / "tree", "link-doc") == []
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart/copyright").symlink_to(outside / "copyright")
    assert licences(tmp_path / "apart", "x") == []


def test_a_package_without_pages_is_refused(package_client):
    tar_package(package_client, "empty-doc", {"copyright": "x"})
    with pytest.raises(DataError, match="holds no HTML pages"):
        all_pages(DebianDocs(packages=["empty-doc"]))


def test_licences_are_recognised_by_their_phrases_where_no_field_states_them(tmp_path):
    (tmp_path / "copyright").write_text("It is in the PUBLIC DOMAIN.\nParts: Apache License, Version 2.0.")
    assert licences(tmp_path, "x") == ["Apache-2.0", "public domain"]
    (tmp_path / "copyright").write_text(
        "The PSF LICENSE AGREEMENT\nLicense: Redistribution and use, with or without\n"
    )
    assert licences(tmp_path, "x") == ["PSF-2.0"]  # a field only where the format says that there are fields
    (tmp_path / "copyright").write_text("All rights reserved.")
    assert licences(tmp_path, "x") == []


def test_records_text_and_compressed_pages_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"html": "<p>x</p>", "url": "https://a.org/1"})
        + "\n"
        + json.dumps({"text": "words"})
        + "\n"
    )
    (tmp_path / "b.html.gz").write_bytes(gzip.compress(b"<p>b</p>"))
    (tmp_path / "c.txt").write_text("plain")
    (tmp_path / "d.png").write_bytes(b"no page")

    found = [(p.name, p.media, p.data, p.url) for p in all_pages(PageFiles(paths=[str(tmp_path)]))]

    assert found == [
        ("a.jsonl:1", "html", b"<p>x</p>", "https://a.org/1"),
        ("a.jsonl:2", "text", b"words", ""),
        ("b.html.gz", "html", b"<p>b</p>", ""),
        ("c.txt", "text", b"plain", ""),
    ]


def test_halves_of_characters_are_replaced_wherever_they_stand(tmp_path):
    (tmp_path / "a.jsonl").write_text(r'{"text": "x\ud800", "url": "https://a.org/\ud800", "date": "\udfff"}')
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("plain")

    record, file = all_pages(PageFiles(paths=[str(tmp_path)]))

    assert (record.data, record.url, record.date) == (b"x?", "https://a.org/?", "?")
    assert file.name == r"\udcff.txt"
    assert name_hash(file)


def test_records_on_one_line_have_names_of_their_own(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": "one"}, {"text": "one"}, {"text": "two"}]))

    found = all_pages(PageFiles(paths=[str(tmp_path)]))

    assert [(p.name, p.data) for p in found] == [
        ("a.json:1", b"one"),
        ("a.json:2", b"one"),
        ("a.json:3", b"two"),
    ]


@pytest.mark.parametrize("packages", [["git-doc", "git-doc"], ["git-doc", "git-doc=1.0"]])
def test_a_package_that_is_named_twice_is_refused(packages):
    with pytest.raises(ValidationError, match="names 'git-doc' more than once"):
        DebianDocs(packages=packages)


def test_an_empty_directory_and_a_record_without_text_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file of pages"):
        all_pages(PageFiles(paths=[str(tmp_path / "empty")]))
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(DataError, match="neither text in 'text' nor a field 'html'") as caught:
        all_pages(PageFiles(paths=[str(tmp_path / "a.jsonl")]))
    assert "body" in caught.value.fix


def test_records_whose_text_is_null_are_rejected_as_empty(tmp_path):
    records = [
        {"text": None, "url": "https://a.org/1"},
        {"html": None, "text": "words"},
        {"html": None, "text": None},
        {"html": None, "title": "x"},
        {"html": "<p>x</p>", "text": None},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))

    found = all_pages(PageFiles(paths=[str(tmp_path / "a.jsonl")]))

    empty = ("empty record", b"")
    assert [(p.problem, p.data) for p in found] == [empty, ("", b"words"), empty, empty, ("", b"<p>x</p>")]
    assert found[0].url == "https://a.org/1"


@pytest.mark.parametrize("record", [{"title": None}, {"text": 5}, {"text": None, "html": 5}])
def test_a_record_without_the_field_or_with_something_else_in_it_is_refused(tmp_path, record):
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError, match="neither text in 'text' nor a field 'html'"):
        all_pages(PageFiles(paths=[str(tmp_path / "a.jsonl")]))


def test_a_page_of_a_gigabyte_and_a_bomb_are_rejected_in_bounded_memory(tmp_path):
    with open(tmp_path / "large.html", "wb") as file:
        file.truncate(2**30)  # sparse: zero bytes
    compressor = zlib.compressobj(9, wbits=31)
    with open(tmp_path / "bomb.html.gz", "wb") as file:
        for _ in range(64):
            file.write(compressor.compress(bytes(2**20)))
        file.write(compressor.flush())
    tracemalloc.start()

    found = all_pages(PageFiles(paths=[str(tmp_path)]))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    problems = {p.name: p.problem for p in found}
    assert problems["large.html"] == "page too large"
    assert problems["bomb.html.gz"] in {"page too large", "expands like a decompression bomb"}
    assert all(p.data == b"" for p in found)
    assert peak < 4 * MAX_PAGE_BYTES


def test_a_compressed_page_that_was_cut_short_is_refused(tmp_path):
    (tmp_path / "a.html.gz").write_bytes(gzip.compress(page(english(20)).encode())[:-20])
    with pytest.raises(DataError, match="cut short"):
        all_pages(PageFiles(paths=[str(tmp_path / "a.html.gz")]))


# WARC


def test_responses_and_texts_are_read_with_what_the_headers_say(archive):
    body = b"<p>gr\xfc\xdfe</p>"
    packed = gzip.compress(b"<p>packed</p>")
    path = archive(
        record(
            "https://a.org/1",
            body,
            content_type="text/html; charset=latin-1",
            more="Content-Language: de-AT\r\n",
        ),
        record("https://a.org/2", packed, more="Content-Encoding: gzip\r\n"),
        record(
            "https://a.org/3",
            b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
            more="Transfer-Encoding: chunked\r\n",
        ),
        record("https://a.org/image", b"\x89PNG", content_type="image/png"),
        record("https://a.org/lost", b"<p>not found</p>", status="404 Not Found"),
        record("https://a.org/4", "wörds".encode(), kind="conversion"),
        record("https://a.org/5", b"GET / HTTP/1.1\r\n\r\n", kind="request"),
    )

    found = list(warc_pages(path, "a"))

    assert [(p.name, p.url, p.data, p.media) for p in found] == [
        ("a:1", "https://a.org/1", body, "html"),
        ("a:2", "https://a.org/2", b"<p>packed</p>", "html"),
        ("a:3", "https://a.org/3", b"hello world", "html"),
        ("a:6", "https://a.org/4", "wörds".encode(), "text"),
    ]
    assert (found[0].date, found[0].charset, found[0].language) == ("2020-02-03T04:05:06Z", "latin-1", "de")


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_an_archive_that_was_cut_short_is_refused(archive, name):
    noise = [english(20, i).encode() for i in range(3)]
    records = [record(f"https://a.org/{i}", body) for i, body in enumerate(noise)]
    whole = archive(*records, name=name).stat().st_size
    last = len(gzip.compress(records[-1])) if name.endswith(".gz") else len(records[-1])

    for cut in (whole - last // 2, whole - last + 200, whole - 3 * last // 4):
        with pytest.raises(DataError, match=r"cut short|cannot read"):
            list(warc_pages(archive(*records, cut=cut, name=name), "a"))


def test_what_is_no_archive_is_refused(archive, tmp_path):
    (tmp_path / "b.warc").write_bytes(b"<html>no archive</html>" * 50)
    with pytest.raises(DataError, match=r"cannot read b\.warc as WARC"):
        list(warc_pages(tmp_path / "b.warc", "b"))
    (tmp_path / "c.warc").write_bytes(b"")
    with pytest.raises(DataError, match="holds no record"):
        list(warc_pages(tmp_path / "c.warc", "c"))


def test_a_bomb_in_an_archive_is_refused_and_one_in_a_body_rejected(archive):
    bomb = gzip.compress(bytes(64 * 2**20), 9)
    found = list(
        warc_pages(
            archive(record("https://a.org/", bomb, more="Content-Encoding: gzip\r\n"), name="a.warc"), "a"
        )
    )
    assert [p.problem for p in found] == ["page too large"]
    with pytest.raises(DataError, match="unpacks to more than 400 times"):
        list(warc_pages(archive(record("https://a.org/", bytes(64 * 2**20))), "a"))


# Encodings, mathematics, extraction


@pytest.mark.parametrize(
    ("data", "charset", "text", "encoding", "is_corrected"),
    [
        ("grüße".encode(), "", "grüße", "utf-8", False),
        ("grüße".encode("latin-1"), "iso-8859-1", "grüße", "cp1252", False),
        ("grüße".encode("latin-1"), "utf-8", "grüße", "cp1252", True),
        ("grüße".encode("latin-1"), "", "grüße", "cp1252", False),
        ("grüße".encode(), "no-such-charset", "grüße", "utf-8", False),
        ("\ufeffgrüße".encode("utf-16"), "utf-8", "\ufeffgrüße", "utf-16-le", False),
        (
            b'<meta charset="euc-jp">' + "日本語".encode("euc-jp"),
            "",
            '<meta charset="euc-jp">日本語',
            "euc_jp",
            False,
        ),
        ("“quoted”".encode("cp1252"), "iso-8859-1", "“quoted”", "cp1252", False),
        # One damaged byte in UTF-8, and one byte of windows-1252 in a page that has no valid UTF-8.
        ("grüße ".encode() * 40 + b"\xff", "utf-8", "grüße " * 40 + "\ufffd", "utf-8", False),
        (b"plain " * 40 + "ü".encode("cp1252"), "", "plain " * 40 + "ü", "cp1252", False),
        ("grüße".encode(), "undefined", "grüße", "utf-8", False),
        (b"\\x41", "unicode_escape", "\\x41", "utf-8", False),
    ],
)
def test_encodings(data, charset, text, encoding, is_corrected):
    assert decoded(data, charset) == (text, encoding, is_corrected)


def test_bytes_that_are_no_text_are_refused():
    for data in (bytes(range(129, 158)) * 100 + b"\0" * 2000, b"\xef\xbb\xbf" + b"\xff" * 50 + b"x"):
        with pytest.raises(ValueError, match="cannot be decoded"):
            decoded(data)


def test_mathematics_survives_as_tex():
    html = (
        "<p>a <math><semantics><mi>x</mi>"
        '<annotation encoding="application/x-tex">x &lt; 1</annotation></semantics></math>'
        ' b <script type="math/tex">E=mc^2</script> c <script type="math/tex; mode=display">\\sum_i a_i &lt;</script>'
        " d <math><mi>y</mi></math></p>"
    )

    kept = keep_mathematics(html)

    assert kept == (
        "<p>a <span>$x &lt; 1$</span> b <span>$E=mc^2$</span> c <span>$$\\sum_i a_i &amp;lt;$$</span>"
        " d <math><mi>y</mi></math></p>"
    )


STRUCTURED = f"""<html><head><title>no</title><style>p {{}}</style></head><body>
<nav><a href=a>Home</a> <a href=b>Contents of the whole site that nobody wants to read here</a></nav>
<h1>A heading</h1><p>{english(4)}</p>
<pre>def f(x):
    return x &lt; 1
</pre>
<table><tr><th>name</th><th>value</th></tr><tr><td>alpha</td><td>0.5</td></tr></table>
<ul><li>one item</li><li>another item</li></ul>
<p>{english(3, 1)}</p>
<div><a href=x>A long row of links</a> <a href=y>that lead to other pages of this site and nowhere else</a></div>
<footer>Copyright</footer><script>alert("x")</script></body></html>"""


def test_the_extractor_of_our_own_keeps_tables_code_and_lists_and_drops_navigation():
    text = own.extract(STRUCTURED)

    assert text.startswith("A heading\n\n")
    assert "def f(x):\n    return x < 1" in text
    assert "name\tvalue\nalpha\t0.5" in text
    assert "one item\nanother item" in text
    for unwanted in ("Home", "Contents of", "long row", "Copyright", "alert", "no\n"):
        assert unwanted not in text


@pytest.mark.parametrize("anchor", ["<a name=top>", "<a id=top>", "<a href=1>one<a href=2>two</a>"])
def test_an_anchor_that_is_no_link_or_is_left_open_hides_no_text(anchor):
    text = english(15).split("\n\n")
    html = f"<body><h1>{anchor}Title</h1>" + "".join(f"<p>{part}</p>" for part in text)

    assert own.extract(html).endswith("\n\n".join(text))


def test_resiliparse_keeps_tables_and_code_and_drops_navigation():
    pytest.importorskip("resiliparse")
    text = EXTRACTORS["resiliparse"](STRUCTURED)

    assert "def f(x):\n    return x < 1" in text
    assert "alpha" in text.split("name")[1]
    assert "Home" not in text
    assert "alert" not in text


@pytest.mark.parametrize(
    "markup",
    ["", "<", "<p", "<" * 10_000, "<div>" * 3000 + "x", "</p></div>" * 50, "<table><td>a", "\0<p>\ud800</p>"],
)
def test_damaged_markup_gives_text_or_none_but_no_error(markup):
    assert isinstance(own.extract(markup), str)
