"""Preferences: two answers per prompt, and which of them a judge prefers.

    pairs.jsonl   {"prompt": [...], "chosen": text, "rejected": text, "verdict": 1, 0.5 or 0 ...,
                   "crc": the line's checksum}

Answers are sampled from two models, or twice from one. Ties and unreadable verdicts stay in the
file, are counted and are not trained on. Every batch is on disk before the next one is collected, so
that no verdict of a person is lost. A truncated or damaged line is skipped and counted, and its batch
is collected again; when the stage ends, the file is rewritten, complete and in order. Further judges
measure agreement with the first one.

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
from scalelab.evals.generation import generate_answers
from scalelab.evals.inputs import ANSWER_PAIRS, MODEL, Input
from scalelab.evals.preference.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha, raw_agreement
from scalelab.evals.preference.judges.base import Judge
from scalelab.files import append, write_text
from scalelab.posttrain.base import FinishedStage, Stage, StageContext, StageJob, StageResult, StepResult
from scalelab.posttrain.display import StageDisplay, headline
from scalelab.posttrain.stage_cost import held_bytes
from scalelab.sealed import Damaged, file_digest, line, read_lines, typed

PAIRS = "pairs.jsonl"
"""Output file of the stage."""


@dataclass(frozen=True)
class PairRow:
    """One line of pairs.jsonl."""

    step: int
    """Batch that the row belongs to."""
    of: int
    """Number of comparisons in that batch."""
    prompt: list[dict[str, str]]
    chosen: str
    rejected: str
    first_is_chosen: bool
    verdict: float | None
    """1: the first answer is better; 0: the second; 0.5: neither; None: unreadable."""
    others: list[float | None]
    """Verdicts of the further judges."""
    tokens: list[int]
    """Number of tokens of each answer with its prompt."""
    written: list[list[int]]
    """Tokens of the two answers; text does not show whether an answer has an end token."""
    ended: list[bool]
    tokenizers: list[str]
    same_in_both_orders: bool | None
    judge_flops: float
    i: int | None = None
    """Index in the batch; None in files older than the checksums."""


class Preferences(Stage):
    """Collect comparisons of answers."""

    kind: Literal["preferences"] = "preferences"
    """Names this method in STAGES."""
    output_kind: ClassVar[str] = ANSWER_PAIRS
    first: str
    """Stage whose model generates one answer, or directory of a checkpoint (containing a /)."""
    second: str | None = None
    """Likewise for the other answer; None: the same model, sampled again."""
    judge: plugin(JUDGES)
    """Judge that decides."""
    others: tuple[plugin(JUDGES), ...] = ()
    """Further judges of the same answers, to measure agreement only."""
    prompts: Count = 1000
    """Number of prompts, each answered twice."""
    temperature: Positive = 1.0
    """Sampling temperature."""
    n_new: Count | None = None
    """Most tokens per answer; None: the rest of the context after the prompt."""
    batch: Count = 128
    """Number of prompts between two writes to disk."""

    @property
    def judges(self) -> tuple[Judge, ...]:
        """All judges, the deciding one first."""
        return (self.judge, *self.others)

    def inputs(self) -> tuple[Input, ...]:
        """Return the models and the inputs of the judges."""
        models = [Input.stage_or_directory(n, MODEL) for n in (self.first, self.second) if n]
        return (*models, *(one for judge in self.judges for one in judge.inputs()))

    def is_interactive(self) -> bool:
        """See Stage."""
        return any(judge.interactive for judge in self.judges)

    def max_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        return (2 + sum(judge.passes() for judge in self.judges)) * self.prompts, 1.0

    def display(self, result: StageResult) -> StageDisplay:
        """See Stage."""
        return StageDisplay(headline(result, "first_wins"))

    def create_job(self, context: StageContext) -> StageJob:
        """See Stage."""
        return PreferenceJob(self, context)


class PreferenceJob:
    """Job of Preferences."""

    updates_within = 1

    def __init__(self, stage: Preferences, context: StageContext):
        self.stage, self.context = stage, context
        self.first = context.assistant(stage.first)
        self.second = self.first if stage.second is None else context.assistant(stage.second)
        self.prompts = context.conversations.prompts(stage.prompts, context.seed, stage.name)
        self.sessions = [
            j.open_session(context.conversations, context.paths, context.seed) for j in stage.judges
        ]
        # Verdicts of a person are written after each few, not only with a full batch.
        at_once = [judge.at_once() for judge in stage.judges]
        self.size = min([stage.batch, *(n for n in at_once if n is not None)])
        self.n_steps = -(-len(self.prompts) // self.size)
        self.eval_every = None
        self.prices = (self.first.forward_flops, self.second.forward_flops)
        self._path = context.out / PAIRS
        self._done, n_bad = complete_batches(self._path)
        if n_bad:
            context.journal("lines_skipped", file=PAIRS, n=n_bad)

    def step(self, k: int) -> StepResult:
        """Sample, judge and write one batch; a batch that is on disk is not repeated."""
        return self._numbers(self._done.pop(k) if k in self._done else self._batch(k))

    def _batch(self, k: int) -> list[dict[str, Any]]:
        size = self.size
        prompts = self.prompts[k * size : (k + 1) * size]
        how = {"n_new": self.stage.n_new, "temperature": self.stage.temperature}
        seed = 2 * (self.context.seed * 1_000_003 + k)
        one, ended_one, tokens_one = generate_answers(self.first, prompts, seed=seed, **how)
        two, ended_two, tokens_two = generate_answers(self.second, prompts, seed=seed + 1, **how)
        flops_before = sum(session.flops for session in self.sessions)
        verdicts = [session(prompts, one, two, k * size) for session in self.sessions]
        same = self.sessions[0].same
        rows = []
        for i, prompt in enumerate(prompts):
            verdict = verdicts[0][i]
            is_first = verdict is not None and verdict >= 0.5
            rows.append(
                {
                    "step": k,
                    "i": i,
                    "of": len(prompts),
                    "prompt": list(prompt.messages),
                    "chosen": one[i] if is_first else two[i],
                    "rejected": two[i] if is_first else one[i],
                    "first_is_chosen": is_first,
                    "verdict": verdict,
                    "others": [other[i] for other in verdicts[1:]],
                    "tokens": [self._length(prompt, t) for t in (tokens_one[i], tokens_two[i])],
                    "written": [tokens_one[i], tokens_two[i]],
                    "ended": [ended_one[i], ended_two[i]],
                    "tokenizers": [self.first.tokenizer.name, self.second.tokenizer.name],
                    "same_in_both_orders": None if same is None else same[i],
                }
            )
        judging = sum(session.flops for session in self.sessions) - flops_before
        for row in rows:
            row["judge_flops"] = judging / len(rows)
        self.context.guard()
        append(self._path, "".join(map(line, rows)), flush=True)
        return rows

    def _length(self, prompt: Any, written: Sequence[int]) -> int:
        return len(self.first.chat.prompt(prompt.messages)) + len(written)

    def _numbers(self, rows: list[dict[str, Any]]) -> StepResult:
        lengths = np.array([row["tokens"] for row in rows]).sum(0)
        judging = sum(row["judge_flops"] for row in rows)
        written = sum(float(n) * p for n, p in zip(lengths, self.prices, strict=True))
        return StepResult(
            {"decided": float(np.mean([row["verdict"] not in (None, 0.5) for row in rows]))},
            tokens=float(lengths.sum()),
            flops=written + judging,
            flops_by={"write": written, "judge": judging},
        )

    def evaluate(self) -> StepResult:
        """Return no metrics: nothing is trained."""
        return StepResult()

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: the state is in pairs.jsonl."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See StageJob."""
        del tensors

    def finish(self, out: Path) -> FinishedStage:
        """Rewrite the file, complete and in order, and summarise it."""
        batches, _ = complete_batches(out / PAIRS)
        repeated = [k for k in range(self.n_steps) if k not in batches]
        batches |= {k: self._batch(k) for k in repeated}
        rows = [row for k in range(self.n_steps) for row in batches[k]]
        write_text(out / PAIRS, "".join(map(line, rows)))
        cost = self._numbers([row for k in repeated for row in batches[k]]) if repeated else StepResult()
        verdicts = [row["verdict"] for row in rows]
        decided = sum(v not in (None, 0.5) for v in verdicts)
        if decided == 0:
            raise DataError(
                f"the judge decided none of {len(rows)} comparisons",
                where=str(out / PAIRS),
                fix="sample at a higher temperature, compare two different models, or use another judge",
            )
        session = self.sessions[0]
        per_thousand = 1000 * session.seconds / max(session.n, 1)
        metrics = {
            "comparisons": len(rows),
            "decided": decided,
            "ties": sum(v == 0.5 for v in verdicts),
            "unreadable": sum(v is None for v in verdicts),
            "cut_off": sum(not ended for row in rows for ended in row["ended"]),
            "first_wins": float(np.mean([v for v in verdicts if v is not None])),
            "judge_seconds_per_thousand": per_thousand if session.n else None,
            "judge_flops_per_thousand": 1000 * sum(r["judge_flops"] for r in rows) / len(rows),
            "judge_dollars_per_thousand": session.dollars_per_thousand,
            "judge_same_in_both_orders": _mean_of([row["same_in_both_orders"] for row in rows]),
        }
        for i, other in enumerate(self.stage.others, 1):
            both = np.array([[r["verdict"], r["others"][i - 1]] for r in rows], dtype=float)
            metrics |= {f"agreement.{i}-{other.kind}.{k}": v for k, v in _agreement(both).items()}
        if len(self.stage.others) > 1:
            every = np.array([[r["verdict"], *r["others"]] for r in rows], dtype=float)
            metrics |= {f"agreement.all.{k}": v for k, v in _of_all(every).items()}
        return FinishedStage(
            files={PAIRS: file_digest(out / PAIRS)},
            metrics=metrics,
            flops=cost.flops,
            memory_bytes={"models": held_bytes(self.first.network)},
        )


