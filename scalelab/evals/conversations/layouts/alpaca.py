"""The layout `alpaca`.

    {"instruction": text, "input": text, "output": text}

The prompt is the instruction, then an empty line and the input unless that is empty. `history`, as in
LLaMA-Factory, is a list of pairs of earlier prompts and answers.

Source: Taori et al. 2023, Stanford Alpaca. Its sentence "Below is an instruction ..." belongs to models
without roles and is not added.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from scalelab.data.chat import Message
from scalelab.errors import DataError
from scalelab.evals.conversations.layouts.base import ConversationRecord, RecordLayout
from scalelab.evals.conversations.messages import check_conversation, read_text, with_system


class AlpacaLayout(RecordLayout):
    """An instruction with an optional input, and the output."""

    gives = ConversationRecord
    fields = ("instruction", "output")
    examples: ClassVar = (
        {"instruction": "Reverse the words.", "input": "a b", "output": "b a"},
        {
            "instruction": "1+1?",
            "input": "",
            "output": "2",
            "history": [["0+1?", "1"]],
            "system": "Be short.",
        },
    )

    def read(self, record: Mapping[str, Any], where: str) -> ConversationRecord:
        """See RecordLayout."""
        earlier: list[Message] = []
        for pair in _pairs(record.get("history"), where):
            earlier += [
                read_text(pair[0], "user", f"{where}, history"),
                read_text(pair[1], "assistant", f"{where}, history"),
            ]
        question = read_text(record["instruction"], "user", f"{where}, instruction")["content"]
        if record.get("input", "") != "":
            question += "\n\n" + read_text(record["input"], "user", f"{where}, input")["content"]
        answer = read_text(record["output"], "assistant", f"{where}, output")
        messages = with_system(record, (*earlier, {"role": "user", "content": question}, answer), where)
        return ConversationRecord(check_conversation(messages, where))


def _pairs(history: object, where: str) -> Sequence[Sequence[object]]:
    """Return earlier prompts and answers. Raises DataError: they are not pairs."""
    if history is None or history == "":
        return ()
    are_pairs = isinstance(history, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in history
    )
    if not are_pairs:
        raise DataError(
            f"history is {history!r:.80}, not a list of pairs of texts",
            where=where,
            fix="write it as [[prompt, answer], ...], or remove it",
        )
    return history
