"""Accelerators by name: how fast, how much memory, how they are joined, what they draw.

    peak_flops_per_s       dense bf16 with fp32 sums; what 2:4 sparsity doubles is never seen
    memory_bytes           as the maker says, in powers of ten; what a driver shows is a little more
    link_bytes_per_s       of one device, in one direction, among devices_per_node of them

Makers print sparse peaks first and add both directions of a link: here both are halved. A figure
that nobody could check is named in `unverified`; one that is not known is None.

Not here: prices and carbon (plan/rates.py), the device that a run finds itself on
(train/device.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scalelab.errors import PlanError
from scalelab.registry import did_you_mean
from scalelab.units import sci

GB, TB, TFLOPS = 1e9, 1e12, 1e12
PCIE_4, PCIE_5 = 31.5 * GB, 63 * GB  # 16 lanes, one direction, 128 of 130 bits
OTHER_MODELS = (" Ti", " D", " Laptop", " NVL", " SUPER", " Max-Q")
"""What follows a device's name in the name of another device."""


@dataclass(frozen=True)
class Accelerator:
    """One kind of device, as its maker describes it."""

    name: str
    """What a person calls it."""
    driver_names: tuple[str, ...]
    """Parts of what its driver calls it; none where no driver of ours does."""
    peak_flops_per_s: float
    """Dense bf16; fp16 where it has no bf16 (V100)."""
    memory_bytes: float
    bandwidth_bytes_per_s: float
    """Of its memory."""
    link_bytes_per_s: float
    """To others of its node, one direction."""
    devices_per_node: int
    """Devices that this link joins: those of a host, or of a TPU pod."""
    power_w: float | None
    """Design power; None where its maker does not say."""
    source: str
    dated: str
    """Year of the source, or the day on which it was looked up."""
    unverified: tuple[str, ...] = ()
    """Fields that were not checked against a source."""
    note: str | None = None

    def __str__(self) -> str:
        doubt = " (peak unverified)" if "peak_flops_per_s" in self.unverified else ""
        return f"{self.name}: {sci(self.peak_flops_per_s)} FLOP/s{doubt}"


_ALL = ("peak_flops_per_s", "memory_bytes", "bandwidth_bytes_per_s", "link_bytes_per_s", "power_w")
_TPU = "Google Cloud TPU documentation, docs.cloud.google.com/tpu"

