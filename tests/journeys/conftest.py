"""A small sweep that a journey can run through the real command line in seconds."""

import shutil
import sys
from pathlib import Path

import pytest

# observe.py and kills.py hold what these tests share with the full kill campaign.
sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))

import observe


class World(observe.World):
    """A directory with the file of a small sweep, and the command line in it."""

    def __init__(self, path: Path, cache: Path, text: Path):
        super().__init__(path, cache)
        (path / "journey.yaml").write_text(observe.SWEEP.replace("TEXT", str(text)))


@pytest.fixture(scope="session")
def worlds(tmp_path_factory, cache, tiny_text, empty_mlflow):
    """A function that makes worlds, all on the same text and cache.

    Where the mirror is not what is looked at, it stays away: it takes longer than the rest. With `ready` it has
    MLflow's database already, of no runs: where the making of it is not what is looked at.
    """

    def make(name: str, mlflow: bool = True, *, ready: bool = False) -> World:
        world = World(tmp_path_factory.mktemp(name), cache, tiny_text)
        if not mlflow:
            world.forget_mlflow()
        if ready:
            world.runs.mkdir()
            shutil.copy(empty_mlflow, world.runs)
        return world

    return make


@pytest.fixture(scope="session")
def undisturbed(worlds, made_once, cache, tiny_text, empty_mlflow):
    """A world in which the sweep was run once, and nothing happened to it.

    Trained once for all processes of pytest; each has a copy, which MLflow takes for a directory that was moved.
    """

    def train(path):
        world = World(path, cache, tiny_text)
        world.runs.mkdir()
        shutil.copy(empty_mlflow, world.runs)
        done = world("sweep", "journey.yaml", "--no-timing")
        assert done.returncode == 0, done.stderr

    world = worlds("undisturbed")
    shutil.copytree(made_once("undisturbed", train) / "runs", world.runs)
    return world
