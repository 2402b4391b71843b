"""The GPU of one process among several on a machine, started by torchrun or a scheduler.

    CUDA_VISIBLE_DEVICES   GPUs of a process with LOCAL_RANK i
    unset, n on machine    the i-th of n; refused from i = n on
    empty, or none there   none: it computes on the CPU
    one                    that one: the starter has already given each process its own
    several, n             the i-th of these; refused from i = n on

On AMD HIP_VISIBLE_DEVICES, where it is set, takes the place of CUDA_VISIBLE_DEVICES: torch and HIP then
ignore the latter. Both are set, so that nothing that reads the other one sees another GPU.

The entries are indices, UUIDs of GPUs or UUIDs of MIG slices, and are passed on as they are. That no two
processes got the same one is checked when they join (refuse_shared).

Not here: what a GPU is (device.py).
"""

import os
from collections.abc import Sequence

import torch

from scalelab.errors import LaunchError

VISIBLE, LOCAL_RANK = "CUDA_VISIBLE_DEVICES", "LOCAL_RANK"
HIP_VISIBLE = "HIP_VISIBLE_DEVICES"


def visible_to_process(
    local_rank: int, shown: str | None, on_machine: int, variable: str = VISIBLE
) -> str | None:
    """Return the visible GPU of a process, for the variable that says it; None to leave it unset.

    Args:
        local_rank: Number of the process on its machine, from 0.
        shown: Value of the variable as the process found it; None if it is unset.
        on_machine: Number of GPUs that the driver reports where the variable is unset.
        variable: Name of the variable: CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES.

    Raises:
        LaunchError: More processes than GPUs.
    """
    if shown is None:
        if on_machine == 0:
            return None
        names = [str(i) for i in range(on_machine)]
    else:
        names = [name.strip() for name in shown.split(",") if name.strip()]
        if "-1" in names:  # the driver ignores what stands after it
            names = names[: names.index("-1")]
        if len(names) <= 1:
            return ",".join(names)
    if local_rank >= len(names):
        raise LaunchError(
            f"{LOCAL_RANK} is {local_rank}, and {len(names)} GPUs are visible",
            where=f"{variable} is {'unset' if shown is None else shown}",
            fix="start at most one process for each GPU of a machine, or give every process a GPU of its own "
            f"in {variable}",
        )
    return names[local_rank]


def use_own_gpu() -> None:
    """Show this process its own GPU alone, if its starter numbered it. To be called before CUDA starts.

    Raises:
        LaunchError: The number is none, or there are more processes than GPUs.
    """
    text = os.environ.get(LOCAL_RANK)
    if text is None:
        return
    if not text.isdecimal():
        raise LaunchError(
            f"{LOCAL_RANK} is {text!r}", where="the environment", fix="set it to a whole number from 0 on"
        )
    by_hip = torch.version.hip is not None and HIP_VISIBLE in os.environ
    variable = HIP_VISIBLE if by_hip else VISIBLE
    shown = os.environ.get(variable)
    on_machine = torch.cuda.device_count() if shown is None else 0
    own = visible_to_process(int(text), shown, on_machine, variable)
    if own is not None:
        os.environ.update(dict.fromkeys((variable, VISIBLE), own))


def own_gpu(index: int = 0) -> str:
    """Return the UUID of a GPU, as torch counts those that are visible; of a MIG slice that of the slice."""
    return str(torch.cuda.get_device_properties(index).uuid)


def refuse_shared(owners: Sequence[tuple[str, str]]) -> None:
    """Refuse a group of processes two of which have the same GPU.

    Args:
        owners: Machine and GPU of each process, by rank.

    Raises:
        LaunchError: Two are the same.
    """
    first: dict[tuple[str, str], int] = {}
    for rank, owner in enumerate(owners):
        if owner in first:
            machine, gpu = owner
            raise LaunchError(
                f"processes {first[owner]} and {rank} have the same GPU",
                where=f"{gpu} on {machine}",
                fix=f"give each process a GPU of its own: leave {VISIBLE} unset or list all GPUs in it, and "
                "start at most as many processes",
            )
        first[owner] = rank
