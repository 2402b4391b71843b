"""The example package, installed the way that a user installs one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scalelab import registry

SOURCE = Path(__file__).parent
ROOT = SOURCE.parents[1]
# What these tests share with the kill campaign: worlds, and processes as /proc shows them.
sys.path.insert(0, str(ROOT / "analysis"))


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The directory that the package was installed into, by pip."""
    place = tmp_path_factory.mktemp("plugins")
    copy = shutil.copytree(SOURCE, place / "source", ignore=shutil.ignore_patterns("test_*", "*c"))
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(place / "site"), str(copy)], check=True
    )
    return place / "site"


@pytest.fixture
def examples(installed, monkeypatch):
    """This process sees the package, and what is started from it does too."""
    monkeypatch.syspath_prepend(str(installed))
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(installed), str(ROOT), before)))
    registry._installed.cache_clear()
    yield installed
    registry._installed.cache_clear()
