"""Output to people: lines, questions, and progress bars while they wait.

Everything that is printed passes `echo` or `ask`, which replace characters that control a terminal:
names, questions and data are written by others. Progress goes to stderr, so that a command's answer
on stdout can be piped.

Not here: documents (report/), the live view of jobs (jobs/view.py).
"""

from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from scalelab.markup import printable

T = TypeVar("T")


def echo(text: object = "", *, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print text on stdout, or on another stream, with control characters replaced. Lines stay.

    Args:
        text: What to print.
        end: What comes behind it.
        file: Another stream; None: stdout.
        flush: Whether it is shown at once.
    """
    print(printable(str(text), keep_lines=True), end=end, file=file, flush=flush)


def ask(question: str) -> str:
    """Return the line that a person types behind a question. Raises EOFError if the terminal was closed."""
    return input(printable(question))


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
        console.print(f"{printable(what)} ...", highlight=False, markup=False, emoji=False, soft_wrap=True)
        yield from items
        return
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
    with bar:
        yield from bar.track(items, total=total, description=printable(what))


def note(text: str) -> None:
    """Print one line on stderr, beside the progress."""
    from rich.console import Console

    console = Console(stderr=True)
    console.print(printable(text), highlight=False, markup=False, emoji=False, soft_wrap=True)
