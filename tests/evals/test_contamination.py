"""Order: calibrated on clean items, finds planted ones. Overlap: as a set of n-grams finds it."""

import copy
import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from scalelab.data.base import DataConfig, TokenizerConfig
from scalelab.data.corpus.shards import prepare
from scalelab.data.corpus.token_files import TokenFile
from scalelab.data.tokenizer import train
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.contamination import overlap as overlapping
from scalelab.evals.contamination.order_test import (
    ControlPoint,
    PositiveControl,
    order_test,
    positive_control,
)
from scalelab.evals.contamination.overlap import overlap
from scalelab.model import ARCHITECTURES

WINDOW = 32
WORDS = ["ash", "bee", "cow", "dew", "elm", "fog", "gnu", "hay", "ivy", "jay", "kit", "log"]


def items(n, seed):
    """Short sentences, each drawn alike, so that no order of them is likelier than another."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=2)) for _ in range(n)]


def taught(network, row, *, passes, learning_rate, seed=0):
    """Train a network in place on windows of a row of tokens, cut anew in each pass."""
    network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(passes):
        n = (len(row) - 1) // WINDOW
        starts = torch.randint(len(row) - WINDOW, (n,), generator=generator)
        for batch in starts.split(8):
            x = torch.stack([row[s : s + WINDOW + 1] for s in batch.tolist()])
            optimizer.zero_grad()
            network(x[:, :-1], x[:, 1:]).backward()
            optimizer.step()
    network.requires_grad_(False)
    return network


@pytest.fixture(scope="module")
def model():
    """A tiny model that learned the language of the items, and none of the items in order."""
    cutter = train(TokenizerConfig(kind="bytes"), iter(["a"]))
    config = ARCHITECTURES["transformer"](
        n_layers=2, d_model=32, n_heads=2, n_kv_heads=2, head_size=16, d_ff=64, vocab_size=257
    )
    network = config.network()
    network.reset(0)
    row = torch.tensor([t for text in items(800, seed=10**6) for t in [*text.encode(), 10]])
    taught(network, row, passes=4, learning_rate=1e-2)
    return Checkpoint(Path("tiny"), config, network.eval(), cutter, 64, "0" * 12)


def clean(model, seed, **changes):
    settings = {"shards": 10, "permutations": 10, "window": WINDOW, "repeats": (), "seed": seed}
    return order_test(model, items(50, seed), **settings | changes)


def test_p_is_uniform_on_items_that_were_never_seen(model):
    p = np.array([clean(model, seed).p for seed in range(60)])

    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.sum(p < 0.05) <= 10
    assert np.sum(p > 0.95) <= 10


def test_items_that_were_learned_in_order_are_found(model):
    published = items(60, seed=5)
    row = torch.tensor([256, *(t for text in published for t in [*text.encode(), 10])])
    known = replace(model, network=taught(copy.deepcopy(model.network), row, passes=100, learning_rate=5e-3))

    def p_of(checkpoint, order):
        return order_test(checkpoint, order, window=WINDOW, permutations=10, repeats=()).p

    assert p_of(known, published) < 0.01
    assert p_of(known, random.Random(1).sample(published, 60)) > 0.01
    assert p_of(model, published) > 0.01


def test_differences_are_sums_over_windows_against_a_loop(model):
    published = items(7, seed=3)
    found = order_test(model, published, shards=2, permutations=3, window=10, repeats=(), seed=4)

    def logprob(texts):
        row = [256, *(t for text in texts for t in [*text.encode(), 10])]
        cut = [row[k : k + 11] for k in range(0, len(row) - 1, 10)]
        return sum(float(model.logprobs([part])[0].sum()) for part in cut)

    expected = []
    for s, members in enumerate(([0, 1, 2, 3], [4, 5, 6])):
        rng = np.random.default_rng((4, s))
        shuffles = [rng.permutation(members) for _ in range(3)]
        mean = np.mean([logprob([published[i] for i in order]) for order in shuffles])
        expected.append(logprob([published[i] for i in members]) - mean)
    assert found.differences == pytest.approx(expected, abs=1e-4)
    assert found.shard_sizes == (3, 4)
    assert found.z == pytest.approx(np.mean(expected) / (np.std(expected, ddof=1) / np.sqrt(2)), rel=1e-3)
    assert found.p == pytest.approx(stats.t.sf(found.z, 1))


def test_the_control_shows_how_many_repeats_it_takes(model):
    published, before = items(60, seed=5), copy.deepcopy(model.network.state_dict())
    settings = {"window": WINDOW, "permutations": 10, "learning_rate": 5e-3}

    found = order_test(model, published, repeats=(1, 80), **settings)
    alone = positive_control(model, published, (1, 80), **settings)

    assert found.control == alone
    assert found.control.repeats_needed == 80
    assert found.control.points[1].p < 0.01 < found.control.points[0].p
    assert found.control.points[1].nats_per_token < found.nats_per_token
    assert "p < 0.05 from 80 repeats on" in found.summary()
    assert "80 x: p =" in found.summary()
    assert all(torch.equal(before[k], v) for k, v in model.network.state_dict().items())
    assert not any(weight.requires_grad for weight in model.network.parameters())


def test_a_test_without_control_or_with_a_blind_one_says_so(model):
    alone = clean(model, 1)
    blind = clean(model, 2, repeats=(1,), learning_rate=1e-9)

    assert "no positive control was run: a high p shows nothing" in alone.summary()
    assert blind.control.points[0].p == pytest.approx(blind.p, abs=1e-4)
    assert blind.control.repeats_needed is None
    assert "is not reached: the test has no power here" in blind.summary()


@pytest.mark.parametrize(
    ("p", "needed"), [((0.04, 0.2, 0.03, 0.01), 4), ((0.2, 0.01, 0.06), None), ((0.04, 0.01), 1), ((), None)]
)
def test_repeats_count_from_where_p_stays_low(p, needed):
    points = [ControlPoint(2**i, one, 0, 0, 1) for i, one in enumerate(p)]

    assert PositiveControl(tuple(points), 1e-3, 8).repeats_needed == needed


def test_window_sizes_and_long_items_are_said(model):
    published = [*items(19, seed=1), "ash bee cow dew elm fog gnu hay ivy jay"]

    found = order_test(model, published, shards=5, permutations=4, window=WINDOW, repeats=())

    tokens = [len(text) + 1 for text in published]
    assert found.n_tokens == sum(tokens)
    assert found.items_per_window == pytest.approx(WINDOW / np.mean(tokens))
    assert found.n_longer == 1
    for said in (
        "[measured]",
        "20 items in 5 shards of 4 to 4",
        "window 32 tokens",
        "1 items are longer than it",
        "cannot see",
    ):
        assert said in found.summary()
    loaded = json.loads(json.dumps(found.to_dict()))
    assert (loaded["p"], loaded["n_shards"], loaded["permutations"]) == (found.p, 5, 4)


def test_token_rows_and_end_tokens_between_items_are_read_as_given(model):
    published = items(20, seed=2)
    rows = [[*text.encode(), 256] for text in published]
    settings = {"shards": 5, "permutations": 4, "repeats": ()}

    as_texts = order_test(model, published, between=None, **settings)
    as_rows = order_test(model, rows, **settings)

    assert as_texts.p == as_rows.p
    assert as_texts.window == model.seq_len


def test_hopeless_order_tests_are_refused(model):
    flat = replace(model, network=copy.deepcopy(model.network))
    flat.network.head.zero_()

    for ask, problem, fix in (
        (lambda: clean(model, 0, shards=26), "50 items are too few for 26 shards", "fewer shards"),
        (lambda: clean(model, 0, shards=1), "1 shards", "2 shards"),
        (lambda: clean(model, 0, permutations=0), "0 shuffles", "1 shuffle"),
        (lambda: clean(model, 0, window=65), "65 tokens does not fit", "choose 2 to 64"),
        (lambda: clean(model, 0, repeats=(4, 2)), "rise from 1", "(1, 2, 4, 8, 16)"),
        (lambda: clean(model, 0, repeats=(9,), learning_rate=1e30), "diverged", "smaller"),
        (lambda: clean(flat, 0), "shuffling has no effect", "a model that was trained"),
        (lambda: order_test(model, ["a b"] * 40), "shuffling has no effect", "items that differ"),
        (lambda: order_test(model, []), "no items", "contain text or tokens"),
        (lambda: order_test(model, ["a", " "] * 40), "40 of 80 items are empty", "contain text or tokens"),
    ):
        with pytest.raises(DataError) as refused:
            ask()
        assert problem in str(refused.value)
        assert fix in refused.value.fix


# Overlap.


def expected_of(rows, documents, n):
    """Found n-grams of each row, by a set of all that the documents hold."""
    found = []
    for row in rows:
        size = min(n, len(row))
        known = {tuple(d[i : i + size]) for d in documents for i in range(len(d) - size + 1)}
        found.append(sum(tuple(row[i : i + size]) in known for i in range(len(row) - size + 1)))
    return found


def documents_of(corpus):
    tokens = corpus.tokens("train")
    whole = tokens.windows(np.array([0]), len(tokens))[0].tolist()
    borders = [0, *tokens.ends.tolist()]
    return [whole[a:b] for a, b in pairwise(borders)]


def mixed_rows(documents, seed):
    """Rows of tokens: cut out of the documents, cut across two of them, random, and short."""
    draw = random.Random(seed)
    inside = [d[k : k + 30] for d in documents[:4] for k in (0, 100, len(d) - 30)]
    across = [a[-6:] + b[:6] for a, b in pairwise(documents[:5])]
    noise = [draw.choices(range(97, 123), k=40) for _ in range(6)]
    half = [one[:15] + draw.choices(range(97, 123), k=15) for one in inside]
    return [*inside, *across, *noise, *half, documents[0][5:9], [1, 2, 3], inside[0]]


@pytest.mark.parametrize("n", [1, 2, 8, 13])
def test_overlap_finds_what_a_set_of_all_ngrams_finds(tiny_corpus, n):
    documents = documents_of(tiny_corpus)
    rows = mixed_rows(documents, seed=n)

    found = overlap(rows, tiny_corpus, n=n)

    assert found.n_found.tolist() == expected_of(rows, documents, n)
    assert found.n_grams.tolist() == [max(1, len(row) - n + 1) for row in rows]
    assert found.is_short.tolist() == [len(row) < n for row in rows]
    assert [f.item for f in found.findings] == np.flatnonzero(found.n_found).tolist()
    for finding in found.findings:
        document = bytes(t for t in documents[finding.document] if t < 256).decode()
        assert finding.text.removesuffix("<|endoftext|>") in document


@pytest.mark.parametrize("block", [5, 13, 40, 997])
def test_blocks_and_shard_borders_hide_nothing(tiny_corpus, monkeypatch, block):
    documents = documents_of(tiny_corpus)[:4]
    tokens = np.array([t for d in documents for t in d], "<u2")
    ends = tiny_corpus.path / "train.ends"
    cuts = [0, 7, 300, 311, 2000, len(tokens)]
    shards = tuple(tokens[a:b] for a, b in pairwise(cuts))
    monkeypatch.setattr(overlapping, "_BLOCK", block)
    monkeypatch.setattr(type(tiny_corpus), "tokens", lambda *_: TokenFile(shards, ends))
    rows = [*mixed_rows(documents + documents, seed=1), documents[0][295:325]]

    found = overlap(rows, tiny_corpus)

    assert found.n_found.tolist() == expected_of(rows, documents, 13)


def test_findings_name_the_first_document_whatever_the_blocks(tiny_corpus, monkeypatch):
    documents, cutter = documents_of(tiny_corpus), tiny_corpus.load_tokenizer()
    texts = [cutter.decode(document[:-1]) for document in documents]
    sought = [text[50:250] for text in (texts[1], texts[9], texts[-1])]
    first = [next(i for i, text in enumerate(texts) if s in text) for s in sought]

    for block in (2**18, 1500):
        monkeypatch.setattr(overlapping, "_BLOCK", block)
        by_corpus = overlap(sought, tiny_corpus, n=200)
        by_texts = overlap(sought, texts, n=200, tokenizer=cutter)

        assert [f.document for f in by_corpus.findings] == first == [1, 9, len(texts) - 1]
        assert by_texts.findings == by_corpus.findings
        assert by_corpus.n_training == tiny_corpus.n_train
        assert by_texts.n_training == tiny_corpus.n_train - len(texts)  # no END behind each


def test_words_of_the_training_text_alone_match_nothing():
    found = overlap(["ash bee", "bee cow"], ["zzz bee zzz cow", "bee cow", "bee cow"], n=2, unit="words")

    assert found.n_found.tolist() == [0, 1]
    assert found.findings[0].document == 1


def test_equal_hashes_are_no_findings(tiny_corpus, monkeypatch):
    documents = documents_of(tiny_corpus)
    rows = mixed_rows([d[:140] for d in documents], seed=2)[::3]
    # A hash that knows two values makes nearly everything collide.
    monkeypatch.setattr(overlapping, "_scrambled", lambda tokens: (np.asarray(tokens) % 2).astype(np.uint64))
    monkeypatch.setattr(overlapping, "_powers", lambda base, n: np.ones(n, np.uint64))

    found = overlap(rows, tiny_corpus)

    assert found.n_found.tolist() == expected_of(rows, documents, 13)
    assert 0 < np.sum(found.n_found > 0) < len(rows)


def test_planted_words_are_found_at_the_right_items_alone():
    draw = random.Random(0)
    clean_items = [" ".join(f"w{draw.randrange(10**6)}" for _ in range(30)) for _ in range(20)]
    texts = [" ".join(f"v{draw.randrange(10**6)}" for _ in range(500)) for _ in range(10)]
    planted = clean_items[7].split()[4:19]  # 15 words hold 3 13-grams
    texts[3] += "\n  " + " ".join(planted).upper()
    texts[4] += " " + " ".join(planted[:12])

    found = overlap([*clean_items, "only five words in here"], texts, unit="words")

    assert np.flatnonzero(found.n_found).tolist() == [7]
    assert found.n_found[7] == 3
    assert found.findings == (overlapping.NgramMatch(7, " ".join(planted[:13]), 3),)
    assert found.share_of_items == 1 / 20
    assert found.share_of_grams == 3 / (20 * 18)
    assert found.share_of_short == 0
    assert found.n_training == 10 * 500 + 15 + 12
    assert "shorter than 13 words, searched as a whole: 0 of 1" in found.summary()


def test_words_and_tokens_agree_on_whole_documents_of_a_corpus(tiny_text, cache):
    config = {
        "source": {"kind": "text", "paths": [f"{tiny_text}/*.txt"]},
        "tokenizer": {"kind": "bpe", "vocab_size": 280},
        "validation": 0.2,
    }
    corpus = prepare(DataConfig.model_validate(config))
    held = {d for d in overlapping.corpus_texts(corpus, "validation")}
    texts = [path.read_text() for path in sorted(tiny_text.glob("*.txt"))]

    by_words, by_tokens = (overlap(texts, corpus, n=60, unit=unit) for unit in ("words", "tokens"))

    for found in (by_words, by_tokens):
        assert [t not in held for t in texts] == (found.n_found == found.n_grams).tolist()
        assert json.loads(json.dumps(found.to_dict()))["n"] == 60
    assert by_tokens.n_training == corpus.n_train
    assert by_words.n_training == sum(len(t.split()) for t in texts if t not in held)
    assert by_words.bytes_per_gram > by_tokens.bytes_per_gram
    assert f"60 words are {by_words.bytes_per_gram:.0f} bytes" in by_words.summary()


def test_texts_by_tokens_need_a_tokenizer_and_find_the_same(tiny_text, tiny_corpus):
    texts = [text for text in overlapping.corpus_texts(tiny_corpus, "train")]
    sought = [texts[2][10:50], texts[3][-20:], "nothing of the kind, zzz"]

    by_corpus = overlap(sought, tiny_corpus)
    by_texts = overlap(sought, texts, tokenizer=tiny_corpus.load_tokenizer())

    assert by_texts.n_found.tolist() == by_corpus.n_found.tolist() == [28, 8, 0]
    assert by_texts.findings == by_corpus.findings


def test_hopeless_overlaps_are_refused(cache):
    synthetic = prepare(DataConfig(source={"kind": "synthetic", "documents": 200}))
    for ask, problem, fix in (
        (lambda: overlap(["a"], ["b"], n=0), "n is 0", "1 or more"),
        (lambda: overlap([], ["b"]), "no items", "contain text or tokens"),
        (lambda: overlap(["a", "", ""], ["b"]), "2 of 3 items are empty", "contain text"),
        (lambda: overlap(["a", " "], ["b"], unit="words"), "1 of 2 items are empty", "contain"),
        (lambda: overlap([[1, 2]], ["b"], unit="words"), "tokens have no words", "as texts"),
        (lambda: overlap(["a"], ["b"]), "needs a tokenizer", "tokenizer=..."),
        (lambda: overlap(["a"], synthetic), "needs a tokenizer", "items as tokens"),
        (lambda: overlap(["a"], synthetic, unit="words"), "is not text", "set of text"),
    ):
        with pytest.raises(DataError) as refused:
            ask()
        assert problem in str(refused.value)
        assert fix in refused.value.fix


def test_a_synthetic_corpus_is_searched_inside_its_documents(cache):
    corpus = prepare(DataConfig(source={"kind": "synthetic", "documents": 200}))
    documents = documents_of(corpus)
    across = documents[3][-10:] + documents[4][:10]

    found = overlap([across, documents[5][40:70]], corpus)

    assert found.n_found.tolist() == expected_of([across, documents[5][40:70]], documents, 13)
    assert found.n_found[1] == 18
    assert found.findings[-1].text == " ".join(map(str, documents[5][40:53]))
