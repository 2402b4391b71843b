"""A row of a benchmark, whatever happens while it is measured.

Memory that is not there, and what the program refuses on this device, are absent rows; any other error
is a failed row. The other rows are measured in both cases.
"""

from collections.abc import Callable

from scalelab.bench.base import BenchRow, absent, failed
from scalelab.bench.steps import obstacle_to_steps
from scalelab.bench.workbench import SizedSpec, Workbench
from scalelab.errors import ScalelabError
from scalelab.hardware.device import Device, OutOfMemory, free_cached_memory, reason_of


def attempt(name: str, device: Device, measure: Callable[[], BenchRow]) -> BenchRow:
    """Return the row that a function measures, or the row that says why there is none.

    Args:
        name: Name of the row.
        device: Device whose cached memory is released afterwards.
        measure: Returns the row.
    """
    try:
        return measure()
    except OutOfMemory as error:
        return absent(name, f"it does not fit into memory: {reason_of(error)}")
    except ScalelabError as error:
        return absent(name, error.problem)
    except Exception as error:  # of a driver, a compiler or a kernel: the other rows are still wanted
        return failed(name, error_text(error))
    finally:
        free_cached_memory(device)


def attempt_steps(
    bench: Workbench,
    sized: SizedSpec,
    ends: float,
    measure: Callable[[Workbench, SizedSpec, float], BenchRow],
) -> BenchRow:
    """Return the row of a model that is trained for some steps; absent if memory or time do not allow it.

    Args:
        bench: Device, models and directory.
        sized: The model, whose name is that of the row.
        ends: Time limit on the clock of time.monotonic.
        measure: Returns the row of the model within the limit.
    """
    reason = obstacle_to_steps(sized.spec, bench.device, bench.matmul_flops_per_s, ends)
    if reason:
        return absent(sized.name, reason)
    return attempt(sized.name, bench.device, lambda: measure(bench, sized, ends))


def error_text(error: BaseException) -> str:
    """Return the type of an error and the first line of its message that has words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
