"""The old way to spend a budget: a size from a rule, tuning on that large model, one launch.

    search(task, executor) -> Search   short full schedules of the large model
    Search.final()                     what is left, at full length, with the best settings

    T = FLOPs of the sweep + FLOPs of the final run, per seed        the same for both ways

NEW and OLD name the variants. What short runs leave over (whole steps, diverged trials) goes to
the final run, so T is met to half a step. Every run is a run directory and every draw has its
seed: what is done is not done again.

Compute in FLOPs (exact, forward and backward), loss in nats per token.

Sources: 20 tokens per parameter, Hoffmann et al. 2022, arXiv:2203.15556, table 3; N ~ C^0.73,
Kaplan et al. 2020, arXiv:2001.08361, table 6; TPE, Bergstra et al. 2011, as Optuna has it.

Not here: the new way (chain.py), the comparison (old_vs_new.py).
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import chain

from scalelab.data.corpus import shards
from scalelab.data.corpus.shards import Corpus
from scalelab.errors import RunError
from scalelab.jobs.base import Executor
from scalelab.launch.sweep_plan import PlannedJob, place
from scalelab.launch.sweep_run import train_all
from scalelab.model.base import Architecture
from scalelab.sweep.base import Proposal
from scalelab.sweep.file import SweepFile
from scalelab.train.optimizers.adamw import AdamWRecipe
from scalelab.train.recipe import Recipe
from scalelab.train.rules import BatchRule
from scalelab.train.spec import RunResult

ABREAST = 2  # trials that are asked for, trained and told together: one a core
RANDOM = 8  # trials before TPE has anything to go by, the first of them the start itself
RECIPE_FLOPS = 9 * 2 * 5e11  # analysis/LOG.md: the embedded recipe, 9 settings at two sizes
TOKENS_PER_PARAM = 20.0
KAPLAN_EXPONENT = 0.73
NAIVE_WINDOWS = 16  # of one batch
SPACE = {  # log-uniform between the ends; rates in units of AdamWRecipe
    "lr": (3e-4, 3e-2),
    "embedding_lr": (1.0, 30.0),
    "head_lr": (1.0, 30.0),
    "weight_decay": (0.01, 0.5),
}
BATCHES = (0.5, 1.0, 2.0)  # times the start's own batch


def naive(recipe: Recipe) -> Recipe:
    """The recipe with torch.optim.AdamW's defaults, one rate for every weight at every width."""
    batch = NAIVE_WINDOWS * recipe.seq_len
    return recipe.model_copy(
        update={
            "optimizer": AdamWRecipe(
                lr=1e-3, width_exponent=0.0, batch_exponent=0.0, beta2=0.999, weight_decay=0.01
            ),
            "batch": BatchRule(coefficient=float(batch), exponent=0.0, min_tokens=batch, max_tokens=batch),
        }
    )


def tuned(recipe: Recipe) -> Recipe:
    """The recipe of the new way, as it is."""
    return recipe


def by_ratio(recipe: Recipe, vocab_size: int, flops: float, smallest: float) -> Architecture:
    """The family's member whose 20 tokens per parameter cost `flops` most nearly, in ratio."""
    del smallest
    best, best_miss = None, math.inf
    for member in recipe.model.members(vocab_size):
        size = member.size(recipe.seq_len)
        cost = TOKENS_PER_PARAM * size.count(recipe.param_count) * size.flops_per_token
        if abs(math.log(cost / flops)) < best_miss:
            best, best_miss = member, abs(math.log(cost / flops))
        if cost > flops:
            return best
    raise AssertionError("a family has no end")


def by_kaplan(recipe: Recipe, vocab_size: int, flops: float, smallest: float) -> Architecture:
    """The size that 20 tokens per parameter give at the smallest budget, grown as C^0.73."""
    known = by_ratio(recipe, vocab_size, smallest, smallest)
    n_params = known.size(recipe.seq_len).count(recipe.param_count)
    return recipe.model_at(n_params * (flops / smallest) ** KAPLAN_EXPONENT, vocab_size)


@dataclass(frozen=True)
class Split:
    """How the new way divides its compute; the old way divides its own alike."""

    words: str
    leave_out: int
    """Largest budgets of the sweep file that are not trained; their FLOPs go to the final run."""
    n_trials: int
    """Short runs that the old way gets for what this sweep costs."""


