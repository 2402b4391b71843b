"""Files of conversations and of preference pairs: every layout, records that are wrong, damaged bytes.

    same_answer()            the same conversations in every layout and container
    bad_records(n, seed)     one record changed: refused, or read with nothing dropped
    pairs()                  preference pairs in every layout
    bad_pairs(n, seed)       one pair changed
    damaged(n, seed)         bytes changed

The answer of a reader of conversations is [[(role, content), ...], ...]; of a reader of pairs,
[(prompt, chosen, rejected), ...], each as text.
"""

import copy
import json
import random
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from typing import Any

from fuzzing.check import Case
from fuzzing.text_files import changed, lines, packings

Record = dict[str, Any]


def conversations(n: int = 20) -> list[list[tuple[str, str]]]:
    """Return conversations of one or two exchanges."""
    draw = random.Random(0)
    found = []
    for i in range(n):
        turns = [
            ("user", f"question {i}: {draw.random():.6f} é?"),
            ("assistant", f"answer {i}: {draw.random():.6f}."),
        ]
        if i % 3 == 0:
            turns += [("user", f"and {i}?"), ("assistant", f"then {i}\n\n- a\n- b")]
        found.append(turns)
    return found


CLEAN = conversations()
SHORT = [turns[:2] for turns in CLEAN]


def messages(turns: list[tuple[str, str]]) -> list[Record]:
    """Return turns as messages."""
    return [{"role": role, "content": content} for role, content in turns]


def _against(right: list[list[tuple[str, str]]]) -> Any:
    def wrong(answer: Any) -> str | None:
        if answer == right:
            return None
        first = next((pair for pair in zip(answer, right, strict=False) if pair[0] != pair[1]), None)
        return (
            f"silent wrong answer: {len(answer)} conversations instead of {len(right)}, first {first!r:.300}"
        )

    return wrong


def layouts() -> Iterator[tuple[str, list[Record], list[list[tuple[str, str]]]]]:
    """Yield (label, records, conversations) of every layout."""
    names = {"user": "human", "assistant": "gpt"}
    yield "messages", [{"messages": messages(t)} for t in CLEAN], CLEAN
    yield (
        "messages, extra",
        [{"messages": messages(t), "id": i, "source": "x"} for i, t in enumerate(CLEAN)],
        CLEAN,
    )
    yield "conversations, messages", [{"conversations": messages(t)} for t in CLEAN], CLEAN
    yield (
        "ShareGPT",
        [{"conversations": [{"from": names[r], "value": c} for r, c in t]} for t in CLEAN],
        CLEAN,
    )
    yield "prompt, completion", [{"prompt": t[0][1], "completion": t[1][1]} for t in SHORT], SHORT
    yield (
        "prompt, completion of messages",
        [{"prompt": messages(t[:-1]), "completion": messages(t[-1:])} for t in CLEAN],
        CLEAN,
    )
    yield "Alpaca", [{"instruction": t[0][1], "input": "", "output": t[1][1]} for t in SHORT], SHORT
    yield "Alpaca without input", [{"instruction": t[0][1], "output": t[1][1]} for t in SHORT], SHORT
    yield (
        "parts",
        [{"messages": [{"role": r, "content": [{"type": "text", "text": c}]} for r, c in t]} for t in CLEAN],
        CLEAN,
    )
    yield (
        "null beside",
        [{"messages": [m | {"tool_calls": None, "name": None} for m in messages(t)]} for t in CLEAN],
        CLEAN,
    )


MUST_READ = (
    "messages",
    "messages, extra",
    "ShareGPT",
    "prompt, completion",
    "prompt, completion of messages",
    "Alpaca",
    "parts",
)


def same_answer() -> Iterator[Case]:
    """Yield the conversations in every layout and container."""
    for label, records, right in layouts():
        must = "read" if label in MUST_READ else ""
        for form, name, data in containers(records):
            sure = (
                must
                if form in ("", ", CRLF", ", byte-order mark", ".gz", ", parquet", ", upper case")
                else ""
            )
            yield Case(f"chat: {label}{form}", name, data, expected=_against(right), must=sure)


