"""The mistakes a person can mend, and how we tell them.

Every message answers three questions in this order: what is wrong, with its value;
where it was found; what to do next. An error that ends an estimate carries the estimate
as `evidence`, so that a caller may look at it and cannot mistake it for a result.
Whatever is not a ScalelabError is our own bug and keeps its traceback.
"""


class ScalelabError(Exception):
    """A problem that the person at the keyboard can solve. Printed without a traceback."""

    def __init__(self, problem: str, *, where: str, fix: str, evidence: object = None):
        super().__init__(f"{problem}\n  where: {where}\n  fix:   {fix}")
        self.problem, self.where, self.fix = problem, where, fix
        self.evidence = evidence

    def __reduce__(self):
        # Errors cross process borders; the default pickling would forget the keywords.
        return _rebuild, (type(self), self.problem, self.where, self.fix)


def _rebuild(kind: type[ScalelabError], problem: str, where: str, fix: str) -> ScalelabError:
    return kind(problem, where=where, fix=fix)


class ConfigError(ScalelabError):
    """A YAML file or an override says something that we cannot accept."""


class DataError(ScalelabError):
    """Documents, tokens or a run table are missing, malformed or too few."""


class RunError(ScalelabError):
    """A run directory cannot be written, or does not hold what its name says."""


class LaunchError(ScalelabError):
    """A job could not be started, or its place is taken."""


class TrackError(ScalelabError):
    """The run table or the MLflow mirror cannot be read or written."""


class FitError(ScalelabError):
    """The runs cannot pin down the law that was asked for."""


class PlanError(ScalelabError):
    """A plan that no model, budget or device can meet."""