def _agreement(ratings: np.ndarray) -> dict[str, float | None]:
    """Return the agreement of two judges, shape (comparisons, 2); NaN where a verdict is missing.

    None where a measure is undefined, for example if both gave the same verdict throughout.
    """
    both = ratings[~np.isnan(ratings).any(1)]
    found: dict[str, float | None] = {}
    for name, measure, rows in (
        ("raw", raw_agreement, both),
        ("cohen_kappa", cohen_kappa, both),
        ("krippendorff_alpha", krippendorff_alpha, ratings),
    ):
        try:
            found[name] = measure(rows, replicates=0).value
        except DataError:
            found[name] = None
    return found


def _of_all(ratings: np.ndarray) -> dict[str, float | None]:
    """Return the agreement of all judges, shape (comparisons, judges); None where undefined."""
    found: dict[str, float | None] = {}
    whole = ratings[~np.isnan(ratings).any(1)]
    for name, measure, rows in (
        ("fleiss_kappa", fleiss_kappa, whole),
        ("krippendorff_alpha", krippendorff_alpha, ratings),
    ):
        try:
            found[name] = measure(rows, replicates=0).value
        except DataError:
            found[name] = None
    return found


def _mean_of(values: Sequence[bool | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def complete_batches(path: Path) -> tuple[dict[int, list[dict[str, Any]]], int]:
    """Return the batches that are complete on disk, by step, and the number of skipped lines.

    Later rows replace earlier ones of the same batch. Rows older than the checksums have no index
    and keep their order.
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
    """Return whether a record is a comparison; every type is checked."""
    try:
        pair = typed(PairRow, row)
    except Damaged:
        return False
    verdicts = (pair.verdict, *pair.others)
    return all(v is None or 0 <= v <= 1 for v in verdicts)


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """Return every row of a finished stage. Raises DataError: the file is missing or damaged."""
    batches, n_bad = complete_batches(path)
    rows = [row for k in sorted(batches) for row in batches[k]]
    if n_bad or not rows or sorted(batches) != list(range(len(batches))):
        problem = f"damaged lines: {n_bad}" if n_bad else "it has none" if not rows else ""
        raise DataError(
            f"the pairs cannot be read: {problem or 'some are missing'}",
            where=str(path),
            fix="restore the file from a copy, or delete result.json beside it and run the same "
            "command again to collect the missing pairs",
        )
    return rows
