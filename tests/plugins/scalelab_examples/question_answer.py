"""Records of a question and its answer, as GSM8K has them."""

from collections.abc import Mapping
from typing import Any, ClassVar

from scalelab.evals.conversations.layouts.base import ConversationRecord, RecordLayout
from scalelab.evals.conversations.messages import check_conversation, read_text


class QuestionAnswer(RecordLayout):
    """{"question": text, "answer": text}."""

    gives = ConversationRecord
    fields = ("question", "answer")
    examples: ClassVar = ({"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"})

    def read(self, record: Mapping[str, Any], where: str) -> ConversationRecord:
        """See RecordLayout."""
        question = read_text(record["question"], "user", f"{where}, question")
        answer = read_text(record["answer"], "assistant", f"{where}, answer")
        return ConversationRecord(check_conversation((question, answer), where))
