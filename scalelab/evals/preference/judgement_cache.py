"""Stored verdicts: a judge is never asked the same question twice.

    {"key": "9f2c...", "verdict": 1.0, "crc": ...}    a line each, with its checksum

The key hashes position, prompt and answers. A person's verdict is written before the next question is
shown, a program's verdicts after each comparison. A file belongs to one judge; which models answered
does not matter. Truncated or damaged lines are skipped and counted, and the judge is asked again.

Not here: judges (judges/), statistics of verdicts (pairwise.py).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scalelab.evals.conversations.base import Prompt
from scalelab.evals.preference.judges.base import JudgeSession
from scalelab.files import append
from scalelab.sealed import line, read_lines


class CachedJudge:
    """A judge whose verdicts are stored.

    Args:
        open_session: Starts the judge. Called immediately if nothing is stored, so that a missing
            requirement is reported before any model answers; otherwise when a verdict is missing.
        path: File of verdicts.
        at_once: Verdicts between two writes; None: those of a whole comparison.
    """

    def __init__(self, open_session: Callable[[], JudgeSession], path: Path, at_once: int | None):
        self.path, self.at_once = path, at_once
        self.n = self.unreadable = 0
        """Verdicts requested, including stored ones, and those of them that were unreadable."""
        self._known, self.n_bad = read_verdicts(path)
        """Stored verdicts by key, and the number of lines that were skipped."""
        self._open_session = open_session
        self._session = None if self._known else open_session()

    @property
    def session(self) -> JudgeSession:
        """The session, whose count of unreadable verdicts includes stored ones, because the limit is a share of all."""
        if self._session is None:
            self._session = self._open_session()
            self._session.n += len(self._known)
            self._session.unreadable += sum(verdict is None for verdict in self._known.values())
        return self._session

    def __call__(
        self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]
    ) -> list[float | None]:
        """Return verdicts on prompts, first and second answers, as JudgeSession gives them.

        Raises:
            DataError: Too many replies of the judge could not be read.
        """
        keys = [_key(i, *each) for i, each in enumerate(zip(prompts, first, second, strict=True))]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        step = self.at_once or max(1, len(new))
        for begin in range(0, len(new), step):
            # Neighbours are judged together; positions determine the order shown to a person.
            for run in _runs(new[begin : begin + step]):
                here = slice(run[0], run[-1] + 1)
                answers = self.session(prompts[here], first[here], second[here], run[0])
                self._append([(keys[i], verdict) for i, verdict in zip(run, answers, strict=True)])
        verdicts = [self._known[key] for key in keys]
        self.n += len(verdicts)
        self.unreadable += sum(verdict is None for verdict in verdicts)
        return verdicts

    def _append(self, rows: list[tuple[str, float | None]]) -> None:
        text = "".join(line({"key": key, "verdict": verdict}) for key, verdict in rows)
        append(self.path, text, flush=True)
        self._known.update(rows)


def read_verdicts(path: Path) -> tuple[dict[str, float | None], int]:
    """Return the verdicts of a file by key, and the number of skipped lines.

    Raises:
        RunError: The file exists but cannot be read.
    """
    lines = read_lines(path)
    rows = [row for row in lines.records if _is_verdict(row)]
    n_bad = lines.n_bad + len(lines.records) - len(rows)
    return {row["key"]: row["verdict"] for row in rows}, n_bad


def _is_verdict(row: dict[str, Any]) -> bool:
    verdict = row.get("verdict", False)
    is_share = type(verdict) in (int, float) and 0 <= verdict <= 1
    return isinstance(row.get("key"), str) and (verdict is None or is_share)


def _key(place: int, prompt: Prompt, one: str, two: str) -> str:
    known = [prompt.reference, repr(prompt.task)]
    text = json.dumps([place, prompt.messages, known, one, two], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _runs(places: Sequence[int]) -> list[list[int]]:
    """Return runs of consecutive positions."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] + 1 == place:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs
