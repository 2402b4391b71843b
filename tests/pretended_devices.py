"""GPUs that compute: devices for every decision of the program, whose tensors are on the CPU.

Not here: the answers of a driver (pretended_gpus.py).
"""

import torch
from pretended_gpus import GIB

from scalelab.hardware.device import Device


class PretendedDevice(Device):
    """A GPU for every decision of the program, whose tensors are on the CPU."""

    @property
    def torch(self):
        return torch.device("cpu")

    def synchronize(self):
        """A CPU queues nothing."""


H100 = PretendedDevice("cuda", "NVIDIA H100 80GB HBM3", 80 * GIB, (9, 0))
T4 = PretendedDevice("cuda", "Tesla T4", 15 * GIB, (7, 5))
