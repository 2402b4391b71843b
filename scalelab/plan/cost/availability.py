"""Time that a run occupies its devices beyond training: restarts and idle time.

    occupied = training x (1 + reserve) / goodput

goodput share of the occupied time in which devices train, 0 to 1; reserve share of the training
that is repeated after failures. Both are assumed: 1 and 0 unless stated.

Source: more than 90% effective training time for Llama 3 405B, Grattafiori et al. 2024,
arXiv:2407.21783, section 3.3.4.
Not here: losses within a step, which are inside the MFU (training_time.py).
"""

from dataclasses import dataclass

from scalelab.errors import PlanError
from scalelab.plan.request import WHERE


@dataclass(frozen=True)
class Availability:
    """Goodput and restart reserve; raises PlanError if a value is out of range."""

    goodput: float = 1.0
    reserve: float = 0.0
    stated: tuple[str, ...] = ()
    """Which of them the request gives: goodput, reserve."""

    def __post_init__(self) -> None:
        if not 0.01 <= self.goodput <= 1:
            raise PlanError(
                f"--goodput is {self.goodput:g}", where=WHERE, fix="give a share from 0.01 to 1, such as 0.9"
            )
        if not 0 <= self.reserve <= 1:
            raise PlanError(
                f"--restart-reserve is {self.reserve:g}",
                where=WHERE,
                fix="give a share from 0 to 1, such as 0.05",
            )

    @classmethod
    def of(cls, goodput: float | None, reserve: float | None) -> "Availability":
        """Return the stated values; None stands for no loss."""
        given = {"goodput": goodput, "reserve": reserve}
        given = {name: value for name, value in given.items() if value is not None}
        return cls(**given, stated=tuple(given))

    @property
    def factor(self) -> float:
        """Occupied time over training time, 1 or more."""
        return (1 + self.reserve) / self.goodput

    def __str__(self) -> str:
        kinds = ["stated" if name in self.stated else "assumed" for name in ("goodput", "reserve")]
        first = f"goodput {self.goodput:g}" + (f" ({kinds[0]})" if kinds[0] != kinds[1] else "")
        return f"{first}, restart reserve {self.reserve:.3g} ({kinds[1]})"


NO_LOSS = Availability()
