"""Errors that a person can fix: the problem, where it is, and the fix.

Every message answers three questions in this order: what is wrong, with its value;
where it was found; what to do next. An error that ends an estimate carries the estimate
as `evidence`, so that a caller may look at it and cannot mistake it for a result.
Whatever is not a ScalelabError is our own bug and keeps its traceback.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from scalelab.markup import printable

INDENT = 9
"""Spaces before the second and later places of an error, which begin under the first."""


class ScalelabError(Exception):
    """A problem that the person at the keyboard can solve. Printed without a traceback."""

    exit_status: ClassVar[int] = 2
    """Exit status of the command that it ends."""

    def __init__(self, problem: str, *, where: str, fix: str, evidence: object = None):
        self.problem, self.where, self.fix = problem, where, fix
        self.evidence = evidence
        super().__init__(self.text())

    def text(self) -> str:
        """Return problem, place and fix, one a line, without characters that control a terminal."""
        text = f"{_one_line(self.problem)}\n  where: {_indented(self.where)}\n  fix:   {_one_line(self.fix)}"
        return printable(text, keep_lines=True)

    def begin_place(self, place: str) -> None:
        """Put the place of the input, such as its file, before where the problem was found."""
        self.where = f"{place}: {self.where}"
        self.args = (self.text(),)

    def __reduce__(self):
        # Errors cross process borders; the default pickling would forget the keywords.
        return _rebuild, (type(self), self.problem, self.where, self.fix)


@contextmanager
def within(place: str) -> Iterator[None]:
    """Name the input in errors of the body that do not name it.

    Args:
        place: Path of a file, or what messages call the input.

    Raises:
        ScalelabError: The body's own, with the place.
    """
    try:
        yield
    except ScalelabError as error:
        if place not in error.where:
            error.begin_place(place)
        raise


def _one_line(text: str) -> str:
    """A text without line ends: a name that holds some cannot forge another line of the message."""
    return " ".join(text.split("\n"))


def _indented(text: str) -> str:
    """Several places, each on a line of its own that begins with its indent; other line ends are spaces."""
    return re.sub(rf"\n(?! {{{INDENT}}})", " ", text)


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
