r"""Messages of a record as turns of system, user and assistant, with nothing dropped.

    developer               a system turn
    tool, function          a user turn: <tool_response>\n...\n</tool_response>
    tool_calls              after the assistant's text: <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>
    content: [parts]        the texts of the parts, joined by newlines; any other part is refused

Names and ids of messages and calls are ignored. A message with other content that would be lost (reasoning,
images, a weight other than 1) is refused, and so is an empty one.

Source: the form of calls and responses is that of Hermes and Qwen2.5 (NousResearch, Hermes Function
Calling; the chat template of Qwen2.5-Instruct). The exported template writes the same (data/chat.py).
Not here: which fields of a record hold the messages (layouts/).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scalelab.data.chat import Message, tool_call_text, tool_response_text
from scalelab.data.files.plain import check_characters
from scalelab.errors import DataError

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}
"""Role of a message to the role of its turn."""
_RESPONSES = ("tool", "function")
_TEXT_PARTS = ("text", "input_text", "output_text")
_WOULD_BE_LOST = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "refusal",
    "image",
    "images",
    "audio",
    "audios",
    "video",
    "videos",
    "prefix",
)
_RECORD_WOULD_BE_LOST = ("tools", "functions", "image", "images", "audio", "audios", "video", "videos")
_EMPTY = (None, "", "[]", "{}", "null", False)
MOST_NESTED = 100
"""Levels of lists and objects in a record, or in the arguments of a call. Deeper ones cannot be written again
as JSON at every depth of the call stack."""


def refuse_nested(value: object, where: str) -> None:
    """Refuse a value with more than MOST_NESTED levels of lists and objects. Raises DataError."""
    level = [value]
    for _ in range(MOST_NESTED):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    if any(isinstance(inner, Mapping | list | tuple) for inner in level):
        raise too_nested(where)


def too_nested(where: str) -> DataError:
    """Return the refusal of a value with more than MOST_NESTED levels."""
    return DataError(
        f"lists and objects are nested more than {MOST_NESTED} levels deep",
        where=where,
        fix="write the nested part as a text, or leave out the record",
    )


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def read_text(value: object, role: str, where: str) -> Message:
    """Return a text as a message of a role. Raises DataError: it is not a text, or is empty."""
    if not isinstance(value, str):
        raise DataError(
            f"a text is needed, not {_kind(value)}: {value!r:.80}", where=where, fix="write a text"
        )
    return _turn(role, value, where)


def read_text_or_messages(value: object, role: str, where: str) -> tuple[Message, ...]:
    """Return a text of one role, or a list of messages, as turns. Raises DataError: it is neither."""
    if isinstance(value, str):
        return (read_text(value, role, where),)
    return read_messages(value, where)


def read_messages(value: object, where: str) -> tuple[Message, ...]:
    """Return a list of messages as turns.

    Raises:
        DataError: It is not a list, is empty, or a message cannot be read; the number of the message,
            from 1, is part of the location.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f"no messages: {value!r:.160}", where=where, fix=_FIX)
    return tuple(_read(message, f"{where}, message {i}") for i, message in enumerate(value, 1))


_FIX = 'write messages as {"role": "user", "content": "..."}; roles: ' + ", ".join(ROLES)


def _read(value: object, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"not a message: {value!r:.160}", where=where, fix=_FIX)
    message = {name: inner for name, inner in value.items() if inner is not None}
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        what = "the message has no role" if role is None else f"unknown role {role!r:.60}"
        raise DataError(what, where=where, fix=_FIX)
    _refuse_fields(message, _WOULD_BE_LOST, "message", where)
    if message.get("weight", 1) not in (1, True):
        raise DataError(
            f"the message has weight {message['weight']!r:.20}, but all answers are trained on alike",
            where=where,
            fix="remove the weight, or leave out the record",
        )
    calls = [*_calls(message.get("tool_calls"), where), *_calls(message.get("function_call"), where)]
    if calls and role != "assistant":
        raise DataError(
            f"a message of the {role} has tool calls", where=where, fix="give them to the assistant's message"
        )
    if "content" not in message and not calls:
        raise DataError(
            "the message has no content" + (": it is null" if "content" in value else ""),
            where=where,
            fix="give it content or tool calls, or remove the message",
        )
    text = _text(message.get("content", ""), where)
    if role in _RESPONSES:
        return _turn(ROLES[role], tool_response_text(text), where)
    return _turn(ROLES[role], "\n".join([*([text] if text else []), *calls]), where)


