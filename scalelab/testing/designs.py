"""Conformance suite of designs: runs of the recipe, identical for identical results."""

import math
from collections.abc import Callable

from scalelab.sweep import DESIGNS
from scalelab.sweep.base import Design, Proposal
from scalelab.train.recipe import Recipe, RunRequest
from scalelab.train.spec import RunResult, RunSpec

MOST_ROUNDS = 1000


def check_design(
    design: Design,
    recipe: Recipe,
    result: Callable[[RunSpec], RunResult],
    *,
    vocab_size: int = 257,
    data_digest: str = "0123456789ab",
) -> None:
    """Hold a design to its promises.

    Args:
        design: A member of DESIGNS with its settings.
        recipe: One that it can ask for runs of.
        result: What a run comes to; the same for the same spec.
        vocab_size: Of the corpus.
        data_digest: Of the corpus.
    """
    assert isinstance(design, DESIGNS[design.kind])
    assert type(design).model_validate(design.model_dump()) == design
    known = {"vocab_size": vocab_size, "data_digest": data_digest}
    asked = _asked(design, recipe, result, known)
    assert asked, "it asks for nothing"
    n_first = len(design.study(recipe, **known).ask())
    assert design.n_runs() in (None, n_first), "the number of its runs is another"
    assert asked == _asked(design, recipe, result, known), "the same results lead to other runs"
    asked = [proposal for proposal in asked if proposal.validates is None]
    requests = [RunRequest(p.spec.model, p.n_tokens_planned, p.spec.seed) for p in asked]
    specs = recipe.specs(requests, data_digest=data_digest)
    for proposal, of_recipe in zip(asked, specs, strict=True):
        spec = proposal.spec
        assert spec.data_digest == data_digest
        data = spec.data.model_copy(
            update={"weights": recipe.data.weights}
        )  # a design may choose the mixture
        assert spec.model_copy(update={"data": data}) == of_recipe, "a run that is not the recipe's"
        size = spec.model.size(recipe.seq_len).count(recipe.param_count)
        assert math.isclose(size, proposal.n_params_planned, rel_tol=0.5)
        assert math.isclose(spec.n_tokens, proposal.n_tokens_planned, rel_tol=0.5)
        if proposal.flops_planned is not None:
            assert math.isclose(proposal.flops, proposal.flops_planned, rel_tol=0.5)
    lost = _asked(design, recipe, lambda spec: None, known)
    assert lost[0] == asked[0], "the first question depends on results"


def _asked(
    design: Design, recipe: Recipe, result: Callable[[RunSpec], RunResult | None], known: dict
) -> list[Proposal]:
    """Everything that a study asks for until it has no more questions."""
    study, asked, untold = design.study(recipe, **known), [], []
    for _ in range(MOST_ROUNDS):
        new = list(study.ask())
        asked += new
        untold += new
        if not untold:
            return asked
        if not design.adaptive:
            assert not study.ask(), "a static design asks once"
        proposal = untold.pop(0)
        study.tell(proposal, result(proposal.spec))
    raise AssertionError(f"it goes on asking after {MOST_ROUNDS} results")
