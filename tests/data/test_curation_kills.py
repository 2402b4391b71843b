"""A curation whose process is killed ten times, at file operations and after some CPU time."""

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
from curation import english, page

from scalelab.cli.main import main
from scalelab.data.curate.pages.files import PageFiles
from scalelab.report.curation import page as curation_page

FILE = """name: small
source: {kind: files, paths: [site]}
stages:
  - {kind: extract, extractor: own}
  - {kind: holdout, sets: {some: {domains: [part0], share: 0.4, languages: []}}}
  - exact_duplicates
  - near_duplicates
  - pii
  - decontaminate
tokenizer: {kind: bytes}
"""
OPERATIONS = frozenset(["open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with 16 pages in several shards, done in one process; no figure is drawn."""
    for i in range(16):
        path = tmp_path / f"site/part{i % 2}/{i:02d}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(english(12, seed=i if i % 5 else 0) + " Write to someone@example.org."))
    (tmp_path / "small.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    groups = PageFiles.shards
    monkeypatch.setattr(PageFiles, "shards", lambda self, shard_bytes: groups(self, 8000))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(curation_page, "write_curation", lambda result, out, tokens: out / "README.md")
    return tmp_path


def child(cache, limit=None):
    """Run the command in a process of its own, and return its status.

    Args:
        cache: Directory of intermediate results.
        limit: ("operations", n) or ("seconds", CPU time), after which the process kills itself with SIGKILL.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        os.environ["SCALELAB_CACHE"] = str(cache)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        if limit is not None:
            arm(*limit)
        os._exit(main(["data", "small.yaml"]))
    finally:
        os._exit(99)  # no test goes on in the child


def arm(kind, left):
    if kind == "seconds":
        signal.signal(signal.SIGVTALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_VIRTUAL, left)
        return

    def count(event, args):
        nonlocal left
        if event in OPERATIONS:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def results(cache):
    """Bytes of the documents, hold-outs, record and token shards."""
    found = {path.name: path.read_bytes() for path in sorted(Path("curated/small").iterdir())}
    for path in sorted(cache.rglob("*")):
        if path.suffix in {".bin", ".idx"}:
            found[path.relative_to(cache).as_posix()] = path.read_bytes()
    return found


def test_killed_for_real_ten_times_gives_the_same_documents_and_token_shards(place, monkeypatch):
    monkeypatch.setenv("SCALELAB_CACHE", str(place / "one"))
    assert main(["data", "small.yaml"]) == 0  # here, so that a child need not load the modules
    expected = results(place / "one")
    shutil.rmtree("curated")
    draw, cache, n_killed, at = random.Random(0), place / "two", 0, []
    while n_killed < 10:
        limit = (
            ("operations", draw.randrange(20, 250)) if n_killed % 2 else ("seconds", draw.uniform(0.02, 0.2))
        )
        status = child(cache, limit)
        assert status in {0, -signal.SIGKILL}
        if status == 0:  # it was done before: once more from some stage on
            shutil.rmtree("curated")
            for directory in draw.sample(sorted((cache / "curation").glob("*-*")), 3):
                shutil.rmtree(directory)
        else:
            n_killed += 1
            at.append(len(list(cache.rglob("*"))))

    assert child(cache) == 0
    assert results(cache) == expected
    assert len([name for name in expected if name.endswith(".bin")]) >= 2
    assert len(set(at)) >= 4  # it died at different places
    assert not [path.name for path in cache.rglob("*.partial*")]
