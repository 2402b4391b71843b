"""Data sets of the Hugging Face Hub, streamed or downloaded.

The fingerprint is the commit of the data set, not its bytes: a name without a revision is
looked up once, and what it stood for is what the corpus is named by. Where the Hub cannot be
reached, files that lie here can take its place; the corpus then bears their fingerprint, so
that nobody takes the one for the other.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from scalelab.config import Count, Switch
from scalelab.data.base import HashFile, SkippedDocuments, TextDocument, TextSource
from scalelab.data.files.plain import check_characters
from scalelab.data.files.records import lookup
from scalelab.data.hashing import fingerprint_of
from scalelab.data.sources.text import TextFiles
from scalelab.errors import DataError
from scalelab.files import files_in, is_dir

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 20.0
_LIBRARIES = {"datasets", "huggingface_hub", "httpx", "httpx2", "requests", "aiohttp", "pyarrow"}


class HubDataset(TextSource):
    """One split of a data set, one document per row."""

    kind: Literal["hub"] = "hub"
    """Names this source in SOURCES."""
    name: str
    """The data set, such as "HuggingFaceFW/fineweb-edu", or a directory in the Hub's layout."""
    config: str | None = None
    """The data set's own configuration ("sample-10BT"). None: its default."""
    split: str = "train"
    """The data set's split. Ours is made from it."""
    field: str = "text"
    """The column that holds the text, or a dotted path into it such as meta.text."""
    revision: str | None = None
    """Commit, tag or branch. A whole commit needs no question to the Hub. None: the newest."""
    streaming: Switch = True
    """Read over the network while preparing (twice), rather than download everything first."""
    max_documents: Count | None = None
    """Rows to read, from the first. None: all."""
    local: tuple[str, ...] = ()
    """Files to read instead when the Hub cannot be reached, as in the source `text`."""

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the commit and the settings; over the files where the data lie here."""
        if self._is_directory():
            files = files_in(Path(self.name))
            named = [(p.relative_to(self.name).as_posix(), p) for p in files]
            return fingerprint_of(named, hash_file)
        commit = self._commit()
        if commit is None:
            return self._files_here().fingerprint(hash_file)
        return hashlib.sha256(f"{commit} {self.model_dump_json()}".encode()).hexdigest()

    def documents(self, skips: SkippedDocuments) -> Iterator[TextDocument]:
        """The rows in their order; those without text are noted and left out."""
        commit = None if self._is_directory() else self._commit()
        if commit is None and not self._is_directory():
            yield from islice(self._files_here().documents(skips), self.max_documents)
            return
        for number, row in enumerate(self._rows(commit), 1):
            where = f"{self.name}, split {self.split}, row {number}"
            text = lookup(row, self.field, where)
            if isinstance(text, str) and text.strip():
                check_characters(text, where)
                yield TextDocument(f"{self.split}:{number}", text)
            elif text is None or isinstance(text, str):
                skips.note("empty", f"{self.split}:{number}")
            else:
                raise DataError(
                    f"the column {self.field!r} holds {type(text).__name__}, not text",
                    where=where,
                    fix="name the column that holds the text (field: ...)",
                )

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Where it stands, and each row whole, for readers of more than one column."""
        commit = None if self._is_directory() else self._commit()
        for number, row in enumerate(self._rows(commit), 1):
            yield f"{self.name}, split {self.split}, row {number}", row

    def _rows(self, commit: str | None) -> Iterator[dict[str, Any]]:
        try:
            import datasets
        except ImportError:
            raise _needs_datasets(self.name) from None
        try:
            rows = datasets.load_dataset(
                self.name, self.config, split=self.split, revision=commit, streaming=self.streaming
            )
            yield from islice(rows, self.max_documents)
        except Exception as error:
            # Reading over the network raises errors of several libraries beside its own.
            if not isinstance(error, OSError | ValueError) and not _is_of(error, _LIBRARIES):
                raise
            said = str(error).strip() or type(error).__name__
            raise DataError(
                f"cannot read the data set {self.name}: {said.splitlines()[0]}",
                where=f"{self.name}, config {self.config}, split {self.split}, commit {commit}",
                fix="check name, config and split on the Hub, and the network; a private data"
                " set needs HF_TOKEN",
            ) from error

    def _commit(self) -> str | None:
        """The commit that will be read; None when the files that lie here are to be read.

        Raises:
            DataError: The Hub does not answer, or knows no such data set, and nothing else
                is there to read.
        """
        is_pinned = self.revision is not None and _COMMIT.fullmatch(self.revision)
        if is_pinned and not self.local:
            return self.revision
        commit = _ask_hub(self.name, self.revision)
        if commit is not None or self.local:
            return commit
        raise DataError(
            f"the Hub cannot be reached, so nobody knows what {self.name} holds today",
            where=_endpoint(),
            fix="try again with a network, or name files to read instead (local: [...]), or a"
            " whole commit that was read here before (revision: ...)",
        )

    def _files_here(self) -> TextFiles:
        return TextFiles(paths=self.local, field=self.field)

    def _is_directory(self) -> bool:
        return is_dir(Path(self.name))


def _ask_hub(name: str, revision: str | None) -> str | None:
    """The commit that a revision stands for now; None where the Hub cannot be reached.

    Raises:
        DataError: The Hub answers that there is no such thing, or that it is not for us.
    """
    try:
        from huggingface_hub import get_token
    except ImportError:
        raise _needs_datasets(name) from None
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "ON", "YES", "TRUE"}:
        return None
    # The documented address, asked with the standard library: the Hub's own client raises
    # errors of whichever HTTP library it was last moved to.
    url = f"{_endpoint()}/api/datasets/{quote(name)}"
    request = Request(url + (f"/revision/{quote(revision, safe='')}" if revision else ""))
    if token := get_token():
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as answer:
            return str(json.load(answer)["sha"])
    except HTTPError as error:
        error.close()
        if error.code == 429 or error.code >= 500:
            return None
        raise DataError(
            f"the Hub has no data set {name}"
            + (f" at {revision}" if revision else "")
            + f" that you may read (it answers {error.code})",
            where=request.full_url,
            fix="check the name and the revision; a private data set needs HF_TOKEN",
        ) from None
    except (OSError, HTTPException, ValueError, KeyError):  # no route, no answer, or not a Hub's
        return None


def _is_of(error: Exception, libraries: set[str]) -> bool:
    return type(error).__module__.partition(".")[0] in libraries


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _needs_datasets(name: str) -> DataError:
    return DataError(
        f"reading {name} needs the package datasets, which is not installed",
        where="source: hub",
        fix="pip install 'scalelab[hub]'",
    )
