"""The order of training: every window once an epoch, and the same whoever asks and how."""

from dataclasses import replace

import numpy as np
import pytest

from scalelab.data.base import DataConfig
from scalelab.data.corpus import stream
from scalelab.data.corpus.shards import prepare
from scalelab.data.corpus.stream import (
    Stream,
    n_tokens_unique,
    permute,
    refuse_too_many,
    validation_floor,
    validation_windows,
)
from scalelab.data.corpus.token_files import TokenFile
from scalelab.data.hashing import key
from scalelab.errors import DataError


def row(n, shards=1):
    """Tokens 0 .. n-1, so that a token says where it came from."""
    parts = np.array_split(np.arange(n, dtype="<u4"), shards)
    return TokenFile(tuple(parts), None)


@pytest.fixture
def corpus():
    source = {"kind": "synthetic", "vocab": 64, "topics": 8, "documents": 400, "length": 32}
    return prepare(DataConfig(source=source))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000, 4097])
def test_a_permutation_reaches_every_place_once(n):
    image = permute(np.arange(n), n, key(5))

    assert np.array_equal(np.sort(image), np.arange(n))


def test_permutations_of_other_keys_are_other_permutations():
    place = np.arange(1000)
    images = np.stack([permute(place, 1000, key(seed)) for seed in range(8)])

    # Two random permutations of 1000 agree in 1 place on average (Poisson), 12 is 1 in 10^9.
    agree = [(images[i] == images[j]).sum() for i in range(8) for j in range(i)]
    assert max(agree) < 12


def test_a_permutation_is_not_visibly_ordered():
    image = permute(np.arange(4000), 4000, key(1))

    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.08  # 5 standard errors


def test_an_epoch_reads_every_target_once():
    s = Stream(row(10 * 57 + 4), seq_len=10, seed=3)

    targets = np.concatenate([s.batch(k, 3)[:, 1:] for k in range(19)])

    assert np.array_equal(np.sort(targets.ravel()), np.arange(1, 571))


def test_windows_are_runs_of_neighbouring_tokens():
    batch = Stream(row(1000), seq_len=16, seed=0).batch(2, 5)

    assert batch.dtype == np.int64
    assert batch.shape == (5, 17)
    assert (np.diff(batch, axis=1) == 1).all()


def test_the_second_epoch_has_another_order():
    s = Stream(row(10 * 100 + 1), seq_len=10, seed=3)

    first, second = s.batch(0, 100)[:, 0], s.batch(1, 100)[:, 0]

    assert set(first) == set(second)
    assert (first == second).sum() < 10


def test_another_seed_has_another_order():
    one, other = (Stream(row(5001), 10, seed).batch(0, 50) for seed in (0, 1))

    assert not np.array_equal(one, other)


def test_the_order_of_samples_does_not_depend_on_the_batch_size():
    small, large = Stream(row(3001), 10, 7), Stream(row(3001), 10, 7)

    one = np.concatenate([small.batch(k, 4) for k in range(60)])
    other = np.concatenate([large.batch(k, 24) for k in range(10)])

    assert np.array_equal(one, other)


def test_any_batch_can_be_asked_for_first(monkeypatch):
    monkeypatch.setattr(stream, "_BLOCK", 64)  # so that batches lie across blocks
    through = Stream(row(3001), 10, 7)
    batches = [through.batch(k, 24) for k in range(40)]

    for k in (39, 0, 17, 18, 2):
        assert np.array_equal(Stream(row(3001), 10, 7).batch(k, 24), batches[k])


def test_blocks_do_not_show(monkeypatch):
    whole = Stream(row(3001), 10, 7).batch(0, 700)
    monkeypatch.setattr(stream, "_BLOCK", 64)

    assert np.array_equal(Stream(row(3001), 10, 7).batch(0, 700), whole)


@pytest.mark.parametrize("shards", [2, 3, 40])
def test_shard_borders_do_not_show(shards):
    one, many = (Stream(row(1000, n), 32, 0).batch(0, 31) for n in (1, shards))

    assert np.array_equal(one, many)


def test_a_row_shorter_than_a_window_is_refused():
    with pytest.raises(DataError, match=r"32 tokens are not one window of 32 \+ 1"):
        Stream(row(32), seq_len=32, seed=0)


def test_more_tokens_than_the_epochs_allow_are_refused_with_both_numbers(corpus):
    corpus = replace(corpus, n_train=100_001)

    with pytest.raises(DataError) as refused:
        refuse_too_many(corpus, 32, 200_064, epochs=1.5)

    assert "200k training tokens are asked for, and 100k are there" in str(refused.value)
    assert "2 epochs, where 1.5 are allowed" in str(refused.value)
    assert "data.epochs=2.01" in str(refused.value)


def test_as_many_tokens_as_the_epochs_allow_are_accepted(corpus):
    once = (corpus.n_train - 1) // 32 * 32

    refuse_too_many(corpus, 32, 2 * once, epochs=2.0)
    with pytest.raises(DataError, match="epochs"):
        refuse_too_many(corpus, 32, 2 * once + 1, epochs=2.0)


def test_repeated_tokens_are_not_unique(corpus):
    once = (corpus.n_train - 1) // 32 * 32

    assert n_tokens_unique(corpus, 32, once // 2) == once // 2
    assert n_tokens_unique(corpus, 32, 3 * once) == once
    assert Stream(corpus.tokens("train"), 32, 0).n_tokens_unique(3 * once) == once


def test_the_validation_set_of_fewer_tokens_begins_that_of_more(corpus):
    few, many = (validation_windows(corpus, 32, n) for n in (200, 700))

    assert few.shape == (6, 33)
    assert many.shape == (21, 33)
    assert np.array_equal(many[:6], few)


def test_validation_windows_are_spread_over_all_of_the_text(corpus):
    there = (corpus.n_validation - 1) // 32
    for n in (4, 8, there):
        starts = np.sort(stream._validation_starts(corpus, 32, n * 32)) // 32

        assert len(set(starts)) == n
        # No gap, the ends included, is more than twice what even spreading would leave.
        gaps = np.diff([-1, *starts, there])
        assert gaps.max() <= max(1, 2 * there / n + 1)


def test_all_validation_windows_are_given_when_more_are_asked_for(corpus):
    windows = validation_windows(corpus, 32, 10**9)

    assert len(windows) == (corpus.n_validation - 1) // 32


def test_less_than_one_validation_window_is_refused(corpus):
    with pytest.raises(DataError, match="31 validation tokens are not one window of 32"):
        validation_windows(corpus, 32, 31)


def test_the_floor_of_all_windows_is_the_entropy_of_the_targets(corpus):
    nats = np.asarray(corpus.nats(), np.float64)
    last = (corpus.n_validation - 1) // 20 * 20  # windows that begin inside documents

    floor = validation_floor(corpus, 20, 10**9)

    assert floor == pytest.approx(nats[1 : last + 1].mean())


def test_the_floor_of_text_is_unknown(config):
    assert validation_floor(prepare(config()), 8, 64) is None
