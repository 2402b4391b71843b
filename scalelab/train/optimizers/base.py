"""What every optimizer says of itself: its settings, its groups of weights, its state, its update.

An optimizer is one file with one config, which a run's spec holds. The same config may stand in a
recipe and in a stage of post-training; an optimizer whose people write something else there, such
as rates relative to each other, names other configs for these places (`recipe`, `uniform`).

No optimizer knows where weights lie. Its update is given tensors: flat buffers in one process
(flat.py), the local parts of sharded weights in many (per_weight.py).

Not here: the optimizers, rates as functions of the scale of a run (train/rules.py).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from scalelab.config import Config, NonNegative, Positive
from scalelab.errors import ConfigError
from scalelab.train.rules import Scale
from scalelab.units import sci

if TYPE_CHECKING:  # a sweep is planned without torch
    from torch import Tensor


class ParamGroup(Config):
    """Weights that are updated alike. An optimizer may add fields of its own."""

    match: str
    """Weights of the group, as a glob over role/name, such as "embedding/*" or "*/blocks.0.*". Roles
    are those of the network's kinds()."""
    lr: NonNegative
    """Peak rate."""
    weight_decay: NonNegative = 0.0
    eps: Positive | None = Field(None, json_schema_extra={"since": 2})
    """eps of the group, for optimizers that have one; None: that of the optimizer."""


class Optimizer(Config):
    """One way to update weights, every setting decided. The base of all members of OPTIMIZERS.

    A subclass has a field `kind`, which is always its name in the registry.
    """

    kind: str
    state: ClassVar[tuple[str, ...]] = ()
    """Names of what is kept for each weight: fp32 tensors of its shape, zero at first."""
    elementwise: ClassVar[bool] = True
    """Whether each number is updated by itself, whatever the shape of its weight. Then the weights
    of a group are given as one flat tensor, or as the parts of them that are in this process."""
    is_shardable: ClassVar[bool] = True
    """Whether its update can be given weights that are spread over processes. Layouts that spread
    them are refused where not."""
    recipe: ClassVar[type[Any]]
    """What a recipe holds: a config with at(scale) and summary(). By default the class itself."""
    uniform: ClassVar[type[Any]]
    """What a stage of post-training holds: a config with spec(). By default the class itself."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for name in ("recipe", "uniform"):
            setattr(cls, name, vars(cls).get(name, cls))

    @abstractmethod
    def groups(self) -> tuple[ParamGroup, ...]:
        """Groups of weights; a weight belongs to the first that matches it."""

    @abstractmethod
    def max_norm(self) -> float | None:
        """Norm to which a larger gradient of the whole network is clipped. None: never."""

    @abstractmethod
    def update(
        self,
        weights: "list[Tensor]",
        gradients: "list[Tensor]",
        state: "Mapping[str, list[Tensor]]",
        *,
        group: ParamGroup,
        lr: float,
        step: int,
    ) -> None:
        """Change weights and state in place.

        Args:
            weights: Of one group, fp32.
            gradients: Of the same shapes, clipped, fp32. May be overwritten.
            state: By name in `state`, a tensor like each weight.
            group: The group, with its decay.
            lr: Its rate in this update.
            step: Number of this update, from 1.
        """

    @abstractmethod
    def rates(self) -> dict[str, float]:
        """Peak rates that the log shows, by name. "lr" is the one that is plotted."""

    def with_rates_times(self, factor: float) -> Self:
        """Return the optimizer with every peak rate multiplied. Decays, which the rate multiplies, stay.

        Raises:
            ConfigError: No setting is a rate by its name: `lr`, or one that begins with `lr_`.
        """
        names = [name for name in type(self).model_fields if name == "lr" or name.startswith("lr_")]
        if not names:
            raise ConfigError(
                f"the optimizer {self.kind} has no rate that could be multiplied",
                where="recipe.optimizer",
                fix="name its rates `lr` or `lr_...`, or let it define with_rates_times",
            )
        return self.model_copy(update={name: getattr(self, name) * factor for name in names})

    def words(self) -> str:
        """The settings in a line, for a plan."""
        set_ = {k: v for k, v in self.model_dump().items() if isinstance(v, int | float)}
        return f"{self.kind}: {', '.join(f'{name} {value:.3g}' for name, value in set_.items())}"

    def state_bytes(self, n_params: int) -> int:
        """Bytes of state of so many weights."""
        return 4 * len(self.state) * n_params

    def at(self, scale: Scale) -> Self:
        """As a recipe's part: the same at every scale, but for numbers given as rules."""
        del scale
        return self

    def summary(self) -> str:
        """As a recipe's part, in a few words."""
        return ", ".join((self.kind, *(f"{k} {sci(v)}" for k, v in self.rates().items())))

    def spec(self) -> Self:
        """As a part of a stage of post-training: itself."""
        return self


def grouped(groups: Sequence[ParamGroup], kinds: Mapping[str, str]) -> list[tuple[ParamGroup, list[str]]]:
    """Groups that have weights, each with the names of its weights.

    Args:
        groups: In the order in which they are tried.
        kinds: The role of each weight by name; the order stays within a group.

    Raises:
        ConfigError: No group matches a weight.
    """
    members: list[list[str]] = [[] for _ in groups]
    for name, kind in kinds.items():
        weight = f"{kind}/{name}"
        for group, its in zip(groups, members, strict=True):
            if fnmatchcase(weight, group.match):
                its.append(name)
                break
        else:
            raise ConfigError(
                f"no group of the optimizer matches the weight {weight}",
                where=f"the groups: {', '.join(group.match for group in groups)}",
                fix='add a group with a `match` of this weight, or a last one that matches "*"',
            )
    return [(group, its) for group, its in zip(groups, members, strict=True) if its]
