"""Conversations in files or on the Hub, one per record, in any layout of LAYOUTS.

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}
    {"prompt": text or messages, "completion": text or messages}
    {"instruction": ..., "input": ..., "output": ...}
    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}

All records of a file have one layout, which is found from their fields. A record that is not a conversation
ending with an answer is rejected with its file and line. An answer is correct if its words equal those of
the reference; there is no gold score.

Not here: layouts (layouts/), how files of records are opened (data/files, data/sources/hub.py).
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from scalelab.data.chat import Message
from scalelab.data.files.listing import expand
from scalelab.data.files.opening import regular_stat
from scalelab.data.files.records import rows_of
from scalelab.data.hashing import sha256
from scalelab.data.sources.hub import HubDataset
from scalelab.errors import DataError
from scalelab.evals.conversations.base import Conversations, Prompt
from scalelab.evals.conversations.layouts.base import ConversationRecord
from scalelab.evals.conversations.reading import read_records

READING = 2
"""Version of how records are read. Raising it repeats the stages that train on conversations of files."""
RecordTable = Iterator[tuple[str, Mapping[str, Any]]]
"""Location and fields of each record of one file or split."""


class _RecordConversations(Conversations):
    """Conversations from records. Members define how a split is read."""

    def training(self, n: int | None, seed: int) -> list[tuple[Message, ...]]:
        """Return the first n training records."""
        del seed
        found = self._conversations("train", n)
        if n is not None and len(found) < n:
            raise DataError(
                f"{n} conversations were requested, but there are only {len(found)}",
                where=self._place("train"),
                fix="request fewer, or add files",
            )
        return found

    def prompts(self, n: int, seed: int, purpose: str) -> list[Prompt]:
        """Return the prompts of the first n training records, for any purpose."""
        del seed, purpose
        return [_prompt(messages) for messages in self.training(n, 0)]

    def tests(self, n: int) -> dict[str, list[Prompt]]:
        """Return up to n records of the test files."""
        held_out = [_prompt(messages) for messages in self._conversations("test", n)]
        return {"test": held_out} if held_out else {}

    def gold(self, prompt: Prompt, answer: str) -> None:
        """Return None: there is no gold score."""
        del prompt, answer

    def is_right(self, prompt: Prompt, answer: str) -> bool | None:
        """Return whether it equals the reference, ignoring white space; None without a reference."""
        if prompt.reference is None:
            return None
        return answer.split() == prompt.reference.split()

    def _conversations(self, split: str, n: int | None) -> list[tuple[Message, ...]]:
        """Return the first n conversations of a split; each file has a layout of its own."""
        found: list[tuple[Message, ...]] = []
        for table in self.tables(split, n):
            left = None if n is None else n - len(found)
            records = read_records(table, (ConversationRecord,), left)
            found += [record.messages for record in records]
            if n is not None and len(found) >= n:
                break
        return found

    def tables(self, split: str, n: int | None) -> Iterator[RecordTable]:
        """Yield the tables of records of a split; no more than n records of them are used."""
        raise NotImplementedError

    def _place(self, split: str) -> str:
        raise NotImplementedError


class FileConversations(_RecordConversations):
    """Records in files (.jsonl, .json, .csv, .tsv, .parquet), compressed or not."""

    kind: Literal["files"] = "files"
    """Name of this source in CONVERSATIONS."""
    train: tuple[str, ...] = Field(min_length=1)
    """Files and globs of training records."""
    test: tuple[str, ...] = ()
    """Files and globs of held-out records."""

    def fingerprint(self) -> str:
        """Return a digest of the contents of every file."""
        digests = [[sha256(path) for path in self._files(split)] for split in ("train", "test")]
        return hashlib.sha256(f"{READING} {digests}".encode()).hexdigest()

    def _files(self, split: str) -> list[Path]:
        """Return the files of a split. Raises DataError: a file is in both, so nothing is held out."""
        train = [path for _, path in expand(self.train)]
        test = [path for _, path in expand(self.test)] if self.test else []
        trained = {_identity(path) for path in train}
        if both := [path for path in test if _identity(path) in trained]:
            raise DataError(
                f"{len(both)} file{' is' if len(both) == 1 else 's are'} in both train and test",
                where=str(both[0]),
                fix="leave the test files out of the globs of train",
            )
        return train if split == "train" else test

    def tables(self, split: str, n: int | None) -> Iterator[RecordTable]:
        """Yield the records of each file of a split."""
        return (rows_of(path) for path in self._files(split))

    def _place(self, split: str) -> str:
        return ", ".join(self.train if split == "train" else self.test)


class HubConversations(_RecordConversations):
    """Records of a data set on the Hub, or in a local directory of the same layout."""

    kind: Literal["hub"] = "hub"
    """Name of this source in CONVERSATIONS."""
    name: str
    """The data set, such as "HuggingFaceH4/no_robots", or a directory."""
    config: str | None = None
    """The data set's own configuration. None: its default."""
    train: str = "train"
    """Its split of training records."""
    test: str | None = None
    """Its split of held-out records."""
    revision: str | None = None
    """Commit, tag or branch. None: the latest commit, which enters the fingerprint."""

    @model_validator(mode="after")
    def _test_is_held_out(self) -> Self:
        if self.test == self.train:
            raise ValueError(f"train and test are both {self.train!r}: nothing would be held out")
        return self

    def fingerprint(self) -> str:
        """Return a digest of the commit (or the files of a directory) and the splits."""
        found = self._source(self.train, None).fingerprint(sha256)
        return hashlib.sha256(f"{READING} {found} {self.train} {self.test}".encode()).hexdigest()

    def tables(self, split: str, n: int | None) -> Iterator[RecordTable]:
        """Yield the records of a split in order."""
        chosen = self.train if split == "train" else self.test
        if chosen is not None:
            yield self._source(chosen, n).records()

    def _source(self, split: str, n: int | None) -> HubDataset:
        return HubDataset(
            name=self.name, config=self.config, split=split, revision=self.revision, max_documents=n
        )

    def _place(self, split: str) -> str:
        return f"{self.name}, split {getattr(self, split)}"


def _identity(path: Path) -> tuple[int, int]:
    status = regular_stat(path)
    return status.st_dev, status.st_ino


def _prompt(messages: tuple[Message, ...]) -> Prompt:
    return Prompt(messages[:-1], messages[-1]["content"])
