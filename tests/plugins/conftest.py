"""The example package, installed the way that a user installs one."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scalelab import registry

SOURCE = Path(__file__).parent
ROOT = SOURCE.parents[1]
# What these tests share with the kill campaign: worlds, and processes as /proc shows them.
sys.path.insert(0, str(ROOT / "analysis"))

import observe  # noqa: E402


@pytest.fixture(scope="session")
def installed(made_once):
    """The directory that the package was installed into, by pip."""

    def install(place):
        copy = shutil.copytree(SOURCE, place / "source", ignore=shutil.ignore_patterns("test_*", "*c"))
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
        subprocess.run([*pip, "--no-build-isolation", "--target", str(place / "site"), str(copy)], check=True)

    return made_once("plugins", install) / "site"


@pytest.fixture
def examples(installed, monkeypatch):
    """This process sees the package, and what is started from it does too."""
    monkeypatch.syspath_prepend(str(installed))
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(installed), str(ROOT), before)))
    registry._installed.cache_clear()
    yield installed
    registry._installed.cache_clear()


@pytest.fixture(scope="session")
def worlds(installed, tmp_path_factory, cache, tiny_text):
    """A function that makes directories with a sweep and the command line, plug-ins installed."""

    def make(name, sweep):
        world = observe.World(tmp_path_factory.mktemp(name), cache)
        world.environ["PYTHONPATH"] = os.pathsep.join((str(installed), str(observe.ROOT)))
        world.forget_mlflow()  # the mirror takes longer than the rest, and is not looked at
        (world.path / "journey.yaml").write_text(sweep.replace("TEXT", str(tiny_text)))
        return world

    return make


@pytest.fixture(scope="session")
def killed():
    """A function that runs a command, kills all of its processes once there is a file of `name`
    in the runs, and runs it again to its end.
    """

    def twice(world, name, *argv):
        process = world.start(*argv)
        deadline = time.monotonic() + 120
        while not any(world.runs.glob(name)) and time.monotonic() < deadline:
            time.sleep(0.01)
        observe.kill(observe.descendants(process.pid))
        process.communicate()
        assert any(world.runs.glob(name)), "it ended before it was killed"
        again = world(*argv)
        assert again.returncode == 0, again.stderr
        return again

    return twice
