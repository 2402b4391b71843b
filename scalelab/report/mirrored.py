"""What a report says where MLflow does not take it: the report itself stands on the disk."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from scalelab.errors import TrackError


@contextmanager
def or_later(what: str) -> Iterator[None]:
    """Do this, or warn that MLflow lacks `what` and say how it comes there."""
    try:
        yield
    except TrackError as error:
        print(f"warning: {what} is not in MLflow yet: {error.problem}", file=sys.stderr)
        print(f"  fix:   {error.fix}", file=sys.stderr)
