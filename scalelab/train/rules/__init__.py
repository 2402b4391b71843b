"""Rules: a number of a recipe as a function of the scale of a run.

    N, D, width, depth, C  ->  batch  ->  steps  ->  rates, betas, warmup  ->  decays by the rate

Wherever a recipe's optimizer or schedule has a number, a rule may stand instead:

    optimizer:
      lr: {kind: power, coefficient: 1.79, n_params: -0.713, n_tokens: 0.307}

What a rule may read is settled before it is asked: a rule of the batch that reads the batch, or
what follows from it, is refused. No rule reads another; a decay may read the rate that came of one.

Not here: the recipe (recipe.py), schedules (schedule.py), what an optimizer's numbers mean
(optimizers/).
"""

from scalelab.train.rules.base import FittedRange, PublishedFit, Rule, RuleConstant, Scale
from scalelab.train.rules.batch import BatchRule, whole_batch
from scalelab.train.rules.power import PowerRule
from scalelab.train.rules.resolution import UnresolvedPlugin, decided, number_fields, ruled

__all__ = [
    "BatchRule",
    "FittedRange",
    "PowerRule",
    "PublishedFit",
    "Rule",
    "RuleConstant",
    "Scale",
    "UnresolvedPlugin",
    "decided",
    "number_fields",
    "ruled",
    "whole_batch",
]
