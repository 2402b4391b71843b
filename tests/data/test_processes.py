"""What other processes do to a cache: die in the middle, come at the same time, fill the disk."""

import os
import signal
import subprocess
import sys

import pytest

from scalelab.data.corpus.shards import prepare

START = """
import os, resource, signal, sys
from pathlib import Path
from scalelab.data.corpus import shards, token_files
from scalelab.data.base import DataConfig
from scalelab.errors import ScalelabError
config = DataConfig.model_validate_json(sys.argv[1])
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
class Dies:
    def __init__(self, inner):
        self.read, self.write = inner.read, die
"""
FINISH = """
try:
    print(shards.prepare(config).digest)
except ScalelabError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def start(config, between=""):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START + between + FINISH, config.model_dump_json()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


KILLS = {
    "while it writes tokens": """
add = token_files.TokenWriter.add
def some(writer, document):
    add(writer, document)
    if writer.n_documents == 20:
        die()
token_files.TokenWriter.add = some
""",
    "while it moves files": "shards.MANIFEST = Dies(shards.MANIFEST)",
    "before it writes the key": """
shards.KEY = Dies(shards.KEY)
""",
}


@pytest.mark.parametrize("when", KILLS)
def test_killed_it_leaves_nothing_to_be_found_and_the_next_one_finishes(config, own_cache, tmp_path, when):
    undisturbed = prepare(config(), tmp_path / "other").digest
    killed = start(config(), KILLS[when])
    _, said = killed.communicate(timeout=60)

    assert killed.returncode == -signal.SIGKILL, said
    assert not list(own_cache.glob("keys/*"))
    if when != "before it writes the key":
        assert not list(own_cache.glob("corpora/[0-9a-f]*"))

    for leftover in own_cache.glob("partial/*"):
        (leftover / "stray.bin").write_text("of an attempt that wrote more shards")
    corpus = prepare(config())

    assert corpus.digest == undisturbed
    assert {p.name for p in corpus.path.iterdir()} == {"manifest.json", *corpus.manifest.files}
    assert list(own_cache.glob("partial/*")) == []
    assert len(list(own_cache.glob("corpora/*"))) == 1


def test_two_at_once_give_one_result_and_one_of_them_does_the_work(config):
    both = [start(config()) for _ in range(2)]

    outputs = [process.communicate(timeout=60) for process in both]

    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sum(said.count("tokenising") for _, said in outputs) == 1


def test_a_file_that_cannot_grow_is_told_and_leaves_nothing(config, own_cache):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"

    process = start(config(tokenizer={"kind": "bytes"}), limit)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "RunError: cannot write" in said
    assert "File too large" in said
    assert not list(own_cache.glob("keys/*"))
    assert list(own_cache.glob("partial/*")) == []
