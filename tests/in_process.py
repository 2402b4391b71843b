"""The command line in the process of the tests: what a command says, without starting Python for it.

A command in a process of its own loads torch, pandas or matplotlib each time, which takes longer than
most commands. Where the process itself is not what a test is about, and the command starts no workers
that train, the test calls it here.

Not here: commands in processes of their own (analysis/observe.py).
"""

import contextlib
import importlib.util
import io
import os
import subprocess
from collections.abc import Iterator
from unittest import mock

from observe import World

from scalelab.cli.main import main


@contextlib.contextmanager
def _hidden_mlflow() -> Iterator[None]:
    """Let Python's finder say that there is no mlflow, as `World.forget_mlflow` does for a process."""
    real = importlib.util.find_spec

    def find(name: str, *package: str | None) -> object:
        return None if name.split(".")[0] == "mlflow" else real(name, *package)

    with mock.patch("importlib.util.find_spec", find):
        yield


def in_process(world: World, *argv: str) -> subprocess.CompletedProcess:
    """Run a command in a world's directory and environment, in this process.

    Args:
        world: The directory; its MLflow is hidden where `forget_mlflow` was called.
        argv: The arguments behind `scalelab`.

    Returns:
        What a process would have left: exit status, standard output and standard error.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, world.environ, clear=True))
        stack.enter_context(contextlib.chdir(world.path))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        if (world.path / "hidden").exists():
            stack.enter_context(_hidden_mlflow())
        try:
            code = main(list(argv))
        except SystemExit as ended:
            code = ended.code or 0
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())
