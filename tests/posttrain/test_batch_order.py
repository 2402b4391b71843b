"""Batches: every example once an epoch, the same order for the same seed."""

import numpy as np
import pytest

from scalelab.posttrain.batch_order import epoch_batches


@pytest.mark.parametrize(("n", "batch", "epochs"), [(10, 3, 1), (10, 4, 2.5), (7, 7, 3), (5, 8, 2)])
def test_every_example_is_seen_once_an_epoch(n, batch, epochs):
    steps = epoch_batches(n, batch, epochs, 1, seed=3)

    seen = np.concatenate(steps)
    assert len(seen) == int(np.ceil(n * epochs))
    for epoch in range(int(epochs)):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert all(len(step) == min(batch, n) for step in steps[:-1])


def test_few_examples_are_passed_over_more_often():
    assert len(epoch_batches(4, 4, 1, 25, seed=0)) == 25


def test_seeds_decide_the_order():
    one, same, other = (np.concatenate(epoch_batches(50, 5, 1, 1, seed=s)) for s in (1, 1, 2))

    assert (one == same).all()
    assert (one != other).any()


def test_every_epoch_has_every_example_in_an_order_of_its_own():
    steps = epoch_batches(50, 10, 2, 1, seed=0)

    first, second = np.concatenate(steps[:5]), np.concatenate(steps[5:])
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()
    assert first.tolist() != list(range(50))
