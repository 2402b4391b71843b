"""Which files paths and globs name: each once, regular ones only, none left out without a word."""

import os
import socket
import subprocess
import sys

import pytest

from scalelab.data.base import SkippedDocuments
from scalelab.data.files.listing import ANOTHER_PATH, expand
from scalelab.data.hashing import sha256
from scalelab.data.sources.text import TextFiles
from scalelab.errors import DataError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Two files in two directories; the working directory is above them."""
    for name in ("a/x.txt", "b/x.txt", ".hidden/x.txt", "b/.x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*patterns):
    return [name for name, _ in expand(patterns)]


def refusal(*patterns):
    with pytest.raises(DataError) as refused:
        expand(patterns)
    assert refused.value.where
    assert refused.value.fix
    return str(refused.value)


def test_a_loop_of_links_gives_each_file_once(tree):
    for name, target in {"loop": ".", "a/up": "..", "b/across": "../a", "a/back": "../b"}.items():
        (tree / name).symlink_to(target)

    assert names("**/*.txt") == ["a/x.txt", "b/x.txt"]
    documents = list(TextFiles(paths=["**/*.txt"]).documents(SkippedDocuments()))
    assert [d.text for d in documents] == ["text of a/x.txt", "text of b/x.txt"]


def test_a_directory_behind_a_link_is_read(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk")
    (elsewhere / "y.txt").write_text("y")
    (tree / "a" / "disk").symlink_to(elsewhere)

    assert names("a/**/*.txt") == ["disk/y.txt", "x.txt"]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_reached_by_two_paths_counts_once_and_is_noted(tree, link):
    link(tree / "a" / "x.txt", tree / "zzz.txt")
    skips = SkippedDocuments()

    assert expand(["*.txt", "a/*.txt"], skips) == [("x.txt", tree / "a" / "x.txt")]
    assert skips.counts == {ANOTHER_PATH: 1}


def test_further_paths_are_noted_in_order(tree):
    for i in range(9):
        (tree / f"link{i}.txt").symlink_to("a/x.txt")
    skips = SkippedDocuments()

    expand(["a/*.txt", "*.txt"], skips)

    assert skips.examples[ANOTHER_PATH] == [str(tree / f"link{i}.txt") for i in range(5)]


def test_a_link_alone_keeps_its_name(tree):
    (tree / "zzz.txt").symlink_to("a/x.txt")

    assert names("zzz.txt") == ["zzz.txt"]


def test_hidden_names_are_left_out_unless_named(tree):
    assert names("**/*") == ["a/x.txt", "b/x.txt"]
    assert names(".hidden/*") == ["x.txt"]
    assert names("b/.*") == [".x.txt"]


def test_a_name_with_brackets_is_a_name_first(tree):
    (tree / "ünï [1].txt").write_text("x")

    assert names("ünï [1].txt") == ["ünï [1].txt"]


def test_what_is_no_regular_file_is_refused_by_name(tree):
    os.mkfifo(tree / "a" / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s.txt")

        assert "s.txt is a socket, not a regular file" in refusal("*.txt")
    assert "pipe.txt is a named pipe, not a regular file" in refusal("a/**/*.txt")
    assert "zero is a character device" in refusal("/dev/zero")
    with pytest.raises(DataError, match="is a named pipe"):
        sha256(tree / "a" / "pipe.txt")


def test_a_pipe_does_not_hang_any_reader(tree):
    """In a process of its own, which can be ended."""
    os.mkfifo(tree / "p.jsonl")
    code = (
        "from pathlib import Path; from scalelab.data.files.records import rows_of;"
        "list(rows_of(Path('p.jsonl')))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert "p.jsonl is a named pipe, not a regular file" in done.stderr


@pytest.mark.parametrize("target", ["nowhere", "dead.txt"])
def test_a_dead_link_is_refused(tree, target):
    (tree / "dead.txt").symlink_to(target)

    assert "dead.txt is a symbolic link to a file that cannot be reached" in refusal("*.txt")


def test_a_zero_byte_in_a_path_is_refused():
    assert "cannot read" in refusal("a\0b.txt")
    assert "matches no file" in refusal("a\0*/b.txt")
