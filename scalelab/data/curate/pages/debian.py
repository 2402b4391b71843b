"""Pages of documentation packages of a Debian system: real web pages of several kinds and languages.

    apt-get download PACKAGE      as the person who runs this; nothing is installed
    dpkg-deb -x                   its pages go below the cache: <cache>/debian/PACKAGE@.../
    /usr/share/doc/PACKAGE        where there is no package client, or the package cannot be fetched

The name of that directory has the version that was asked for, or the hash of the archive or of the installed
files, so that none stands in for another; the record in it has a hash of the pages, which is compared.

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
from functools import cached_property
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
from scalelab.files import exists, files_in, is_dir, is_file, make_dir, matching, whole_dir, writing
from scalelab.leases import hold
from scalelab.screen import note
from scalelab.sealed import Format

SYSTEM_DOCS = Path("/usr/share/doc")
PAGES, RECORD = "pages", "package.json"
"""Names in the directory of a package."""
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
    """SHA-256 of its archive, or hash of the installed files that it was read from."""
    licences: list[str]
    """As its copyright file states them; empty where it does not."""
    n_pages: int
    n_bytes: int
    """Bytes of its pages as they are stored."""
    tree: str
    """Hash over name, SHA-256 and size of every page."""


PACKAGE_RECORD = Format("record of an unpacked package", UnpackedPackage, schema=2, error=DataError)


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
        """Over the record of each package, after a comparison of its pages with the record.

        Raises:
            DataError: Pages in the cache are not those that were stored, or a package cannot be fetched.
        """
        for directory, about in self._packages:
            if fingerprint_of(_stored_pages(directory), hash_file) != about.tree:
                raise DataError(
                    f"the pages of {about.package} in the cache are not those that were stored",
                    where=str(directory),
                    fix=f"delete {directory}, then run the same command again",
                )
        return fingerprint_of(
            [(about.package, directory / RECORD) for directory, about in self._packages], hash_file
        )

    def shards(self, shard_bytes: int) -> list[list[str]]:
        """Pages, package by package, in the order of their paths."""
        paths = [path for directory, _ in self._packages for _, path in _stored_pages(directory)]
        return grouped([(str(path), path) for path in paths], shard_bytes)

    def pages(self, places: list[str]) -> Iterator[Page]:
        """Yield the pages at paths."""
        known: dict[Path, UnpackedPackage] = {}
        for place in places:
            root = next(
                (r for r in Path(place).parents if r.name == PAGES and exists(r.parent / RECORD)), None
            )
            if root is None:
                raise DataError(
                    f"the page {Path(place).name} is in no package of the cache",
                    where=place,
                    fix="run the same command again, and leave the cache as it is meanwhile",
                )
            if root not in known:
                known[root] = PACKAGE_RECORD.read(root.parent / RECORD)
            package, name = known[root], Path(place).relative_to(root).as_posix()
            yield page_of_file(
                utf8_name(f"{package.package}/{name}"),
                Path(place),
                url=utf8_name(f"https://{package.package}.invalid/{name}"),
                meta={"package": package.package, "licence": ", ".join(package.licences)},
            )

    def file_of(self, place: str) -> Path:
        """Return the file of a page."""
        return Path(place)

    def facts(self) -> dict[str, Any]:
        """Return version, licences and size of each package."""
        return {"packages": [asdict(about) for _, about in self._packages]}

    @cached_property
    def _packages(self) -> list[tuple[Path, UnpackedPackage]]:
        """Directory and record of each package."""
        return [self._unpacked(package) for package in self.packages]

    def _unpacked(self, package: str) -> tuple[Path, UnpackedPackage]:
        """Return a package, fetched and unpacked where it is not in the cache."""
        if not _PACKAGE.fullmatch(package):
            raise DataError(
                f"{package!r} is no name of a package",
                where="source.packages",
                fix="use lower-case names such as python3.11-doc, or NAME=VERSION",
            )
        name, _, version = package.partition("=")
        archive, key = None, version.replace(":", "_") or "latest"
        if self.archives is not None:
            archive = _archive_of(name, version, Path(self.archives).expanduser().absolute())
            key = f"archive-{sha256(archive)[:16]}"
        directory = cache_dir() / "debian" / f"{name}@{key}"
        if (found := _record(directory)) is not None:
            return directory, found
        others = "another process fetches this package"
        with hold(cache_dir() / "locks" / f"debian-{directory.name}", others, "wait for it", wait_s=inf):
            if (found := _record(directory)) is not None:
                return directory, found
            make_dir(directory.parent)
            with writing(directory.parent), tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
                if archive is None:
                    try:
                        archive = _fetched(package, Path(scratch))
                    except DataError as error:
                        return _installed(package, error.problem, directory.parent)
                return directory, _from_archive(name, version, archive, Path(scratch), directory)


def _record(directory: Path) -> UnpackedPackage | None:
    try:
        return PACKAGE_RECORD.read(directory / RECORD)
    except FileNotFoundError:
        return None


def _archive_of(name: str, version: str, archives: Path) -> Path:
    """Return the one archive of a package in a directory; of a version, where that is not empty."""
    found = {path: _version_of(path) for path in matching(archives, f"{name}_*.deb")}
    fitting = [path for path, each in found.items() if version in ("", each)]
    if len(fitting) == 1:
        return fitting[0]
    there = ", ".join(f"{path.name} (version {each})" for path, each in found.items())
    if not found:
        problem = f"there is no archive {name}_*.deb"
    elif not fitting:
        problem = f"no archive of {name} has the version {version}: {there}"
    else:
        problem = f"{len(fitting)} archives are of {name}{version and f' {version}'}: {there}"
    raise DataError(
        problem,
        where=f"source.archives: {archives}",
        fix="name one version (source.packages: NAME=VERSION), and leave one archive of it in the directory",
    )


def _fetched(package: str, scratch: Path) -> Path:
    """Return the archive of a package, fetched. Raises DataError."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise DataError("there is no apt-get and dpkg-deb here", where=package, fix="install them")
    note(f"fetching {package}")
    _run(["apt-get", "download", package], scratch)
    found = matching(scratch, "*.deb")
    if not found:
        raise DataError("apt-get fetched no file", where=package, fix="run apt-get download by hand")
    return found[0]


