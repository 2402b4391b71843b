"""A small sweep that a journey can run through the real command line in seconds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = """
name: journey
question: Does it hold together?
prediction: Every run finishes, whatever happens on the way, and to the same last bit.
recipe:
  data:
    source: {kind: text, paths: ["TEXT/*.txt"]}
    tokenizer: {kind: bytes}
    validation: 0.2
    epochs: 1000
  seq_len: 32
  param_count: matmul
  model: {kind: transformer, n_layers: 1, head_size: 8, ff_multiple: 8}
  optimizer: {lr: 3e-3, embedding_lr: 10, head_lr: 5}
  batch: {coefficient: 2, exponent: 0.5, min_tokens: 512, max_tokens: 2048}
  min_steps: 20
  evaluation: {tokens: 4096, curve_points: 2, curve_tokens: 1024}
  precision: fp32
design:
  kind: isoflop
  budgets: [4e9, 1e10, 2.4e10]
  sizes_per_budget: 3
  span: 4
  tokens_per_param: 20
"""


WITHOUT_MLFLOW = """
import importlib.util as u, sys
real = u.find_spec
u.find_spec = lambda n, *a: None if n.split('.')[0] == 'mlflow' else real(n, *a)
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mlflow': raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Gone())
"""


class World:
    """A directory to work in, and the command line in it."""

    def __init__(self, path: Path, cache: Path, text: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        (path / "journey.yaml").write_text(SWEEP.replace("TEXT", str(text)))
        self.environ = os.environ | {"SCALELAB_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        self.environ["PYTHONPATH"] = str(Path(__file__).parents[2])

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def forget_mlflow(self):
        """Let Python's own finder say that there is no mlflow, as on a machine without it."""
        hidden = self.path / "hidden"
        hidden.mkdir()
        (hidden / "sitecustomize.py").write_text(WITHOUT_MLFLOW)
        self.environ["PYTHONPATH"] = f"{hidden}:{self.environ['PYTHONPATH']}"

    def command(self, *argv: str) -> list[str]:
        return [sys.executable, "-m", "scalelab.cli", *argv]

    def __call__(self, *argv: str, timeout: float = 240) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*argv),
            cwd=self.path,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *argv: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*argv),
            cwd=self.path,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A job in the background is started deaf to Ctrl-C, and hands that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


@pytest.fixture(scope="session")
def worlds(tmp_path_factory, cache, tiny_text):
    """A function that makes worlds, all on the same text and cache.

    Where the mirror is not what is looked at, it stays away: it takes longer than the rest.
    """

    def make(name: str, mlflow: bool = True) -> World:
        world = World(tmp_path_factory.mktemp(name), cache, tiny_text)
        if not mlflow:
            world.forget_mlflow()
        return world

    return make


@pytest.fixture(scope="session")
def undisturbed(worlds):
    """A world in which the sweep was run once, and nothing happened to it."""
    world = worlds("undisturbed")
    done = world("sweep", "journey.yaml")
    assert done.returncode == 0, done.stderr
    return world