@dataclass(frozen=True)
class Way:
    """One variant of the old way."""

    words: str
    against: str
    """The variant of the new way with the same split."""
    size: Callable[[Recipe, int, float, float], Architecture] = by_ratio
    start: Callable[[Recipe], Recipe] = naive
    extra_flops: float = 0.0
    """Further FLOPs for trials."""


NEW = {
    "new": Split("the whole sweep, then the final run", leave_out=0, n_trials=24),
    "new, longer": Split(
        "the sweep without its largest budget, then a longer final run", leave_out=1, n_trials=12
    ),
}
OLD = {
    "naive": Way("20 tokens per parameter; tuning starts from AdamW's defaults", "new"),
    "larger": Way("a larger model, N ~ C^0.73; otherwise as naive", "new", size=by_kaplan),
    "tuned": Way("as naive, but tuning starts from the new way's recipe", "new", start=tuned),
    "paid": Way(
        "as naive, and what the new way's recipe had cost to tune is spent on more trials",
        "new",
        extra_flops=RECIPE_FLOPS,
    ),
    "longer": Way("as naive, with fewer trials and a longer final run", "new, longer"),
}


@dataclass(frozen=True)
class Lab:
    """What both ways of one seed share."""

    seed: int
    root: Path
    """Of the run directories."""
    place: Path
    """For plans and reports."""
    sweep: Path
    file: SweepFile
    final_flops: float
    """Of the final run after the whole sweep."""

    @cached_property
    def corpus(self) -> Corpus:
        """The prepared text."""
        return shards.prepare(self.file.recipe.data)

    def budgets(self, split: Split) -> tuple[float, ...]:
        """The slices that the new way trains."""
        every = self.file.design.budgets
        return every[: len(every) - split.leave_out]

    def swept(self, split: Split) -> str:
        """The sweep of a split, trained to its end; its name."""
        part = self.budgets(split) if split.leave_out else None
        return chain.sweep_of(self.seed, self.root, self.sweep, part)

    @cached_property
    def total_flops(self) -> float:
        """T."""
        whole = self.swept(NEW["new"])
        return chain.sweep_flops(self.root, whole) + self.final_flops

    def search_flops(self, split: Split) -> float:
        """What the sweep of a split has spent, and so what the old way has for its trials."""
        return chain.sweep_flops(self.root, self.swept(split))


@dataclass(frozen=True)
class Trial:
    """One short run of the large model. A loss of None: it diverged."""

    settings: Mapping[str, float]
    loss: float | None
    flops: float


@dataclass(frozen=True)
class Task:
    """What an old way has to do with one seed."""

    lab: Lab
    name: str

    @property
    def way(self) -> Way:
        """The variant."""
        return OLD[self.name]

    @property
    def split(self) -> Split:
        """Its division of T."""
        return NEW[self.way.against]

    @property
    def recipe(self) -> Recipe:
        """From which tuning starts."""
        return self.way.start(self.lab.file.recipe)

    @cached_property
    def trial_flops(self) -> float:
        """FLOPs of one trial, as planned."""
        return self.lab.search_flops(self.split) / self.split.n_trials

    @property
    def n_trials(self) -> int:
        """How many trials there are FLOPs for."""
        return self.split.n_trials + math.floor(self.way.extra_flops / self.trial_flops)

    @cached_property
    def model(self) -> Architecture:
        """The model that is tuned and launched."""
        lab = self.lab
        left = lab.total_flops - lab.search_flops(self.split)
        smallest = lab.file.design.budgets[0]
        return self.way.size(self.recipe, lab.corpus.vocab_size, left, smallest)

    def proposal(self, settings: Mapping[str, float], flops: float) -> Proposal:
        """The model with these settings for so many FLOPs, to half a step.

        Raises:
            ConfigError: The run would be shorter than the recipe allows.
        """
        lab, recipe = self.lab, with_settings(self.recipe, settings)
        size = self.model.size(recipe.seq_len)
        tokens = flops / size.flops_per_token
        spec = recipe.spec(self.model, tokens, data_digest=lab.corpus.digest, seed=lab.seed)
        return Proposal(spec, flops, float(size.count(recipe.param_count)), tokens)

    def refuse_short(self) -> None:
        """Refuse trials that could not be trained, before anything is.

        Raises:
            ConfigError: A trial with the largest batch would have too few steps.
        """
        settings = {key: low for key, (low, _) in SPACE.items()} | {"batch": max(BATCHES)}
        self.proposal(settings, self.trial_flops)


