"""What a person can get wrong from the outside, and the three lines that answer each.

Every refusal is asked of the command line: exit status 2, one problem with its value, one `where:`,
one `fix:`, no traceback, and nothing half-written left behind.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from in_process import in_process

COMMANDS = (
    "sweep",
    "runs",
    "clean",
    "fit",
    "plan",
    "launch",
    "posttrain",
    "eval",
    "simulate",
    "ui",
    "sync",
    "run",
    "data",
    "export",
)
SMALL = ("--set", "design.budgets=[4e9]", "--no-timing")
HEAVY = {"torch", "mlflow", "optuna", "pandas", "matplotlib", "scipy", "numpy", "pydantic", "rich"}


@pytest.fixture
def world(worlds, request):
    name = request.node.name.partition("[")[0]
    return worlds(name[:40], mlflow=name.startswith(("test_a_disk_that_fills", "test_help")))


@pytest.fixture
def refused(world):
    """A function that runs a command, expects it to be refused, and returns what was said.

    In a process of its own if `process`: where workers are started, or the process is looked at.
    """

    def ask(*argv, process=False):
        done = world(*argv) if process else in_process(world, *argv)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        shown = done.stderr[done.stderr.index("error: ") :]
        assert shown.count("\n  where: ") == 1
        assert shown.count("\n  fix:   ") == 1
        assert not list(world.path.rglob("*.partial"))
        return shown

    return ask


@contextlib.contextmanager
def mounted(path, options):
    """A small file system of its own at `path`; skipped where nobody may mount."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("recipe.modle=1", "unknown key 'modle'; did you mean 'model'?"),
        ("recipe.seq_len=long", "'long' is text, not a number"),
        ('design.budgets=["1e12"]', "'1e12' is text, not a number"),
        ("design.budgets=[2e10, 1e10]", "budgets must rise without repeats"),
        ("design.span=500", "can be built"),
        ("recipe.data.epochs=1", "tokens"),
        ("recipe.evaluation.tokens=100000000", "needs 100M validation tokens"),
        ("recipe.data.source.paths=[nowhere/*.txt]", "nowhere"),
    ],
)
def test_a_sweep_that_cannot_be(refused, world, change, problem):
    assert problem in refused("sweep", "journey.yaml", "--set", change)
    assert not world.runs.exists()


@pytest.mark.parametrize(("name", "content"), [("empty.txt", b""), ("garbage.txt", bytes(range(256)) * 64)])
def test_files_that_are_no_text(refused, world, name, content):
    (world.path / name).write_bytes(content)

    assert name in refused("sweep", "journey.yaml", "--set", f"recipe.data.source.paths=[{name}]")


def test_a_file_that_is_not_there(refused):
    assert "No such file" in refused("sweep", "gone.yaml", process=True)


def test_a_sweep_and_a_table_that_are_not_there(refused):
    assert "there is no sweep 'gone'" in refused("runs", "gone")
    assert "gone" in refused("fit", "gone")
    assert "gone.csv" in refused("fit", "gone.csv")


def test_nothing_to_fit(refused, world):
    assert "no source is given" in refused("fit")


def test_two_sweeps_in_one_directory(refused, world):
    long = ("--set", "design.budgets=[4e12]", "--set", "recipe.data.epochs=1e9")
    first = world.start("sweep", "journey.yaml", *long, "--set", "design.span=3", "--no-timing")
    try:
        deadline = time.monotonic() + 60
        while not list(world.runs.glob("journey/*/log.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.05)
        shown = refused("sweep", "journey.yaml")
    finally:
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=120)

    assert f"held by process {first.pid}" in shown
    assert first.returncode == 130


def test_a_checkpoint_of_another_run(refused, world, undisturbed):
    shutil.copytree(undisturbed.runs, world.runs)
    one, other, *_ = sorted(p.parent for p in world.runs.glob("journey/*/result.json"))
    for run in (one, other):
        (run / "result.json").unlink()
    place = one / "checkpoints/step-00000001"
    place.mkdir(parents=True)
    (place / "meta.json").write_text(f'{{"spec": "{other.name}", "step": 1}}')
    (place / "state.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")

    shown = refused("sweep", "journey.yaml", "--no-timing", process=True)
    assert f"belongs to run {other.name}, not to {one.name}" in shown


def test_a_disk_that_fills_up(refused, world):
    with mounted(world.runs, "size=96k"):
        shown = refused("sweep", "journey.yaml", *SMALL, process=True)

        assert "No space left on device" in shown
        assert "run the same command to resume" in shown
    again = world("sweep", "journey.yaml", *SMALL)
    assert again.returncode == 0, again.stderr


def test_a_disk_that_fills_up_under_the_corpus(refused, world):
    small = world.path / "small"
    with mounted(small, "size=16k"):
        world.environ["SCALELAB_CACHE"] = str(small)
        assert "No space left on device" in refused("data", "journey.yaml", process=True)


def test_a_disk_that_may_not_be_written(refused, world):
    with mounted(world.runs, "ro"):
        shown = refused("sweep", "journey.yaml")
    assert "Read-only file system" in shown


def test_help_is_there_at_once_and_loads_nothing_heavy(world):
    done = world("--help")
    code = "import scalelab.cli.main as c, sys; c.main(['--help'])"
    code = f"import sys\ntry:\n  exec({code!r})\nexcept SystemExit: print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=world.environ, check=True
    )

    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout
    assert not HEAVY & {name.partition(".")[0] for name in loaded.stdout.split()}


def test_every_command_explains_itself(world):
    for command in COMMANDS:
        assert in_process(world, command, "--help").stdout.startswith("usage: scalelab " + command)


def test_a_setting_that_the_device_cannot_follow_is_refused_before_a_run_begins(refused, world, capfd):
    shown = refused("sweep", "journey.yaml", "--set", "recipe.attention=flash3")

    assert "attention is flash3, and FlashAttention-3 needs a GPU" in shown
    assert "where: the device " in shown
    assert "set `attention: auto`" in shown
    assert capfd.readouterr().err == ""  # of the process that times
    assert not [path for path in world.runs.glob("journey/*") if path.is_dir()]
