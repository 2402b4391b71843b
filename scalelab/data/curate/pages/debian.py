"""Pages of documentation packages of a Debian system: real web pages of several kinds and languages.

    apt-get download PACKAGE      as the person who runs this; nothing is installed
    dpkg-deb -x                   unpacked below the cache: <cache>/debian/PACKAGE/
    /usr/share/doc/PACKAGE        where there is no package client, or the package cannot be fetched

Nothing is redistributed: the user's own machine fetches the packages. The licences that each package
states are read from its copyright file and listed. A package that is in the cache is not fetched again.

Source: Debian Policy 12.5 (copyright information), DEP-5 (its machine-readable form).
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from scalelab.data.base import HashFile
from scalelab.data.corpus.shards import cache_dir
from scalelab.data.curate.base import Page, PageSource
from scalelab.data.curate.pages.files import HTML, grouped, page_of_file
from scalelab.data.files.compression import kind_and_packing
from scalelab.data.hashing import fingerprint_of, sha256, utf8_name
from scalelab.errors import DataError
from scalelab.files import make_dir, whole_dir, writing
from scalelab.leases import hold
from scalelab.screen import note
from scalelab.sealed import Format

SYSTEM_DOCS = Path("/usr/share/doc")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+~:-]+)?")
_TIMEOUT_S = 900
_LANGUAGE_ENDING = re.compile(r"\.html?(\.[a-z]{2}(-[a-z]{2})?)?(\.[a-z0-9-]+)?(\.gz)?$", re.IGNORECASE)
_PHRASES = {
    r"Apache License,? Version 2": "Apache-2.0",
    r"PYTHON SOFTWARE FOUNDATION LICENSE|PSF LICENSE": "PSF-2.0",
    r"PostgreSQL (Database Management System|License)|Permission to use, copy, modify, and distribute this "
    r"software and its\s+documentation": "PostgreSQL",
    r"public domain": "public domain",
    r"Mozilla Public License": "MPL",
    r"GNU Free Documentation License|\bGFDL\b": "GFDL",
    r"GNU General Public License|\bGPL\b": "GPL",
    r"\bMIT\b.{0,20}licen[sc]e": "MIT",
    r"\bBSD\b.{0,20}licen[sc]e": "BSD",
}


@dataclass(frozen=True)
class UnpackedPackage:
    """What is known of a package in the cache."""

    package: str
    version: str
    origin: str
    """SHA-256 of its archive, or the directory that it was read from."""
    licences: list[str]
    """As its copyright file states them; empty where it does not."""
    n_pages: int
    n_bytes: int
    """Bytes of its pages as they are stored."""


PACKAGE_RECORD = Format("record of an unpacked package", UnpackedPackage, schema=1, error=DataError)


class DebianDocs(PageSource):
    """The HTML pages of documentation packages."""

    kind: Literal["debian_docs"] = "debian_docs"
    """Names this source in PAGE_SOURCES."""
    packages: tuple[str, ...] = Field(min_length=1)
    """Packages, such as python3.11-doc; NAME=VERSION for one version."""
    archives: str | None = None
    """Directory with .deb files that are used in place of fetching. None: fetch."""

    @model_validator(mode="after")
    def _each_package_is_named_once(self) -> Self:
        names = [package.partition("=")[0] for package in self.packages]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(
                f"packages names {repeated!r} more than once: its pages would be copies of one another"
            )
        return self

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over version and archive of each package; over the files of one that the system has installed."""
        found = [self._unpacked(package) for package in self.packages]
        files = [
            (each.package, directory / "package.json")
            for each, directory in zip(found, map(_directory, self.packages), strict=True)
        ]
        return fingerprint_of(files, hash_file)

    def shards(self, shard_bytes: int) -> list[list[str]]:
        """Pages, package by package, in the order of their paths."""
        paths = [
            f"{root}/{name}"
            for package in self.packages
            if self._unpacked(package)
            for root in [_directory(package) / "pages"]
            for name in _pages_below(root)
        ]
        return grouped(paths, shard_bytes)

    def pages(self, places: list[str]) -> Iterator[Page]:
        """Yield the pages at paths."""
        about = {_directory(package) / "pages": self._unpacked(package) for package in self.packages}
        for place in places:
            root = next(root for root in about if Path(place).is_relative_to(root))
            package, name = about[root], Path(place).relative_to(root).as_posix()
            yield page_of_file(
                utf8_name(f"{package.package}/{name}"),
                Path(place),
                url=utf8_name(f"https://{package.package}.invalid/{name}"),
                meta={"package": package.package, "licence": ", ".join(package.licences)},
            )

    def facts(self) -> dict[str, Any]:
        """Return version, licences and size of each package."""
        return {"packages": [asdict(self._unpacked(package)) for package in self.packages]}

    def _unpacked(self, package: str) -> UnpackedPackage:
        """Return a package, fetched and unpacked where it is not in the cache."""
        if not _PACKAGE.fullmatch(package):
            raise DataError(
                f"{package!r} is no name of a package",
                where="source.packages",
                fix="use lower-case names such as python3.11-doc, or NAME=VERSION",
            )
        directory = _directory(package)
        try:
            return PACKAGE_RECORD.read(directory / "package.json")
        except FileNotFoundError:
            pass
        others = "another process fetches this package"
        with hold(cache_dir() / "locks" / f"debian-{directory.name}", others, "wait for it", wait_s=inf):
            if (directory / "package.json").exists():
                return PACKAGE_RECORD.read(directory / "package.json")
            return self._fetch(package, directory)

    def _fetch(self, package: str, directory: Path) -> UnpackedPackage:
        name = package.partition("=")[0]
        make_dir(directory.parent)
        with writing(directory.parent), tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
            archive, why = self._archive(package, Path(scratch))
            if archive is not None:
                root = Path(scratch) / "root"
                _run(["dpkg-deb", "-x", str(archive), str(root)], Path(scratch))
                version = _run(["dpkg-deb", "-f", str(archive), "Version"], Path(scratch)).strip()
                return _store(name, version, sha256(archive), root, directory)
            installed = SYSTEM_DOCS / name
            if not installed.is_dir():
                raise DataError(
                    f"the package {package} cannot be fetched: {why}",
                    where=f"source.packages; {installed} is not there either",
                    fix="check the name with apt-cache policy, update the lists of packages (apt-get update), "
                    "install the package, or name a directory of .deb files (source.archives)",
                )
            note(f"{package} cannot be fetched ({why}): reading {installed}")
            return _store(
                name, "installed", fingerprint_of(_files_of(installed), sha256), installed, directory
            )

    def _archive(self, package: str, scratch: Path) -> tuple[Path | None, str]:
        """Return the archive of a package, and why there is none."""
        name = package.partition("=")[0]
        if self.archives is not None:
            found = sorted(Path(self.archives).expanduser().glob(f"{name}_*.deb"))
            return (found[-1], "") if found else (None, f"{self.archives} holds no {name}_*.deb")
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            return None, "there is no apt-get and dpkg-deb here"
        note(f"fetching {package}")
        try:
            _run(["apt-get", "download", package], scratch)
        except DataError as error:
            return None, error.problem
        found = sorted(scratch.glob("*.deb"))
        return (found[0], "") if found else (None, "apt-get fetched no file")


