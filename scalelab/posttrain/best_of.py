"""Best of n: how far a reward model can be trusted, before anything is trained on it.

Of n drawn answers the one with the highest proxy score is taken. The larger n, the further from
the model (KL = ln n - (n - 1) / n), and beyond some n the true worth of what is taken falls while
the proxy goes on rising: the proxy is over-optimised.

    E[score of the best of n] from m draws, without new draws for every n:
    sum over i of C(i, n - 1) / C(m, n) x the score of the draw with rank i (from 0, by proxy)

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
from scalelab.evals.asking import ask
from scalelab.evals.inputs import MODEL, REWARD, Input
from scalelab.posttrain.account import held_bytes
from scalelab.posttrain.base import Finished, Given, Stage, StageResult, Step, Work
from scalelab.posttrain.display import Curve, Display, headline


class BestOf(Stage):
    """Measure proxy and gold of the best of n answers."""

    kind: Literal["best_of"] = "best_of"
    """Names this method in STAGES."""
    start: str
    """The model that writes."""
    proxy: str
    """The stage whose reward model chooses."""
    n: tuple[Count, ...] = Field((1, 2, 4, 8, 16, 32, 64), min_length=2)
    """How many answers to choose from."""
    draws: Count = 64
    """Answers drawn to each prompt."""
    prompts: Count = 200
    temperature: Positive = 1.0
    n_new: Count | None = None
    """Most tokens of an answer; None: what its prompt leaves of the context."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if list(self.n) != sorted(set(self.n)):
            raise ValueError("n must rise without repeats")
        if max(self.n) > self.draws:
            raise ValueError(f"the best of {max(self.n)} cannot be chosen from {self.draws} draws")
        return self

    def inputs(self) -> tuple[Input, ...]:
        """The model and the reward model."""
        return (Input(self.start, MODEL), Input(self.proxy, REWARD))

    def most_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        return self.draws * self.prompts, 2.0

    def display(self, result: StageResult) -> Display:
        """See Stage."""
        return Display(
            headline=headline(result, "gold_peak", "gold_last"),
            curve=Curve.of(self.name, result.tables.get("best_of", []), "by formula"),
        )

    def work(self, given: Given) -> Work:
        """See Stage."""
        return Choosing(self, given)


class Choosing:
    """Answers being drawn and scored; a step draws one answer to every prompt."""

    updates_within = 1

    def __init__(self, stage: BestOf, given: Given):
        self.stage, self.given = stage, given
        self.start, self.proxy = (
            given.assistant(stage.start),
            given.reward_model(stage.proxy),
        )
        self.prompts = given.conversations.prompts(stage.prompts, given.seed, stage.name)
        self.n_steps, self.eval_every = stage.draws, None
        self.scores: list[list[list[float]]] = []

    def step(self, k: int) -> Step:
        """Draw and score one answer to every prompt."""
        answers, _, written = ask(
            self.start, self.prompts, n_new=self.stage.n_new,
            temperature=self.stage.temperature, seed=self.given.seed * 1_000_003 + k,
        )  # fmt: skip
        rows = [
            [*self.start.chat.prompt(p.messages), *new]
            for p, new in zip(self.prompts, written, strict=True)
        ]
        proxy = self.proxy.score(rows).tolist()
        gold = [
            self.given.conversations.gold(p, a) for p, a in zip(self.prompts, answers, strict=True)
        ]
        if None in gold:
            raise DataError(
                "these conversations have no gold measure to hold the proxy against",
                where=f"stage {self.stage.name}",
                fix="leave the stage out, or use conversations that can be checked",
            )
        self.scores.append([proxy, gold])
        n = sum(map(len, rows))
        numbers = {"proxy": float(np.mean(proxy)), "gold": float(np.mean(gold))}
        return Step(numbers, tokens=n, flops=2 * n * self.start.forward_flops)

    def evaluate(self) -> Step:
        """Nothing to look at on the way."""
        return Step()

    def tensors(self) -> dict[str, Tensor]:
        """The scores so far."""
        return {"scores": torch.tensor(self.scores, dtype=torch.float64)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See Work."""
        self.scores = tensors["scores"].tolist()

    def finish(self, out: Path) -> Finished:
        """The curve."""
        del out
        proxy, gold = np.array(self.scores).transpose(1, 2, 0)
        rows = [
            {"n": n, "kl": math.log(n) - (n - 1) / n,
             **named("proxy", best_of(proxy, proxy, n)), **named("gold", best_of(proxy, gold, n))}
            for n in self.stage.n
        ]  # fmt: skip
        peak = max(rows, key=lambda row: row["gold"])
        return Finished(
            metrics={
                "gold_peak_n": peak["n"],
                "gold_peak": peak["gold"],
                "gold_last": rows[-1]["gold"],
                "proxy_last": rows[-1]["proxy"],
            },
            tables={"best_of": rows},
            memory_bytes={
                "model": held_bytes(self.start.network),
                "reward": held_bytes(self.proxy.net),
            },
        )


def named(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean over prompts and its standard error."""
    values = np.asarray(values)
    if len(values) < 2:
        return {name: float(values.mean())}
    return {
        name: float(values.mean()),
        f"{name}_se": float(values.std(ddof=1) / len(values) ** 0.5),
    }


def best_of(proxy: np.ndarray, value: np.ndarray, n: int) -> np.ndarray:
    """Expected value of the best of n by proxy, for each prompt, shape (prompts,).

    Args:
        proxy: Score of each draw, shape (prompts, m).
        value: What is asked of the one that is taken, likewise.
        n: Answers to choose from, at most m. Draws with equal scores keep their order of drawing.
    """
    m = proxy.shape[1]
    order = np.argsort(proxy, axis=1, kind="stable")
    ranked = np.take_along_axis(value, order, axis=1)
    share = np.array([math.comb(i, n - 1) / math.comb(m, n) for i in range(m)])
    return ranked @ share
