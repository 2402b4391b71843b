"""One type of accelerator: peak, memory, link, power, and the source of these values.

    peak_flops_per_s       dense bf16 with fp32 sums, without 2:4 sparsity
    memory_bytes           as published, in powers of ten; a driver reports slightly more
    link_bytes_per_s       of one device, in one direction, among devices_per_node of them

Not here: the table (datasheets.py), names and look-up (accelerators.py).
"""

from dataclasses import dataclass

from scalelab.units import sci


@dataclass(frozen=True)
class Accelerator:
    """One type of device, as its vendor describes it."""

    name: str
    """Name in this program."""
    driver_names: tuple[str, ...]
    """Parts of the name that its driver reports; empty if no supported driver reports it."""
    peak_flops_per_s: float
    """Dense bf16, FLOP/s; fp32 where the device has no bf16 (V100, T4), since runs compute in fp32 there."""
    memory_bytes: float
    bandwidth_bytes_per_s: float
    """Bandwidth of its memory, bytes per second."""
    link_bytes_per_s: float
    """Bandwidth to other devices of its node, bytes per second in one direction."""
    devices_per_node: int
    """Devices that this link joins: those of a host, a rack or a TPU pod."""
    power_w: float | None
    """Design power, watts; None where the vendor does not publish it."""
    source: str
    dated: str
    """Year of the source, or the day on which it was looked up."""
    unverified: tuple[str, ...] = ()
    """Fields that were not checked against a source."""
    note: str | None = None

    def __str__(self) -> str:
        doubt = " (peak unverified)" if "peak_flops_per_s" in self.unverified else ""
        return f"{self.name}: {sci(self.peak_flops_per_s)} FLOP/s{doubt}"
