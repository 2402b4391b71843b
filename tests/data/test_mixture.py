"""Corpora of domains: where they lie, the shares that a run reads, and losses on each."""

from collections import Counter

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pydantic import ValidationError

from scalelab.data.base import DataConfig
from scalelab.data.corpus.mixture import (
    SLOTS,
    MixtureOrder,
    domain_ranges,
    domain_windows,
    n_tokens_unique,
    refuse_too_many,
    stream_of,
)
from scalelab.data.corpus.shards import prepare
from scalelab.errors import DataError

T = 16


def settings(tmp_path, **changes):
    """Two domains of lines, one of letters and one of digits, four times as long."""
    rng = np.random.default_rng(0)
    for name, letters, n in (("words", "abcdefgh", 40), ("digits", "01234567", 160)):
        lines = ["".join(rng.choice(list(letters), 60)) + " " + str(i) for i in range(n)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    parts = [
        {"kind": "text", "paths": [str(tmp_path / f"{n}.txt")], "document": "line"}
        for n in ("words", "digits")
    ]
    source = {"kind": "mix", "names": ["words", "digits"], "parts": parts}
    return DataConfig(**{"source": source, "tokenizer": "bytes", "validation": 0.2, "epochs": 50} | changes)


@pytest.fixture
def corpus(tmp_path):
    return prepare(settings(tmp_path))


def is_word(corpus, windows):
    """Whether each window begins in the domain of words, by where its tokens lie."""
    begin, end = domain_ranges(corpus, "train")["words"]
    row = np.concatenate(corpus.tokens("train").shards)
    places = {row[i : i + T + 1].tobytes(): i for i in range(len(row) - T)}
    return [begin <= places[w.astype(row.dtype).tobytes()] < end for w in windows]


def test_domains_lie_one_after_the_other(corpus):
    for side, n in (("train", corpus.n_train), ("validation", corpus.n_validation)):
        ranges = domain_ranges(corpus, side)
        assert list(ranges) == ["words", "digits"]
        assert ranges["words"][1] == ranges["digits"][0]
        assert ranges["digits"][1] == n


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.75, 1.0])
def test_every_prefix_has_the_shares_that_were_chosen(corpus, share, tmp_path):
    data = settings(tmp_path, weights={"words": share, "digits": 1 - share})
    stream = stream_of(corpus, data, T, seed=1)

    words = np.cumsum(is_word(corpus, np.concatenate([stream.batch(k, 10) for k in range(40)])))

    assert np.abs(words - share * np.arange(1, 401)).max() <= 1


def test_a_domain_is_read_once_before_anything_is_repeated(corpus):
    order = MixtureOrder(corpus, {"words": 0.5, "digits": 0.5}, T, seed=0)
    n = int(order.n_windows[0])
    starts = order(np.arange(4 * n))
    mine = starts[starts < domain_ranges(corpus, "train")["words"][1]]

    assert Counter(mine[:n].tolist()) == {i * T: 1 for i in range(n)}
    assert Counter(mine[n : 2 * n].tolist()) == {i * T: 1 for i in range(n)}
    assert mine[:n].tolist() != mine[n : 2 * n].tolist()


def test_the_order_does_not_depend_on_the_batch_or_where_it_begins(corpus, tmp_path):
    data = settings(tmp_path, weights={"words": 0.3, "digits": 0.7})
    one, other = (stream_of(corpus, data, T, seed=2) for _ in range(2))

    whole = np.concatenate([one.batch(k, 8) for k in range(6)])

    assert_array_equal(other.batch(2, 16), whole[32:48])


def test_samples_are_counted_past_the_pattern(corpus):
    order = MixtureOrder(corpus, {"words": 0.3, "digits": 0.7}, T, seed=0)

    for n in (0, 1, 17, SLOTS - 1, SLOTS, SLOTS + 5):
        assert order.samples(n).sum() == n
        assert abs(order.samples(n)[0] - 0.3 * n) <= 1


def test_unique_tokens_and_epochs_are_by_domain(corpus, tmp_path):
    data = settings(tmp_path, weights={"words": 1.0}, epochs=1)
    n = int(MixtureOrder(corpus, data.weights, T, 0).n_windows[0]) * T

    assert n_tokens_unique(corpus, data, T, 2 * n) == n
    refuse_too_many(corpus, data, T, n)
    with pytest.raises(DataError, match=r"100.0% of words read its .* tokens 2 times, where 1 are allowed"):
        refuse_too_many(corpus, data, T, 2 * n)


@pytest.mark.parametrize("cooldown", [{"words": 1.0}, {"words": 0.2, "digits": 0.8}])
def test_another_mixture_in_the_cooldown(corpus, tmp_path, cooldown):
    data = settings(tmp_path, weights={"words": 0.5, "digits": 0.5}, cooldown_weights=cooldown)
    before = stream_of(corpus, settings(tmp_path, weights=data.weights), T, seed=1)
    stream = stream_of(corpus, data, T, seed=1, stable_tokens=100 * T)

    assert_array_equal(stream.batch(0, 100), before.batch(0, 100))
    words = np.cumsum(is_word(corpus, stream.batch(5, 20)))
    assert np.abs(words - cooldown["words"] * np.arange(1, 21)).max() <= 1
    whole = np.concatenate([stream.batch(4, 20), stream.batch(5, 20)])
    assert_array_equal(np.concatenate([stream.batch(9, 10), stream.batch(10, 10)]), whole[10:30])


