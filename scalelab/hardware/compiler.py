"""Whether torch.compile can work here: a compiler, the headers of Python, and Triton on a GPU.

torch.compile writes Triton kernels for a GPU, and Triton builds a small C module for each of them,
with $CC, else gcc, else clang. For a CPU it writes C++, for $CXX, else g++. Without that every
compiled run would fail at its first step. It is found out beforehand, by building such a module once
a process.

Not here: what is compiled (train/engines).
"""

import os
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from scalelab.hardware.device import Device

OLDEST_CAPABILITY = (7, 0)
"""Compute capability from which on torch.compile has kernels for NVIDIA GPUs (torch/utils/_triton.py)."""
LIMIT_S = 20.0
"""Seconds after which a compiler counts as broken; the module takes about 0.1 s."""
MODULE = "#include <Python.h>\nint scalelab_probe(void) { return PY_MAJOR_VERSION; }\n"
COMPILERS = {"C": ("CC", ("gcc", "clang")), "C++": ("CXX", ("g++",))}
"""Environment variable and names of the compilers of a language, in the order in which they are tried."""
SOURCES = {"C": "probe.c", "C++": "probe.cpp"}
PACKAGES = (
    "apt-get install g++ python3-dev (Debian, Ubuntu) or dnf install gcc-c++ python3-devel (Fedora, Red Hat)"
)


@dataclass(frozen=True)
class CompileObstacle:
    """What keeps torch.compile from working on a device."""

    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.problem}. To compile: {self.fix}"


def compile_obstacle(device: Device) -> CompileObstacle | None:
    """Return what keeps torch.compile from working on a device; None if it works."""
    if device.kind == "cpu":
        return compiler_obstacle("C++")
    if device.capability is not None and device.capability < OLDEST_CAPABILITY:
        need, there = _dotted(OLDEST_CAPABILITY), _dotted(device.capability)
        return CompileObstacle(
            f"{device.name} has compute capability {there}, and torch.compile needs {need} or higher",
            "use a newer GPU",
        )
    if find_spec("triton") is None:
        return CompileObstacle(
            "Triton is not installed",
            "install the build of torch for this GPU, which brings it (pytorch.org)",
        )
    return compiler_obstacle("C")


def find_compiler(language: str) -> str | None:
    """Return the compiler that torch.compile uses for C or C++; None without one."""
    variable, names = COMPILERS[language]
    return os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)


@cache
def compiler_obstacle(language: str) -> CompileObstacle | None:
    """Return what keeps the compiler of C or C++ from building a module of Python; None if it builds one."""
    compiler = find_compiler(language)
    if compiler is None:
        variable, names = COMPILERS[language]
        return CompileObstacle(
            f"there is no {language} compiler (no ${variable}, {' or '.join(names)})", PACKAGES
        )
    headers = Path(sysconfig.get_paths(scheme=_scheme())["include"])
    if not (headers / "Python.h").is_file():
        return CompileObstacle(f"the headers of Python are missing ({headers}/Python.h)", PACKAGES)
    with tempfile.TemporaryDirectory(prefix="scalelab-") as directory:
        source = Path(directory, SOURCES[language])
        source.write_text(MODULE)
        command = [compiler, str(source), "-O1", "-shared", "-fPIC", f"-I{headers}"]
        try:
            done = subprocess.run(
                [*command, "-o", str(source.with_suffix(".so"))],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return _broken(compiler, language, f"did not end within {LIMIT_S:g} s")
        except OSError as error:
            return _broken(compiler, language, f"cannot be run: {error.strerror}")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        return _broken(
            compiler, language, f"fails: {next((x for x in lines if 'error' in x), lines[0]).strip()}"
        )
    return None


def _broken(compiler: str, language: str, why: str) -> CompileObstacle:
    variable, _ = COMPILERS[language]
    if os.environ.get(variable):
        return CompileObstacle(
            f"the {language} compiler {compiler!r} of ${variable} {why}",
            f"set {variable} to the path of a working {language} compiler, or unset it",
        )
    return CompileObstacle(f"the {language} compiler {compiler} {why}", PACKAGES)


def _scheme() -> str:
    scheme = sysconfig.get_default_scheme()
    return "posix_prefix" if scheme == "posix_local" else scheme  # Debian's own has no headers


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
