"""The runs of recipe checks: sizes that a budget pays for, specs of a recipe, trained once.

    runs/.checks/<sweep>/<run id>/    ordinary runs: resumable, and never trained twice

All checks of a sweep file share the directory. Whether the budget is spent well depends on the model: the base
is the widest member of the family for which the runs have at least MIN_STEPS steps.

Not here: what is measured (members/), how runs are trained (runs.py).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from scalelab.data.corpus.shards import Corpus
from scalelab.data.corpus.stream import count_windows, validation_windows
from scalelab.errors import ConfigError, RunError
from scalelab.evals.checkpoint import fit, read_tensors
from scalelab.hardware.device import find_device
from scalelab.model.base import Architecture
from scalelab.model.sizing import members
from scalelab.train.recipe import Recipe
from scalelab.train.rules import whole_batch
from scalelab.train.rules.power import ConstantRule
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import EvalSpec, RunResult, RunSpec
from scalelab.units import sci

CHECKS_DIRECTORY = ".checks"
MIN_STEPS = 64
"""Fewest steps of a run whose loss is compared."""
EVALUATION_TOKENS = 2**14
"""Validation tokens of a run, at most."""
PROBE_WINDOWS = 8
"""Windows of validation text on which activations are measured."""
MOST_WIDTH_FACTOR = 64
"""Members of the family wider than this many times the smallest are not considered as a base."""


@dataclass(eq=False)
class RecipeWorkbench:
    """A recipe, its corpus and a budget; trains the runs that checks ask for."""

    recipe: Recipe
    corpus: Corpus
    directory: Path
    """Directory of the runs."""
    train: Callable[[Sequence[RunDir]], None]
    """Trains runs whose directories hold their specs, or resumes them. Raises where one is not done."""
    budget: float
    """Planned FLOPs of one check."""
    seeds: tuple[int, ...]
    used: dict[str, RunResult] = field(default_factory=dict)
    """Results that the current check has asked for, by id."""

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary."""
        return self.corpus.vocab_size

    @property
    def evaluation(self) -> EvalSpec:
        """Validation of the runs: the recipe's, on EVALUATION_TOKENS at most, without points on the way."""
        seq_len = self.recipe.seq_len
        room = min(EVALUATION_TOKENS, self.recipe.evaluation.tokens, self.corpus.n_validation - 1)
        tokens = room // seq_len * seq_len
        if tokens == 0:
            raise ConfigError(
                f"the corpus has {self.corpus.n_validation} validation tokens, less than a window of {seq_len}",
                where="recipe.data.validation",
                fix="hold out more text",
            )
        return EvalSpec(tokens=tokens, curve_points=0, curve_tokens=tokens)

    def flops_per_token(self, model: Architecture) -> float:
        """Training FLOPs per token of a model."""
        return model.size(self.recipe.seq_len).flops_per_token

    def most_tokens(self) -> float:
        """Tokens of the longest run that the corpus allows."""
        once = count_windows(self.corpus.n_train, self.recipe.seq_len) * self.recipe.seq_len
        return once * self.recipe.data.epochs

    def batch_at(self, model: Architecture, n_tokens: float) -> int:
        """Tokens a step by the recipe's rule."""
        return self.recipe.scale(model, n_tokens).batch_tokens

    def widths(
        self, factors: tuple[int, ...], is_affordable: Callable[[list[Architecture]], bool]
    ) -> list[Architecture]:
        """Return models of a base width and of multiples of it, from the widest base that is affordable.

        Args:
            factors: Multiples of the base, the first 1, in ascending order.
            is_affordable: Whether the runs of a check on these models fit the budget.

        Raises:
            ConfigError: The family has no such models, or not even its smallest are affordable.
        """
        by_width: dict[int, Architecture] = {}
        chosen: list[Architecture] | None = None
        for member in members(self.recipe.model, self.vocab_size):
            by_width.setdefault(member.width(), member)
            smallest = min(by_width)
            base = member.width() // factors[-1]
            wanted = [base * factor for factor in factors]
            if wanted[-1] == member.width() and all(width in by_width for width in wanted):
                models = [by_width[width] for width in wanted]
                if not is_affordable(models):
                    break
                chosen = models
            if member.width() > MOST_WIDTH_FACTOR * smallest * factors[-1]:
                break
        if chosen is None:
            raise ConfigError(
                f"{sci(self.budget)} FLOPs do not pay for runs of {MIN_STEPS} steps at widths of "
                f"x{', x'.join(map(str, factors))} of the family's smallest model",
                where="recipe.model and --flops",
                fix="raise --flops, lower recipe.batch or recipe.seq_len, or make the family's smallest model smaller",
            )
        return chosen

    def spec(
        self, model: Architecture, n_tokens: float, seed: int, batch_tokens: int | None = None
    ) -> RunSpec:
        """Return a run of the recipe, with the validation of checks.

        Args:
            model: The model.
            n_tokens: Training tokens.
            seed: Seed of the run.
            batch_tokens: Tokens a step in place of the recipe's rule; None: by the rule.
        """
        update: dict[str, object] = {"min_steps": 1, "evaluation": self.evaluation}
        if batch_tokens is not None:
            update["batch"] = ConstantRule(value=float(batch_tokens))
        recipe = self.recipe.model_copy(update=update)
        if batch_tokens is not None:
            settled = whole_batch(recipe.batch, recipe.scale(model, n_tokens), recipe.seq_len)
            assert settled == batch_tokens, "a batch of the recipe is a power of two of windows"
        return recipe.spec(model, n_tokens, data_digest=self.corpus.digest, seed=seed)

    def trained(self, specs: Iterable[RunSpec]) -> list[RunResult]:
        """Return the results of runs, which are trained where they are not done.

        Raises:
            RunError: A run did not come to a result.
        """
        specs = list(specs)
        dirs = [RunDir.of(spec, self.directory.parent, self.directory.name) for spec in specs]
        todo = {}
        for run_dir, spec in zip(dirs, specs, strict=True):
            if not run_dir.is_done:
                run_dir.create(spec)
                todo[run_dir.run] = run_dir
        if todo:
            self.train(list(todo.values()))
        found = []
        for run_dir in dirs:
            result = run_dir.result()
            if result is None:
                raise RunError(
                    f"run {run_dir.run} of the check has no result",
                    where=str(run_dir.path),
                    fix="run the same command again, which resumes it",
                )
            self.used[run_dir.run] = result
            found.append(result)
        return found

    def activations(self, spec: RunSpec) -> dict[str, float] | None:
        """Return the root mean square of each activation of a trained run, by name; None where it diverged.

        It is measured on PROBE_WINDOWS windows of validation text, in fp32.
        """
        [result] = self.trained([spec])
        if result.status != "finished":
            return None
        run_dir = RunDir.of(spec, self.directory.parent, self.directory.name)
        run_dir.check_file(run_dir.weights_path.name, result.files)
        network = spec.model.network()
        fit(network, read_tensors(run_dir.weights_path), run_dir.path)
        device = find_device().torch
        network = network.to(device)
        tokens = min(PROBE_WINDOWS * spec.seq_len, spec.evaluation.tokens)
        windows = validation_windows(self.corpus, spec.seq_len, tokens)
        with torch.no_grad():
            found = network.activations(torch.from_numpy(windows[:, :-1].astype(np.int64)).to(device))
            return {name: float(x.float().square().mean().sqrt()) for name, x in found.items()}