# In the order in which driver names are tried: the first match wins.
_TABLE = (
    Accelerator(
        "b200", ("B200",), 2250 * TFLOPS, 180 * GB, 7.7 * TB, 900 * GB, 8, 1000,
        "NVIDIA Blackwell datasheet, dense", "2024",
        note="180 to 192 GB and 7.7 to 8 TB/s by product; the lower ones are taken",
    ),
    Accelerator(
        "h200", ("H200",), 989 * TFLOPS, 141 * GB, 4.8 * TB, 450 * GB, 8, 700,
        "NVIDIA H200 datasheet: 1,979 TFLOP/s with sparsity", "2024",
    ),
    Accelerator(
        "h100-pcie", ("H100 PCIe",), 756 * TFLOPS, 80 * GB, 2.0 * TB, PCIE_5, 8, 350,
        "NVIDIA H100 datasheet, PCIe column, halved for density; product brief PB-11133-001",
        "2022", ("peak_flops_per_s", "link_bytes_per_s"), "bridges of two are left out",
    ),
    Accelerator(
        "h100", ("H100",), 989 * TFLOPS, 80 * GB, 3.35 * TB, 450 * GB, 8, 700,
        "NVIDIA H100 datasheet, SXM column, halved for density", "2022",
    ),
    Accelerator(
        "h800", ("H800",), 989 * TFLOPS, 80 * GB, 3.35 * TB, 200 * GB, 8, 700,
        "an H100 with 400 GB/s of NVLink: aiwiki.ai/wiki/nvidia_h800 (secondary)", "2026-06-03",
        ("peak_flops_per_s", "memory_bytes", "bandwidth_bytes_per_s", "power_w"),
    ),
    Accelerator(
        "a100-40", ("A100-SXM4-40GB", "A100-PCIE-40GB"), 312 * TFLOPS, 40 * GB, 1.555 * TB,
        300 * GB, 8, 400, "NVIDIA A100 datasheet, SXM", "2020",
    ),
    Accelerator(
        "a100-80", ("A100",), 312 * TFLOPS, 80 * GB, 2.039 * TB, 300 * GB, 8, 400,
        "NVIDIA A100 datasheet, SXM", "2021",
    ),
    Accelerator(
        "v100", ("V100-SXM2-32GB",), 125 * TFLOPS, 32 * GB, 0.9 * TB, 150 * GB, 8, 300,
        "NVIDIA V100 datasheet, SXM2", "2018", _ALL,
        "the peak is fp16: it has no bf16. Another version has 16 GB",
    ),
    Accelerator(
        "mi300x", ("MI300X",), 1307 * TFLOPS, 192 * GB, 5.3 * TB, 448 * GB, 8, 750,
        "AMD Instinct MI300X datasheet", "2023", ("link_bytes_per_s",),
    ),
    Accelerator(
        "l40s", ("L40S",), 362 * TFLOPS, 48 * GB, 0.864 * TB, PCIE_4, 8, 350,
        "NVIDIA L40S datasheet, halved for density", "2023", ("link_bytes_per_s",),
    ),
    Accelerator(
        "rtx5090", ("RTX 5090",), 209.5 * TFLOPS, 32 * GB, 1.792 * TB, PCIE_5, 8, 575,
        "spheron.network (secondary): 838 TFLOP/s fp16, halved for density and for fp32 sums",
        "2026-05-20", ("peak_flops_per_s", "link_bytes_per_s"),
    ),
    Accelerator(
        "rtx4090", ("RTX 4090",), 165.2 * TFLOPS, 24 * GB, 1.01 * TB, PCIE_4, 8, 450,
        "hmc-tech.com (secondary): bf16, fp32 sums; 330 TFLOP/s with fp16 sums", "2026",
        ("link_bytes_per_s",),
    ),
    Accelerator(
        "rtx3090", ("RTX 3090",), 71 * TFLOPS, 24 * GB, 0.936 * TB, PCIE_4, 8, 350,
        "NVIDIA Ampere whitepaper, fp32 sums", "2020", _ALL,
    ),
    Accelerator(
        "tpu-v4", (), 275 * TFLOPS, 32 * 2**30, 1.2 * TB, 300 * GB, 4096, 192,
        _TPU, "2026", ("link_bytes_per_s",), "the power is the most that was measured",
    ),
    Accelerator(
        "tpu-v5e", (), 197 * TFLOPS, 16 * GB, 0.819 * TB, 200 * GB, 256, None, _TPU, "2026",
    ),
    Accelerator(
        "tpu-v5p", (), 459 * TFLOPS, 95 * GB, 2.765 * TB, 600 * GB, 8960, None, _TPU, "2026",
    ),
    Accelerator(
        "tpu-v6e", (), 918 * TFLOPS, 32 * GB, 1.638 * TB, 400 * GB, 256, None, _TPU, "2026",
    ),
)  # fmt: skip

ACCELERATORS: Mapping[str, Accelerator] = {a.name: a for a in _TABLE}
ALIASES = {"a100": "a100-80", "h100-sxm": "h100", "trillium": "tpu-v6e"}


def accelerator(name: str) -> Accelerator:
    """The accelerator that a person means: "h100", "A100 40GB", "RTX 4090", "TPU v5e".

    Raises:
        PlanError: None is called that.
    """
    known = {_plain(n): a for n, a in ACCELERATORS.items()}
    known |= {_plain(alias): ACCELERATORS[n] for alias, n in ALIASES.items()}
    key = _plain(name)
    for word in ("nvidia", "amd", "geforce", "instinct", "google", "tesla"):
        key = key.removeprefix(word)
    found = known.get(key) or known.get(key.removesuffix("gb"))
    if found is None:
        near = {a.name: a for k, a in known.items() if len(key) > 2 and (k in key or key in k)}
        hint = f"; did you mean {' or '.join(near)}?" if near else did_you_mean(key, known)
        raise PlanError(
            f"unknown accelerator {name!r}{hint}",
            where="the table of accelerators",
            fix=f"use one of: {', '.join(ACCELERATORS)}",
        )
    return found


def by_driver_name(text: str) -> Accelerator | None:
    """The accelerator that a driver names; None when we do not know it.

    A slice of a device (MIG) has not its peak, and another model has not its memory: both are
    unknown here.
    """
    if " MIG " in text:
        return None
    return next((a for a in _TABLE if any(_names(n, text) for n in a.driver_names)), None)


def peak_flops_per_s(device: str) -> float | None:
    """Dense peak of a device by its driver's name; None when we do not know it."""
    found = by_driver_name(device)
    return None if found is None else found.peak_flops_per_s


def _names(part: str, text: str) -> bool:
    before, found, after = text.partition(part)
    whole = not before[-1:].isalnum() and not after[:1].isalnum()
    return bool(found) and whole and not after.startswith(OTHER_MODELS)


def _plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())
