"""The layout `preference`, of TRL and UltraFeedback.

    {"prompt": text or messages, "chosen": text or messages, "rejected": text or messages}

An answer given as a list of messages may repeat the prompt, as in UltraFeedback; any other message before
the answer is refused, because it would be lost.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from scalelab.data.chat import Message
from scalelab.errors import DataError
from scalelab.evals.conversations.layouts.base import PreferenceRecord, RecordLayout
from scalelab.evals.conversations.messages import check_prompt, read_text_or_messages, with_system


class PreferenceLayout(RecordLayout):
    """A prompt and two answers."""

    gives = PreferenceRecord
    fields = ("prompt", "chosen", "rejected")
    examples: ClassVar = (
        {"prompt": "1+1?", "chosen": "2", "rejected": "3"},
        {
            "prompt": "2+2?",
            "chosen": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
            "rejected": [{"role": "assistant", "content": "5"}],
        },
    )

    def read(self, record: Mapping[str, Any], where: str) -> PreferenceRecord:
        """See RecordLayout."""
        prompt = read_text_or_messages(record["prompt"], "user", f"{where}, prompt")
        chosen, rejected = (
            _answer(record, name, prompt, f"{where}, {name}") for name in ("chosen", "rejected")
        )
        return PreferenceRecord(check_prompt(with_system(record, prompt, where), where), chosen, rejected)


def _answer(record: Mapping[str, Any], name: str, prompt: tuple[Message, ...], where: str) -> str:
    *before, answer = read_text_or_messages(record[name], "assistant", where)
    if answer["role"] != "assistant" or (before and tuple(before) != prompt):
        raise DataError(
            f"{name!r} is not one answer to the prompt: it has {len(before) + 1} messages, the last of the "
            f"{answer['role']}",
            where=where,
            fix="give one message of the assistant, with or without the prompt before it",
        )
    return answer["content"]
