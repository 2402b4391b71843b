"""The measurement `pairwise`: models compared with a baseline and each other on the same prompts.

Win rates, raw and length-controlled; position and length bias of the judge; rankings.

Not here: the statistics (evals/preference/pairwise.py, ranking.py, elo.py), judges (evals/preference/judges/).
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
from scalelab.evals.conversations.base import Prompt
from scalelab.evals.generation import generate_answers
from scalelab.evals.inputs import Input, contents
from scalelab.evals.measurement import (
    Measurement,
    MeasurementContext,
    MeasurementRow,
    RowKind,
    WorkItem,
    work_item_id,
)
from scalelab.evals.preference.elo import elo
from scalelab.evals.preference.judgement_cache import CachedJudge
from scalelab.evals.preference.judgments import Judgments
from scalelab.evals.preference.matches import Matches
from scalelab.evals.preference.pairwise import length_controlled, positions, verbosity, win_rate
from scalelab.evals.preference.ranking import bradley_terry


class PairwiseSpec(Config):
    """Settings of a pairwise comparison."""

    baseline: str
    """Name of the model that the others are compared with."""
    data: plugin(CONVERSATIONS)
    """Source of the prompts: its first test set is used."""
    judge: plugin(JUDGES)
    prompts: Count = 200
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature; 0 takes the most likely token each time."""
    level: Fraction = 0.95
    """Level of the intervals of win rates and rankings."""
    swapped: Switch = False
    """Ask the judge in the other order too, and report its consistency."""
    concise: str | None = None
    verbose: str | None = None
    """Two instructions put before every prompt, such as "be brief": comparing the same model's answers
    under both shows the judge's preference for length. Give both or neither."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.concise is None) != (self.verbose is None):
            raise ValueError("give both concise and verbose, or neither")
        return self


class PairwiseMeasurement(Measurement):
    """Every model compared with every other one."""

    kinds: ClassVar[tuple[RowKind, ...]] = (
        RowKind("pairwise", "Win rates", value_kinds={"length_controlled": "fitted"}),
        RowKind("positions", "The judge and the order of answers"),
        RowKind("verbosity", "The judge and the length of answers", value_kinds={"lc_gain": "fitted"}),
        RowKind("judge", "The judge"),
        RowKind("ranking", "Rankings", value_kinds={"Bradley-Terry": "fitted"}),
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

    def is_interactive(self) -> bool:
        """See Measurement."""
        return self.pairwise is not None and self.pairwise.judge.interactive

    def inputs(self) -> tuple[Input, ...]:
        """Return the models that the judge uses."""
        return () if self.pairwise is None else self.pairwise.judge.inputs()

    def describe(self, context: MeasurementContext) -> Sequence[str]:
        """See Measurement."""
        spec = self.pairwise
        return [f"pairwise: {spec.prompts} prompts, judged by {spec.judge.kind}"]

    def work_items(self, context: MeasurementContext, model: None) -> Iterator[WorkItem]:
        """See Measurement."""
        del model
        spec, seed = self.pairwise, context.file.seed
        data = spec.data.fingerprint()
        digests = {name: context.digest(name) for name in context.models}
        paths = {one.name: context.inputs[one.name] for one in self.inputs()}
        judges = {name: contents(path) for name, path in paths.items()}
        # The id of the judge does not depend on the models or the statistics.
        judge = work_item_id(["verdicts", judges, spec.judge.model_dump_json(), data, seed])
        comparing = PairwiseComparison(context, spec, paths, context.folder / f"{judge}.verdicts.jsonl")
        what = ["pairwise", digests, judges, spec.model_dump_json(), data, seed]
        yield WorkItem(what, comparing.rows)


class PairwiseComparison:
    """One set of comparisons.

    Args:
        context: Models, seed and the callback for progress.
        spec: Settings of the comparison.
        judges: Directory of each model that the judge uses, by its name in the judge's settings.
        verdicts: File of the judge's verdicts.
    """

    def __init__(
        self, context: MeasurementContext, spec: PairwiseSpec, judges: Mapping[str, Path], verdicts: Path
    ):
        self.context, self.spec, self.judges, self.verdicts = context, spec, judges, verdicts
        self.seed = context.file.seed

    def rows(self) -> Iterator[MeasurementRow]:
        """Yield win rates over the baseline, position and length bias of the judge, and rankings.

        Raises:
            DataError: There are no prompts, or fewer than two chat models.
        """
        spec, level = self.spec, self.spec.level
        prompts = next(iter(spec.data.tests(spec.prompts).values()), [])
        if not prompts:
            raise DataError(
                "there are no held-out prompts to compare models on",
                where=f"pairwise.data: {spec.data.model_dump_json()}",
                fix="name test files (test: [...])",
            )
        judge = CachedJudge(
            lambda: spec.judge.open_session(spec.data, self.judges, self.seed),
            self.verdicts,
            spec.judge.at_once(),
        )
        if judge.n_bad:
            self.context.report(
                f"{self.verdicts.name}: skipped {judge.n_bad} damaged lines; their comparisons are judged again"
            )
        base_models = [name for name in self.context.models if self.context.model(name).chat is None]
        for name in base_models:
            yield MeasurementRow(
                "pairwise", name, None, {}, f"{name} is a base model and was skipped in pairwise comparison"
            )
        chat_models = [name for name in self.context.models if name not in base_models]
        if spec.baseline in base_models or len(chat_models) < 2:
            raise DataError(
                f"{len(chat_models)} of {len(self.context.models)} models are chat models, and the baseline "
                + ("is not" if spec.baseline in base_models else "is one of them"),
                where="pairwise",
                fix="name at least two models that have been through SFT, the baseline among them",
            )
        answers = {name: self._answers(name, prompts) for name in chat_models}

        def compare(one: str, other: str, ours: Sequence[str], theirs: Sequence[str]) -> Judgments:
            verdict = judge(prompts, ours, theirs)
            swapped = judge(prompts, theirs, ours) if spec.swapped else None
            known = [
                i
                for i, v in enumerate(verdict)
                if v is not None and (swapped is None or swapped[i] is not None)
            ]
            return Judgments(
                one,
                other,
                np.array(known),
                np.array([verdict[i] for i in known], float),
                np.array([len(ours[i].split()) for i in known]),
                np.array([len(theirs[i].split()) for i in known]),
                None if swapped is None else np.array([1 - swapped[i] for i in known], float),
                length_unit="words",
            )

        matches: list[tuple[str, str, float]] = []
        for one, other in combinations(chat_models, 2):
            first, second = (other, one) if one == spec.baseline else (one, other)
            judgments = compare(first, second, answers[first], answers[second])
            matches += [(first, second, float(v)) for v in judgments.preference]
            if second == spec.baseline:
                yield _won(judgments, level)
                if spec.swapped:
                    seen = positions(judgments, level=level)
                    yield MeasurementRow(
                        "positions",
                        f"{first} over {second}",
                        None,
                        {"consistent": seen.consistent, "first_place": seen.first_share.value},
                        seen.summary(),
                    )
        if spec.concise is not None:
            yield from self._verbosity(prompts, compare, answers)
        if matches:
            yield from _ranked(matches, level, self.seed)
        if judge.unreadable:
            yield MeasurementRow(
                "judge",
                "unreadable",
                None,
                {"unreadable": judge.unreadable},
                f"{judge.unreadable} of {judge.n} verdicts could not be read and are left out [measured]",
            )

    def _verbosity(
        self, prompts: Sequence[Prompt], compare: Any, answers: Mapping[str, Sequence[str]]
    ) -> Iterator[MeasurementRow]:
        """Yield comparisons of each model, instructed to be concise and to be verbose, with the baseline."""
        spec, baseline = self.spec, answers[self.spec.baseline]
        for name in answers:
            if name == spec.baseline:
                continue
            both = []
            for instruction in (spec.concise, spec.verbose):
                instructed = [
                    Prompt(({"role": "system", "content": instruction}, *p.messages), p.reference, p.task)
                    for p in prompts
                ]
                ours = self._answers(name, instructed)
                both.append(compare(f"{name}, instructed {instruction!r}", spec.baseline, ours, baseline))
            try:
                found = verbosity(*both, level=spec.level)
            except DataError as error:
                # A model that ignores the instruction is a result, not an error.
                yield MeasurementRow("verbosity", name, None, {}, f"{name}: {error.problem}")
                continue
            yield MeasurementRow(
                "verbosity",
                name,
                None,
                {"raw_gain": found.raw_gain, "lc_gain": found.lc_gain, "length_ratio": found.length_ratio},
                found.summary(),
            )

    def _answers(self, name: str, prompts: Sequence[Prompt]) -> list[str]:
        model = self.context.model(name)
        return generate_answers(model, prompts, temperature=self.spec.temperature, seed=self.seed)[0]


def _won(judgments: Judgments, level: float) -> MeasurementRow:
    raw = win_rate(judgments, level=level)
    values = {"win_rate": raw.share.value}
    words = raw.summary()
    try:
        fair = length_controlled(judgments, level=level)
        values["length_controlled"] = fair.share.value
        words += "\n" + fair.summary()
    except DataError as error:  # all pairs differ by the same length: nothing to control for
        words += f"\nno length-controlled win rate: {error.problem}"
    return MeasurementRow("pairwise", f"{judgments.model} over {judgments.baseline}", None, values, words)


def _ranked(matches: Sequence[tuple[str, str, float]], level: float, seed: int) -> Iterator[MeasurementRow]:
    table = Matches.of(matches)
    rated = bradley_terry(table, level=level, seed=seed)
    values = dict(zip(table.names, rated.rating.tolist(), strict=True))
    yield MeasurementRow("ranking", "Bradley-Terry", None, values, rated.summary())
    online = elo(table, seed=seed)
    values = dict(zip(table.names, online.rating.tolist(), strict=True))
    yield MeasurementRow("ranking", "Elo", None, values, online.summary())
