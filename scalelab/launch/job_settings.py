"""Settings of a launched run's processes, in addition to its spec."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self, get_args

from scalelab.config import YamlDocument
from scalelab.errors import ConfigError, LaunchError
from scalelab.hardware.layout import Layout
from scalelab.jobs.record import JOB, path_of
from scalelab.jobs.settings import LaunchConfig
from scalelab.sealed import Damaged, typed
from scalelab.train.process_timeouts import ProcessTimeouts
from scalelab.train.run_directory import RunDir
from scalelab.train.stability import Stability

GRADIENT_SUMS = get_args(LaunchConfig.model_fields["gradient_sums"].annotation)
"""Values of the setting of this name, the default first."""


@dataclass(frozen=True)
class _SettingsRecord:
    """Settings as JSON types."""

    layout: dict[str, Any]
    checkpoint_s: float | None
    stall_timeout_s: float
    stability: dict[str, Any]
    timeouts: dict[str, Any] = field(default_factory=dict)
    """Absent from records of before these were settings; then the defaults hold."""
    gradient_sums: str = GRADIENT_SUMS[0]
    """Likewise."""


@dataclass(frozen=True)
class FinalSettings:
    """Layout and supervision of a launched run. None of these settings changes its result."""

    layout: Layout
    checkpoint_s: float | None
    """Seconds between checkpoints; None: as often as costs little time."""
    stall_timeout_s: float
    """Seconds without a step after which a process ends itself."""
    stability: Stability
    timeouts: ProcessTimeouts
    gradient_sums: str
    """One of GRADIENT_SUMS: how often several processes sum their gradients."""

    @classmethod
    def of(cls, layout: Layout, config: LaunchConfig) -> Self:
        """Return the settings for a layout and a launch config."""
        return cls(
            layout,
            config.checkpoint_s,
            config.heartbeat_timeout_s,
            config.stability,
            config.timeouts,
            config.gradient_sums,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON types."""
        return {
            "layout": asdict(self.layout),
            "checkpoint_s": self.checkpoint_s,
            "stall_timeout_s": self.stall_timeout_s,
            "stability": self.stability.model_dump(mode="json"),
            "timeouts": self.timeouts.model_dump(mode="json"),
            "gradient_sums": self.gradient_sums,
        }

    @classmethod
    def read(cls, settings: Mapping[str, Any], run_dir: RunDir) -> Self:
        """Return the settings stored in a job's record.

        Raises:
            LaunchError: The stored settings are damaged.
        """
        place = path_of(run_dir)
        try:
            record = typed(_SettingsRecord, dict(settings))
            for name in ("checkpoint_s", "stall_timeout_s"):
                value = getattr(record, name)
                if value is not None and not 0 < value < float("inf"):
                    raise Damaged(f"{name} is {value}")
            if record.gradient_sums not in GRADIENT_SUMS:
                raise Damaged(f"gradient_sums is {record.gradient_sums!r:.40}")
            layout = typed(Layout, record.layout)
            stability = Stability.parse(YamlDocument(place.name, record.stability))
            timeouts = ProcessTimeouts.parse(YamlDocument(place.name, record.timeouts))
        except Damaged as damage:
            raise JOB.refusal(place, damage) from None
        except (ConfigError, LaunchError) as error:
            raise JOB.refusal(place, error.problem) from None
        return cls(
            layout, record.checkpoint_s, record.stall_timeout_s, stability, timeouts, record.gradient_sums
        )
