"""The machine as the checks see it: each fact is read once, when a check first asks for it.

Asking torch for a GPU's properties opens a context on it, so a Machine belongs in a process that
ends soon, such as that of a command.

Not here: what the facts mean for training (checks/).
"""

import warnings
from functools import cached_property
from pathlib import Path

from scalelab.hardware.device import Device
from scalelab.hardware.nvidia_smi import SmiReport, smi_reports


class Machine:
    """This machine.

    Args:
        runs: Directory of all runs, which need not exist.
        root: Directory in which /proc, /sys and /dev are looked for; another one in tests.
    """

    def __init__(self, runs: Path, root: Path = Path("/")):
        self.runs, self.root = runs, root

    @cached_property
    def _asked(self) -> tuple[tuple[Device, ...], str]:
        import torch

        from scalelab.hardware.device import gpu

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                if torch.cuda.is_available():
                    return tuple(gpu(i) for i in range(torch.cuda.device_count())), ""
            except (RuntimeError, AssertionError) as error:
                return (), _first_line(error)
        return (), _first_line(caught[0].message) if caught else ""

    @property
    def gpus(self) -> tuple[Device, ...]:
        """GPUs that torch can use and the environment shows."""
        return self._asked[0]

    @property
    def why_no_gpu(self) -> str:
        """What torch reports about a GPU that it cannot use; empty without a report."""
        return self._asked[1]

    @cached_property
    def _smi(self) -> tuple[tuple[SmiReport, ...], str]:
        return smi_reports()

    @property
    def smi(self) -> tuple[SmiReport, ...]:
        """Reports of nvidia-smi on all NVIDIA GPUs, hidden ones included; empty without it."""
        return self._smi[0]

    @property
    def why_no_smi(self) -> str:
        """Why nvidia-smi reported nothing."""
        return self._smi[1]

    @cached_property
    def reports(self) -> tuple[SmiReport | None, ...]:
        """Report of nvidia-smi on each of `gpus`; None where no report has its identifier."""
        import torch

        by_uuid = {report.uuid: report for report in self.smi}
        properties = [torch.cuda.get_device_properties(i) for i in range(len(self.gpus))]
        return tuple(by_uuid.get(str(getattr(p, "uuid", ""))) for p in properties)

    def read(self, path: str) -> str | None:
        """Return the text of a file such as "proc/meminfo", stripped; None where it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def names(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern such as "dev/nvidia[0-9]*", relative to the root."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))


def _first_line(message: object) -> str:
    return (str(message).strip() or type(message).__name__).splitlines()[0]