def _directory(package: str) -> Path:
    return cache_dir() / "debian" / package.replace("=", "_").replace(":", "_")


def _run(command: list[str], directory: Path) -> str:
    """Return the output of a program of the system. Raises DataError with the end of its messages."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(
            f"{command[0]} cannot be run: {error}",
            where=" ".join(command),
            fix="install it, or run it by hand",
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DataError(
            f"{command[0]} failed: {lines[-1][:200] if lines else f'status {done.returncode}'}",
            where=" ".join(command),
            fix="run the command by hand to see what is wrong",
        )
    return done.stdout


def _store(package: str, version: str, origin: str, root: Path, directory: Path) -> UnpackedPackage:
    """Copy the pages of an unpacked tree into the cache and record the package."""
    found = _files_of(root)
    if not found:
        raise DataError(
            f"the package {package} holds no HTML pages",
            where=str(root),
            fix="leave it out of source.packages",
        )
    with whole_dir(directory) as place:
        for name, path in found:
            target = place / "pages" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        about = UnpackedPackage(
            package,
            version,
            origin,
            licences(root, package),
            len(found),
            sum(path.stat().st_size for _, path in found),
        )
        PACKAGE_RECORD.write(place / "package.json", about)
    return about


def _files_of(root: Path) -> list[tuple[str, Path]]:
    """Return the regular files of pages below a directory, by their paths; links are passed over."""
    below = root / "usr/share" if (root / "usr/share").is_dir() else root
    found = []
    for directory, subdirectories, names in os.walk(below):
        subdirectories.sort()
        for name in sorted(names):
            path = Path(directory) / name
            is_page = kind_and_packing(path)[0] in HTML or _LANGUAGE_ENDING.search(name)
            if is_page and path.is_file() and not path.is_symlink():
                found.append((utf8_name(path.relative_to(below).as_posix()), path))
    return found


def _pages_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def licences(root: Path, package: str) -> list[str]:
    """Return the licences that a package's copyright file states; none where there is no such file.

    Args:
        root: Root of the unpacked package, or its directory below /usr/share/doc.
        package: Its name.
    """
    candidates = (root / "usr/share/doc" / package / "copyright", root / "copyright")
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        others = sorted((root / "usr/share/doc").glob("*/copyright"))
        path = next((path for path in others if path.is_file()), None)
    if path is None:
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    stated = re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE)
    if stated and re.search(r"^Format:.*copyright-format", text, re.MULTILINE):
        return list(dict.fromkeys(name.strip() for name in stated))[:12]
    return [name for phrase, name in _PHRASES.items() if re.search(phrase, text, re.IGNORECASE | re.DOTALL)]
