"""Verdicts on the disk as they are given: what a judge has said once it is not asked again.

    {"key": "9f2c...", "verdict": 1.0, "crc": ...}    a line each, with its checksum

The key hashes place, prompt and answers. A person's verdict is written before the next question is
shown, those of a program comparison by comparison. Where the file is, its judge is the same; which
models answered does not matter. A line that is torn or damaged is skipped and counted, and the
judge is asked again.

Not here: judges (judges/), what is made of verdicts (pairwise.py).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scalelab.evals.conversations import Prompt
from scalelab.evals.judges.base import Court
from scalelab.files import append
from scalelab.sealed import line, read_lines


class KeptVerdicts:
    """A judge whose verdicts are kept.

    Args:
        open_court: Makes the judge. Called at once where nothing is kept, so that what it lacks is
            said before any model has answered; else where a verdict is missing.
        path: Where its verdicts stand, and will.
        at_once: Verdicts to ask for before they are written. None: those of a comparison.
    """

    def __init__(self, open_court: Callable[[], Court], path: Path, at_once: int | None):
        self.path, self.at_once = path, at_once
        self.n = self.unreadable = 0
        """Verdicts that were asked for, kept ones among them, and those that say nothing."""
        self._known, self.n_bad = kept_in(path)
        """What is kept; and lines of the file that were skipped."""
        self._open_court = open_court
        self._court = None if self._known else open_court()

    @property
    def court(self) -> Court:
        """The judge at work, who answers for what is kept too: half of it may be unreadable."""
        if self._court is None:
            self._court = self._open_court()
            self._court.n += len(self._known)
            self._court.unreadable += sum(said is None for said in self._known.values())
        return self._court

    def __call__(
        self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]
    ) -> list[float | None]:
        """Verdicts on prompts, first and second answers, as Court gives them.

        Raises:
            DataError: The judge's words could not be read too often.
        """
        keys = [_key(i, *each) for i, each in enumerate(zip(prompts, first, second, strict=True))]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        step = self.at_once or max(1, len(new))
        for begin in range(0, len(new), step):
            # What stands side by side is asked together; places decide the order that is shown.
            for run in _runs(new[begin : begin + step]):
                here = slice(run[0], run[-1] + 1)
                said = self.court(prompts[here], first[here], second[here], run[0])
                self._append([(keys[i], verdict) for i, verdict in zip(run, said, strict=True)])
        verdicts = [self._known[key] for key in keys]
        self.n += len(verdicts)
        self.unreadable += sum(verdict is None for verdict in verdicts)
        return verdicts

    def _append(self, rows: list[tuple[str, float | None]]) -> None:
        text = "".join(line({"key": key, "verdict": said}) for key, said in rows)
        append(self.path, text, flush=True)
        self._known.update(rows)


def kept_in(path: Path) -> tuple[dict[str, float | None], int]:
    """Verdicts of a file by key, and how many of its lines were skipped.

    Raises:
        RunError: The file is there and cannot be read.
    """
    lines = read_lines(path)
    rows = [row for row in lines.records if _is_verdict(row)]
    n_bad = lines.n_bad + len(lines.records) - len(rows)
    return {row["key"]: row["verdict"] for row in rows}, n_bad


def _is_verdict(row: dict[str, Any]) -> bool:
    said = row.get("verdict", False)
    is_share = type(said) in (int, float) and 0 <= said <= 1
    return isinstance(row.get("key"), str) and (said is None or is_share)


def _key(place: int, prompt: Prompt, one: str, two: str) -> str:
    known = [prompt.reference, repr(prompt.task)]
    said = json.dumps([place, prompt.messages, known, one, two], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _runs(places: Sequence[int]) -> list[list[int]]:
    """Places split where one does not follow on the other."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] + 1 == place:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs
