"""The language says what its formula says, so that its entropy may be called known."""

import numpy as np
import pytest
from pydantic import ValidationError

from scalelab.data.base import DataConfig
from scalelab.data.corpus.shards import prepare
from scalelab.data.hashing import key, mix
from scalelab.data.sources.synthetic import Synthetic, _Language

VOCAB, TOPICS = 48, 6


@pytest.fixture(scope="module")
def language():
    return _Language(VOCAB, TOPICS, seed=3)


@pytest.fixture(scope="module")
def drawn(language):
    """Tokens and nats of 400 documents of 64 tokens."""
    return language.draw(mix(key(0) + np.arange(400, dtype=np.uint64)), 64)


def conditionals(language, tokens):
    """p(x | context) of every x at every place from 2 on, shape (n_places, VOCAB)."""
    a, b = tokens[:, :-2].ravel(), tokens[:, 1:-1].ravel()
    topic = np.repeat(tokens[:, 0], tokens.shape[1] - 2)
    successors = language.successors(a, b, topic)
    n = len(a)
    columns = (language.probability(np.full(n, x), successors) for x in range(VOCAB))
    return np.stack(list(columns), axis=1)


def test_probabilities_sum_to_one_after_every_context(language, drawn):
    p = conditionals(language, drawn[0])

    assert p.sum(axis=1) == pytest.approx(np.ones(len(p)), abs=1e-12)


def test_only_words_follow_and_all_of_them_may(language, drawn):
    p = conditionals(language, drawn[0][:20])

    assert (p[:, :TOPICS] == 0).all()
    assert (p[:, TOPICS:] > 0).all()


def test_the_recorded_nats_are_those_of_the_conditional(language, drawn):
    tokens, nats = drawn
    p = conditionals(language, tokens)

    expected = -np.log(p[np.arange(len(p)), tokens[:, 2:].ravel()])

    assert nats[:, 2:].ravel() == pytest.approx(expected)
    assert nats[:, 0] == pytest.approx(np.full(400, np.log(TOPICS)))


def test_tokens_are_drawn_with_the_probability_that_is_recorded(language, drawn):
    tokens, nats = drawn
    p = conditionals(language, tokens)
    entropy = -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0), axis=1)
    surprise = nats[:, 2:].ravel() - entropy  # mean 0 if, and only if, draws follow p

    assert abs(surprise.mean()) < 5 * surprise.std() / np.sqrt(len(surprise))
    for word in (TOPICS, TOPICS + 1, TOPICS + 9):
        miss = (tokens[:, 2:].ravel() == word) - p[:, word]
        assert abs(miss.mean()) < 5 * miss.std() / np.sqrt(len(miss))


def test_the_topic_matters_to_the_end_of_a_document(language, drawn):
    tokens, nats = drawn
    a, b = tokens[:, -3], tokens[:, -2]
    wrong = (tokens[:, 0] + 1) % TOPICS

    guessed = -np.log(language.probability(tokens[:, -1], language.successors(a, b, wrong)))

    assert guessed.mean() > nats[:, -1].mean() + 0.2


def test_the_entropy_in_the_manifest_is_the_mean_over_the_validation_tokens():
    source = Synthetic(vocab=VOCAB, topics=TOPICS, documents=300, length=32)
    corpus = prepare(DataConfig(source=source, validation=0.1))
    language = _Language(VOCAB, TOPICS, 0)
    tokens = corpus.tokens("validation").windows(np.arange(0, corpus.n_validation, 32), 32)
    p = conditionals(language, tokens)
    later = -np.log(p[np.arange(len(p)), tokens[:, 2:].ravel()]).reshape(len(tokens), -1)

    nats = np.asarray(corpus.nats()).reshape(-1, 32)

    assert nats[:, 2:] == pytest.approx(later, rel=1e-6)  # float32 on the disk
    assert corpus.entropy == pytest.approx(nats.mean(dtype=np.float64))
    assert corpus.bytes_per_token is None
    assert corpus.bpb(2.0) is None
    assert corpus.load_tokenizer() is None


def test_more_documents_leave_the_first_ones_as_they_were():
    few, many = (
        [d.tokens.tolist() for d in Synthetic(documents=n, length=16).encoded(0.1)] for n in (50, 3000)
    )

    assert many[:50] == few


def test_about_the_share_is_held_out():
    sides = [d.split for d in Synthetic(documents=3000, length=8).encoded(0.2)]

    # Binomial: standard error 0.0073.
    assert sides.count("validation") / 3000 == pytest.approx(0.2, abs=5 * 0.0073)


def test_a_source_of_tokens_takes_no_tokenizer():
    with pytest.raises(ValidationError, match="'synthetic' is tokens already: remove `tokenizer`"):
        DataConfig(source="synthetic", tokenizer={"kind": "bytes"})


def test_topics_must_leave_words():
    with pytest.raises(ValidationError, match="60 topics leave too few words of 64 tokens"):
        Synthetic(vocab=64, topics=60)


def test_the_largest_vocabulary_keeps_its_probabilities_whole():
    assert _Language(32768, 32, 0).unigram.sum() == 65536
    assert (_Language(32768, 32, 0).unigram[32:] > 0).all()