def test_a_cooldown_reads_what_was_not_read_before(corpus, tmp_path):
    data = settings(tmp_path, weights={"words": 0.5, "digits": 0.5}, cooldown_weights={"words": 1.0})
    n = int(MixtureOrder(corpus, {"words": 1.0}, T, 0).n_windows[0])
    half = n // 2
    stream = stream_of(corpus, data, T, seed=3, stable_tokens=2 * half * T)

    windows = [w.tobytes() for w in np.concatenate([stream.batch(0, 2 * half), stream.batch(2, half)])]

    assert len(set(windows)) == 3 * half
    assert n_tokens_unique(corpus, data, T, 3 * half * T, 2 * half * T) == 3 * half * T
    assert n_tokens_unique(corpus, data, T, (2 * half + n) * T, 2 * half * T) == (half + n) * T


def test_epochs_of_a_cooldown_count(corpus, tmp_path):
    data = settings(
        tmp_path, weights={"words": 0.5, "digits": 0.5}, cooldown_weights={"words": 1.0}, epochs=1
    )
    n = int(MixtureOrder(corpus, {"words": 1.0}, T, 0).n_windows[0])

    refuse_too_many(corpus, data, T, (n + n // 2) * T, n * T)
    with pytest.raises(DataError, match=r"75.2% of words read its .* tokens 1.5 times, where 1 are allowed"):
        refuse_too_many(corpus, data, T, 2 * n * T, n * T)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cooldown_weights": {"words": 1.0}}, "cooldown_weights need `weights`"),
        ({"weights": {"words": 1.0}, "cooldown_weights": {"words": 0.5}}, "the cooldown_weights sum to 0.5"),
        ({"weights": {"words": 1.0}, "cooldown_weights": {"wrods": 1.0}}, "cooldown_weights name 'wrods'"),
    ],
)
def test_a_cooldown_that_is_no_mixture_is_refused(changes, said, tmp_path):
    with pytest.raises(ValidationError, match=said):
        settings(tmp_path, **changes)


def test_validation_windows_are_those_of_their_domain(corpus):
    found = domain_windows(corpus, T, 10 * T)

    assert {name: windows.shape for name, windows in found.items()} == {
        "words": (5, T + 1),
        "digits": (5, T + 1),
    }
    letters = set(b"abcdefgh")
    assert set(found["words"].ravel().tolist()) & letters
    assert not set(found["digits"].ravel().tolist()) & letters


def test_another_held_out_text_has_no_domains(tmp_path):
    data = settings(tmp_path)
    (tmp_path / "other.txt").write_text("".join(f"line {i} of another text\n" for i in range(200)))
    other = {"kind": "text", "paths": [str(tmp_path / "other.txt")], "document": "line"}
    corpus = prepare(DataConfig.model_validate(data.model_dump() | {"held_out": other}))

    assert domain_windows(corpus, T, 10 * T) == {}
    assert set(domain_ranges(corpus, "train")) == {"words", "digits"}


def test_weights_share_one_corpus(corpus, tmp_path):
    data = settings(tmp_path, weights={"words": 0.4, "digits": 0.6})

    assert prepare(data).digest == corpus.digest
    assert prepare(settings(tmp_path)).manifest.domains == corpus.manifest.domains
    assert DataConfig.model_validate(data.model_dump(mode="json")) == data


def test_a_corpus_without_names_keeps_its_digest(corpus, tmp_path):
    plain = settings(tmp_path).model_dump(mode="json")
    del plain["source"]["names"]
    other = prepare(DataConfig.model_validate(plain))

    assert other.manifest.domains is None
    assert other.digest != corpus.digest
    assert domain_windows(other, T, 100) == {}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"words": 0.5}, "the weights sum to 0.5, not 1"),
        ({"words": 0.5, "prose": 0.5}, "weights name 'prose', which is no domain"),
    ],
)
def test_weights_that_are_no_mixture_are_refused(weights, said, tmp_path):
    with pytest.raises(ValidationError, match=said):
        settings(tmp_path, weights=weights)


def test_a_mixture_that_is_stated_twice_is_refused_and_shares_alone_are_as_before(tmp_path):
    source = settings(tmp_path).source
    shared = type(source).model_validate(source.model_dump() | {"shares": [3, 1]})
    with pytest.raises(ValidationError, match=r"stated twice.*remove source\.shares"):
        settings(tmp_path, source=shared, weights={"words": 0.75, "digits": 0.25})
    assert settings(tmp_path, source=shared).source.shares == (3, 1)


def test_weights_without_domains_and_wrong_names_are_refused(tmp_path):
    text = {"kind": "text", "paths": [str(tmp_path / "words.txt")]}
    with pytest.raises(ValidationError, match="weights need a source with named domains"):
        DataConfig(source=text, weights={"a": 1.0})
    with pytest.raises(ValidationError, match="2 parts need as many different names, not a, a"):
        DataConfig(source={"kind": "mix", "names": ["a", "a"], "parts": [text, text]})


def test_a_domain_without_held_out_text_is_refused(tmp_path):
    data = settings(tmp_path)
    (tmp_path / "words.txt").write_text("short\n")

    with pytest.raises(DataError, match=r"the domain words has .* held-out tokens") as refused:
        domain_windows(prepare(data), T, 100)
    assert "data.held_out" in refused.value.fix
