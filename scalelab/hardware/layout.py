"""How one run is spread over processes: by data, by shards, by tensors, by stages.

    devices = replicate x shard x tensor x pipeline x context

Nothing here decides what a run comes to: every layout takes the same batches in the same order.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from scalelab.errors import LaunchError


@dataclass(frozen=True)
class Layout:
    """One way to spread a run. Every number is 1 where it does not apply."""

    replicate: int = 1
    """Copies of the model, each on its part of the batch (data parallel)."""
    shard: int = 1
    """Processes that share one copy's weights, gradients and moments (FSDP)."""
    tensor: int = 1
    """Processes that share every matrix (tensor parallel)."""
    pipeline: int = 1
    """Processes that share the layers (pipeline parallel)."""
    context: int = 1
    """Processes that share a window of tokens (context parallel)."""
    micro_batches: int = 1
    """Parts that a process's batch is worked through in."""
    recompute: bool = False
    """Whether activations are computed again on the way back instead of kept."""
    offload: bool = False
    """Whether weights and moments lie in host memory."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or value < 1):
                raise LaunchError(
                    f"{field.name} is {value!r}", where="the layout", fix="give a whole number, 1 or more"
                )

    @property
    def devices(self) -> int:
        """Processes that it takes, one for each device."""
        return self.replicate * self.shard * self.tensor * self.pipeline * self.context

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return asdict(self)


def parse_layout(text: str, otherwise: Layout) -> Layout:
    """`replicate=2,tensor=2` as a layout; empty gives the other one.

    Raises:
        LaunchError: A word that is no axis, or a value that is no number.
    """
    if not text:
        return otherwise
    known = {f.name: f.type for f in fields(Layout)}
    values: dict[str, int | bool] = {}
    for pair in text.split(","):
        name, _, value = pair.partition("=")
        flag = name in {"recompute", "offload"}
        if name not in known or not (value in ("", "1") if flag else value.isdigit()):
            raise LaunchError(
                f"cannot read {pair!r} in the layout",
                where="--layout",
                fix=f"write it as replicate=2,tensor=2; axes: {', '.join(known)}",
            )
        values[name] = True if flag else int(value)
    return Layout(**values)
