"""Best of n: how far a reward model can be trusted, measured without training on it.

The answer with the highest proxy score of n samples is selected. A larger n moves further from the
model (KL = ln n - (n - 1) / n), and beyond some n the gold score of the selected answers falls while
the proxy keeps rising: the proxy is over-optimised.

    E[score of the best of n] from m samples, without new samples for every n:
    sum over i of C(i, n - 1) / C(m, n) x the score of the sample with rank i (from 0, by proxy)

Source: Gao et al. 2022, arXiv:2210.10760 (the KL and the study); Nakano et al. 2021,
arXiv:2112.09332, appendix I (the estimator).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from scalelab.config import Count, Positive
from scalelab.errors import DataError
from scalelab.evals.generation import generate_answers
from scalelab.evals.inputs import MODEL, REWARD, Input
from scalelab.posttrain.base import FinishedStage, Stage, StageContext, StageJob, StageResult, StepResult
from scalelab.posttrain.display import ProxyGoldCurve, StageDisplay, headline
from scalelab.posttrain.stage_cost import held_bytes


class BestOf(Stage):
    """Measure proxy and gold scores of the best of n answers."""

    kind: Literal["best_of"] = "best_of"
    """Names this method in STAGES."""
    start: str
    """Stage whose model generates the answers."""
    proxy: str
    """Stage whose reward model selects."""
    n: tuple[Count, ...] = Field((1, 2, 4, 8, 16, 32, 64), min_length=2)
    """Numbers of answers to select from."""
    draws: Count = 64
    """Sampled answers per prompt."""
    prompts: Count = 200
    """Number of prompts."""
    temperature: Positive = 1.0
    """Sampling temperature."""
    n_new: Count | None = None
    """Most tokens per answer; None: the rest of the context after the prompt."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if list(self.n) != sorted(set(self.n)):
            raise ValueError("n must be strictly increasing")
        if max(self.n) > self.draws:
            raise ValueError(f"n {max(self.n)} exceeds the {self.draws} draws per prompt")
        return self

    def inputs(self) -> tuple[Input, ...]:
        """Return the model and the reward model."""
        return (Input(self.start, MODEL), Input(self.proxy, REWARD))

    def max_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        return self.draws * self.prompts, 2.0

    def display(self, result: StageResult) -> StageDisplay:
        """See Stage."""
        return StageDisplay(
            headline=headline(result, "gold_peak", "gold_last"),
            curve=ProxyGoldCurve.of(self.name, result.tables.get("best_of", []), "by formula"),
        )

    def create_job(self, context: StageContext) -> StageJob:
        """See Stage."""
        return BestOfJob(self, context)


class BestOfJob:
    """Job of BestOf; each step samples and scores one answer per prompt."""

    updates_within = 1

    def __init__(self, stage: BestOf, context: StageContext):
        self.stage, self.context = stage, context
        self.start, self.proxy = (context.assistant(stage.start), context.reward_model(stage.proxy))
        self.prompts = context.conversations.prompts(stage.prompts, context.seed, stage.name)
        self.n_steps, self.eval_every = stage.draws, None
        self.scores: list[list[list[float]]] = []

    def step(self, k: int) -> StepResult:
        """Sample and score one answer per prompt."""
        answers, _, written = generate_answers(
            self.start,
            self.prompts,
            n_new=self.stage.n_new,
            temperature=self.stage.temperature,
            seed=self.context.seed * 1_000_003 + k,
        )
        rows = [
            [*self.start.chat.prompt(p.messages), *new] for p, new in zip(self.prompts, written, strict=True)
        ]
        proxy = self.proxy.score(rows).tolist()
        gold = [self.context.conversations.gold(p, a) for p, a in zip(self.prompts, answers, strict=True)]
        if None in gold:
            raise DataError(
                "these conversations have no gold score to compare the proxy with",
                where=f"stage {self.stage.name}",
                fix="remove the stage, or use conversations with a gold score",
            )
        self.scores.append([proxy, gold])
        n = sum(map(len, rows))
        numbers = {"proxy": float(np.mean(proxy)), "gold": float(np.mean(gold))}
        return StepResult(numbers, tokens=n, flops=2 * n * self.start.forward_flops)

    def evaluate(self) -> StepResult:
        """Return no metrics: nothing is trained."""
        return StepResult()

    def tensors(self) -> dict[str, Tensor]:
        """Return the scores so far."""
        return {"scores": torch.tensor(self.scores, dtype=torch.float64)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See StageJob."""
        self.scores = tensors["scores"].tolist()

    def finish(self, out: Path) -> FinishedStage:
        """Return the curve of both scores over n."""
        del out
        proxy, gold = np.array(self.scores).transpose(1, 2, 0)
        rows = [
            {
                "n": n,
                "kl": math.log(n) - (n - 1) / n,
                **mean_and_error("proxy", best_of(proxy, proxy, n)),
                **mean_and_error("gold", best_of(proxy, gold, n)),
            }
            for n in self.stage.n
        ]
        peak = max(rows, key=lambda row: row["gold"])
        return FinishedStage(
            metrics={
                "gold_peak_n": peak["n"],
                "gold_peak": peak["gold"],
                "gold_last": rows[-1]["gold"],
                "proxy_last": rows[-1]["proxy"],
            },
            tables={"best_of": rows},
            memory_bytes={"model": held_bytes(self.start.network), "reward": held_bytes(self.proxy.net)},
        )


def mean_and_error(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return the mean over prompts and its standard error, as NAME and NAME_se."""
    values = np.asarray(values)
    if len(values) < 2:
        return {name: float(values.mean())}
    return {name: float(values.mean()), f"{name}_se": float(values.std(ddof=1) / len(values) ** 0.5)}


def best_of(proxy: np.ndarray, value: np.ndarray, n: int) -> np.ndarray:
    """Return the expected value of the best of n by proxy, per prompt, shape (prompts,).

    Args:
        proxy: Score of each sample, shape (prompts, m).
        value: Value of each sample to average over selected ones, likewise.
        n: Answers to select from, at most m. Samples with equal scores keep their order.
    """
    m = proxy.shape[1]
    order = np.argsort(proxy, axis=1, kind="stable")
    ranked = np.take_along_axis(value, order, axis=1)
    share = np.array([math.comb(i, n - 1) / math.comb(m, n) for i in range(m)])
    return ranked @ share
