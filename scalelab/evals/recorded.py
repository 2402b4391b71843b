"""Conversations that lie in files or on the Hub, a record each.

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}
    {"prompt": text or messages, "completion": text or messages}

Whatever is not a conversation with an answer at its end is refused, with its file and line.
An answer is right where it equals the reference, word for word; gold is not known here.

Not here: how files of records are opened (data/textfiles.py, data/hub.py).
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from scalelab.data.chat import MARKERS, Message
from scalelab.data.hashing import sha256
from scalelab.data.hub import Hub
from scalelab.data.textfiles import expand, rows_of
from scalelab.errors import DataError
from scalelab.evals.conversations import Conversations, Prompt

Row = tuple[str, dict[str, Any]]
"""Where a record stands, and the record."""


class _Recorded(Conversations):
    """Conversations from records, wherever they lie. Members say how to read a split."""

    def training(self, n: int | None, seed: int) -> list[tuple[Message, ...]]:
        """The first n records of training."""
        del seed
        found = [conversation(where, record) for where, record in self.rows("train", n)]
        if n is not None and len(found) < n:
            raise DataError(
                f"{n} conversations are asked for, and {len(found)} are there",
                where=self._place("train"),
                fix="ask for fewer, or give more files",
            )
        return found

    def prompts(self, n: int, seed: int, purpose: str) -> list[Prompt]:
        """The prompts of the first n training records, whatever the purpose."""
        del seed, purpose
        return [_asked(said) for said in self.training(n, 0)]

    def tests(self, n: int) -> dict[str, list[Prompt]]:
        """Up to n records of the test files."""
        held_out = [_asked(conversation(where, row)) for where, row in self.rows("test", n)]
        return {"test": held_out} if held_out else {}

    def gold(self, prompt: Prompt, answer: str) -> None:
        """Not known."""
        del prompt, answer

    def is_right(self, prompt: Prompt, answer: str) -> bool | None:
        """Whether it is the reference, spaces apart."""
        if prompt.reference is None:
            return None
        return answer.split() == prompt.reference.split()

    def rows(self, split: str, n: int | None) -> Iterator[Row]:
        """Records of a split, at most n."""
        raise NotImplementedError

    def _place(self, split: str) -> str:
        raise NotImplementedError


class Files(_Recorded):
    """Records in JSONL or parquet files."""

    kind: Literal["files"] = "files"
    """Names this source in CONVERSATIONS."""
    train: tuple[str, ...] = Field(min_length=1)
    """Files and globs of training records."""
    test: tuple[str, ...] = ()
    """Files and globs of held-out records."""

    def fingerprint(self) -> str:
        """Over the contents of every file."""
        said = [
            [sha256(path) for _, path in files]
            for files in (expand(self.train), self._test_files())
        ]
        return hashlib.sha256(repr(said).encode()).hexdigest()

    def _test_files(self) -> list:
        return expand(self.test) if self.test else []

    def rows(self, split: str, n: int | None) -> Iterator[Row]:
        """Records of a split, file by file."""
        files = expand(self.train) if split == "train" else self._test_files()
        left = n
        for _, path in files:
            for row in rows_of(path):
                if left == 0:
                    return
                yield row
                left = None if left is None else left - 1

    def _place(self, split: str) -> str:
        return ", ".join(self.train if split == "train" else self.test)


class HubRows(_Recorded):
    """Records of a data set on the Hub, or in a local directory in its layout."""

    kind: Literal["hub"] = "hub"
    """Names this source in CONVERSATIONS."""
    name: str
    """The data set, such as "HuggingFaceH4/no_robots", or a directory."""
    config: str | None = None
    """The data set's own configuration. None: its default."""
    train: str = "train"
    """Its split of training records."""
    test: str | None = None
    """Its split of held-out records."""
    revision: str | None = None
    """Commit, tag or branch. None: the newest, which is looked up and named in the fingerprint."""

    def fingerprint(self) -> str:
        """Over the commit, or over the files of a directory, and which splits are meant."""
        found = self._source(self.train, None).fingerprint(sha256)
        return hashlib.sha256(f"{found} {self.train} {self.test}".encode()).hexdigest()

    def rows(self, split: str, n: int | None) -> Iterator[Row]:
        """Records of a split, in their order."""
        chosen = self.train if split == "train" else self.test
        if chosen is not None:
            yield from self._source(chosen, n).records()

    def _source(self, split: str, n: int | None) -> Hub:
        return Hub(
            name=self.name, config=self.config, split=split, revision=self.revision,
            max_documents=n,
        )  # fmt: skip

    def _place(self, split: str) -> str:
        return f"{self.name}, split {getattr(self, split)}"


def conversation(where: str, record: dict[str, Any]) -> tuple[Message, ...]:
    """The messages of a record, the last of them an answer.

    Raises:
        DataError: It is not a conversation; `where` says which record.
    """
    if "messages" in record:
        messages = as_messages(where, record["messages"], "user")
    elif "prompt" in record and "completion" in record:
        messages = (
            *as_messages(where, record["prompt"], "user"),
            *as_messages(where, record["completion"], "assistant"),
        )
    else:
        raise DataError(
            "the record is no conversation",
            where=where,
            fix=f"give it `messages`, or `prompt` and `completion`; it has: {', '.join(record)}",
        )
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise DataError(
            "the conversation does not end with an answer",
            where=where,
            fix="let its last message be the assistant's, and not empty",
        )
    if len(messages) < 2:
        raise DataError(
            "the conversation is an answer to nothing",
            where=where,
            fix="let a message of the user come before the assistant's",
        )
    return messages


def as_messages(where: str, said: Any, role: str) -> tuple[Message, ...]:
    """Text of one role, or messages, as messages. Raises DataError where it is neither."""
    if isinstance(said, str):
        return ({"role": role, "content": said},)
    is_list = isinstance(said, list) and len(said) > 0
    for message in said if is_list else [None]:
        fits = (
            isinstance(message, dict)
            and message.get("role") in MARKERS
            and isinstance(message.get("content"), str)
        )
        if not fits:
            raise DataError(
                f"not a message: {message!r}"[:200] if is_list else f"no messages: {said!r}"[:200],
                where=where,
                fix='write messages as {"role": "user", "content": "..."}; roles: '
                + ", ".join(MARKERS),
            )
    return tuple({"role": m["role"], "content": m["content"]} for m in said)


def _asked(said: tuple[Message, ...]) -> Prompt:
    return Prompt(said[:-1], said[-1]["content"])
