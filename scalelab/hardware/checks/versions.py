"""Versions of Python and torch, held against the ranges that scalelab declares."""

import platform
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from scalelab.hardware.finding import Finding, ok, problem, warning
from scalelab.hardware.machine import Machine

INSTALL = "install it with `pip install -e .` in its directory, so that its requirements are known"


def check_python(machine: Machine) -> Finding:
    """Check the version of Python."""
    from importlib.metadata import metadata

    here = platform.python_version()
    try:
        wanted = metadata("scalelab")["Requires-Python"] or ""
    except PackageNotFoundError:
        return warning(f"{here}; scalelab itself is not installed", INSTALL)
    if SpecifierSet(wanted).contains(here, prereleases=True):
        return ok(here)
    return problem(f"{here}, and scalelab needs {wanted}", f"make an environment with Python {wanted}")


def check_torch(machine: Machine) -> Finding:
    """Check that torch can be imported, its version, and what it was built for."""
    wanted = requirement("torch")
    try:
        import torch
    except Exception as error:  # a missing library of CUDA is an OSError, a wrong ABI an ImportError
        return problem(
            f"torch cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}",
            "install torch again for this machine: https://pytorch.org/get-started/locally",
        )
    value = f"{torch.__version__}, {_build()}"
    if wanted is not None and not wanted.specifier.contains(torch.__version__, prereleases=True):
        return problem(f"{value}; scalelab needs {wanted.specifier}", f"pip install '{wanted}'")
    return ok(value)


def requirement(name: str) -> Requirement | None:
    """Return what scalelab requires of a package, of any extra; None if nothing, or if it is not installed."""
    return next((r for r in requirements() if r.name.lower() == name.lower()), None)


def requirements() -> list[Requirement]:
    """Return everything that scalelab requires, those of extras with their marker; empty if not installed."""
    try:
        return [Requirement(text) for text in requires("scalelab") or ()]
    except PackageNotFoundError:
        return []


def installed_version(name: str) -> str | None:
    """Return the version of an installed package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _build() -> str:
    import torch

    if torch.version.cuda is not None:
        return f"built for CUDA {torch.version.cuda}"
    return "built for CPUs" if torch.version.hip is None else f"built for ROCm {torch.version.hip}"
