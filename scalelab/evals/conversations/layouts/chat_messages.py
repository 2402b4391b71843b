"""The layout `messages`, of OpenAI, Hugging Face and TRL.

{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from scalelab.evals.conversations.layouts.base import ConversationRecord, RecordLayout
from scalelab.evals.conversations.messages import check_conversation, read_messages, with_system


class MessagesLayout(RecordLayout):
    """A list of messages, and optionally the text of a system turn in `system`."""

    gives = ConversationRecord
    fields = ("messages",)
    examples: ClassVar = (
        {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]},
        {
            "system": "Be short.",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "The time?"}]},
                {"role": "assistant", "content": None, "tool_calls": [{"name": "now", "arguments": {}}]},
                {"role": "tool", "content": "12:00"},
                {"role": "assistant", "content": "Noon."},
            ],
        },
    )

    def read(self, record: Mapping[str, Any], where: str) -> ConversationRecord:
        """See RecordLayout."""
        messages = with_system(record, read_messages(record["messages"], where), where)
        return ConversationRecord(check_conversation(messages, where))
