"""The layout `implicit_prompt`, of TRL: the prompt is what two conversations have in common.

{"chosen": [messages ..., answer], "rejected": [the same messages ..., another answer]}
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from scalelab.data.chat import Message
from scalelab.errors import DataError
from scalelab.evals.conversations.layouts.base import PreferenceRecord, RecordLayout
from scalelab.evals.conversations.messages import check_conversation, read_messages, with_system

_PROMPT = [{"role": "user", "content": "1+1?"}]


class ImplicitPromptLayout(RecordLayout):
    """Two conversations that differ in the last answer."""

    gives = PreferenceRecord
    fields = ("chosen", "rejected")
    examples: ClassVar = (
        {
            "chosen": [*_PROMPT, {"role": "assistant", "content": "2"}],
            "rejected": [*_PROMPT, {"role": "assistant", "content": "3"}],
        },
        {
            "chosen": [*_PROMPT, {"role": "assistant", "content": "Two."}],
            "rejected": [*_PROMPT, {"role": "assistant", "content": "Three."}],
        },
    )

    def matches(self, record: Mapping[str, Any]) -> bool:
        """See RecordLayout."""
        return super().matches(record) and "prompt" not in record and not isinstance(record["chosen"], str)

    def read(self, record: Mapping[str, Any], where: str) -> PreferenceRecord:
        """See RecordLayout."""
        chosen, rejected = (
            with_system(record, read_messages(record[name], f"{where}, {name}"), where)
            for name in ("chosen", "rejected")
        )
        return preference_of(chosen, rejected, where)


def preference_of(chosen: tuple[Message, ...], rejected: tuple[Message, ...], where: str) -> PreferenceRecord:
    """Return two conversations with the same prompt as a preference.

    Raises:
        DataError: One does not end with an answer, or they differ before the last answer.
    """
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        check_conversation(messages, f"{where}, {name}")
    if chosen[:-1] != rejected[:-1]:
        shared = sum(1 for _ in _shared(chosen, rejected))
        raise DataError(
            f"'chosen' ({len(chosen)} messages) and 'rejected' ({len(rejected)}) differ from message {shared + 1} "
            "on, so they do not answer the same prompt",
            where=where,
            fix="make them equal up to the last answer, or leave out the record",
        )
    return PreferenceRecord(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])


def _shared(one: tuple[Message, ...], other: tuple[Message, ...]) -> Any:
    for left, right in zip(one, other, strict=False):
        if left != right:
            return
        yield left
