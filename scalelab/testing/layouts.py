"""Does a layout of records keep its contract? For members of LAYOUTS, of any package.

    check_layout("mine")

Not here: what a layout is (evals/conversations/layouts/base.py).
"""

import json
from collections.abc import Mapping
from typing import Any

from scalelab.data.chat import MARKERS, Message
from scalelab.errors import DataError
from scalelab.evals import LAYOUTS
from scalelab.evals.conversations.layouts.base import (
    ConversationRecord,
    PreferenceRecord,
    RatedRecord,
    Record,
    RecordLayout,
)
from scalelab.evals.conversations.reading import read_records

_KINDS = (ConversationRecord, PreferenceRecord, RatedRecord)
_WHERE = "records.jsonl:7"


def check_layout(name: str) -> RecordLayout:
    """Check the contract of a layout on its own examples.

    Returns: The layout.

    Raises:
        AssertionError: Something of the contract does not hold.
    """
    layout = LAYOUTS[name]()
    assert isinstance(layout, RecordLayout)
    assert layout.gives in _KINDS
    assert layout.fields, "it names no field"
    assert len(layout.examples) > 1, "it needs two examples"
    for example in layout.examples:
        assert json.loads(json.dumps(example)) == example, "an example is not JSON"
        assert all(field in example for field in layout.fields)
        fitting = [other for other in LAYOUTS if LAYOUTS[other]().matches(example)]
        assert fitting == [name], f"an example also has the layouts {fitting}"
        found = layout.read(dict(example), _WHERE)
        assert isinstance(found, layout.gives)
        assert found == layout.read(dict(example), _WHERE), "reading twice differs"
        _check_messages(found)
        padded = {**example, "other": None, "id": 3}
        assert _read(padded, layout) == found, "fields that are null, or of no meaning, change what is read"
    two = [(f"records.jsonl:{i}", example) for i, example in enumerate(layout.examples)]
    assert len(read_records(two, (layout.gives,))) == len(two), "its examples are not one file"
    _check_refusals(layout)
    return layout


def _read(record: Mapping[str, Any], layout: RecordLayout) -> Record:
    return read_records([(_WHERE, record)], (layout.gives,))[0]


def _check_messages(found: Record) -> None:
    if isinstance(found, ConversationRecord):
        assert found.messages[-1]["role"] == "assistant", "the conversation does not end with an answer"
        messages, answers = found.messages, [found.messages[-1]["content"]]
        prompt = found.messages[:-1]
    else:
        prompt = messages = found.prompt
        is_pair = isinstance(found, PreferenceRecord)
        answers = [found.chosen, found.rejected] if is_pair else [found.answer]
    assert prompt[-1]["role"] == "user", "nothing of the user stands before the answer"
    assert all(answers), "an answer is empty"
    for message in messages:
        _check_message(message)


def _check_message(message: Message) -> None:
    assert set(message) == {"role", "content"}
    assert message["role"] in MARKERS
    assert isinstance(message["content"], str)
    assert message["content"].strip()


def _check_refusals(layout: RecordLayout) -> None:
    """Records that lack a field, or have a value of the wrong kind in one, are refused by location."""
    for field in layout.fields:
        rest = {name: value for name, value in layout.examples[0].items() if name != field}
        for broken in (rest, {**rest, field: None}, *({**rest, field: bad} for bad in ("", 7, [], {}, [7]))):
            error = _refusal(broken, layout)
            assert error is not None, f"{broken!r} is read as a record"
            assert _WHERE in error.where, f"the refusal of {field} does not name the record"


def _refusal(record: Mapping[str, Any], layout: RecordLayout) -> DataError | None:
    try:
        _read(record, layout)
    except DataError as error:
        return error
    return None
