"""Whether torch.compile works for the GPUs: Triton, a C compiler and the headers of Python."""

from importlib.metadata import PackageNotFoundError, version

from scalelab.hardware.compiler import compile_obstacle, find_compiler
from scalelab.hardware.finding import Finding, ok, warning
from scalelab.hardware.machine import Machine


def check_compile(machine: Machine) -> Finding:
    """Check that a small C module can be built; on a CPU nothing is compiled."""
    if not machine.gpus:
        return ok("not needed: on a CPU nothing is compiled unless a recipe asks for it")
    obstacles = {str(o.problem): o.fix for gpu in machine.gpus if (o := compile_obstacle(gpu)) is not None}
    if obstacles:
        return warning(
            f"{'; '.join(obstacles)}; runs are trained uncompiled, which is slower",
            "; ".join(dict.fromkeys(obstacles.values())),
        )
    return ok(f"Triton {_triton()}, {find_compiler('C')} builds modules")


def _triton() -> str:
    for name in ("triton", "pytorch-triton-rocm", "triton-rocm"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"
