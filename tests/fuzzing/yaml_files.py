"""Mutated YAML files: of structure (keys, types, numbers, aliases, nesting) and of bytes.

    cases("sweep", text, n, seed)    n mutations of one file
    special_files("sweep.yaml")      what is no regular file, too large or too deep

Not here: what the readers answer (readers.py).
"""

import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from fuzzing.check import Case

Place = tuple[str | int, ...]


class Raw(str):
    """A value written into the file as it stands."""


VALUES = (
    *("null", "true", "no", "~", "''", "' '", "[]", "{}", "[a]", "{a: 1}", "[[[]]]", "[null]", "word"),
    *(
        "0",
        "-1",
        "1",
        "-0.0",
        "1e-320",
        "5e-324",
        "1e12",
        "1e308",
        "1e400",
        "-1e400",
        ".inf",
        "-.inf",
        ".nan",
    ),
    *("9" * 25, "9" * 5000, "-" + "9" * 400, "1." + "1" * 5000, "0x" + "f" * 4000, "0o17", "012", "1_000"),
    *("18446744073709551616", "9223372036854775808", "4294967296", "2147483648", "1000000", "1e7", "3.5"),
    *("2024-01-31", "2020-13-45", "2024-01-31T25:61:61", "12:30:45", "1:2", "0001-01-01", "99999-01-01"),
    *('"a\\x07b"', '"\\ud800"', '"\\U0001F600"', '"\\0"', '"\\e[31m"', '"a\\nb"', '"\\u202e"', '"<b>x</b>"'),
    *("'%s'", "'{}'", "'../../x'", "/dev/zero", "/dev/stdin", "'~'", "'*'", "'" + "x" * 300 + "'"),
    *("!!python/object:os.system x", "!!binary aGk=", "!!binary '@'", "!!set {a, b}", "!!omap [a: 1]"),
    *("!!float x", "!!int x", "!!int ''", "!!timestamp x", "!!null x", "!!bool x", "!custom 1", "!!str 1"),
    *(
        "*nowhere",
        "&a [*a]",
        "&b {x: *b}",
        "|\n      block\n      text",
        ">-\n      folded",
        "[1, 2",
        "{a: 1",
    ),
    *("@x", "`x", "%x", "? x", "- - x", "a: b: c", "[1,,2]", "{[a]: 1}", "{? {a: 1} : 2}", "x\ty", "\tx"),
    *("[" * 120 + "]" * 120, "{a: " * 120 + "1" + "}" * 120, "[" + "1," * 20000 + "1]", "<<", "=", "é", "数"),
)
"""Values that mean something unexpected somewhere, as YAML."""

KEYS = (
    *('"\\ud800"', '"a\\x07b"', "1", "null", "true", "[a, b]", "{a: b}", "'" + "k" * 3000 + "'", "<<", "é"),
    *(
        "1.5",
        "2024-01-31",
        "''",
        "' name'",
        "Name",
        "!!binary aGk=",
        "&k k",
        "*k",
        "? k",
        "__class__",
        "kind",
    ),
)
"""Keys, likewise."""


def parsed(text: str) -> Any:
    """Return the plain data of a YAML text."""
    return YAML(typ="safe", pure=True).load(text)


def emitted(value: Any, indent: int = 0) -> str:
    """Return data as YAML in block style; a Raw value or key stands as it is."""
    pad = "  " * indent
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict) and value:
        lines = []
        for key, inner in value.items():
            below = emitted(inner, indent + 1)
            nested = isinstance(inner, dict | list) and len(inner) > 0 and not isinstance(inner, Raw)
            name = key if isinstance(key, Raw) else json.dumps(key) if not str(key).isidentifier() else key
            lines.append(f"{pad}{name}:" + (f"\n{below}" if nested else f" {below}"))
        return "\n".join(lines)
    if isinstance(value, list) and value:
        return "\n".join(f"{pad}-" + _item(inner, indent) for inner in value)
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, default=str)