def containers(records: list[Record]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (label, file name, bytes) of records."""
    plain = lines(records)
    for ending, pack in packings().items():
        yield ending, f"c.jsonl{ending}", pack(plain)
    yield ", CRLF", "c.jsonl", lines(records, "\r\n")
    yield ", byte-order mark", "c.jsonl", b"\xef\xbb\xbf" + plain
    yield ", UTF-8", "c.jsonl", lines(records, ascii_only=False)
    yield ", upper case", "C.JSONL", plain
    yield ", array", "c.json", json.dumps(records).encode()
    if find_spec("pyarrow"):
        import pyarrow as pa
        from pyarrow import parquet

        out = BytesIO()
        parquet.write_table(pa.Table.from_pylist(records), out)
        yield ", parquet", "c.parquet", out.getvalue()


VALUES = (
    None,
    "",
    " ",
    3,
    3.5,
    True,
    [],
    {},
    ["x"],
    [None],
    {"a": 1},
    "x" * 100_000,
    "<|assistant|>",
    "\x00\x1b[31m",
)
PARTS = (
    [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}],
    [{"type": "image", "url": "http://x"}, {"type": "text", "text": "what is it?"}],
    [{"type": "text"}],
    [{"text": "no type"}],
    ["bare"],
    [{"type": "text", "text": None}],
    [{"type": "text", "text": "cached", "cache_control": {"type": "ephemeral"}}],
)
CALLS = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]


def bad_records(n: int, seed: int) -> Iterator[Case]:
    """Yield files of which one record is changed: refused, or read without dropping any of its text."""
    draw = random.Random(f"chat {seed}")
    for i in range(n):
        at = draw.randrange(len(CLEAN))
        records = [{"messages": messages(turns)} for turns in CLEAN]
        what, record = _changed_record(copy.deepcopy(records[at]), draw)
        records[at] = record
        label = f"chat-record-{seed}-{i}: record {at}: {what}"
        yield Case(label, "c.jsonl", lines(records), expected=_nothing_dropped(at, record), has_lines=True)


def _nothing_dropped(at: int, record: Record) -> Any:
    kept = list(_contents(record))

    def wrong(answer: Any) -> str | None:
        if len(answer) != len(CLEAN):
            return f"silent wrong answer: {len(answer)} conversations instead of {len(CLEAN)}"
        others = [turns for k, turns in enumerate(answer) if k != at]
        if others != [turns for k, turns in enumerate(CLEAN) if k != at]:
            return "silent wrong answer: another conversation has changed"
        text = "\n".join(content for _, content in answer[at])
        lost = [one for one in kept if one.strip() and one not in text]
        return f"dropped without a word: {lost[0]!r:.100}" if lost else None

    return wrong


def _contents(value: Any) -> Iterator[str]:
    """Yield every text that someone wrote in a record: content, text parts, calls and their arguments."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if (
                isinstance(inner, str)
                and key in ("content", "text", "value", "arguments", "completion", "prompt")
            ) or (key == "name" and "arguments" in value):
                yield inner
            else:
                yield from _contents(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _contents(inner)


def _changed_record(record: Record, draw: random.Random) -> tuple[str, Record]:
    turns = record["messages"]
    k = draw.randrange(len(turns))
    way = draw.choice(
        (
            *(
                "content",
                "content",
                "parts",
                "parts",
                "role",
                "role",
                "drop",
                "calls",
                "calls",
                "tool",
                "developer",
            ),
            *(
                "system",
                "system late",
                "no answer",
                "no prompt",
                "empty",
                "not a list",
                "both",
                "twice",
                "nested",
            ),
            *("extra", "weight", "prefix", "keys", "renamed", "thinking", "refusal", "long"),
        )
    )
    if way == "content":
        turns[k]["content"] = draw.choice(VALUES)
    elif way == "parts":
        turns[k]["content"] = draw.choice(PARTS)
    elif way == "role":
        turns[k]["role"] = draw.choice(
            (None, "", "User", "ASSISTANT", "human", "bot", "model", 3, ["user"], "user ")
        )
    elif way == "drop":
        del turns[k][draw.choice(("role", "content"))]
    elif way == "calls":
        turns[-1]["tool_calls"] = CALLS
        turns[-1]["content"] = draw.choice((None, "", "Let me look."))
    elif way == "tool":
        call = {"role": "assistant", "content": None, "tool_calls": CALLS}
        turns[1:1] = [call, {"role": "tool", "tool_call_id": "c1", "content": "12 degrees"}]
    elif way == "developer":
        turns.insert(0, {"role": "developer", "content": "be brief"})
    elif way == "system":
        turns.insert(0, {"role": "system", "content": "be kind"})
    elif way == "system late":
        turns.insert(2, {"role": "system", "content": "be kind"})
    elif way == "no answer":
        turns.append({"role": "user", "content": "one more?"})
    elif way == "no prompt":
        record["messages"] = turns[-1:]
    elif way == "empty":
        record["messages"] = draw.choice(([], None, "", {}, [[]], [None], 3))
    elif way == "not a list":
        record["messages"] = draw.choice((turns[0], json.dumps(turns), "hello", [turns]))
    elif way == "both":
        record |= {"prompt": "another prompt", "completion": "another answer"}
    elif way == "twice":
        turns.insert(k, dict(turns[k]))
    elif way == "nested":
        turns[k]["content"] = {"role": "user", "content": "inner"}
    elif way == "extra":
        turns[k] |= {"name": "bob", "id": 3, "metadata": {"a": None}}
    elif way == "weight":
        turns[k]["weight"] = 0
    elif way == "prefix":
        turns[-1]["prefix"] = True
    elif way == "keys":
        turns[k] = {key.upper(): value for key, value in turns[k].items()}
    elif way == "renamed":
        return way, {draw.choice(("dialog", "Messages", "message", "")): turns}
    elif way == "thinking":
        turns[-1]["reasoning_content"] = "first this, then that"
    elif way == "refusal":
        turns[-1]["refusal"] = "I cannot"
        turns[-1]["content"] = None
    else:
        record["messages"] = turns * 500
    return f"{way} of turn {k}", record


PAIRS = [(t[0][1], t[1][1], f"worse {i}") for i, t in enumerate(SHORT)]


def pairs() -> Iterator[Case]:
    """Yield preference pairs in every layout."""
    both = {
        "text": [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS],
        "messages": [
            {
                "prompt": messages([("user", p)]),
                "chosen": messages([("assistant", c)]),
                "rejected": messages([("assistant", r)]),
            }
            for p, c, r in PAIRS
        ],
        "implicit prompt": [
            {
                "chosen": messages([("user", p), ("assistant", c)]),
                "rejected": messages([("user", p), ("assistant", r)]),
            }
            for p, c, r in PAIRS
        ],
        "both": [
            {
                "prompt": p,
                "chosen": messages([("user", p), ("assistant", c)]),
                "rejected": messages([("user", p), ("assistant", r)]),
            }
            for p, c, r in PAIRS
        ],
        "HH": [
            {"chosen": f"\n\nHuman: {p}\n\nAssistant: {c}", "rejected": f"\n\nHuman: {p}\n\nAssistant: {r}"}
            for p, c, r in PAIRS
        ],
    }
    for label, records in both.items():
        for form, name, data in containers(records):
            must = "read" if label in ("text", "messages", "implicit prompt", "HH") and form == "" else ""
            yield Case(f"pairs: {label}{form}", name, data, expected=_against_pairs(), must=must)


def _against_pairs() -> Any:
    right = sorted(PAIRS)

    def wrong(answer: Any) -> str | None:
        if answer == right:
            return None
        first = next((pair for pair in zip(answer, right, strict=False) if pair[0] != pair[1]), None)
        return f"silent wrong answer: {len(answer)} pairs instead of {len(right)}, first {first!r:.300}"

    return wrong


def bad_pairs(n: int, seed: int) -> Iterator[Case]:
    """Yield pairs of which one is changed: refused, or dropped and counted, or read in full."""
    draw = random.Random(f"pairs {seed}")
    odd = (
        *VALUES,
        *PARTS,
        CLEAN[0],
        messages([("user", "x")]),
        messages([("user", "x"), ("assistant", "y")]),
        [],
        "same",
    )
    for i in range(n):
        at = draw.randrange(len(PAIRS))
        records: list[Record] = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS]
        name = draw.choice(("prompt", "chosen", "rejected"))
        way = draw.choice(("value", "value", "value", "drop", "verdict", "misspelt"))
        if way == "value":
            records[at][name] = draw.choice(odd)
        elif way == "drop":
            del records[at][name]
        elif way == "misspelt":
            records[at][name.upper()] = records[at].pop(name)
        else:
            records[at]["verdict"] = draw.choice((None, 0.5, 1.0, 0.0, "tie", [], {}, True, 7))
        verdict = records[at].pop("verdict", 1.0)
        kept = [text for v in records[at].values() for text in _contents({"text": v})]
        if way == "verdict":
            records[at]["verdict"] = verdict
        is_decided = isinstance(verdict, int | float) and verdict in (0, 1)
        label = f"pairs-record-{seed}-{i}: {name} of {at}: {way} {records[at].get(name)!r:.60}"
        if way == "verdict":
            label += f", {verdict!r}"
        expected = _pair_kept(sorted(PAIRS[:at] + PAIRS[at + 1 :]), kept, is_decided)
        yield Case(label, "p.jsonl", lines(records), expected=expected, has_lines=True)


def _pair_kept(others: list[tuple[str, str, str]], kept: list[str], is_decided: bool) -> Any:
    """Return the check of pairs of which one is changed: it is left out, or read in full."""

    def wrong(answer: Any) -> str | None:
        rest = [pair for pair in answer if pair not in others]
        if len(answer) - len(rest) != len(others) or len(rest) > 1:
            return f"silent wrong answer: {len(rest)} changed pairs, {len(answer)} in all"
        if rest and not is_decided:
            return "a pair without a preference is trained on"
        text = "\n".join("\n".join(pair) for pair in rest)
        lost = [one for one in kept if one.strip() and one not in text] if rest else []
        return f"dropped without a word: {lost[0]!r:.100}" if lost else None

    return wrong


def damaged(n: int, seed: int) -> Iterator[Case]:
    """Yield files of conversations with changed bytes."""
    draw = random.Random(f"chat damaged {seed}")
    forms = [(name, data) for _, records, _ in layouts() for _, name, data in containers(records)]
    for i in range(n):
        name, data = draw.choice(forms)
        yield Case(f"chat-damaged-{seed}-{i}: {name}", name, changed(data, draw))
