"""Preferences: two answers to each prompt, and which of them a judge prefers.

    pairs.jsonl   {"prompt": [...], "chosen": text, "rejected": text, "verdict": 1, 0.5 or 0 ...,
                   "crc": the line's checksum}

Answers are drawn from two models, or twice from one. Ties and verdicts that cannot be read are
kept in the file and train nothing; both are counted. Every batch is on the disk before the next
one is asked for, so that no verdict of a person is lost. A line that is torn or damaged is skipped
and counted, and its batch is made again; when the stage ends, the file is written once more, whole
and in order. Judges beside the first one say how far
they agree with it.

Source: Ouyang et al. 2022, arXiv:2203.02155 (comparisons); Zheng et al. 2023, arXiv:2306.05685
(the order of answers sways a judge).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from scalelab.config import Count, Positive, plugin
from scalelab.errors import DataError
from scalelab.evals import JUDGES
from scalelab.evals.agreement import (
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    raw_agreement,
)
from scalelab.evals.asking import ask
from scalelab.evals.inputs import ANSWER_PAIRS, MODEL, Input
from scalelab.evals.judges.base import Judge
from scalelab.files import append, write_text
from scalelab.posttrain.account import held_bytes
from scalelab.posttrain.base import Finished, Given, Stage, StageResult, Step, Work
from scalelab.posttrain.display import Display, headline
from scalelab.sealed import Damaged, file_digest, line, read_lines, typed

PAIRS = "pairs.jsonl"


@dataclass(frozen=True)
class PairRow:
    """One line of pairs.jsonl."""

    step: int
    """Which batch it belongs to."""
    of: int
    """Comparisons of that batch."""
    prompt: list[dict[str, str]]
    chosen: str
    rejected: str
    first_is_chosen: bool
    verdict: float | None
    """1: the first answer is better; 0: the second; 0.5: neither; None: unreadable."""
    others: list[float | None]
    """Verdicts of the further judges."""
    tokens: list[int]
    """Of each answer with its prompt."""
    written: list[list[int]]
    """Tokens of the two answers: text alone would not say whether an answer had ended."""
    ended: list[bool]
    tokenizers: list[str]
    same_in_both_orders: bool | None
    judge_flops: float
    i: int | None = None
    """Its place in the batch; None in files from before the checksums."""


class Preferences(Stage):
    """Collect comparisons of answers."""

    kind: Literal["preferences"] = "preferences"
    """Names this method in STAGES."""
    leaves: ClassVar[str] = ANSWER_PAIRS
    first: str
    """The stage whose model writes one answer, or the directory of a checkpoint (with a /)."""
    second: str | None = None
    """The other answer's; None: the same model, drawn again."""
    judge: plugin(JUDGES)
    others: tuple[plugin(JUDGES), ...] = ()
    """Further judges of the same answers, to see how far they agree. They decide nothing."""
    prompts: Count = 1000
    """Prompts to be answered twice."""
    temperature: Positive = 1.0
    """Of the draws."""
    n_new: Count | None = None
    """Most tokens of an answer; None: what its prompt leaves of the context."""
    batch: Count = 128
    """Prompts between two writes to the disk."""

    @property
    def judges(self) -> tuple[Judge, ...]:
        """All judges, the one that decides first."""
        return (self.judge, *self.others)

    def inputs(self) -> tuple[Input, ...]:
        """The models, and what the judges are made from."""
        models = [Input.stage_or_directory(n, MODEL) for n in (self.first, self.second) if n]
        return (*models, *(one for judge in self.judges for one in judge.inputs()))

    def is_interactive(self) -> bool:
        """See Stage."""
        return any(judge.interactive for judge in self.judges)

    def most_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        return (2 + sum(judge.passes() for judge in self.judges)) * self.prompts, 1.0

    def display(self, result: StageResult) -> Display:
        """See Stage."""
        return Display(headline(result, "first_wins"))

    def work(self, given: Given) -> Work:
        """See Stage."""
        return Collecting(self, given)