@dataclass(frozen=True)
class Search:
    """An old way with one seed, before its final run."""

    task: Task
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The trial of the lowest loss; None where all diverged."""
        done = [trial for trial in self.trials if trial.loss is not None]
        return min(done, key=lambda trial: trial.loss, default=None)

    @property
    def spent(self) -> float:
        """FLOPs of all trials."""
        return sum(trial.flops for trial in self.trials)

    def final(self) -> Proposal:
        """The full length with the best settings, for all that is left of T."""
        task = self.task
        if self.best is None:
            raise RunError(
                f"all {len(self.trials)} trials diverged, so nothing can be launched",
                where=f"the old way {task.name!r}, seed {task.lab.seed}",
                fix="let its search begin at lower rates, or leave it out: --ways",
            )
        left = task.lab.total_flops + task.way.extra_flops - self.spent
        return task.proposal(self.best.settings, left)


def search(task: Task, executor: Executor) -> Search:
    """Tune an old way: ask for settings, train them briefly, tell the losses, and again."""
    lab, trials = task.lab, []
    sampler = Sampler(task.recipe, lab.seed)
    while len(trials) < task.n_trials:
        asked = [sampler.ask() for _ in range(min(ABREAST, task.n_trials - len(trials)))]
        wanted = tuple(task.proposal(settings, task.trial_flops) for settings in asked)
        results = train(lab.file, place(wanted, lab.root, f"old-{task.name}"), executor)
        told = [
            Trial(settings, result.loss if result.status == "finished" else None, result.flops)
            for settings, result in zip(asked, results, strict=True)
        ]
        sampler.tell([trial.loss for trial in told])
        trials += told
    return Search(task, tuple(trials))


class Sampler:
    """Optuna's TPE behind ask and tell. With one seed and the same losses it asks the same."""

    def __init__(self, start: Recipe, seed: int):
        import optuna  # not at the top: every worker process would load it too

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM)
        self._study = optuna.create_study(sampler=sampler)
        first = {key: getattr(start.optimizer, key) for key in SPACE}
        self._study.enqueue_trial(first | {"batch": 1.0})
        self._failed = optuna.trial.TrialState.FAIL
        self._open: list[optuna.Trial] = []

    def ask(self) -> dict[str, float]:
        """The next settings to try; the first are the start's own."""
        trial = self._study.ask()
        self._open.append(trial)
        drawn = {key: trial.suggest_float(key, *ends, log=True) for key, ends in SPACE.items()}
        drawn["batch"] = trial.suggest_categorical("batch", BATCHES)
        return {key: float(f"{value:.3g}") for key, value in drawn.items()}

    def tell(self, losses: Sequence[float | None]) -> None:
        """The losses of everything that was asked since the last call; None is diverged."""
        for trial, loss in zip(self._open, losses, strict=True):
            if loss is None:
                self._study.tell(trial, state=self._failed)
            else:
                self._study.tell(trial, loss)
        self._open = []


def with_settings(recipe: Recipe, settings: Mapping[str, float]) -> Recipe:
    """A recipe with the settings of one trial."""
    times, batch = settings["batch"], recipe.batch
    return recipe.model_copy(
        update={
            "optimizer": recipe.optimizer.model_copy(update={k: settings[k] for k in SPACE}),
            "batch": BatchRule(
                coefficient=batch.coefficient * times,
                exponent=batch.exponent,
                min_tokens=round(batch.min_tokens * times),
                max_tokens=round(batch.max_tokens * times),
            ),
        }
    )


def train(file: SweepFile, work: Sequence[PlannedJob], executor: Executor) -> tuple[RunResult, ...]:
    """Train what is not trained yet; the results, in order."""
    for w in work:
        if w.state != "done":
            w.run_dir.create(w.proposal.spec)
    if any(w.state != "done" for w in work):
        ended = train_all(file, work, executor)
        if ended.interrupted:
            print("stopped; the same command goes on from here", file=sys.stderr)
            sys.exit(130)
    results = tuple(w.run_dir.result() for w in work)
    lost = [str(w.run_dir.path) for w, r in zip(work, results, strict=True) if r is None]
    if lost:
        sys.exit("these runs did not end; the same command tries again: " + ", ".join(lost))
    return results