def _from_archive(name: str, version: str, archive: Path, scratch: Path, directory: Path) -> UnpackedPackage:
    found = _version_of(archive)
    if version not in ("", found):
        raise DataError(
            f"the archive of {name} has the version {found}, not {version}",
            where=f"source.packages; {archive.name}",
            fix=f"ask for {name}={found}, or give the archive of the version that was meant (source.archives)",
        )
    root = scratch / "root"
    _run(["dpkg-deb", "-x", str(archive), str(root)], scratch)
    return _store(name, found, sha256(archive), root, directory)


def _installed(package: str, why: str, cache: Path) -> tuple[Path, UnpackedPackage]:
    """Return the pages that the system has of a package which cannot be fetched: of the files of now."""
    name, _, version = package.partition("=")
    installed = SYSTEM_DOCS / name
    is_installed = is_dir(installed)
    there = _installed_version(name) if is_installed else ""
    if not is_installed or version not in ("", there):
        raise DataError(
            f"the package {package} cannot be fetched: {why}",
            where=f"source.packages; {installed} "
            + (f"has the version {there or 'unknown'}" if is_installed else "is not there either"),
            fix="check the name with apt-cache policy, update the lists of packages (apt-get update), "
            "install the package, or name a directory of .deb files (source.archives)",
        )
    note(f"{package} cannot be fetched ({why}): reading {installed}")
    origin = fingerprint_of(_files_of(installed), sha256)
    directory = cache / f"{name}@installed-{origin[:16]}"
    found = _record(directory) or _store(name, there or "installed", origin, installed, directory)
    return directory, found


def _version_of(archive: Path) -> str:
    return _run(["dpkg-deb", "-f", str(archive), "Version"], archive.parent).strip()


def _installed_version(name: str) -> str:
    """Return the version of an installed package; empty where it is unknown."""
    try:
        return _run(["dpkg-query", "-W", "-f", "${Version}", name], Path("/")).strip()
    except DataError:
        return ""


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
            target = place / PAGES / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        about = UnpackedPackage(
            package,
            version,
            origin,
            licences(root, package),
            len(found),
            sum(path.stat().st_size for _, path in found),
            fingerprint_of(_stored_pages(place), sha256),
        )
        PACKAGE_RECORD.write(place / RECORD, about)
    return about


def _files_of(root: Path) -> list[tuple[str, Path]]:
    """Return the regular files of pages below a directory, by their paths; links are passed over."""
    below = root / "usr/share" if is_dir(root / "usr/share") else root
    if not _is_inside(below, root):
        return []
    return [
        (utf8_name(path.relative_to(below).as_posix()), path)
        for path in files_in(below)
        if (kind_and_packing(path)[0] in HTML or _LANGUAGE_ENDING.search(path.name)) and not path.is_symlink()
    ]


def _is_inside(path: Path, root: Path) -> bool:
    """Whether a path leads to something below a directory, whatever links it follows."""
    return path.resolve().is_relative_to(root.resolve())


def _stored_pages(directory: Path) -> list[tuple[str, Path]]:
    """Return the pages of a package in the cache, by their names."""
    root = directory / PAGES
    return sorted((path.relative_to(root).as_posix(), path) for path in files_in(root))


def licences(root: Path, package: str) -> list[str]:
    """Return the licences that a package's copyright file states; none where there is no such file below the root.

    Args:
        root: Root of the unpacked package, or its directory below /usr/share/doc.
        package: Its name.
    """
    candidates = (root / "usr/share/doc" / package / "copyright", root / "copyright")
    others = [place / "copyright" for place in matching(root / "usr/share/doc")]
    path = next((p for p in (*candidates, *others) if is_file(p) and _is_inside(p, root)), None)
    if path is None:
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    stated = re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE)
    if stated and re.search(r"^Format:.*copyright-format", text, re.MULTILINE):
        return list(dict.fromkeys(name.strip() for name in stated))[:12]
    return [name for phrase, name in _PHRASES.items() if re.search(phrase, text, re.IGNORECASE | re.DOTALL)]
