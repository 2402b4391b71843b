"""What the processes of a launched run are told beyond its spec: the settings of their job."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from scalelab.config import Document
from scalelab.errors import ConfigError, LaunchError
from scalelab.jobs.record import JOB, path_of
from scalelab.launch.base import LaunchConfig
from scalelab.sealed import Damaged, typed
from scalelab.train.layout import Layout
from scalelab.train.rundir import RunDir
from scalelab.train.stability import Stability


@dataclass(frozen=True)
class _Told:
    """The same in JSON types."""

    layout: dict[str, Any]
    checkpoint_s: float | None
    stall_timeout_s: float
    stability: dict[str, Any]


@dataclass(frozen=True)
class FinalSettings:
    """How a launched run is spread and looked after. Nothing here decides what it comes to."""

    layout: Layout
    checkpoint_s: float | None
    """Seconds between checkpoints; None: as often as costs little."""
    stall_timeout_s: float
    """Seconds without a step after which a process ends itself."""
    stability: Stability

    @classmethod
    def of(cls, layout: Layout, config: LaunchConfig) -> Self:
        """As a person has set them."""
        return cls(layout, config.checkpoint_s, config.heartbeat_timeout_s, config.stability)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {
            "layout": asdict(self.layout),
            "checkpoint_s": self.checkpoint_s,
            "stall_timeout_s": self.stall_timeout_s,
            "stability": self.stability.model_dump(mode="json"),
        }

    @classmethod
    def read(cls, settings: Mapping[str, Any], run_dir: RunDir) -> Self:
        """From what a job's record holds.

        Raises:
            LaunchError: They do not hold.
        """
        place = path_of(run_dir)
        try:
            told = typed(_Told, dict(settings))
            for name in ("checkpoint_s", "stall_timeout_s"):
                value = getattr(told, name)
                if value is not None and not 0 < value < float("inf"):
                    raise Damaged(f"{name} is {value}")
            layout = typed(Layout, told.layout)
            stability = Stability.parse(Document(place.name, told.stability))
        except Damaged as damage:
            raise JOB.refusal(place, damage) from None
        except (ConfigError, LaunchError) as error:
            raise JOB.refusal(place, error.problem) from None
        return cls(layout, told.checkpoint_s, told.stall_timeout_s, stability)
