"""Accelerators by the names that people and drivers use.

Not here: the values (datasheets.py), prices and carbon (plan/cost/rates.py), the device that a run
finds itself on (hardware/device.py).
"""

from collections.abc import Mapping

from scalelab.errors import PlanError
from scalelab.hardware.accelerator import Accelerator
from scalelab.hardware.datasheets import DATASHEETS
from scalelab.registry import did_you_mean

OTHER_MODELS = (" Ti", " D", " Laptop", " NVL", " SUPER", " Max-Q", "-3e", " 144G")
"""Continuations of a driver's name that denote another model."""
ACCELERATORS: Mapping[str, Accelerator] = {a.name: a for a in DATASHEETS}
ALIASES = {
    "a100": "a100-80",
    "h100-sxm": "h100",
    "trillium": "tpu-v6e",
    "ironwood": "tpu-v7",
    "tpu7x": "tpu-v7",
    "trainium2": "trn2",
}
VENDORS = ("nvidia", "amd", "geforce", "instinct", "google", "aws", "tesla")


def plain_name(text: str) -> str:
    """Return the letters and digits of a name in lower case, without the vendor."""
    key = "".join(c for c in text.lower() if c.isalnum())
    for word in VENDORS:
        key = key.removeprefix(word)
    return key


def accelerator(name: str, described: Mapping[str, Accelerator] | None = None) -> Accelerator:
    """Return the accelerator with a name such as "h100", "A100 40GB", "RTX 4090" or "TPU v5e".

    Args:
        name: The name, with or without vendor, in any case.
        described: Further accelerators by name, which take precedence; None for none.

    Raises:
        PlanError: There is no accelerator of that name.
    """
    known = {plain_name(n): a for n, a in ACCELERATORS.items()}
    known |= {plain_name(alias): ACCELERATORS[n] for alias, n in ALIASES.items()}
    known |= {plain_name(n): a for n, a in (described or {}).items()}
    key = plain_name(name)
    found = known.get(key) or known.get(key.removesuffix("gb"))
    if found is None:
        near = {a.name: a for k, a in known.items() if len(key) > 2 and (k in key or key in k)}
        hint = f"; did you mean {' or '.join(near)}?" if near else did_you_mean(key, known)
        raise PlanError(
            f"unknown accelerator {name!r}{hint}",
            where="the table of accelerators",
            fix=f"use one of: {', '.join((*(described or ()), *ACCELERATORS))}; or describe it under "
            "`accelerators:` in a rates file (--rates)",
        )
    return found


def by_driver_name(text: str) -> Accelerator | None:
    """Return the accelerator with the name that a driver reports; None for an unknown one.

    A slice of a device (MIG) does not have its peak and another model does not have its memory:
    both are unknown here.
    """
    if " MIG " in text:
        return None
    return next((a for a in DATASHEETS if any(_matches(n, text) for n in a.driver_names)), None)


def peak_flops_per_s(device: str) -> float | None:
    """Return the dense peak of a device by its driver's name, FLOP/s; None for an unknown one."""
    found = by_driver_name(device)
    return None if found is None else found.peak_flops_per_s


def _matches(part: str, text: str) -> bool:
    before, found, after = text.partition(part)
    whole = not before[-1:].isalnum() and not after[:1].isalnum()
    return bool(found) and whole and not after.startswith(OTHER_MODELS)
