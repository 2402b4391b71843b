"""YAML that a person writes: read by the core schema of 1.2, and refused before it can do harm."""

import os
import random
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from scalelab.config import Config, Count, Name, Seed, parse_yaml, read
from scalelab.errors import ConfigError
from scalelab.files import read_regular


def value(text):
    return parse_yaml(f"a: {text}\n", "x.yaml").data["a"]


def refusal(text):
    """The refusal of a text. It comes at once."""
    begun = time.process_time()  # of the CPU: others may be busy too
    with pytest.raises(ConfigError) as refused:
        parse_yaml(text, "x.yaml")
    assert time.process_time() - begun < 10
    assert len(str(refused.value)) < 1000
    return refused.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e12", 1e12),
        ("+7", 7),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        (".5", 0.5),
        (".5e3", 500.0),
        ("-.5e-3", -0.0005),
        ("-.inf", float("-inf")),
        ("True", True),
        ("~", None),
        ("no", "no"),
        ("'012'", "012"),
        ("!!str 1e3", "1e3"),
        ("!!float 3", 3.0),
        ("[a, {b: 2}]", ["a", {"b": 2}]),
        ("0b_", "0b_"),
        ("2020-13-45", "2020-13-45"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_values_follow_the_core_schema(text, expected):
    found = value(text)

    assert found == expected
    assert isinstance(found, type(expected))


class Written(Config):
    words: list[str]
    numbers: list[float]
    named: dict[Name, int] = {}


def test_text_and_numbers_survive_being_written():
    draw = random.Random(3)
    words = [
        "".join(draw.choices("0123456789-+._eEoxbaTyYnN~:tT <", k=draw.randrange(7))) for _ in range(800)
    ]
    numbers = [draw.uniform(-1, 1) * 10.0 ** draw.randrange(-300, 300) for _ in range(200)]
    words += [".5e3", "-.1e12"]
    config = Written(words=words, numbers=[*numbers, 1e22, 0.0], named={"on": 1, "012": 2, "1e3": 3, "a": 4})

    assert Written.parse(parse_yaml(config.to_yaml(), "x.yaml")) == config


def test_aliases_and_merges_are_copies_with_the_line_of_their_use():
    document = parse_yaml(
        "a: &one {q: 1, r: 2}\nb: *one\nc:\n  <<: [*one, {s: 4}]\n  q: 3\nd: [*one]\n", "x.yaml"
    )
    document.override("b.q=9")

    assert document.data["a"] == {"q": 1, "r": 2} == document.data["d"][0]
    assert document.data["b"]["q"] == 9
    assert document.data["c"] == {"q": 3, "r": 2, "s": 4}
    assert document.place(("b", "r")) == "x.yaml:2"


def exponential(levels=10):
    lines = ['a0: &a0 ["x", "x", "x", "x", "x", "x", "x", "x", "x"]']
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (exponential(), 5, "more than 50,000 keys and values"),
        ("a: " + "[" * 500 + "]" * 500, 1, "nested more than 50 deep"),
        ("a: " + "[" * 100_000, 1, "nested more than 50 deep"),
        ("- " * 50_000, 1, "nested more than 50 deep"),
        (
            "a: &d " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 20 + "*d" + "]" * 20,
            2,
            "nested more than 50 deep",
        ),
        ("a: [" + "1," * 60_000 + "]", 1, "more than 50,000 keys and values"),
        ("a: &x [*x]", 1, "is inside what it stands for"),
        ("a: *x", 1, "has no anchor"),
        ("a: 1\nb: " + "7" * 5000, 2, "a number of 5,000 characters"),
        ("b: " + "7" * 5000 + ".5", 1, "a number of 5,002 characters"),
        ("a: 1\nb: 1e999", 2, "the number 1e999 is too large"),
        ("a: 1e-999", 1, "the number 1e-999 is too small"),
        ('a: 1\nb: "\\ud800"', 2, "the character U+D800"),
        ('a: 1\n"\\ud800": 2', 2, "the character U+D800"),
        ('a: "\\e[31m"', 1, "the character U+001B"),
        ('a: 1\nb: "\\U00110000"', 2, "not YAML"),
        ("a: 1\n\x07", 2, "not YAML"),
        ("a: 1\n? [b]\n: 1", 2, "a key that is a list or a mapping"),
        ("a: 1\n---\nb: 1", 2, "a second document"),
        ("%YAML 1.1\n---\na: no", 2, "read as YAML 1.2"),
        ("a: !!binary aGk=", 1, "the tag tag:yaml.org,2002:binary is not supported"),
        ("a: !!int x", 1, "is not of the type of its tag"),
        ("a: 1\n<<: 3", 2, "`<<` merges mappings, not 3"),
        ("a: {b: 1, b: 2}", 1, "the key 'b' is given twice"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else value,
)
def test_what_is_over_a_limit_or_no_text_is_refused_with_its_line(text, line, problem):
    refused = refusal(text)

    assert problem in refused.problem
    assert refused.where == f"x.yaml:{line}"
    assert refused.fix


@pytest.fixture
def special(tmp_path):
    """Paths that are no regular file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listening:
        place = os.getcwd()
        os.chdir(tmp_path)  # a socket's path has to be short
        try:
            listening.bind("socket")
        finally:
            os.chdir(place)
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pipe", "a named pipe, not a regular file"),
        ("socket", "a socket, not a regular file"),
        ("/dev/zero", "a character device, not a regular file"),
        (".", "a directory, not a regular file"),
        ("loop", "symbolic links"),
        ("dangling", "No such file"),
        ("a\0b", "null"),
        ("gone/\udcff", "No such file"),
    ],
)
def test_only_regular_files_are_read(special, name, reason):
    with pytest.raises(ConfigError) as refused:
        read(special / name)

    assert reason in refused.value.problem


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "big.yaml", "wb") as file:
        file.truncate(50_000_000)

    with pytest.raises(ConfigError, match="larger than 1,048,576 bytes"):
        read(tmp_path / "big.yaml")
    with pytest.raises(OSError, match="larger than 9 bytes"):
        read_regular(tmp_path / "big.yaml", 9)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")

    assert read(tmp_path / "a.yaml").data == {"a": 1, "b": 2}


class Named(Config):
    name: Name
    text: str = ""
    count: Count = 1
    seed: Seed = 0
    table: dict[Name, str] = {}


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("name: 2024-01-31", 'quote it: "2024-01-31"'),
        ("name: yes", 'quote it: "yes"'),
        ("name: 012", 'quote it: "012"'),
        ("name: 1e3", 'quote it: "1e3"'),
        ("name: true", 'quote it: "true"'),
        ("name: 7", 'quote it: "7"'),
        ("name: a\ntext: 1.50", 'quote it: "1.50"'),
        ("name: a\ntable: {on: x}", 'quote it, "on"'),
        ("name: a\ncount: 012", "write 12 without the leading zero"),
        ("name: a\ncount: -012", "write -12 without the leading zero"),
        ('name: a\ncount: "12"', "write 12 without quotes"),
        ("name: a\ncount: nan", "write a number, such as"),
        ('name: a\ncount: "1e999"', "write a number, such as"),
        ("name: a\ncount: 1:30", "write a number, such as"),
    ],
)
def test_a_value_that_is_text_only_in_quotes_is_answered_with_them(line, fix):
    with pytest.raises(ConfigError) as refused:
        Named.parse(parse_yaml(line, "x.yaml"))

    assert fix in str(refused.value)


def test_quoted_it_is_a_name_and_elsewhere_it_is_text():
    found = Named.parse(parse_yaml('name: "012"\ntext: 2024-01-31\ntable: {"on": no}', "x.yaml"))

    assert (found.name, found.text, found.table) == ("012", "2024-01-31", {"on": "no"})
    assert Named.parse(parse_yaml(found.to_yaml(), "again")) == found


@pytest.mark.parametrize(
    "line", ["seed: 4294967296", "seed: 18446744073709551616", "seed: -1", "count: 1e30"]
)
def test_whole_numbers_and_seeds_fit_the_generators(line):
    with pytest.raises(ConfigError, match="equal to"):
        Named.parse(parse_yaml(f"name: a\n{line}", "x.yaml"))


def test_a_message_is_short_however_long_its_value():
    keys = "\n".join(f"k{i}: {'x' * 500}" for i in range(200))
    with pytest.raises(ConfigError) as refused:
        Named.parse(parse_yaml(f"name: [{'y' * 10_000}]\n{keys}", "x.yaml"))

    assert "and 181 more" in refused.value.where
    assert len(str(refused.value)) < 6000


def test_a_sweep_of_the_repository_reads_as_ruamel_reads_it():
    """The values of every shipped file are those of an independent reader of YAML 1.2."""
    root = Path(__file__).parents[1]
    files = [*(root / "sweeps").rglob("*.yaml"), root / "scalelab/plan/cost/rates.yaml"]
    for path in files:
        expected = YAML(typ="safe", pure=True).load(path.read_text())
        assert _dates_as_text(expected) == read(path).data, path


def _dates_as_text(value):
    if isinstance(value, dict):
        return {key: _dates_as_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_dates_as_text(inner) for inner in value]
    return str(value) if hasattr(value, "isoformat") else value


def test_bare_words_in_free_fields_are_text_and_are_written_in_quotes():
    class Free(Config):
        rows: tuple[dict[str, Any], ...]

    found = Free.parse(parse_yaml("rows: [{choices: [no, yes, 2024-01-31], on: 012}]", "x.yaml"))

    assert found.rows == ({"choices": ["no", "yes", "2024-01-31"], "on": "012"},)
    assert YAML(typ="safe", pure=True).load(found.to_yaml()) == {"rows": list(found.rows)}
    assert Free.parse(parse_yaml(found.to_yaml(), "x.yaml")).digest == found.digest
