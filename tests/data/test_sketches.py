"""Sketches are the numbers that they always were, however documents are batched, cut and handed out."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import sketch_reference

from scalelab.data.corpus import minhash
from scalelab.data.corpus import sketches as module
from scalelab.data.corpus.minhash import words_of
from scalelab.data.corpus.sketch_workers import SketchWorkers
from scalelab.data.corpus.sketches import Sketcher
from scalelab.data.hashing import content_hash


@pytest.fixture
def texts(prose):
    """Long and short documents, repeated words, other scripts, no word at all."""
    odd = [
        "",
        "four words are few",
        "five words are just enough",
        "?! -- ...",
        "a " * 3000,
        "ÉCOLE Straße İ",
        "a\x00b\x1cc d e f",
    ]
    scripts = [
        "Ещё раз, ОДИН и тот же текст" * 9,
        "三 四 五 六 七 八 ९ Ⅷ ½ x²",
        "naïve_café42 " * 7,
        "a\x00b\x1cc d e f",
    ]
    return [*prose(30), *odd, *scripts, *(text[:200] for text in prose(40)), " ".join(prose(60))]


def sketched(texts, processes=0):
    sketcher = Sketcher(processes)
    for text in texts:
        sketcher.add(text)
    return sketcher.finish()


def test_sketches_are_those_of_one_document_at_a_time(texts):
    found = sketched(texts)

    assert np.array_equal(found.bands, sketch_reference.bands_of(texts))
    assert found.content.tolist() == [content_hash(text.encode()) for text in texts]
    assert found.n_bytes.tolist() == [len(text.encode()) for text in texts]


@pytest.mark.parametrize(
    "limits",
    [
        {"BATCH_DOCUMENTS": 1},
        {"BATCH_DOCUMENTS": 7, "PIECE": 11},
        {"BATCH_BYTES": 500, "PIECE": 64, "MEMO": 3},
        {"LEAST_RUN": 1},
        {"LEAST_RUN": 10**6, "PIECE": 100},
    ],
    ids=str,
)
def test_batches_and_pieces_do_not_show(texts, monkeypatch, limits):
    monkeypatch.setattr(minhash, "_word_hashes", minhash._WordHashes())
    for name, value in limits.items():
        monkeypatch.setattr(module if hasattr(module, name) else minhash, name, value)

    assert np.array_equal(sketched(texts).bands, sketch_reference.bands_of(texts))


def test_words_are_those_of_the_regular_expression_at_every_character():
    text = "".join(f"A{chr(i)}b " for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    for part in (text, text[: 4 * 128]):
        expected = [word.encode() for word in re.findall(r"\w+", part.lower())]

        assert words_of(part.encode()) == expected


def test_no_documents_have_no_sketches():
    found = sketched([])

    assert (found.content.shape, found.bands.shape) == ((0,), (0, minhash.BANDS))


@pytest.fixture
def pool(monkeypatch):
    """The pools of further processes that were started, for batches of a few documents."""
    made = []

    class Noted(SketchWorkers):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(module, "SketchWorkers", Noted)
    monkeypatch.setattr(module, "POOL_BYTES", 2000)
    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 5)
    return made


def test_further_processes_return_the_same_in_the_same_order_and_end(texts, pool, monkeypatch):
    own = []
    bands_of = module.bands_of
    monkeypatch.setattr(module, "bands_of", lambda batch: own.append(batch) or bands_of(batch))

    found = sketched(texts, processes=2)

    assert np.array_equal(found.bands, sketch_reference.bands_of(texts))
    assert sum(map(len, own)) < len(texts) / 2
    assert [process.returncode for process in pool[0]._processes] == [-signal.SIGKILL] * 2


def test_little_text_starts_no_process(texts, pool, monkeypatch):
    monkeypatch.setattr(module, "POOL_BYTES", 2**26)
    sketched(texts, processes=2)

    assert not pool


def test_documents_under_way_are_bounded(texts, pool):
    sketcher = Sketcher(1)
    for text in texts * 3:
        sketcher.add(text)

        assert len(sketcher._pending) <= 2
    sketcher.close()


@pytest.mark.parametrize("when", ["before", "between"])
def test_work_of_a_process_that_ended_is_done_here(texts, pool, when):
    sketcher = Sketcher(2)
    for i, text in enumerate(texts):
        sketcher.add(text)
        if pool and (when == "before" or i > len(texts) / 2):
            for process in pool[0]._processes:
                process.kill()

    assert np.array_equal(sketcher.finish().bands, sketch_reference.bands_of(texts))


def test_processes_that_cannot_be_started_are_done_without(texts, pool, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    assert np.array_equal(sketched(texts, processes=2).bands, sketch_reference.bands_of(texts))


def test_a_process_ends_with_the_one_that_reads(tmp_path):
    """Killed at once, the reader closes the pipe without a word."""
    code = (
        "import os, sys; from scalelab.data.corpus.sketch_workers import SketchWorkers;"
        "pool = SketchWorkers(1); print(pool._processes[0].pid, flush=True); os.kill(os.getpid(), 9)"
    )
    reader = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, timeout=60)
    worker = int(reader.stdout)
    until = time.monotonic() + 30
    while _is_running(worker) and time.monotonic() < until:
        time.sleep(0.05)

    assert not _is_running(worker)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_number_of_processes_is_that_of_the_cores(monkeypatch):
    counts = {}
    for cores in (1, 6):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=cores: set(range(n)))
        counts[cores] = Sketcher()._n_workers

    assert counts == {1: 0, 6: 6}