def _item(inner: Any, indent: int) -> str:
    nested = isinstance(inner, dict | list) and len(inner) > 0 and not isinstance(inner, Raw)
    return ("\n" if nested else " ") + emitted(inner, indent + 1)


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """Yield the path of every key and item below a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*path, key)
        yield from places(below, (*path, key))


def cases(kind: str, text: str, n: int, seed: int) -> Iterator[Case]:
    """Yield n mutations of one file, of structure and of bytes by turns.

    Args:
        kind: Beginning of every label.
        text: The file, which is right as it stands.
        n: Number of cases.
        seed: The same seed gives the same cases.
    """
    draw = random.Random(f"{kind} {seed}")
    for i in range(n):
        way, data, overrides = draw.choice(WAYS)(text, draw)
        label = f"{kind}-{seed}-{i}: {way}"
        yield Case(label, f"{kind}.yaml", data, overrides=overrides, has_lines=_is_text(data))


def _is_text(data: bytes) -> bool:
    """Whether the bytes have lines that a message could name."""
    try:
        return data.decode("utf-8").replace("\n", "").isprintable() and len(data) < 100_000
    except UnicodeDecodeError:
        return False


Mutation = tuple[str, bytes, tuple[str, ...]]


def _changed(text: str, draw: random.Random, change: Callable[[Any, Any, Place], str]) -> Mutation:
    data = parsed(text)
    path = draw.choice(list(places(data)))
    holder = data
    for part in path[:-1]:
        holder = holder[part]
    what = change(holder, path[-1], path)
    written = emitted(data)
    return f"{'.'.join(map(str, path))} {what}", written.encode("utf-8", "surrogatepass"), ()


def _value(text: str, draw: random.Random) -> Mutation:
    def change(holder: Any, key: Any, path: Place) -> str:
        holder[key] = Raw(draw.choice(VALUES))
        return f"= {holder[key][:40]}"

    return _changed(text, draw, change)


def _number(text: str, draw: random.Random) -> Mutation:
    """One number scaled, negated or given as text."""
    data = parsed(text)
    numbers = [p for p in places(data) if type(_at(data, p)) in (int, float)]
    if not numbers:
        return _value(text, draw)
    path = draw.choice(numbers)
    holder, old = _at(data, path[:-1]), _at(data, path)
    factor = draw.choice((-1, 0, 1e-9, 1e-3, 0.5, 1.5, 1e3, 1e6, 1e9, 1e30, 1e300))
    new = draw.choice((Raw(repr(old * factor)), Raw(f"'{old}'"), Raw(f"{old}x"), Raw(f"[{old}]")))
    holder[path[-1]] = new
    return f"{'.'.join(map(str, path))} = {new}", emitted(data).encode(), ()


def _at(data: Any, path: Place) -> Any:
    for part in path:
        data = data[part]
    return data


def _dropped(text: str, draw: random.Random) -> Mutation:
    def change(holder: Any, key: Any, path: Place) -> str:
        del holder[key]
        return "dropped"

    return _changed(text, draw, change)


def _misspelt(text: str, draw: random.Random) -> Mutation:
    def change(holder: Any, key: Any, path: Place) -> str:
        if isinstance(holder, list):
            holder.append(holder[key])
            return "twice in the list"
        word = str(key)
        at = draw.randrange(len(word) + 1)
        new = draw.choice((word[:at] + "x" + word[at:], word[1:], word.upper(), word + " ", word[::-1]))
        holder[Raw(json.dumps(new))] = holder.pop(key)
        return f"misspelt {new!r}"

    return _changed(text, draw, change)


def _hostile_key(text: str, draw: random.Random) -> Mutation:
    def change(holder: Any, key: Any, path: Place) -> str:
        new = Raw(draw.choice(KEYS))
        if isinstance(holder, dict):
            holder[new] = 1 if draw.random() < 0.5 else holder.pop(key)
        else:
            holder[key] = {new: 1}
        return f"key {new[:40]}"

    return _changed(text, draw, change)


def _twice(text: str, draw: random.Random) -> Mutation:
    def change(holder: Any, key: Any, path: Place) -> str:
        if isinstance(holder, dict):
            holder[Raw(key)] = holder[key]  # equal as a key of Python, so written once more below
            holder[Raw(f"{key}: 1\n{'  ' * (len(path) - 1)}{key}")] = holder.pop(key)
        return "given twice"

    return _changed(text, draw, change)


def _swapped(text: str, draw: random.Random) -> Mutation:
    data = parsed(text)
    one, two = draw.sample(list(places(data)), 2)
    if two[: len(one)] == one or one[: len(two)] == two:  # one holds the other
        return _value(text, draw)
    a, b = _at(data, one), _at(data, two)
    _at(data, one[:-1])[one[-1]], _at(data, two[:-1])[two[-1]] = b, a
    return f"{'.'.join(map(str, one))} <-> {'.'.join(map(str, two))}", emitted(data).encode(), ()


def _aliases(text: str, draw: random.Random) -> Mutation:
    """Anchors that refer to one another: a bomb, a merge, or a value used twice."""
    width, depth = draw.choice(((9, 9), (2, 40), (60, 3), (2, 3)))
    head = "zz0: &z0 [x, y]\n" + "".join(
        f"zz{i}: &z{i} [{', '.join([f'*z{i - 1}'] * width)}]\n" for i in range(1, depth)
    )
    merge = "base: &base {kind: x, name: y}\nextra:\n  <<: *base\n"
    many = "anchor: &many [1]\n" + "".join(f"k{i}: *many\n" for i in range(draw.choice((50, 20000))))
    before = draw.choice((head, merge, many))
    return f"aliases {before[:20]!r}", (before + text).encode(), ()


def _deep(text: str, draw: random.Random) -> Mutation:
    depth = draw.choice((30, 300, 1000, 50_000))
    body = draw.choice(
        (
            "deep: " + "[" * depth + "]" * depth,
            "deep: " + "{a: " * depth + "1" + "}" * depth,
            "deep:\n" + "\n".join(" " * i + "a:" for i in range(1, min(depth, 3000))),
            "deep: " + "- " * depth + "x",
            "deep: " + "[" * depth,
        )
    )
    return f"nested {depth} deep", (body + "\n" + text).encode(), ()


def _bytes(text: str, draw: random.Random) -> Mutation:
    data = bytearray(text.encode())
    at = draw.randrange(len(data))
    way = draw.choice(
        ("bit", "cut", "splice", "zero", "byte", "tab", "long", "bom", "crlf", "latin", "utf16")
    )
    if way == "bit":
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif way == "cut":
        del data[at:]
    elif way == "splice":
        other = draw.randrange(len(data))
        data[at:at] = data[other : other + draw.randint(1, 200)]
    elif way == "zero":
        data[at:at] = b"\0" * draw.randint(1, 5)
    elif way == "byte":
        data[at] = draw.choice(b"\x01\x07\x1b\x7f\x80\xff:-#&*!|>'\"%@`{}[],?\t ")
    elif way == "tab":
        data = bytearray(text.replace("  ", "\t", draw.randint(1, 20)).encode())
    elif way == "long":
        data[at:at] = b"x" * 1_000_000
    elif way == "bom":
        data[:0] = b"\xef\xbb\xbf"
    elif way == "crlf":
        data = bytearray(text.replace("\n", draw.choice(("\r\n", "\r", "\x85", "\u2028"))).encode())
    elif way == "latin":
        data[at:at] = "é\xa0ü".encode("latin-1")
    else:
        data = bytearray(text.encode("utf-16"))
    return f"bytes: {way} at {at}", bytes(data), ()


def _lines(text: str, draw: random.Random) -> Mutation:
    """Lines moved, doubled, indented or cut out."""
    lines = text.split("\n")
    i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
    way = draw.choice(("double", "move", "indent", "dedent", "remove", "document"))
    if way == "double":
        lines.insert(j, lines[i])
    elif way == "move":
        lines.insert(j, lines.pop(i))
    elif way == "indent":
        lines[i] = " " + lines[i]
    elif way == "dedent":
        lines[i] = lines[i].lstrip()
    elif way == "remove":
        del lines[i]
    else:
        lines.insert(i, draw.choice(("---", "...", "%YAML 1.1", "--- !x", "--- |")))
    return f"lines: {way} {i} {j}", "\n".join(lines).encode(), ()


def _override(text: str, draw: random.Random) -> Mutation:
    data = parsed(text)
    path = ".".join(map(str, draw.choice(list(places(data)))))
    value = draw.choice(VALUES)
    written = draw.choice(
        (
            *([f"{path}={value}"] * 6),
            *(f"{path}.x={value}", f"{path}x={value}", f"{path}", f"={value}", f".{path}=1", f"{path}=a=b"),
            *(f"{path}.99999999999={value}", f"{path}.-1=1", f"\ud800={value}", f"{'a.' * 2000}b=1", "\0=1"),
        )
    )
    return f"--set {written[:60]!r}", text.encode(), (written,)


WAYS: tuple[Callable[[str, random.Random], Mutation], ...] = (
    *((_value,) * 6),
    *((_number, _hostile_key, _bytes, _override) * 2),
    *(_dropped, _misspelt, _twice, _swapped, _aliases, _deep, _lines),
)
"""Single values are what most people get wrong, and where most faults were."""


def special_files(name: str, text: str, *, is_corpus: bool = False) -> Iterator[Case]:
    """Yield what is not a regular file of a reasonable size: each must be refused, and at once.

    Args:
        name: File name.
        text: A file that is right.
        is_corpus: Whether files of this kind may have any size.
    """

    def fifo(path: Path) -> None:
        os.mkfifo(path)

    def link(target: str) -> Callable[[Path], None]:
        return lambda path: path.symlink_to(target)

    def unix_socket(path: Path) -> None:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is limited to 108 bytes
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name)
        finally:
            os.chdir(here)

    def sparse(path: Path) -> None:
        with open(path, "wb") as file:
            file.truncate(5_000_000_000)

    special = {
        "directory": Path.mkdir,
        "dangling link": link("nowhere"),
        "link to itself": link(name),
        "absent": lambda path: None,
        "pipe": fifo,
        "/dev/zero": link("/dev/zero"),
        "/dev/null": link("/dev/null"),
        "socket": unix_socket,
    }
    if not is_corpus:
        special["5 GB of zeros"] = sparse
    for label, make in special.items():
        yield Case(f"{name}: {label}", name, make=make, must="refused")
    for label, data in {
        "empty": b"",
        "blank": b"\n \n",
        "zeros": b"\0" * 1000,
        "one word": b"x",
        "a list": b"- 1\n- 2\n",
        "not text": bytes(range(256)) * 10,
        "two documents": text.encode() + b"\n---\n" + text.encode(),
    }.items():
        yield Case(f"{name}: {label}", name, data, must="refused" if data.strip() else "")

    def large(*parts: bytes) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            with open(path, "wb") as file:
                for part in parts:
                    file.write(part)

        return make

    million = b"x" * 1_000_000
    for label, parts in {
        "50 MB line": (text.encode(), b"\nquestion_2: ", *[million] * 50),
        "50 MB of lines": [b"a: 1\n" * 200_000] * 50,
        "50 MB of comments": (*[b"# x\n" * 250_000] * 50, text.encode()),
    }.items():
        yield Case(
            f"{name}: {label}", name, make=large(*parts), must="refused" if "comments" not in label else ""
        )
