"""One branch of a trunk: its directory, its spec, and whether it needs the trunk still.

Plans of sweeps read it, so torch is not imported here. Not here: how a trunk serves its branches (trunk.py).
"""

from dataclasses import dataclass

from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunSpec


@dataclass(frozen=True)
class Branch:
    """One run that leaves a trunk."""

    dir: RunDir
    spec: RunSpec

    @property
    def step(self) -> int:
        """Steps after which it leaves the trunk."""
        return self.spec.branch_step or 0

    @property
    def is_served(self) -> bool:
        """Whether it needs the trunk no more: it has its result, or a checkpoint from where it leaves or later."""
        return self.dir.is_done or self.dir.last_checkpoint >= self.step
