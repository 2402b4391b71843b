"""Verdicts on the disk as they are given: what a judge has said once it is not asked again.

    {"key": "9f2c...", "verdict": 1.0}      a line each; the key hashes place, prompt and answers

A person's verdict is written before the next question is shown, those of a program comparison by
comparison. Where the file is, its judge is the same; which models answered does not matter. A line
that a killed writer began is cut off.

Not here: judges (judges.py), what is made of verdicts (pairwise.py).
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from scalelab.errors import DataError
from scalelab.evals.conversations import Prompt
from scalelab.evals.judges import Court
from scalelab.files import append, writing


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
        self._known = self._read()
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
        text = "".join(json.dumps({"key": key, "verdict": said}) + "\n" for key, said in rows)
        append(self.path, text, flush=True)
        self._known.update(rows)

    def _read(self) -> dict[str, float | None]:
        if not self.path.exists():
            return {}
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with writing(self.path):
                os.truncate(self.path, len(whole))
        try:
            rows = [json.loads(line) for line in whole.splitlines()]
            return {row["key"]: row["verdict"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"kept verdicts cannot be read: {error!r}",
                where=str(self.path),
                fix="restore the file, or delete it and judge again",
            ) from error


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
