"""The measurement `pairwise`: models against a baseline and one another, on the same prompts.

Win rates, raw and at equal lengths; what the judge makes of the order and the length of answers;
rankings.

Not here: the statistics (evals/pairwise.py, ranking.py, elo.py), judges (evals/judges/).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from scalelab.config import Config, Count, Fraction, Switch, plugin
from scalelab.errors import DataError
from scalelab.evals import CONVERSATIONS, JUDGES
from scalelab.evals.asking import ask
from scalelab.evals.battles import Battles
from scalelab.evals.conversations import Prompt
from scalelab.evals.elo import elo
from scalelab.evals.inputs import Input, contents
from scalelab.evals.judgments import Judgments
from scalelab.evals.measurements.base import (
    Bench,
    Kind,
    Measured,
    Measurement,
    Piece,
    piece_id,
)
from scalelab.evals.pairwise import length_controlled, positions, verbosity, win_rate
from scalelab.evals.ranking import bradley_terry
from scalelab.evals.verdicts import KeptVerdicts


class PairwiseSpec(Config):
    """Every model against one, on the same prompts, by a judge."""

    baseline: str
    """The model that the others are held against."""
    data: plugin(CONVERSATIONS)
    """Where the prompts come from: its first test set."""
    judge: plugin(JUDGES)
    prompts: Count = 200
    temperature: float = Field(0.0, ge=0)
    """0: the likeliest answers."""
    level: Fraction = 0.95
    """Of the intervals of win rates and rankings."""
    swapped: Switch = False
    """Ask the judge in the other order too, and say how far it holds to its verdict."""
    concise: str | None = None
    verbose: str | None = None
    """Two instructions put before every prompt, such as "be brief": the same model's answers
    under both say what the judge gives for length alone. Give both or none."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.concise is None) != (self.verbose is None):
            raise ValueError("give both concise and verbose, or none")
        return self


class PairwiseMeasurement(Measurement):
    """Every model against every other one."""

    kinds: ClassVar[tuple[Kind, ...]] = (
        Kind("pairwise", "Win rates"),
        Kind("positions", "The judge and the order of answers"),
        Kind("verbosity", "What the judge gives for length"),
        Kind("judge", "The judge"),
        Kind("ranking", "Rankings"),
    )
    of_each_model: ClassVar[bool] = False
    pairwise: PairwiseSpec | None = None

    def check(self, file: Any) -> None:
        """See Measurement."""
        if self.pairwise and self.pairwise.baseline not in file.models:
            raise ValueError(
                f"pairwise.baseline {self.pairwise.baseline!r} is none of the models "
                f"({', '.join(file.models)})"
            )

    def inputs(self) -> tuple[Input, ...]:
        """What the judge is made from."""
        return () if self.pairwise is None else self.pairwise.judge.inputs()

    def describe(self, bench: Bench) -> Sequence[str]:
        """See Measurement."""
        spec = self.pairwise
        return [f"pairwise: {spec.prompts} prompts, judged by {spec.judge.kind}"]

    def pieces(self, bench: Bench, model: None) -> Iterator[Piece]:
        """See Measurement."""
        del model
        spec, seed = self.pairwise, bench.file.seed
        data = spec.data.fingerprint()
        digests = {name: bench.digest(name) for name in bench.models}
        paths = {one.name: bench.inputs[one.name] for one in self.inputs()}
        judges = {name: contents(path) for name, path in paths.items()}
        # Of this judge, whichever models answer and whatever is made of it.
        judge = piece_id(["verdicts", judges, spec.judge.model_dump_json(), data, seed])
        comparing = Comparing(bench, spec, paths, bench.folder / f"{judge}.verdicts.jsonl")
        what = ["pairwise", digests, judges, spec.model_dump_json(), data, seed]
        yield Piece(what, comparing.rows)


class Comparing:
    """One set of comparisons.

    Args:
        bench: Models, seed, and who hears of damage.
        spec: What is asked for.
        judges: Directory of each model that the judge is made from, by the judge's name for it.
        verdicts: Where the judge's verdicts are kept.
    """

    def __init__(
        self, bench: Bench, spec: PairwiseSpec, judges: Mapping[str, Path], verdicts: Path
    ):
        self.bench, self.spec, self.judges, self.verdicts = bench, spec, judges, verdicts
        self.seed = bench.file.seed

    def rows(self) -> Iterator[Measured]:
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
            self.bench.tell(
                f"{self.verdicts.name}: skipped {court.n_bad} damaged lines; what they held is "
                "judged again"
            )
        silent = [name for name in self.bench.models if self.bench.model(name).chat is None]
        for name in silent:
            yield Measured("pairwise", name, None, {},
                           f"{name} does not converse, so it is held against nobody")  # fmt: skip
        speaking = [name for name in self.bench.models if name not in silent]
        if spec.baseline in silent or len(speaking) < 2:
            raise DataError(
                f"{len(speaking)} of {len(self.bench.models)} models converse, and the baseline "
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
        model = self.bench.model(name)
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