class Collecting:
    """Preferences being collected."""

    updates_within = 1

    def __init__(self, stage: Preferences, given: Given):
        self.stage, self.given = stage, given
        self.first = given.assistant(stage.first)
        self.second = self.first if stage.second is None else given.assistant(stage.second)
        self.prompts = given.conversations.prompts(stage.prompts, given.seed, stage.name)
        self.courts = [j.court(given.conversations, given.paths, given.seed) for j in stage.judges]
        # What a person has said must not be lost with the batch that it was said in.
        at_once = [judge.at_once() for judge in stage.judges]
        self.size = min([stage.batch, *(n for n in at_once if n is not None)])
        self.n_steps = -(-len(self.prompts) // self.size)
        self.eval_every = None
        self.prices = (self.first.forward_flops, self.second.forward_flops)
        self._path = given.out / PAIRS
        self._done, n_bad = whole_batches(self._path)
        if n_bad:
            given.journal("lines_skipped", file=PAIRS, n=n_bad)

    def step(self, k: int) -> Step:
        """Answer, judge and write one batch; one that is on the disk is not asked again."""
        return self._numbers(self._done.pop(k) if k in self._done else self._batch(k))

    def _batch(self, k: int) -> list[dict[str, Any]]:
        size = self.size
        prompts = self.prompts[k * size : (k + 1) * size]
        how = {"n_new": self.stage.n_new, "temperature": self.stage.temperature}
        seed = 2 * (self.given.seed * 1_000_003 + k)
        one, ended_one, tokens_one = ask(self.first, prompts, seed=seed, **how)
        two, ended_two, tokens_two = ask(self.second, prompts, seed=seed + 1, **how)
        judged_before = sum(court.flops for court in self.courts)
        verdicts = [court(prompts, one, two, k * size) for court in self.courts]
        same = self.courts[0].same
        rows = []
        for i, prompt in enumerate(prompts):
            said = verdicts[0][i]
            is_first = said is not None and said >= 0.5
            rows.append({
                "step": k,
                "i": i,
                "of": len(prompts),
                "prompt": list(prompt.messages),
                "chosen": one[i] if is_first else two[i],
                "rejected": two[i] if is_first else one[i],
                "first_is_chosen": is_first,
                "verdict": said,
                "others": [other[i] for other in verdicts[1:]],
                "tokens": [self._length(prompt, t) for t in (tokens_one[i], tokens_two[i])],
                "written": [tokens_one[i], tokens_two[i]],
                "ended": [ended_one[i], ended_two[i]],
                "tokenizers": [self.first.tokenizer.name, self.second.tokenizer.name],
                "same_in_both_orders": None if same is None else same[i],
            })  # fmt: skip
        judging = sum(court.flops for court in self.courts) - judged_before
        for row in rows:
            row["judge_flops"] = judging / len(rows)
        self.given.guard()
        append(self._path, "".join(map(line, rows)), flush=True)
        return rows

    def _length(self, prompt: Any, written: Sequence[int]) -> int:
        return len(self.first.chat.prompt(prompt.messages)) + len(written)

    def _numbers(self, rows: list[dict[str, Any]]) -> Step:
        lengths = np.array([row["tokens"] for row in rows]).sum(0)
        judging = sum(row["judge_flops"] for row in rows)
        written = sum(float(n) * p for n, p in zip(lengths, self.prices, strict=True))
        return Step(
            {"decided": float(np.mean([row["verdict"] not in (None, 0.5) for row in rows]))},
            tokens=float(lengths.sum()),
            flops=written + judging,
            flops_by={"write": written, "judge": judging},
        )

    def evaluate(self) -> Step:
        """Nothing to look at on the way."""
        return Step()

    def tensors(self) -> dict[str, Tensor]:
        """All is in the file."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See Work."""
        del tensors

    def finish(self, out: Path) -> Finished:
        """Write the file whole and in order, and count what it holds."""
        batches, _ = whole_batches(out / PAIRS)
        again = [k for k in range(self.n_steps) if k not in batches]
        batches |= {k: self._batch(k) for k in again}
        rows = [row for k in range(self.n_steps) for row in batches[k]]
        write_text(out / PAIRS, "".join(map(line, rows)))
        cost = self._numbers([row for k in again for row in batches[k]]) if again else Step()
        verdicts = [row["verdict"] for row in rows]
        decided = sum(v not in (None, 0.5) for v in verdicts)
        if decided == 0:
            raise DataError(
                f"the judge decided none of {len(rows)} comparisons",
                where=str(out / PAIRS),
                fix="draw with a higher temperature, compare two models that differ, or choose "
                "another judge",
            )
        court = self.courts[0]
        per_thousand = 1000 * court.seconds / max(court.n, 1)
        metrics = {
            "comparisons": len(rows),
            "decided": decided,
            "ties": sum(v == 0.5 for v in verdicts),
            "unreadable": sum(v is None for v in verdicts),
            "cut_off": sum(not ended for row in rows for ended in row["ended"]),
            "first_wins": float(np.mean([v for v in verdicts if v is not None])),
            "judge_seconds_per_thousand": per_thousand if court.n else None,
            "judge_flops_per_thousand": 1000 * sum(r["judge_flops"] for r in rows) / len(rows),
            "judge_dollars_per_thousand": court.dollars_per_thousand,
            "judge_same_in_both_orders": _mean_of([row["same_in_both_orders"] for row in rows]),
        }
        for i, other in enumerate(self.stage.others, 1):
            both = np.array([[r["verdict"], r["others"][i - 1]] for r in rows], dtype=float)
            metrics |= {f"agreement.{i}-{other.kind}.{k}": v for k, v in _agreement(both).items()}
        if len(self.stage.others) > 1:
            every = np.array([[r["verdict"], *r["others"]] for r in rows], dtype=float)
            metrics |= {f"agreement.all.{k}": v for k, v in _of_all(every).items()}
        return Finished(
            files={PAIRS: file_digest(out / PAIRS)},
            metrics=metrics,
            flops=cost.flops,
            memory_bytes={"models": held_bytes(self.first.network)},
        )


def _agreement(ratings: np.ndarray) -> dict[str, float | None]:
    """How far two judges agree, shape (comparisons, 2); NaN where one gave no verdict.

    None where a measure is not defined, such as where both said one thing throughout.
    """
    both = ratings[~np.isnan(ratings).any(1)]
    found: dict[str, float | None] = {}
    for name, measure, given in (
        ("raw", raw_agreement, both),
        ("cohen_kappa", cohen_kappa, both),
        ("krippendorff_alpha", krippendorff_alpha, ratings),
    ):
        try:
            found[name] = measure(given, replicates=0).value
        except DataError:
            found[name] = None
    return found


def _of_all(ratings: np.ndarray) -> dict[str, float | None]:
    """How far all judges agree, shape (comparisons, judges); None where it is not defined."""
    found: dict[str, float | None] = {}
    whole = ratings[~np.isnan(ratings).any(1)]
    for name, measure, given in (
        ("fleiss_kappa", fleiss_kappa, whole),
        ("krippendorff_alpha", krippendorff_alpha, ratings),
    ):
        try:
            found[name] = measure(given, replicates=0).value
        except DataError:
            found[name] = None
    return found


def _mean_of(values: Sequence[bool | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def whole_batches(path: Path) -> tuple[dict[int, list[dict[str, Any]]], int]:
    """Batches of which every row is on the disk, by step; and how many lines were skipped.

    Where a batch was made again, the later rows stand. Rows from before the checksums have no place
    in their batch; they stand in order.
    """
    lines = read_lines(path)
    batches: dict[int, dict[int, dict[str, Any]]] = {}
    n_bad = lines.n_bad
    for row in lines.records:
        if not _is_row(row):
            n_bad += 1
            continue
        batch = batches.setdefault(row["step"], {})
        batch[row.get("i", len(batch))] = row
    whole = {
        k: [batch[i] for i in sorted(batch)]
        for k, batch in batches.items()
        if all(sorted(batch) == list(range(row["of"])) for row in batch.values())
    }
    return whole, n_bad


def _is_row(row: dict[str, Any]) -> bool:
    """Whether a record is a comparison, every type checked."""
    try:
        pair = typed(PairRow, row)
    except Damaged:
        return False
    verdicts = (pair.verdict, *pair.others)
    return all(v is None or 0 <= v <= 1 for v in verdicts)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Every row that a stage left. Raises DataError: the file is missing or damaged."""
    batches, n_bad = whole_batches(path)
    rows = [row for k in sorted(batches) for row in batches[k]]
    if n_bad or not rows or sorted(batches) != list(range(len(batches))):
        problem = f"damaged lines: {n_bad}" if n_bad else "there are none" if not rows else ""
        raise DataError(
            f"the pairs cannot be read: {problem or 'some are missing'}",
            where=str(path),
            fix="restore the file from a copy, or delete result.json beside it and run the same "
            "command again: what is missing is then collected anew",
        )
    return rows
