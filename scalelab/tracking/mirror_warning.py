"""Warning that a report is not in MLflow; the report itself is on the disk."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from scalelab.errors import RunError, TrackError
from scalelab.screen import echo


@contextmanager
def warn_if_not_mirrored(what: str) -> Iterator[None]:
    """Run the body, or warn that MLflow lacks `what` and how to add it.

    A record beside the runs that cannot be written is such a reason too.
    """
    try:
        yield
    except (RunError, TrackError) as error:
        echo(f"warning: {what} is not in MLflow yet: {error.problem}", file=sys.stderr)
        echo(f"  fix:   {error.fix}", file=sys.stderr)
