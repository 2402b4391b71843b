"""The numbers behind every order and every draw, against the published generator."""

import numpy as np

from scalelab.data.hashing import U64, drawn_share, key, mix

GOLDEN = 0x9E3779B97F4A7C15


def test_mix_is_splitmix64():
    """The first three numbers of SplitMix64 from seed 0, as in its reference implementation."""
    states = np.array([GOLDEN * i % 2**64 for i in (1, 2, 3)], U64)

    assert [int(x) for x in mix(states)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert int(key(0)[0]) == 0xE220A8397B1DCDAF


def test_a_key_depends_on_every_part_and_on_their_order():
    keys = [(1, 2), (2, 1), (1, 2, 0), (1,), (2,), (-1, 2)]

    assert len({int(key(*parts)[0]) for parts in keys}) == len(keys)


def test_draws_are_even():
    """2000 of them in ten bins: 200 each, give or take 13; 5 of these."""
    drawn = [drawn_share("seed", i) for i in range(2000)]

    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))

    assert np.all(np.abs(counts - 200) < 65)
