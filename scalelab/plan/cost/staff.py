"""People of a training run: their number, yearly cost and time.

    dollars = staff x salary x months / 12

salary in US dollars for one person and year, with everything that the employer pays. All values are
stated; the months are those in which the devices are occupied unless they are stated too.

Not here: the devices (price.py).
"""

from dataclasses import dataclass

from scalelab.errors import PlanError
from scalelab.plan.request import WHERE

DAYS_PER_MONTH = 365.25 / 12


@dataclass(frozen=True)
class Staff:
    """People who work on a run."""

    count: float
    """Number of people, in full-time equivalents."""
    salary: float
    """US dollars for one person and year."""
    months: float | None = None
    """Months of work; None for the time in which the devices are occupied."""

    def months_of(self, days: float | None) -> float:
        """Return the months of work.

        Args:
            days: Days in which the devices are occupied; None where unknown.

        Raises:
            PlanError: Neither the months nor the days are known.
        """
        if self.months is not None:
            return self.months
        if days is None:
            raise PlanError(
                "the training time is unknown, so the time of the staff is unknown",
                where=WHERE,
                fix="give it with --staff-months 12, or give the devices with --gpu and --gpus",
            )
        return days / DAYS_PER_MONTH

    def dollars(self, days: float | None) -> float:
        """Return the cost in US dollars; see months_of. Raises PlanError likewise."""
        return self.count * self.salary * self.months_of(days) / 12

    def words(self, days: float | None) -> str:
        """Return the computation in words. Raises PlanError likewise."""
        months = self.months_of(days)
        origin = "stated" if self.months is not None else "the time of the run"
        return f"{self.count:g} people x ${self.salary:,.10g} a year x {months:.3g} months ({origin})"
