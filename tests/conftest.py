"""What every test gets: one thread, no person's cache, no network, a corpus that is tiny."""

import fcntl
import gc
import os
import shutil
import subprocess
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("PYTEST_TIMEOUT", "600")  # seconds for a test and its fixtures (pytest-timeout)
os.environ.pop("MLFLOW_TRACKING_URI", None)

import pytest
import torch

torch.set_num_threads(1)

WORDS = (
    "the",
    "model",
    "reads",
    "a",
    "token",
    "then",
    "writes",
    "one",
    "more",
    "and",
    "forgets",
    "what",
    "it",
    "was",
    "told",
    "before",
)


LONG_FIRST = (
    "launch/test_slurm.py",
    "journeys/test_kills.py",
    "journeys/test_posttrain.py",
    "jobs/test_executors.py",
    "launch/test_ranks.py",
    "analysis/test_calibration.py",
    "journeys",
    "plugins",
    "launch",
    "track",
    "jobs",
    "posttrain",
    "train",
    "bench",
)
"""Files that take minutes, and folders of such: begun early, none of them is left alone at the end."""


MEMORY, LEAST_BYTES = "/dev/shm", 4 << 30
"""A file system in memory, and what has to be free there for the directories of tests."""


def pytest_configure():
    """Temporary directories in memory where there is room: an fsync takes 14 ms on a disk, and tests make thousands."""
    is_open = "PYTEST_DEBUG_TEMPROOT" not in os.environ and os.access(MEMORY, os.W_OK)
    if is_open and shutil.disk_usage(MEMORY).free >= LEAST_BYTES:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = MEMORY


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One process more than cores for `-n auto`: much of the time a test waits for what it killed or started."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else None


def pytest_collection_modifyitems(items):
    """Long files first, in the order in which several processes of pytest take them."""
    place = {folder: i for i, folder in enumerate(LONG_FIRST)}

    def key(item):
        folder = item.path.parent.name
        return place.get(f"{folder}/{item.path.name}", place.get(folder, len(place)))

    items.sort(key=key)


def pytest_collection_finish():
    """Keep what is there now, some 800,000 objects, out of the garbage collector: half a second for each call."""
    gc.collect()
    gc.freeze()


def prose(n_words, seed):
    """Text with some structure: each word is drawn after the one before it."""
    import random

    draw, word, out = random.Random(seed), 0, []
    for _ in range(n_words):
        word = (word * 5 + draw.choice((1, 1, 1, 2, 7))) % len(WORDS)
        out.append(WORDS[word])
    return " ".join(out)


@pytest.fixture(scope="session")
def damages():
    """A function that gives damaged copies of a file's bytes."""
    return damaged_copies


def damaged_copies(data, n, seed=0, *, replaced=True):
    """First what is left of a file that was emptied or replaced, then n copies with one bit
    flipped, one digit changed, or the end cut off.
    """
    import random

    draw = random.Random(seed)
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    if replaced:
        yield from (b"", b"null", b"[]", b"{}", b"\x00" * len(data), b"\xff", b"[" * 100_000)
    for k in range(n):
        copy = bytearray(data)
        if k % 3 == 0:
            copy[draw.randrange(len(copy))] ^= 1 << draw.randrange(8)
        elif k % 3 == 1:
            i = draw.choice(digits)
            copy[i] = ord(draw.choice([d for d in "0123456789" if ord(d) != copy[i]]))
        else:
            del copy[draw.randrange(len(copy) - 2) :]
        yield bytes(copy)


@pytest.fixture(scope="session")
def wrong_types():
    """A function that gives copies of a JSON record, each with one value of another type."""
    return wrongly_typed


def wrongly_typed(record):
    """Every value replaced in turn, to a depth of three."""
    import copy

    def places(value, path=()):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in inner:
            yield (*path, key)
            if isinstance(below, dict | list) and len(path) < 2:
                yield from places(below, (*path, key))

    for path in places(record):
        for other in ("x", 7, None, True, [1], {"a": 1}, -1.5):
            changed = copy.deepcopy(record)
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = other
            yield changed


