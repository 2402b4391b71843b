"""What a person sees while waiting: progress bars on a terminal, plain lines elsewhere.

Progress goes to stderr, so that a command's answer on stdout can be piped.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items, with a progress bar named `what` while they are used up.

    Args:
        items: Whatever is being worked through.
        what: What is being done, in words ("tokenising").
        total: How many items there are; None takes len(items) or shows none.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if total is None:
        total = len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    if not console.is_terminal:
        console.print(f"{what} ...", highlight=False)
        yield from items
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
    with bar:
        yield from bar.track(items, total=total, description=what)
