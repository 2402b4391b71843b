"""The text that every machine has: the Python files of the interpreter's own library.

Several million tokens written by people, no network, no licence question: it is read where
it lies and goes nowhere. It differs between Python versions and between packagers (some
strip the tests), so its fingerprint travels with every run.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from scalelab.config import Switch
from scalelab.data.base import ADDED, HashFile, SkippedDocuments, TextDocument, TextSource
from scalelab.data.files.opening import unreadable
from scalelab.data.hashing import fingerprint_of
from scalelab.errors import DataError
from scalelab.files import files_in

_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
_TESTS = {"test", "tests", "idle_test"}


class PyCode(TextSource):
    """Python's standard library: one document per .py file that is UTF-8 and not empty."""

    kind: Literal["pycode"] = "pycode"
    """Names this source in SOURCES."""
    tests: Switch = True
    """Read the library's own tests too, where they are installed (two thirds of the text)."""
    library: Switch = Field(True, json_schema_extra=ADDED)
    """Read what is no test."""

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if not (self.tests or self.library):
            raise ValueError("neither tests nor the library are read: set one of them to true")
        return self

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the name, sha256 and size of every file."""
        return fingerprint_of(self._files(), hash_file)

    def documents(self, skips: SkippedDocuments) -> Iterator[TextDocument]:
        """The files, sorted by their path inside the library."""
        for name, path in self._files():
            try:
                text = path.read_bytes().decode("utf-8")
            except OSError as error:
                raise unreadable(path, error) from error
            except UnicodeDecodeError:
                skips.note("not UTF-8", name)
                continue
            if text.strip():
                yield TextDocument(name, text)
            else:
                skips.note("empty", name)

    def _files(self) -> list[tuple[str, Path]]:
        root = Path(sysconfig.get_path("stdlib"))
        shut = _NOT_THE_LIBRARY if self.tests else _NOT_THE_LIBRARY | _TESTS
        found = sorted(
            (path.relative_to(root).as_posix(), path)
            for path in files_in(root, without=shut)
            if path.suffix == ".py"
            and (self.library or not _TESTS.isdisjoint(path.relative_to(root).parts[:-1]))
        )
        if not found:
            raise DataError(
                "this Python keeps no .py files of its own" if self.library else "this Python has no tests",
                where=str(root),
                fix="use another source, such as `source: {kind: text, paths: [...]}`",
            )
        return found
