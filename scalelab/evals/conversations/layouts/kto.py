"""The layout `kto`, of TRL: single answers, each good or bad.

    {"prompt": text or messages, "completion": text or messages, "label": true or false}

Source: Ethayarajh et al. 2024, arXiv:2402.01306.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from scalelab.errors import DataError
from scalelab.evals.conversations.layouts.base import RatedRecord, RecordLayout
from scalelab.evals.conversations.layouts.prompt_completion import PromptCompletionLayout

_LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


class KtoLayout(RecordLayout):
    """A prompt, an answer and whether it is good."""

    gives = RatedRecord
    fields = ("prompt", "completion", "label")
    examples: ClassVar = (
        {"prompt": "1+1?", "completion": "2", "label": True},
        {"prompt": "1+1?", "completion": [{"role": "assistant", "content": "3"}], "label": False},
    )

    def read(self, record: Mapping[str, Any], where: str) -> RatedRecord:
        """See RecordLayout."""
        label = _LABELS.get(str(record["label"]).lower())  # a text in a .csv, a number in some parquet
        if label is None:
            raise DataError(
                f"the label is {record['label']!r:.60}, not true or false",
                where=where,
                fix="write true for a good answer and false for a bad one; a field `label` that means "
                "something else has to be renamed",
            )
        *prompt, answer = PromptCompletionLayout().read(record, where).messages
        return RatedRecord(tuple(prompt), answer["content"], label)
