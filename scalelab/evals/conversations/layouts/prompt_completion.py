"""The layout `prompt_completion`, of OpenAI and TRL.

{"prompt": text or messages, "completion": text or messages}
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from scalelab.evals.conversations.layouts.base import ConversationRecord, RecordLayout
from scalelab.evals.conversations.messages import check_conversation, read_text_or_messages, with_system


class PromptCompletionLayout(RecordLayout):
    """A prompt and its answer. With a field `label` it is the layout `kto`."""

    gives = ConversationRecord
    fields = ("prompt", "completion")
    examples: ClassVar = (
        {"prompt": "1+1?", "completion": "2"},
        {
            "prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+2?"}],
            "completion": [{"role": "assistant", "content": "4"}],
        },
    )

    def matches(self, record: Mapping[str, Any]) -> bool:
        """See RecordLayout."""
        return super().matches(record) and "label" not in record

    def read(self, record: Mapping[str, Any], where: str) -> ConversationRecord:
        """See RecordLayout."""
        prompt = read_text_or_messages(record["prompt"], "user", f"{where}, prompt")
        answer = read_text_or_messages(record["completion"], "assistant", f"{where}, completion")
        messages = with_system(record, (*prompt, *answer), where)
        return ConversationRecord(check_conversation(messages, where))