def _turn(role: str, text: str, where: str) -> Message:
    if not text.strip():
        raise DataError(
            f"the {'answer' if role == 'assistant' else 'text'} of the {role} is empty",
            where=where,
            fix="write a text, or remove the record",
        )
    check_characters(text, where)
    return {"role": role, "content": text}


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise DataError(f"the content is {_kind(content)}, not text: {content!r:.80}", where=where, fix=_FIX)
    texts = []
    for i, part in enumerate(content, 1):
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind not in _TEXT_PARTS or not isinstance(text, str):
            raise DataError(
                f"part {i} of the content is {kind if kind not in _TEXT_PARTS else _kind(text)!r}, not text",
                where=where,
                fix='leave out the record, or replace the part by a text: {"type": "text", "text": "..."}',
            )
        texts.append(text)
    return "\n".join(texts)


def _calls(value: object, where: str) -> list[str]:
    """Return the calls of a message as texts: a list of them, or a single one."""
    if value is None or value in ([], {}, ""):
        return []
    calls = value if isinstance(value, list | tuple) else [value]
    return [_call(call, f"{where}, tool call {i}") for i, call in enumerate(calls, 1)]


def _call(value: object, where: str) -> str:
    call = value.get("function") or value if isinstance(value, Mapping) else None
    name = call.get("name") if isinstance(call, Mapping) else None
    arguments = call.get("arguments") if isinstance(call, Mapping) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            arguments = None
        except RecursionError:
            raise too_nested(where) from None
        refuse_nested(arguments, where)
    if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
        raise DataError(
            f"not a tool call: {value!r:.160}",
            where=where,
            fix='write it as {"name": "...", "arguments": {...}}, the arguments as an object or as its JSON',
        )
    return tool_call_text(name, arguments)


def _refuse_fields(fields: Mapping[str, Any], names: Sequence[str], what: str, where: str) -> None:
    """Refuse a message or a record with a field that would be lost. Raises DataError."""
    for name in names:
        value = fields.get(name)
        if not (isinstance(value, Sequence | Mapping) and not value) and value not in _EMPTY:
            raise DataError(
                f"the {what} has {name!r}, which cannot be trained on: {value!r:.60}",
                where=where,
                fix=f"move the text into the content of a message and remove {name!r}, or leave out the record",
            )


def with_system(record: Mapping[str, Any], messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """Return the messages of a record, preceded by its field `system` if it has one.

    Raises:
        DataError: The messages already begin with a system turn, or the record has a field that
            would be lost, such as tools or images.
    """
    _refuse_fields(record, _RECORD_WOULD_BE_LOST, "record", where)
    system = record.get("system")
    if system is None or system == "":
        return messages
    if messages[0]["role"] == "system":
        raise DataError(
            "the record has `system`, but its messages already begin with a system turn",
            where=where,
            fix="remove one of the two",
        )
    return (read_text(system, "system", where), *messages)


def check_conversation(messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """Return a conversation that ends with an answer to a turn of the user. Raises DataError otherwise."""
    if messages[-1]["role"] != "assistant":
        raise DataError(
            "the conversation does not end with an answer",
            where=where,
            fix="end it with a message of the assistant",
        )
    check_prompt(messages[:-1], where)
    return messages


def check_prompt(messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """Return a prompt that ends with a turn of the user. Raises DataError otherwise."""
    if not messages or messages[-1]["role"] != "user":
        before = f"a message of the {messages[-1]['role']}" if messages else "nothing"
        raise DataError(
            f"the conversation has an answer but no prompt: it follows {before}",
            where=where,
            fix="put a message of the user or of a tool before the answer",
        )
    return messages


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
