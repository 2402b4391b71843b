"""Near-copies end up on one side, whatever the order; the share of bytes is about right."""

import numpy as np
import pytest

from scalelab.data.corpus.sketches import Sketcher
from scalelab.data.corpus.split import choose, clusters
from scalelab.errors import DataError


def sketched(texts):
    sketcher = Sketcher()
    for text in texts:
        sketcher.add(text)
    return sketcher.finish()


def with_one_change(text, at):
    words = text.split(" ")
    words[at % len(words)] = "changed"
    return " ".join(words)


def test_clusters_are_the_connected_parts_of_the_graph():
    bands = np.random.default_rng(0).integers(0, 400, (80, 3)).astype(np.uint64)
    expected = list(range(80))
    for _ in range(80):  # the slow way: pass the smallest place on until nothing changes
        for i in range(80):
            for j in range(80):
                if (bands[i] == bands[j]).any():
                    expected[i] = expected[j] = min(expected[i], expected[j])

    found = clusters(bands)

    assert len(set(expected)) not in (1, 80)
    assert found.tolist() == expected


def test_near_copies_fall_on_one_side(prose):
    texts = prose(150)
    copies = [with_one_change(text, 7 * i) for i, text in enumerate(texts)]

    side = choose(sketched(texts + copies), 0.3).is_validation

    # One changed word in 40 touches 5 of 36 shingles at worst: overlap 0.76 or more, and
    # such pairs may be missed a few times in a hundred.
    assert 0.2 < side.mean() < 0.4
    assert (side[:150] == side[150:]).mean() >= 0.98


def test_exact_copies_always_fall_on_one_side(prose):
    texts = [*prose(60), *(f"tiny {i}" for i in range(40))]

    side = choose(sketched(texts + texts), 0.3).is_validation

    assert np.array_equal(side[:100], side[100:])


def test_unlike_texts_are_not_joined(prose):
    assert choose(sketched(prose(300)), 0.2).n_clusters == 300


def test_texts_of_a_few_words_are_compared_exactly():
    split = choose(sketched([f"only four words {i}" for i in range(50)]), 0.2)

    assert split.n_clusters == 50


def test_the_choice_does_not_depend_on_the_order(prose):
    texts = prose(200)
    order = np.random.default_rng(1).permutation(200)

    side = choose(sketched(texts), 0.1).is_validation
    shuffled = choose(sketched([texts[i] for i in order]), 0.1).is_validation

    assert np.array_equal(shuffled, side[order])


@pytest.mark.parametrize("share", [0.02, 0.08, 0.5])
def test_about_the_share_of_bytes_is_held_out(prose, share):
    sketches = sketched(prose(400))

    side = choose(sketches, share).is_validation
    held_out = sketches.n_bytes[side].sum() / sketches.n_bytes.sum()

    # The nearest that whole documents can come: half of the largest away at most.
    assert abs(held_out - share) <= sketches.n_bytes.max() / 2 / sketches.n_bytes.sum()


def test_a_cluster_that_is_most_of_the_text_is_trained_on(prose):
    texts = prose(30)
    giant = [with_one_change(texts[0] * 20, i) for i in range(30)]

    split = choose(sketched(texts + giant), 0.1)

    assert set(split.largest) >= set(range(30, 60))
    assert not split.is_validation[30:].any()
    assert split.is_validation.any()


@pytest.mark.parametrize("n", [1, 3])
def test_too_little_to_divide_is_refused(prose, n):
    with pytest.raises(DataError) as refused:
        choose(sketched(prose(1) * n), 0.08)

    assert f"{n} documents in 1 groups of near-copies leave the validation side empty" in str(refused.value)
    assert "document: paragraph" in str(refused.value)