@pytest.fixture(scope="session")
def unsealed():
    """Files from before the seals, as that version of the program wrote them."""
    from pathlib import Path

    return Path(__file__).parent / "fixtures" / "unsealed"


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function that returns a directory which one process of this run of pytest fills, and all of them read.

    Its arguments: a name, and a function that fills the empty directory of that path.
    """
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent

    def make(name, fill):
        path, done = common / name, common / f".{name}.done"
        with open(common / f".{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # who comes later waits
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)  # of a process that failed
                path.mkdir()
                fill(path)
                done.touch()
        return path

    return make


@pytest.fixture(scope="session")
def tiny_text(made_once):
    """A folder of 40 short documents, some 60 kB of structured text."""

    def fill(folder):
        for i in range(40):
            (folder / f"{i:02d}.txt").write_text(prose(300, seed=i))

    return made_once("text", fill)


@pytest.fixture(scope="session")
def empty_mlflow(made_once):
    """MLflow's database of no runs. Making one takes 1.5 seconds, so it is made once and copied.

    A worker process of pytest need not have imported MLflow for it, so another process does.
    """

    def fill(folder):
        code = "from scalelab.tracking.store_access import open_store; import sys, pathlib;"
        code += "open_store(pathlib.Path(sys.argv[1]))"
        environ = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=300, env=environ)

    return made_once("empty_mlflow", fill) / "mlflow.db"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache of this test session's own, found by every process that it starts.

    Of every test, because the server that processes are forked from keeps the environment of the test that
    started it.
    """
    path = tmp_path_factory.mktemp("cache")
    before = os.environ.get("SCALELAB_CACHE")
    os.environ["SCALELAB_CACHE"] = str(path)
    yield path
    if before is None:
        del os.environ["SCALELAB_CACHE"]
    else:
        os.environ["SCALELAB_CACHE"] = before


@pytest.fixture(scope="session")
def tiny_corpus(tiny_text, cache):
    """The tiny text in bytes, prepared."""
    from scalelab.data.base import DataConfig
    from scalelab.data.corpus.shards import prepare

    return prepare(DataConfig(**tiny_data(tiny_text)))


def tiny_data(folder):
    """The data section of a recipe on the tiny text."""
    return {
        "source": {"kind": "text", "paths": [f"{folder}/*.txt"]},
        "tokenizer": {"kind": "bytes"},
        "validation": 0.2,
        "epochs": 50,
    }


@pytest.fixture
def tiny_spec(tiny_text, tiny_corpus):
    """A function that makes the spec of a run of some tens of steps, with changes laid over."""
    from scalelab.train.spec import RunSpec

    def make(**changes):
        model = {
            "kind": "transformer",
            "n_layers": 2,
            "d_model": 16,
            "n_heads": 2,
            "n_kv_heads": 2,
            "head_size": 8,
            "d_ff": 48,
            "vocab_size": 257,
        }
        spec = {
            "data": tiny_data(tiny_text),
            "data_digest": tiny_corpus.digest,
            "seq_len": 32,
            "model": model | changes.pop("model", {}),
            "optimizer": {"lr_matrix": 3e-3, "lr_embedding": 3e-2, "lr_head": 3e-2, "lr_vector": 3e-3},
            "schedule": {"kind": "wsd", "warmup": 0.1, "cooldown": 0.5},
            "batch_tokens": 256,
            "n_steps": 60,
            "evaluation": {"tokens": 4096, "curve_points": 2, "curve_tokens": 1024},
            "precision": "fp32",
        }
        return RunSpec.model_validate(spec | changes)

    return make


@pytest.fixture
def tiny_run(tiny_spec):
    """A function that creates the directory of such a run in a folder."""
    from scalelab.train.run_directory import RunDir

    def make(folder, **changes):
        spec = tiny_spec(**changes)
        run_dir = RunDir(folder / spec.id)
        run_dir.create(spec)
        return run_dir

    return make


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a file system of its own with room for 8 MB; skipped where nobody may mount."""
    path = tmp_path / "small-disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory):
    """Two nodes of Slurm on this machine, found by every process that the tests start."""
    import slurm_cluster

    if (why := slurm_cluster.unavailable()) is not None:
        pytest.skip(f"no Slurm here: {why}")
    cluster = slurm_cluster.SlurmCluster(tmp_path_factory.mktemp("slurm"))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(cluster.conf)
    yield cluster
    cluster.close()
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


@pytest.fixture
def ray_cluster(monkeypatch, tmp_path):
    """A node of Ray on this machine, started in another directory than the commands that use it."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'scalelab[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (tmp_path / "token").write_text("5f" * 32)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster
    cluster.shutdown()
