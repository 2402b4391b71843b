"""A machine on which nothing can be compiled trains uncompiled, and its log says why."""

import subprocess

import pytest
import torch
from pretended_gpus import A100, MI300X, P100, pretend

from scalelab.errors import RunError
from scalelab.hardware import compiler
from scalelab.hardware.device import find_device
from scalelab.train import loop
from scalelab.train.engines import compilation
from scalelab.train.loop import train
from scalelab.train.run_directory import RunDir


@pytest.fixture(autouse=True)
def _afresh(monkeypatch):
    """Ask for the compiler anew, on a machine with Triton and without $CC."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiler, "find_spec", lambda name: object())
    compiler.compiler_obstacle.cache_clear()
    yield
    compiler.compiler_obstacle.cache_clear()


def without_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_working_compiler_is_no_obstacle():
    assert compiler.compiler_obstacle("C") is None
    assert compiler.compiler_obstacle("C++") is None


def test_no_compiler_is_found_before_anything_is_compiled(monkeypatch, tmp_path):
    without_compiler(monkeypatch, tmp_path)
    obstacle = compiler.compiler_obstacle("C")

    assert "no C compiler" in obstacle.problem
    assert "apt-get install g++" in obstacle.fix


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo 'x.c:1: error: no stdio' >&2; exit 1", "fails: x.c:1: error: no stdio"),
        ("exit 1", "fails: no message"),
    ],
)
def test_a_compiler_that_fails_is_no_compiler(monkeypatch, tmp_path, text, words):
    broken = script(tmp_path / "mycc", text)
    monkeypatch.setenv("CC", str(broken))
    obstacle = compiler.compiler_obstacle("C")

    assert f"the C compiler '{broken}' of $CC {words}" == obstacle.problem
    assert "unset it" in obstacle.fix


def test_a_compiler_that_hangs_or_is_not_there_is_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "LIMIT_S", 0.2)
    monkeypatch.setenv("CC", str(script(tmp_path / "mycc", "exec sleep 20")))
    assert "did not end within 0.2 s" in compiler.compiler_obstacle("C").problem

    compiler.compiler_obstacle.cache_clear()
    monkeypatch.setenv("CC", str(tmp_path / "nothing"))
    assert "cannot be run: No such file" in compiler.compiler_obstacle("C").problem


def test_missing_headers_of_python_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})

    assert f"{tmp_path}/Python.h" in compiler.compiler_obstacle("C").problem


def test_an_old_gpu_and_a_missing_triton_are_obstacles(monkeypatch):
    pretend(monkeypatch, P100)
    assert "capability 6.0, and torch.compile needs 7.0" in compiler.compile_obstacle(find_device()).problem

    pretend(monkeypatch, MI300X)
    assert compiler.compile_obstacle(find_device()) is None
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    assert "Triton is not installed" in compiler.compile_obstacle(find_device()).problem


@pytest.mark.parametrize("asked", ["auto", "off", "block", "whole"])
def test_auto_is_uncompiled_and_a_mode_by_name_refused_where_nothing_compiles(monkeypatch, tmp_path, asked):
    pretend(monkeypatch, A100)
    device = find_device()
    wanted = {"auto": "block"}.get(asked, asked)
    assert compilation.usable_mode(device, asked) == wanted
    assert compilation.compile_note(device, asked) == ""

    without_compiler(monkeypatch, tmp_path)
    compiler.compiler_obstacle.cache_clear()
    if wanted == asked != "off":
        with pytest.raises(RunError, match=f"compile is {asked}, and there is no C compiler") as refusal:
            compilation.usable_mode(device, asked)
        assert "g++" in refusal.value.fix
        assert "`compile: auto`" in refusal.value.fix
    else:
        assert compilation.usable_mode(device, asked) == "off"


def test_a_cpu_needs_a_compiler_only_for_a_mode_by_name(monkeypatch, tmp_path):
    without_compiler(monkeypatch, tmp_path)
    device = find_device()

    assert compilation.usable_mode(device, "auto") == "off"
    assert compilation.compile_note(device, "auto") == ""
    with pytest.raises(
        RunError, match=r"compile is block, and there is no C\+\+ compiler \(no \$CXX, g\+\+\)"
    ):
        compilation.usable_mode(device, "block")


def test_another_backend_needs_no_compiler(monkeypatch, tmp_path):
    without_compiler(monkeypatch, tmp_path)
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")

    assert compilation.usable_mode(find_device(), "block") == "block"


class OnTheCpu(type(find_device())):
    """A device that says that it is a GPU and computes on the CPU."""

    @property
    def torch(self):
        return torch.device("cpu")

    def synchronize(self):
        """Nothing is queued."""


def test_a_run_without_a_compiler_ends_and_says_so(monkeypatch, tmp_path, tiny_spec):
    """It would fail at its first step: every kernel needs the compiler."""
    without_compiler(monkeypatch, tmp_path)
    gpu = OnTheCpu("cuda", "Tesla T4", 16 * 2**30, (7, 5))
    monkeypatch.setattr(loop, "find_device", lambda: gpu)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    spec = tiny_spec(n_steps=4, precision="auto")
    run_dir = RunDir(tmp_path / "runs" / spec.id)
    run_dir.create(spec)

    assert train(run_dir).status == "finished"
    notes = [event["text"] for event in run_dir.events() if event["event"] == "note"]
    assert len(notes) == 2
    assert "precision auto is fp32 here: Tesla T4 (compute capability 7.5)" in notes[0]
    assert "trained uncompiled, which is slower: there is no C compiler" in notes[1]


def test_a_run_on_a_cpu_asks_for_no_compiler(monkeypatch):
    """Also where one is: it costs nothing there."""
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a compiler was run"))

    assert compilation.compile_note(find_device(), "auto") == ""
    assert compilation.usable_mode(find_device(), "auto") == "off"
