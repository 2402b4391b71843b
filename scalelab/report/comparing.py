"""Models held against a baseline and against one another, by a judge, on the same prompts.

Not here: the statistics (the evals room), which measurements there are (measuring.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.asking import ask
from scalelab.evals.battles import Battles
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations import Prompt
from scalelab.evals.elo import elo
from scalelab.evals.evalfile import PairwiseSpec
from scalelab.evals.judgments import Judgments
from scalelab.evals.pairwise import length_controlled, positions, verbosity, win_rate
from scalelab.evals.ranking import bradley_terry
from scalelab.evals.verdicts import KeptVerdicts
from scalelab.report.measured import Measured


class Comparing:
    """One set of comparisons.

    Args:
        spec: What is asked for.
        paths: Directory of each model.
        model: The model of a directory.
        judges: Directory of each model that the judge is made from, by the judge's name for it.
        verdicts: Where the judge's verdicts are kept.
        seed: Of answers that are drawn, and of the order that a person sees.
        tell: Hears of damage.
    """

    def __init__(
        self,
        spec: PairwiseSpec,
        paths: Mapping[str, Path],
        model: Callable[[Path], Checkpoint],
        judges: Mapping[str, Path],
        verdicts: Path,
        seed: int,
        tell: Callable[[str], None] = lambda said: None,
    ):
        self.tell = tell
        self.spec, self.paths, self.model, self.judges = spec, paths, model, judges
        self.verdicts, self.seed = verdicts, seed

    def everything(self) -> Iterator[Measured]:
        """Win rates over the baseline, what the judge makes of order and length, rankings.

        Raises:
            DataError: There are no prompts, or fewer than two models converse.
        """
        spec, level = self.spec, self.spec.level
        prompts = next(iter(spec.data.tests(spec.prompts).values()), [])
        if not prompts:
            raise DataError(
                "there are no held-out prompts to compare models on",
                where=f"pairwise.data: {spec.data.model_dump_json()}",
                fix="name test files (test: [...])",
            )
        court = KeptVerdicts(
            lambda: spec.judge.court(spec.data, self.judges, self.seed),
            self.verdicts, spec.judge.at_once(),
        )  # fmt: skip
        if court.n_bad:
            self.tell(f"{self.verdicts.name}: skipped {court.n_bad} damaged lines; what they held "
                      "is judged again")  # fmt: skip
        silent = [n for n, path in self.paths.items() if self.model(path).chat is None]
        for name in silent:
            yield Measured("pairwise", name, None, {},
                           f"{name} does not converse, so it is held against nobody")  # fmt: skip
        speaking = [name for name in self.paths if name not in silent]
        if spec.baseline in silent or len(speaking) < 2:
            raise DataError(
                f"{len(speaking)} of {len(self.paths)} models converse, and the baseline "
                + ("does not" if spec.baseline in silent else "is one of them"),
                where="pairwise",
                fix="name at least two models that have been through SFT, the baseline among them",
            )
        answers = {name: self._answers(name, prompts) for name in speaking}

        def judged(one: str, other: str, ours: Sequence[str], theirs: Sequence[str]) -> Judgments:
            verdict = court(prompts, ours, theirs)
            swapped = court(prompts, theirs, ours) if spec.swapped else None
            known = [
                i for i, v in enumerate(verdict)
                if v is not None and (swapped is None or swapped[i] is not None)
            ]  # fmt: skip
            return Judgments(
                one, other, np.array(known), np.array([verdict[i] for i in known], float),
                np.array([len(ours[i].split()) for i in known]),
                np.array([len(theirs[i].split()) for i in known]),
                None if swapped is None else np.array([1 - swapped[i] for i in known], float),
                length_unit="words",
            )  # fmt: skip

        battles: list[tuple[str, str, float]] = []
        for one, other in combinations(speaking, 2):
            first, second = (other, one) if one == spec.baseline else (one, other)
            judgments = judged(first, second, answers[first], answers[second])
            battles += [(first, second, float(v)) for v in judgments.preference]
            if second == spec.baseline:
                yield _won(judgments, level)
                if spec.swapped:
                    seen = positions(judgments, level=level)
                    yield Measured("positions", f"{first} over {second}", None,
                                   {"consistent": seen.consistent,
                                    "first_place": seen.first_share.value},
                                   seen.summary())  # fmt: skip
        if spec.concise is not None:
            yield from self._verbosity(prompts, judged, answers)
        if battles:
            yield from _ranked(battles, level, self.seed)
        if court.unreadable:
            yield Measured("judge", "unreadable", None, {"unreadable": court.unreadable},
                           f"{court.unreadable} of {court.n} verdicts could not be read and are "
                           "left out [measured]")  # fmt: skip

    def _verbosity(
        self, prompts: Sequence[Prompt], judged: Any, answers: Mapping[str, Sequence[str]]
    ) -> Iterator[Measured]:
        """The same model told to be brief and to be wordy, against the baseline."""
        spec, baseline = self.spec, answers[self.spec.baseline]
        for name in answers:
            if name == spec.baseline:
                continue
            both = []
            for said in (spec.concise, spec.verbose):
                asked = [
                    Prompt(({"role": "system", "content": said}, *p.messages), p.reference, p.task)
                    for p in prompts
                ]
                ours = self._answers(name, asked)
                both.append(judged(f"{name}, told {said!r}", spec.baseline, ours, baseline))
            try:
                found = verbosity(*both, level=spec.level)
            except DataError as error:
                # A model may not heed the instruction: that is a finding, not a mistake.
                yield Measured("verbosity", name, None, {}, f"{name}: {error.problem}")
                continue
            yield Measured(
                "verbosity", name, None,
                {"raw_gain": found.raw_gain, "lc_gain": found.lc_gain,
                 "length_ratio": found.length_ratio},
                found.summary(),
            )  # fmt: skip

    def _answers(self, name: str, prompts: Sequence[Prompt]) -> list[str]:
        model = self.model(self.paths[name])
        return ask(model, prompts, temperature=self.spec.temperature, seed=self.seed)[0]


def _won(judgments: Judgments, level: float) -> Measured:
    raw = win_rate(judgments, level=level)
    values = {"win_rate": raw.share.value}
    words = raw.summary()
    try:
        fair = length_controlled(judgments, level=level)
        values["length_controlled"] = fair.share.value
        words += "\n" + fair.summary()
    except DataError as error:  # all pairs differ by the same length: nothing to control for
        words += f"\nno length-controlled win rate: {error.problem}"
    return Measured("pairwise", f"{judgments.model} over {judgments.baseline}", None, values, words)


def _ranked(
    battles: Sequence[tuple[str, str, float]], level: float, seed: int
) -> Iterator[Measured]:
    fought = Battles.of(battles)
    rated = bradley_terry(fought, level=level, seed=seed)
    values = dict(zip(fought.names, rated.rating.tolist(), strict=True))
    yield Measured("ranking", "Bradley-Terry", None, values, rated.summary())
    online = elo(fought, seed=seed)
    values = dict(zip(fought.names, online.rating.tolist(), strict=True))
    yield Measured("ranking", "Elo", None, values, online.summary())
