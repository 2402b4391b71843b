"""One input read under a time limit, and what is wrong with the outcome.

    check(case, reader, folder) -> Outcome

Wrong are: an exception that is no ScalelabError, a refusal without a place or a fix, an answer that
differs from the known one, more than LIMIT_S seconds or LIMIT_BYTES of memory, a warning or output that
no one asked for, and a file that the reader left behind.
"""

import contextlib
import io
import os
import re
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalelab.errors import ScalelabError

LIMIT_S = 20
"""Seconds that reading any input may take on an idle core, so of processor time."""
PATIENCE = 3
"""Times the limit on the clock: a machine may be busy, and a pipe is waited for without any work."""
LIMIT_BYTES = 1_000_000_000
"""Memory that reading any input may take beside that of the program."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that a terminal acts on, and those that no terminal can print."""


@dataclass(frozen=True)
class Case:
    """One input.

    The right answer is known for some: `expected` then is a function of the answer that returns None,
    or what is wrong with it.
    """

    label: str
    name: str
    """File name, whose ending says what the file is."""
    data: bytes = b""
    make: Callable[[Path], None] | None = None
    """Makes what is not a regular file; None: the file holds `data`."""
    expected: Callable[[Any], str | None] = lambda answer: None
    must: str = ""
    """"read" or "refused" where only that is right."""
    has_lines: bool = False
    """Whether a refusal has to name a line."""
    overrides: tuple[str, ...] = ()
    """Values laid over a YAML file."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings of the reader."""

    def write(self, folder: Path) -> Path:
        """Write the input, and return its path."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.make is None:
            path.write_bytes(self.data)
        else:
            self.make(path)
        return path


@dataclass(frozen=True)
class Outcome:
    """What reading one input came to."""

    case: Case
    kind: str
    """read, refused or fault."""
    what: str
    """The message of a refusal, or what is wrong."""
    seconds: float
    answer: Any = None

    def __str__(self) -> str:
        text = f"{self.case.label}: {self.kind} in {self.seconds:.2f} s: {self.what}"
        return text.encode("utf-8", "backslashreplace").decode()


class TooSlow(BaseException):
    """Raised by the alarm; no handler of Exception catches it."""


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TooSlow after some seconds of processor time, or PATIENCE times as many on the clock."""

    def ring(*_: object) -> None:
        raise TooSlow

    timers = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, PATIENCE * seconds),
    )
    before = [signal.signal(number, ring) for number, _, _ in timers]
    for _, timer, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


@contextlib.contextmanager
def limited_memory(n_bytes: int) -> Iterator[None]:
    """Let allocations fail that need more than n_bytes of address space beside what is taken now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def check(case: Case, reader: Callable[..., Any], folder: Path, limit_s: float = LIMIT_S) -> Outcome:
    """Write one input into an empty folder, read it, and return the outcome.

    Args:
        case: The input.
        reader: Called with the path, the overrides if there are any, and the settings of the case.
        folder: Made anew; the input is all that may be in it afterwards.
        limit_s: Seconds of processor time that reading may take.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = case.write(folder)
    before = set(_names(folder))
    printed = io.StringIO()
    start = time.perf_counter()

    def outcome(kind: str, what: str, answer: Any = None) -> Outcome:
        return Outcome(case, kind, what, time.perf_counter() - start, answer)

    arguments = [path, case.overrides] if case.overrides else [path]
    try:
        with (
            alarm(limit_s),
            limited_memory(LIMIT_BYTES),
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stderr(printed),
            contextlib.redirect_stdout(printed),
        ):
            warnings.simplefilter("always")
            answer = reader(*arguments, **case.settings)
    except ScalelabError as error:
        wrong = refusal_fault(error, case, path)
        found = outcome("fault" if wrong else "refused", f"{wrong}: {error}" if wrong else str(error))
    except TooSlow:
        found = outcome("fault", f"more than {limit_s} s")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in last if "scalelab" in f.filename]
        text = str(error).split("\n")[0][:200]
        found = outcome("fault", f"{type(error).__name__}: {text} at {' < '.join(frames[:-5:-1])}")
    else:
        wrong = case.expected(answer)
        if case.must == "refused":
            wrong = wrong or "read, and it should be refused"
        found = outcome("fault" if wrong else "read", wrong or "", answer)
    if found.kind == "refused" and case.must == "read":
        found = outcome("fault", f"refused: {found.what}")
    if found.kind != "fault":
        left = set(_names(folder)) - before
        if warned:
            found = outcome("fault", f"warning: {warned[0].category.__name__}: {warned[0].message}")
        elif printed.getvalue().strip():
            found = outcome("fault", f"printed: {printed.getvalue()[:200]!r}")
        elif left:
            found = outcome("fault", f"left behind: {sorted(left)}")
    return found


def refusal_fault(error: ScalelabError, case: Case, path: Path) -> str | None:
    """Return what is wrong with a refusal; None if a person can act on it."""
    text = str(error)
    if not (error.problem and error.where and error.fix):
        return "a refusal without its three parts"
    if len(text) > 20_000:
        return f"a refusal of {len(text)} characters"
    if found := CONTROL.search(text.replace(str(path), "")):
        return f"control character {found.group()!r} in a refusal"
    named = error.where + error.problem
    is_file = not case.overrides and not {"frame", "values"} & set(case.settings)
    if is_file and path.name not in named:
        return "a refusal that does not name the file"
    if case.has_lines and not case.overrides and not re.search(r":\d+|, rows? \d", error.where):
        return "a refusal that does not name the line"
    if len(error.problem) > 1000:
        return f"a problem of {len(error.problem)} characters"
    return None


def _names(folder: Path) -> Iterator[str]:
    for root, _, files in os.walk(folder):
        yield from (os.path.join(root, name) for name in files)
