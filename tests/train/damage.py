"""Ways in which a file on a disk comes to be another than was written."""

import random
import re
import shutil


def _flipped(data, draw):
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _other_digit(data, draw):
    at = draw.choice([match.start() for match in re.finditer(rb"(?<=\d)\d", data)])
    digit = draw.choice([d for d in b"123456789" if d != data[at]])
    return data[:at] + bytes([digit]) + data[at + 1 :]


HARMS = {
    **{f"flipped {i}": _flipped for i in range(8)},
    **{f"digit {i}": _other_digit for i in range(4)},
    "truncated": lambda data, draw: data[: draw.randrange(1, len(data))],
    "longer": lambda data, draw: data + data[-100:],
    "emptied": lambda data, draw: b"",
    "null": lambda data, draw: b"null\n",
    "brackets": lambda data, draw: b"[" * 100_000,
    "zeros": lambda data, draw: bytes(len(data)),
    "missing": None,
    "directory": None,
}


def harm(file, how):
    """Damage a file, in the same way every time."""
    draw = random.Random(f"{file.name} {how}")
    data = file.read_bytes()
    file.unlink()
    if HARMS[how] is not None:
        damaged = HARMS[how](data, draw)
        assert damaged != data
        file.write_bytes(damaged)
    elif how == "directory":
        file.mkdir()


def rename_in(file, name, other):
    """Give a tensor another name of the same length."""
    assert len(name) == len(other)
    data = file.read_bytes()
    assert name.encode() in data
    file.write_bytes(data.replace(name.encode(), other.encode(), 1))


def copy(folder, to):
    """A copy to damage."""
    shutil.copytree(folder, to)
    return to
