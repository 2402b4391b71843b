"""From a target size to a concrete model: the family's member nearest to it.

Sizes are discrete: widths are whole heads, depths whole layers. So a target is answered
with the nearest member, and planned and actual are kept side by side. A target farther
than TOLERANCE from every member cannot be built, and is refused.
"""

import math
from collections.abc import Iterator

from scalelab.config import refuse_arithmetic
from scalelab.errors import ConfigError
from scalelab.model.base import Architecture, Family
from scalelab.units import si

TOLERANCE = 0.5
"""Largest error of a target size, as a share of it."""


MOST_MEMBERS = 20_000
"""Most members of a family that are searched for a size: heads of 8 up to a width of 160,000."""


def members(family: Family, vocab_size: int) -> Iterator[Architecture]:
    """Yield the family from its smallest member up.

    Raises:
        ConfigError: A member cannot be built, or the search has passed MOST_MEMBERS of them.
    """
    found, member = iter(family.members(vocab_size)), None
    for _ in range(MOST_MEMBERS):
        with refuse_arithmetic("the next larger model", "recipe.model", "ask for smaller models"):
            member = next(found)
        yield member
    raise ConfigError(
        f"the family has more than {MOST_MEMBERS:,} models up to {si(member.size(1).count('total'))} parameters",
        where="recipe.model: searched for a larger model",
        fix="ask for smaller models, or change the family so that its sizes lie further apart",
    )


def nearest(family: Family, n_params: float, param_count: str, vocab_size: int) -> Architecture:
    """The member whose count is nearest to `n_params`, in ratio.

    Args:
        family: The shape rule.
        n_params: Target size, parameters, counted as `param_count` says.
        param_count: total, non_embedding, matmul or active.
        vocab_size: Tokens of the vocabulary.

    Raises:
        ConfigError: No member comes within TOLERANCE of the target.
    """
    best, best_miss, below, above = None, math.inf, None, None
    for member in members(family, vocab_size):
        actual = member.size(1).count(param_count)
        miss = abs(math.log(actual) - math.log(n_params))
        if miss < best_miss:
            best, best_miss = member, miss
        if actual <= n_params:
            below = actual
        else:
            above = actual
            break
    assert best is not None  # a family has no end
    got = best.size(1).count(param_count)
    if abs(got / n_params - 1) > TOLERANCE:
        neighbours = " and ".join(si(n) for n in (below, above) if n is not None)
        raise ConfigError(
            f"no model of {si(n_params)} parameters ({param_count}) can be built: the nearest has {si(got)}",
            where=f"recipe.model: the family's nearest members have {neighbours}",
            fix=f"ask for another size, or {family.closer} so that sizes lie closer",
        )
    return best
