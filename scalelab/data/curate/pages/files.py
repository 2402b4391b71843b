"""Pages in files: HTML, WARC and WET archives, JSONL and parquet, text; compressed or not.

    .html .htm .xhtml            one page a file
    .warc .wet (.gz .zst)        one page a record (warc.py)
    .jsonl .json .parquet ...    one page a record: html or text in a field; named FILE:1, FILE:2, ...
    .txt .md .rst                one page of text a file

A directory stands for all such files below it. A page larger than MAX_PAGE_BYTES, or one that expands
far more than text does, is rejected without being read whole, and a record whose text is null as empty.

Not here: how files are found and decompressed (data/files).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from scalelab.data.base import HashFile
from scalelab.data.curate.base import MAX_PAGE_BYTES, Page, PageSource, versions_of
from scalelab.data.curate.pages.warc import warc_pages
from scalelab.data.files.compression import chunks, kind_and_packing
from scalelab.data.files.listing import expand, files_below
from scalelab.data.files.records import FORMATS, record_format, rows_of
from scalelab.data.hashing import fingerprint_of, utf8_name
from scalelab.errors import DataError

HTML = (".html", ".htm", ".xhtml")
ARCHIVES = (".warc", ".wet")
TEXT = (".txt", ".md", ".rst")
KINDS = (*HTML, *ARCHIVES, *TEXT, *FORMATS)
EMPTY = "empty record"
TOO_LARGE = "page too large"
EXPANDS = "expands like a decompression bomb"


class PageFiles(PageSource):
    """Pages in files, in the order of their paths."""

    kind: Literal["files"] = "files"
    """Names this source in PAGE_SOURCES."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files, directories and globs; a relative one starts at the working directory."""
    field: str = "text"
    """Field of a record with its text; of one with a field `html`, that is extracted instead."""
    url_field: str = "url"
    """Field of a record with its URL; it may be missing."""
    date_field: str = "date"
    """Field of a record with its date; it may be missing."""

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the name, sha256 and size of every file."""
        return fingerprint_of(self._files(), hash_file)

    def shards(self, shard_bytes: int) -> list[list[str]]:
        """Files in the order of their paths, the next group begun where one is large enough."""
        return grouped([(json.dumps([name, str(path)]), path) for name, path in self._files()], shard_bytes)

    def pages(self, places: list[str]) -> Iterator[Page]:
        """Yield the pages of files. A place is the JSON of name and path, so that no other file is looked for."""
        for place in places:
            name, path = json.loads(place)
            yield from self._read(name, Path(path))

    def file_of(self, place: str) -> Path:
        """Return the file of a place."""
        return Path(json.loads(place)[1])

    def implementation(self) -> str:
        """Return what reads archives, where there are some."""
        has_archives = any(kind_and_packing(path)[0] in ARCHIVES for _, path in self._files())
        return versions_of(["fastwarc"]) if has_archives else ""

    def _read(self, name: str, path: Path) -> Iterator[Page]:
        kind = kind_and_packing(path)[0]
        if kind in ARCHIVES:
            yield from warc_pages(path, name)
        elif record_format(path) is not None:
            # Counted here: several records of a .json file may stand on one line.
            for number, (where, record) in enumerate(rows_of(path), 1):
                yield self._page(f"{name}:{number}", record, where)
        else:
            yield page_of_file(name, path, "text" if kind in TEXT else "html")

    def _page(self, name: str, record: Mapping[str, Any], where: str) -> Page:
        values = [record[field] for field in ("html", self.field) if field in record]
        text = next((value for value in values if isinstance(value, str)), None)
        if text is None and (not values or any(value is not None for value in values)):
            raise DataError(
                f"the record has neither text in {self.field!r} nor a field 'html'",
                where=where,
                fix=f"name the field of the text (source.field); there are: {', '.join(map(str, record))[:200]}",
            )
        url, date = (record.get(field) for field in (self.url_field, self.date_field))
        data = (text or "").encode("utf-8", "replace")
        is_large = len(data) > MAX_PAGE_BYTES
        return Page(
            name,
            b"" if is_large else data,
            "html" if isinstance(record.get("html"), str) else "text",
            url=_cleaned(url) if isinstance(url, str) else "",
            date=_cleaned(str(date)) if date else "",
            charset="utf-8",
            problem=EMPTY if text is None else TOO_LARGE if is_large else "",
        )

    def _files(self) -> list[tuple[str, Path]]:
        patterns: list[str] = []
        for given in self.paths:
            path = Path(given).expanduser()
            if path.is_dir():
                found = [str(p) for p in files_below(path, is_page_file)]
                if not found:
                    raise DataError(
                        f"the directory {given} holds no file of pages",
                        where=str(path.absolute()),
                        fix=f"name a directory with files that end in {', '.join(KINDS)}",
                    )
                patterns += found
            else:
                patterns.append(given)
        return [(utf8_name(name), path) for name, path in expand(patterns)]


def _cleaned(text: str) -> str:
    """Return text as UTF-8 can hold it: JSON may state halves of characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


def is_page_file(path: Path) -> bool:
    """Return whether a file holds pages, by its name."""
    return kind_and_packing(path)[0] in KINDS


def page_of_file(name: str, path: Path, media: str = "html", **about: Any) -> Page:
    """Return the page that a file is.

    Args:
        name: Name of the page.
        path: The file; it may be compressed.
        media: html or text.
        about: Further fields of the page.

    Raises:
        DataError: The file cannot be read, or is cut short.
    """
    parts, size = [], 0
    try:
        for chunk in chunks(path):
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_PAGE_BYTES:
                return Page(name, b"", media, problem=TOO_LARGE, **about)
    except DataError as error:
        if "unpacks to more than" not in error.problem:
            raise
        return Page(name, b"", media, problem=EXPANDS, **about)
    return Page(name, b"".join(parts), media, **about)


def grouped(files: list[tuple[str, Path]], shard_bytes: int) -> list[list[str]]:
    """Return places of files in groups of about so many bytes, their order kept.

    Args:
        files: Place and path of each.
        shard_bytes: Stored bytes of a group.
    """
    groups: list[list[str]] = []
    size = 0
    for place, path in files:
        here = path.stat().st_size
        if not groups or size + here > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(place)
        size += here
    return groups
