r"""The layout `hh`, of Anthropic's helpful and harmless data.

    {"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": "\n\nHuman: ...\n\nAssistant: ..."}

Source: Bai et al. 2022, arXiv:2204.05862, and its data set Anthropic/hh-rlhf.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from scalelab.data.chat import Message
from scalelab.errors import DataError
from scalelab.evals.conversations.layouts.base import PreferenceRecord, RecordLayout
from scalelab.evals.conversations.layouts.implicit_prompt import preference_of
from scalelab.evals.conversations.messages import read_text, with_system

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class HhLayout(RecordLayout):
    """Two dialogues as text, which differ in the last answer."""

    gives = PreferenceRecord
    fields = ("chosen", "rejected")
    examples: ClassVar = (
        {"chosen": "\n\nHuman: 1+1?\n\nAssistant: 2", "rejected": "\n\nHuman: 1+1?\n\nAssistant: 3"},
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 2+2?\n\nAssistant: 4",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 2+2?\n\nAssistant: 5",
        },
    )

    def matches(self, record: Mapping[str, Any]) -> bool:
        """See RecordLayout."""
        return super().matches(record) and "prompt" not in record and isinstance(record["chosen"], str)

    def read(self, record: Mapping[str, Any], where: str) -> PreferenceRecord:
        """See RecordLayout."""
        chosen, rejected = (
            with_system(record, _dialogue(record[name], f"{where}, {name}"), where)
            for name in ("chosen", "rejected")
        )
        return preference_of(chosen, rejected, where)


def _dialogue(text: object, where: str) -> tuple[Message, ...]:
    before, *turns = _TURN.split(text) if isinstance(text, str) else ("", "")
    if before.strip() or len(turns) < 2:
        raise DataError(
            f"the text has no turns of a dialogue, and there is no 'prompt': {text!r:.80}",
            where=where,
            fix=r'begin turns with "\n\nHuman: " and "\n\nAssistant: ", or add a field `prompt`',
        )
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return tuple(
        read_text(words.strip(), _ROLES[name], f"{where}, message {i}")
        for i, (name, words) in enumerate(pairs, 1)
    )
