"""GPUs by the properties that a driver reports, in the place of torch's own questions to it.

Nothing here computes on them: what is tested is what the program concludes from the answers.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from scalelab.hardware.device import probe
from scalelab.jobs.executors import local, local_devices

GIB = 2**30


@dataclass(frozen=True)
class PretendedGpu:
    """One GPU as torch.cuda.get_device_properties describes it."""

    name: str
    major: int
    minor: int
    total_memory: int
    gcnArchName: str = ""  # noqa: N815 - torch's name
    uuid: str = "00000000-0000-0000-0000-000000000000"


V100 = PretendedGpu("Tesla V100-SXM2-32GB", 7, 0, 32 * GIB)
T4 = PretendedGpu("Tesla T4", 7, 5, 15 * GIB)
A100 = PretendedGpu("NVIDIA A100-SXM4-80GB", 8, 0, 80 * GIB)
L40S = PretendedGpu("NVIDIA L40S", 8, 9, 48 * GIB)
H100 = PretendedGpu("NVIDIA H100 80GB HBM3", 9, 0, 80 * GIB)
MIG = PretendedGpu("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9, 0, 10 * GIB)
P100 = PretendedGpu("Tesla P100-SXM2-16GB", 6, 0, 16 * GIB)
MI300X = PretendedGpu("AMD Instinct MI300X", 9, 4, 192 * GIB, "gfx942:sramecc+:xnack-")
MI50 = PretendedGpu("AMD Instinct MI50", 9, 0, 16 * GIB, "gfx906:sramecc+:xnack-")
KERNELS = {
    "cuda": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"],
    "hip": ["gfx90a", "gfx942", "gfx950", "gfx1100"],
}
"""Architectures of a build of torch, as torch.cuda.get_arch_list names them."""


def pretend(monkeypatch, *gpus: PretendedGpu) -> None:
    """Let torch report these GPUs; those with gcnArchName by a build for ROCm, others for CUDA."""
    amd = bool(gpus and gpus[0].gcnArchName)
    monkeypatch.setattr(torch.version, "cuda", None if amd else "12.8")
    monkeypatch.setattr(torch.version, "hip", "6.4" if amd else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index=0: gpus[index])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: KERNELS["hip" if amd else "cuda"])
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 5))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)


class Idle:
    """A process that was started and never ends."""

    pid = exitcode = None

    def __init__(self, **arguments):
        self.environ = arguments["args"][1]

    def kill(self):
        pass

    def is_alive(self):
        return False

    def join(self, limit_s=None):
        pass

    close = join


def pretend_to_start(monkeypatch, *gpus: PretendedGpu) -> list[Idle]:
    """Return the processes that the local executor starts on these GPUs, of which none does anything."""
    processes: list[Idle] = []
    pretend(monkeypatch, *gpus)
    end = SimpleNamespace(close=lambda: None, poll=lambda limit_s=0: False)
    context = SimpleNamespace(Process=Idle, Pipe=lambda **_: (end, end))
    devices = probe()
    for name in (local_devices.CUDA_DEVICES, local_devices.HIP_DEVICES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(local, "fork_server", lambda preload: context)
    monkeypatch.setattr(local, "devices_here", lambda context: devices)
    monkeypatch.setattr(local, "start", processes.append)
    monkeypatch.setattr(local, "write_record", lambda job, threads: None)
    return processes
