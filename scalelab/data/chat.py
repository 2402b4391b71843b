"""Conversations as tokens: each turn begins with a token for its role, and an answer ends with END.

    <|system|> text <|user|> text <|assistant|> text <|endoftext|>

The four markers are added to a base tokenizer when post-training begins. They are tokens, never
text: a message that spells one out is only text. Padding is a token of its own, because where it
is the end token a mask hides the real end, and a model that never saw it never stops.

A text follows its marker after one space, so that a word begins as it does inside a sentence.

Source: the generation marks of TEMPLATE are those that transformers and TRL ask for.
Not here: reading conversations (evals/conversations), the tokens of a corpus (corpus/shards.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalelab.data.tokenizer import TextTokenizer
from scalelab.errors import DataError

PAD = "<|pad|>"
MARKERS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
TEMPLATE = (
    "{% for m in messages %}{% set role = m['role'] %}{% set text = m['content'] or '' %}"
    "{% if text is not string %}{{ raise_exception('the content of a message is not a text') }}{% endif %}"
    "{% if role in ['system', 'developer'] %}{{ '<|system|> ' + text }}"
    "{% elif role == 'user' %}{{ '<|user|> ' + text }}"
    "{% elif role in ['tool', 'function'] %}"
    "{{ '<|user|> <tool_response>\n' + text + '\n</tool_response>' }}"
    "{% elif role == 'assistant' %}{{ '<|assistant|>' }}{% generation %}{{ ' ' + text }}"
    "{% set calls = (m['tool_calls'] or []) + ([m['function_call']] if m['function_call'] else []) %}"
    "{% for call in calls %}{% if call.function %}{% set call = call.function %}{% endif %}"
    "{{ ('' if loop.first and not text else '\n') + '<tool_call>\n{\"name\": ' + (call.name | tojson) "
    "+ ', \"arguments\": ' + (call.arguments if call.arguments is string else call.arguments | tojson) "
    "+ '}\n</tool_call>' }}{% endfor %}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('unknown role ' + role) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""The chat template in the form of transformers, for exported checkpoints. Turns of tools and tool calls are
written as evals/conversations/messages.py reads them."""

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}."""


@dataclass(frozen=True)
class Example:
    """One conversation as tokens, and which of them are answers."""

    tokens: tuple[int, ...]
    is_answer: tuple[bool, ...]
    """True for the tokens that the assistant writes, its end tokens included."""


def tool_call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """Return a call of a tool as part of an answer, in the form of Hermes and Qwen2.5."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def tool_response_text(text: str) -> str:
    """Return the result of a tool as the text of a user turn, in the form of Hermes and Qwen2.5."""
    return f"<tool_response>\n{text}\n</tool_response>"


class Chat:
    """How conversations are written with one tokenizer.

    Args:
        tokenizer: One that has the markers: see `with_markers`.

    Raises:
        DataError: It has none.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self.tokenizer, self.end = tokenizer, tokenizer.end
        ids = {role: tokenizer.special(name) for role, name in MARKERS.items()}
        pad = tokenizer.special(PAD)
        if pad is None or None in ids.values():
            raise DataError(
                "the tokenizer has no tokens for the turns of a conversation",
                where=f"tokenizer {tokenizer.name}",
                fix="start from a model that has been through SFT: a base model only writes on",
            )
        self.pad: int = pad
        self._markers = ids

    @property
    def never_written(self) -> tuple[int, ...]:
        """Tokens that no answer may hold: padding, and the markers of turns."""
        return (self.pad, *self._markers.values())

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation that the assistant is to go on with."""
        return [*self.example(messages).tokens, self._markers["assistant"]]

    def answer(self, text: str) -> list[int]:
        """Tokens of an answer after its marker, with its end."""
        return [*self._text(text), self.end]

    def example(self, messages: Sequence[Message]) -> Example:
        """A conversation, marked for training. Raises DataError for a role that there is not."""
        tokens: list[int] = []
        marks: list[bool] = []
        for message in messages:
            if message["role"] not in self._markers:
                raise DataError(
                    f"unknown role {message['role']!r}",
                    where=f"a message that begins {message['content'][:40]!r}",
                    fix=f"use one of: {', '.join(MARKERS)}",
                )
            is_answer = message["role"] == "assistant"
            text = self._text(message["content"]) + ([self.end] if is_answer else [])
            tokens += [self._markers[message["role"]], *text]
            marks += [False, *[is_answer] * len(text)]
        return Example(tuple(tokens), tuple(marks))

    def read(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens, without its end and the space it begins with."""
        text = self.tokenizer.decode([t for t in tokens if t != self.end])
        return text.removeprefix(" ")

    def _text(self, text: str) -> list[int]:
        return self.tokenizer.encode([f" {text}"])[0].tolist()


def with_markers(tokenizer: TextTokenizer) -> TextTokenizer:
    """The tokenizer with the four tokens of conversations added behind its own; once only."""
    return tokenizer.extended([PAD, *MARKERS.values()])


def show(example: Example, tokenizer: TextTokenizer) -> str:
    """One example for eyes: what is trained on stands between [ and ]."""
    out, inside = [], False
    for token, is_answer in zip(example.tokens, example.is_answer, strict=True):
        if is_answer != inside:
            out.append("[" if is_answer else "]")
            inside = is_answer
        out.append(tokenizer.decode([token]))
    return "".join(out) + ("]" if inside else "")
