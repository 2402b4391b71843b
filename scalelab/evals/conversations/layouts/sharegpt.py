"""The layout `sharegpt`.

    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}], "system": text}

Turns may also be written with `role` and `content`, as some data sets do under this name. A turn from
`function_call` holds the JSON of a call, one from `observation` or `tool` its result.

Source: FastChat (vicuna) and LLaMA-Factory.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from scalelab.errors import DataError
from scalelab.evals.conversations.layouts.base import ConversationRecord, RecordLayout
from scalelab.evals.conversations.messages import (
    check_conversation,
    read_messages,
    refuse_nested,
    too_nested,
    with_system,
)

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
"""Value of `from` to the role of a message."""


class ShareGptLayout(RecordLayout):
    """A list of turns with `from` and `value`."""

    gives = ConversationRecord
    fields = ("conversations",)
    examples: ClassVar = (
        {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]},
        {
            "system": "Be short.",
            "conversations": [
                {"from": "human", "value": "The time?"},
                {"from": "function_call", "value": '{"name": "now", "arguments": {}}'},
                {"from": "observation", "value": "12:00"},
                {"from": "gpt", "value": "Noon."},
            ],
        },
    )

    def read(self, record: Mapping[str, Any], where: str) -> ConversationRecord:
        """See RecordLayout."""
        turns = record["conversations"]
        if isinstance(turns, Sequence) and not isinstance(turns, str):
            turns = [_message(turn, f"{where}, message {i}") for i, turn in enumerate(turns, 1)]
        messages = with_system(record, read_messages(turns, where), where)
        return ConversationRecord(check_conversation(messages, where))


def _message(turn: Any, where: str) -> Any:
    """Return a turn as a message; what is no turn is left to read_messages."""
    if not isinstance(turn, Mapping) or turn.get("from") is None:
        return turn
    speaker = turn["from"] if isinstance(turn["from"], str) else None
    if turn.get("role") is not None or speaker not in SPEAKERS:
        raise DataError(
            f"the turn is from {turn['from']!r:.60}"
            + (" and has a role too" if turn.get("role") is not None else ""),
            where=where,
            fix=f"use one of: {', '.join(SPEAKERS)}",
        )
    value = turn.get("value", turn.get("content"))
    others = {name: inner for name, inner in turn.items() if name not in ("from", "value", "content")}
    message = {**others, "role": SPEAKERS[speaker], "content": value}
    if speaker != "function_call":
        return message
    try:
        call = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        call = value
    except RecursionError:
        raise too_nested(where) from None
    refuse_nested(call, where)
    return {**message, "content": None, "tool_calls": call}
