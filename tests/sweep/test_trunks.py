"""Designs of trunks: what they share, what they save, and the separate runs that validate them."""

from pathlib import Path

import pytest

from scalelab.errors import ConfigError
from scalelab.launch.sweep_plan import PlannedJob
from scalelab.launch.trunk_jobs import flops_planned
from scalelab.sweep.file import SweepFile
from scalelab.train.run_directory import RunDir

SWEEPS = Path(__file__).parents[2] / "sweeps"
TRUNK, SEPARATE = "recipe.schedule.trunk=true", "recipe.schedule.trunk=false"
LADDER = "design={kind: ladder, sizes: [23e3, 59e3, 166e3]}"


def ask(*overrides):
    file = SweepFile.load(SWEEPS / "isoflop.yaml", overrides)
    asked = file.design.ask(file.recipe, vocab_size=1024, data_digest="d" * 12)
    assert len(asked) == file.design.n_runs()
    return asked


def share(proposals, tmp_path):
    """FLOPs with trunks over those of the same runs trained separately."""
    work = [PlannedJob(p, RunDir(tmp_path / "t" / p.spec.id), "planned") for p in proposals]
    return flops_planned(work) / sum(p.flops for p in proposals)


def test_a_ladder_of_six_even_counts_takes_less_than_half(tmp_path):
    """.3 + .7 x 35 / 135 = .4815, up to whole steps."""
    proposals = ask(TRUNK, LADDER)

    assert len(proposals) == 18
    assert share(proposals, tmp_path) == pytest.approx(0.3 + 0.7 * 35 / 135, abs=0.003)
    assert share(proposals, tmp_path) <= 0.5
    assert len({p.spec.trunk_id for p in proposals}) == 3
    ratios = [p.spec.n_tokens / p.spec.model.size(64).n_params_matmul for p in proposals[:6]]
    assert ratios == pytest.approx([10, 15, 20, 25, 30, 35], rel=0.02)


def test_four_powers_of_two_cannot(tmp_path):
    proposals = ask(TRUNK, "design={kind: ladder, sizes: [59e3], tokens_per_param: [10, 20, 40, 80]}")

    assert share(proposals, tmp_path) == pytest.approx(0.3 + 0.7 * 80 / 150, abs=0.003)


def test_the_default_isoflop_design_without_replicates_takes_at_most_seven_tenths(tmp_path):
    assert 0.5 < share(ask(TRUNK, "design.replicates=0"), tmp_path) <= 0.7


def test_without_trunks_nothing_is_shared(tmp_path):
    assert share(ask(LADDER, SEPARATE), tmp_path) == share(ask(SEPARATE), tmp_path) == 1


@pytest.mark.parametrize("trunk", [TRUNK, SEPARATE])
@pytest.mark.parametrize(
    ("counts", "name", "numbers"),
    [
        ("tokens: [1e6, 1.0001e6]", "tokens", "1000000 and 1000100"),
        ("tokens_per_param: [10, 10.0001]", "tokens_per_param", r"\d+(\.\d+)? and \d+(\.\d+)?"),
    ],
)
def test_two_counts_that_come_out_as_one_run_are_refused(trunk, counts, name, numbers):
    with pytest.raises(
        ConfigError, match=rf"^{numbers} tokens come out as the same run of [\d,]+ steps of \d+"
    ) as refused:
        ask("design={kind: ladder, sizes: [59e3], " + counts + "}", trunk)
    assert refused.value.where == f"design.{name}"


def test_counts_of_tokens_and_seeds_of_a_ladder():
    proposals = ask(TRUNK, "design={kind: ladder, sizes: [59e3], tokens: [4e5, 8e5], seeds: 2, seed: 5}")

    assert [p.spec.seed for p in proposals] == [5, 5, 6, 6]
    assert [p.n_tokens_planned for p in proposals] == [4e5, 8e5] * 2
    assert len({p.spec.trunk_id for p in proposals}) == 2
    assert all(p.flops_planned is None for p in proposals)


@pytest.mark.parametrize("design", ["design.validate_trunks=3", LADDER.replace("}", ", validate_trunks: 3}")])
def test_three_points_are_trained_both_ways(design):
    """The same run but for its warmup; none of the shortest of a size, whose warmup is the same."""
    proposals = ask(TRUNK, design)
    by_id = {p.spec.id: p for p in proposals}
    separate = [p for p in proposals if p.validates is not None]

    assert len(separate) == 3
    for p in separate:
        branch = by_id[p.validates]
        assert branch.validates is None
        assert branch.spec.trunk_id is not None is p.spec.trunk_id
        assert p.spec.model_copy(update={"schedule": branch.spec.schedule}) == branch.spec
        ours, theirs = (each.spec.schedule.phases(each.spec.n_steps) for each in (branch, p))
        assert ours["cooldown"] == theirs["cooldown"]
        assert ours["warmup"] < theirs["warmup"] == round(0.1 * p.spec.n_steps)
    flops = [p.flops for p in separate]
    assert flops == sorted(flops)
    assert flops[0] < flops[-1] == pytest.approx(max(p.flops for p in proposals), rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ([SEPARATE, "design.validate_trunks=3"], "3 separate runs, and there are 0 branches"),
        (
            [TRUNK, "design={kind: ladder, sizes: [59e3], tokens: [4e5], validate_trunks: 1}"],
            "there are 0 branches",
        ),
        ([TRUNK, "design={kind: ladder, sizes: [59e3, 59.1e3]}"], "come out as the same model"),
        (["design={kind: ladder, sizes: [6e4, 5e4]}"], "sizes must rise without repeats"),
        (["design={kind: ladder, sizes: [6e4], tokens: [2, 2]}"], "tokens must rise without repeats"),
        (["design={kind: ladder, sizes: [6e4], tokens: [2], tokens_per_param: [2]}"], "are both given"),
        (["design={kind: ladder, sizes: [6e4], tokens: [5000]}"], "fewer than min_steps 100"),
    ],
)
def test_what_cannot_be_is_refused(overrides, problem):
    with pytest.raises(ConfigError, match=problem):
        ask(*overrides)
