"""Pages of WARC and WET archives: responses with their URL, date, encoding and language.

    response      a page as it was fetched (WARC)
    conversion    its text (WET)

fastwarc reads an archive that was cut short without complaint, so the length of every record is
compared with the one that it states.

Source: ISO 28500:2017 (WARC 1.1).
Not here: which files are archives (files.py).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalelab.data.curate.base import MAX_PAGE_BYTES, Page
from scalelab.data.files.compression import MAX_RATIO, RATIO_FROM
from scalelab.data.files.opening import open_source
from scalelab.errors import DataError
from scalelab.files import check_answered

_MEDIA = {"text/html": "html", "application/xhtml+xml": "html", "text/plain": "text"}
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_MAX_MEMBERS = 100
"""Members of a compressed body at most."""


def warc_pages(path: Path, name: str) -> Iterator[Page]:
    """Yield the pages of an archive; records of other kinds and media are passed over.

    Args:
        path: The archive, plain or compressed.
        name: What to call it in the names of pages.

    Raises:
        DataError: It is no archive, is cut short or damaged, or fastwarc is not installed.
    """
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ImportError:
        raise DataError(
            f"reading {path.name} needs fastwarc, which is not installed",
            where=str(path),
            fix="pip install 'scalelab[data]'",
        ) from None
    n_records = unpacked = 0
    with open_source(path) as file:
        try:
            for record in ArchiveIterator(file, parse_http=True, auto_decode="none", fsspec_args=False):
                n_records += 1
                kind = record.record_type
                url = record.headers.get("WARC-Target-URI") or ""
                length = _length(record, path, n_records)
                if length < 0 or (kind == WarcRecordType.response and not url):
                    raise _cut_short(path, n_records)
                unpacked += length
                if unpacked > max(RATIO_FROM, MAX_RATIO * file.tell()):
                    raise DataError(
                        f"{path.name} unpacks to more than {MAX_RATIO} times its size",
                        where=f"{path}, record {n_records}",
                        fix="leave the archive out",
                    )
                if kind not in (WarcRecordType.response, WarcRecordType.conversion):
                    _consume(record, path, n_records)
                    continue
                page = _page(record, f"{name}:{n_records}", url, kind == WarcRecordType.conversion)
                if page is None:
                    _consume(record, path, n_records)
                    continue
                if not page.problem and len(page.data) != record.content_length:
                    raise _cut_short(path, n_records)
                yield _decoded(page, record)
        except OSError as error:
            check_answered(path, error)
            raise DataError(
                f"cannot read {path.name} as WARC: {error}",
                where=f"{path}, after record {n_records}",
                fix="name a complete archive, or fetch it again",
            ) from error
    if n_records == 0:
        raise DataError(
            f"{path.name} holds no record", where=str(path), fix="name a complete archive, or fetch it again"
        )


def _page(record: Any, name: str, url: str, is_text: bool) -> Page | None:
    """Return the page of a record, its body not yet decoded; None where it is no page."""
    content_type = (record.headers.get("Content-Type") if is_text else record.http_content_type) or ""
    media = "text" if is_text else _MEDIA.get(content_type.split(";")[0].strip().lower())
    if media is None:
        return None
    http = record.http_headers
    if http is not None and not is_text and not str(getattr(http, "status_code", "200")).startswith("2"):
        return None
    language = (http.get("Content-Language") if http is not None else None) or ""
    about = dict(
        url=url,
        date=record.headers.get("WARC-Date") or "",
        charset="utf-8" if is_text else (record.http_charset or ""),
        language=language.split(",")[0].split("-")[0].strip().lower(),
    )
    data = record.reader.read(MAX_PAGE_BYTES + 1)
    if len(data) > MAX_PAGE_BYTES:
        return Page(name, b"", media, problem="page too large", **about)
    return Page(name, data, media, **about)


def _decoded(page: Page, record: Any) -> Page:
    """Return the page without the transfer and content encodings of HTTP."""
    http = record.http_headers
    if http is None or page.problem:
        return page
    data = page.data
    try:
        if "chunked" in (http.get("Transfer-Encoding") or "").lower():
            data = _dechunked(data)
        coding = (http.get("Content-Encoding") or "").lower().strip()
        if coding in {"gzip", "x-gzip", "deflate"}:
            data = _inflated(data)
        elif coding and coding != "identity":
            return _replaced(page, b"", f"content encoding {coding[:20]}")
    except ValueError as error:
        return _replaced(page, b"", str(error))
    return _replaced(page, data, "")


def _replaced(page: Page, data: bytes, problem: str) -> Page:
    return Page(**{**vars(page), "data": data, "problem": problem})


def _dechunked(data: bytes) -> bytes:
    """Return a body without the marks of its chunks; one that has none as it is."""
    parts, at = [], 0
    while True:
        end = data.find(b"\r\n", at)
        size_text = data[at:end].split(b";")[0].strip() if end >= 0 else b""
        if _CHUNK_SIZE.fullmatch(size_text) is None:
            if not parts:
                return data  # crawlers often store the body without the marks
            raise ValueError("damaged chunks")
        size = int(size_text, 16)
        if size == 0:
            return b"".join(parts)
        start, at = end + 2, end + 2 + size + 2
        if data[at - 2 : at] != b"\r\n":
            raise ValueError("damaged chunks")  # it reaches past the body, or ends elsewhere
        parts.append(data[start : at - 2])


def _inflated(data: bytes) -> bytes:
    """Return a body decompressed, at most MAX_PAGE_BYTES of it; one that is not compressed as it is."""
    import zlib

    if data[:2] != b"\x1f\x8b" and data[:1] != b"\x78":
        return data
    parts: list[bytes] = []
    left = MAX_PAGE_BYTES
    while data:
        inflater = zlib.decompressobj(47)
        try:
            parts.append(inflater.decompress(data, left + 1))
        except zlib.error:
            raise ValueError("damaged compression") from None
        left -= len(parts[-1])
        if left < 0:
            raise ValueError("page too large")
        if not inflater.eof:
            raise ValueError("compressed body cut short")
        if len(parts) > _MAX_MEMBERS:
            raise ValueError("damaged compression")
        data = inflater.unused_data.lstrip(b"\0")  # a further member, or padding
    return b"".join(parts)


def _length(record: Any, path: Path, n_records: int) -> int:
    """Return the length that a record states; -1 where it states none."""
    stated = record.headers.get("Content-Length")
    if stated is None:
        return -1
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*", stated):
        raise DataError(
            f"record {n_records} of {path.name} states the length {stated[:40]!r}, which is no number of bytes",
            where=f"{path}, record {n_records}",
            fix="fetch the archive again, or leave it out",
        )
    return int(stated)


def _consume(record: Any, path: Path, n_records: int) -> None:
    """Read a record that is passed over, so that its length is checked too."""
    n = 0
    while data := record.reader.read(1 << 20):
        n += len(data)
    if n != record.content_length and record.content_length > 0 and n < record.content_length:
        raise _cut_short(path, n_records)


def _cut_short(path: Path, n_records: int) -> DataError:
    return DataError(
        f"{path.name} ends in the middle of record {n_records}: it was cut short",
        where=str(path),
        fix="fetch the archive again",
    )
