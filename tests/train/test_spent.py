"""What runs have spent: branches of a trunk share its steps, in FLOPs and in seconds."""

from types import SimpleNamespace

import pytest

from scalelab.train.spent import spent


def result(tokens, of_trunk=0, trunk="trunk", seconds=None, **changes):
    """A run of 10 FLOPs a token, 1 s for 1,000 tokens, and 2 s of evaluation."""
    made = {
        "n_tokens": tokens,
        "n_tokens_trunk": of_trunk,
        "flops_per_token": 10.0,
        "flops": 10.0 * tokens,
        "train_s": tokens / 1000 if seconds is None else seconds,
        "eval_s": 2.0,
        "trunk": trunk if of_trunk else None,
        "trunk_run": None,
    }
    return SimpleNamespace(**made | changes)


def test_runs_by_themselves_are_summed():
    found = spent([result(1000), None, result(3000)])

    assert (found.flops, found.seconds) == (40_000, 8)


def test_a_trunk_is_counted_once_at_its_largest_branch():
    """Cooldowns of 300 and 600 tokens, and a trunk of 1,400 for both; the separate run shares nothing."""
    found = spent([result(1000, 700), result(2000, 1400), result(500)])

    assert found.flops == 10 * (300 + 600 + 1400 + 500)
    assert found.seconds == pytest.approx((300 + 600 + 1400 + 500) / 1000 + 3 * 2)


def test_two_trunks_are_two_and_a_trunk_trained_in_two_lengths_as_well():
    two = [result(1000, 700, "a"), result(1000, 700, "b")]
    again = [result(1000, 700, trunk_run="short"), result(2000, 1400, trunk_run="long")]

    assert spent(two).flops == 10 * 2000
    assert spent(again).flops == 10 * 3000
