"""Loss on documents: every token once, against a loop; intervals that hold; what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scalelab.config import parse_yaml
from scalelab.data.base import DataConfig, TokenizerConfig
from scalelab.data.corpus.shards import prepare
from scalelab.data.tokenizer import train
from scalelab.errors import ConfigError, DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.loss.document_sets import PerplexitySet, corpus_texts, from_texts, read_documents
from scalelab.evals.loss.perplexity import LEVEL, MIN_DOCUMENTS, drawn_sums, perplexity, windows
from scalelab.evals.loss.perplexity import _loss as loss_of
from scalelab.model import ARCHITECTURES

T = 16
TEXTS = ["a", "it was told before", "the model reads a token; then it writes one more. " * 3, "né"]


def tokenizer(kind="bytes"):
    vocab = {"vocab_size": 300} if kind == "bpe" else {}
    return train(TokenizerConfig(kind=kind, **vocab), iter(TEXTS * 5))


def checkpoint(*, kind="bytes", shaken=0.3, seq_len=T, corpus=None, seed=0):
    """A tiny model; with shaken=0 its head is zero, so that every token costs ln(V)."""
    cutter = tokenizer(kind)
    config = ARCHITECTURES["transformer"](
        n_layers=1, d_model=16, n_heads=2, n_kv_heads=2, head_size=8, d_ff=32, vocab_size=cutter.vocab_size
    )
    network = config.network()
    network.reset(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(shaken * torch.randn(weight.shape, generator=generator))
    network.requires_grad_(False).eval()
    return Checkpoint(Path("somewhere"), config, network, cutter, seq_len, "0" * 12, corpus)


def use_cpu_kernels(model, text, overlap):
    """Cost of each token of a document, nats, one at a time; and how much was read before it."""
    end = model.tokenizer.end
    row = [end, *model.tokenizer.encode([text])[0].tolist(), end]
    step, costs, before = model.seq_len - overlap, [], []
    for i in range(1, len(row)):
        # The earliest window that reaches token i, counted from the row's beginning.
        begin = max(0, -(-(i - model.seq_len) // step)) * step
        logits = model.network(torch.tensor([row[begin:i]]))[0, -1]
        costs.append(float(F.cross_entropy(logits[None], torch.tensor([row[i]]))))
        before.append(i - begin)
    return costs, before


@pytest.mark.parametrize("overlap", [0, 1, 5, T // 2, T - 1])
def test_sums_equal_a_loop_over_single_tokens(overlap):
    model = checkpoint()

    found = perplexity(model, from_texts("four", TEXTS), overlap=overlap)

    expected = [sum(use_cpu_kernels(model, text, overlap)[0]) for text in TEXTS]
    assert found.nats == pytest.approx(expected, rel=1e-5)
    assert found.n_tokens.tolist() == [len(text.encode()) + 1 for text in TEXTS]
    assert found.n_bytes.tolist() == [len(text.encode()) for text in TEXTS]
    assert found.whole.nats_per_token.value == pytest.approx(sum(expected) / sum(found.n_tokens), rel=1e-5)


def test_how_many_are_scored_at_once_changes_nothing(monkeypatch):
    model, documents = checkpoint(), from_texts("four", TEXTS)
    together = perplexity(model, documents)

    monkeypatch.setattr("scalelab.evals.loss.perplexity._BATCH", 20)
    apart = perplexity(model, documents)

    assert apart.nats == pytest.approx(together.nats, rel=1e-6)
    assert apart.n_tokens.tolist() == together.n_tokens.tolist()


def test_places_hold_the_costs_by_what_was_read_before():
    model = checkpoint()
    costs, before = (
        np.concatenate(every)
        for every in zip(*(use_cpu_kernels(model, text, 5) for text in TEXTS), strict=True)
    )

    places = perplexity(model, from_texts("four", TEXTS), overlap=5).places

    assert [(p.first, p.last) for p in places] == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 16)]
    for place in places:
        chosen = (before >= place.first) & (before <= place.last)
        assert place.n_tokens == chosen.sum()
        assert place.nats_per_token == pytest.approx(costs[chosen].mean(), rel=1e-5)


@pytest.mark.parametrize("n_tokens", [2, 3, T, T + 1, T + 2, 3 * T, 3 * T + 1, 100])
@pytest.mark.parametrize("overlap", [0, 1, 7, T - 1])
def test_every_token_is_scored_once_whatever_the_stride(n_tokens, overlap):
    read_ = list(windows(n_tokens, T, overlap))

    scored = [i for _, first, last in read_ for i in range(first, last + 1)]

    assert scored == list(range(1, n_tokens))
    assert all(last - begin <= T for begin, _, last in read_)
    assert all(first - begin > overlap for begin, first, _ in read_[1:])


def test_a_document_is_read_after_an_end_and_its_own_end_is_scored():
    model = checkpoint()
    end = model.tokenizer.end

    found = perplexity(model, from_texts("one", ["ab"]))

    a, b = b"ab"
    logprobs = model.logprobs([[end, a, b, end]])[0]
    assert found.nats[0] == pytest.approx(-logprobs.sum())
    assert found.whole.nats_of_ends == pytest.approx(-logprobs[-1])
    assert "it is a token, it has no bytes" in found.summary()


def test_more_text_behind_a_token_does_not_change_its_cost():
    model, text = checkpoint(), TEXTS[2]

    short, long = (perplexity(model, from_texts("one", [t]), overlap=3).whole for t in (text, text + "more"))

    costs = use_cpu_kernels(model, text + "more", 3)[0]
    assert long.nats == pytest.approx(short.nats - short.nats_of_ends + sum(costs[-5:]), rel=1e-5)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_an_untrained_model_costs_ln_v(kind):
    model = checkpoint(kind=kind, shaken=0)

    whole = perplexity(model, from_texts("four", TEXTS)).whole

    assert whole.nats_per_token.value == pytest.approx(math.log(model.tokenizer.vocab_size))
    assert whole.perplexity.value == pytest.approx(model.tokenizer.vocab_size)


def test_bits_per_byte_agree_between_tokenizers_where_nats_per_token_do_not():
    # Both give each text some probability: a uniform model over V tokens spends log2(V) bits
    # on each, so the ratio of bits per byte is that of tokens times that of log2(V).
    texts = from_texts("four", TEXTS)
    in_bytes, in_bpe = (perplexity(checkpoint(kind=kind, shaken=0), texts).whole for kind in ("bytes", "bpe"))

    for whole, vocab in ((in_bytes, 257), (in_bpe, tokenizer("bpe").vocab_size)):
        bits = whole.n_tokens * math.log2(vocab)
        assert whole.bits_per_byte.value == pytest.approx(bits / whole.n_bytes)
    assert in_bytes.n_bytes == in_bpe.n_bytes == sum(len(t.encode()) for t in TEXTS)
    assert in_bpe.nats_per_token.value > in_bytes.nats_per_token.value
    assert in_bpe.bits_per_byte.value < in_bytes.bits_per_byte.value


def documents_like_text(n, rng):
    """Nats, tokens, bytes and END's nats of documents of very unlike lengths and costs."""
    tokens = np.ceil(rng.lognormal(5, 0.8, n))
    nats = tokens * rng.normal(2.0, 0.3, n)
    return np.stack([nats, tokens, np.round(tokens * rng.uniform(3, 5, n)), 0 * tokens], axis=1)


@pytest.mark.parametrize("n", [MIN_DOCUMENTS, 40])
def test_intervals_hold_the_truth_as_often_as_they_say(n):
    # 400 sets: the share has a standard error of 0.011 at 0.95.
    rng, held = np.random.default_rng(n), []
    truth = {"nats_per_token": 2.0, "bits_per_byte": 2.0 / math.log(2) / 4}

    for i in range(400):
        loss = loss_of(documents_like_text(n, rng), 1000, (i,))
        held.append([low <= truth[k] <= high for k in truth for low, high in [interval(loss, k)]])

    assert np.all(np.abs(np.mean(held, axis=0) - LEVEL) < 0.04)


def interval(loss, name):
    return getattr(loss, name).interval


def test_draws_are_sums_of_as_many_documents():
    columns = np.array([[1.0, 1], [10, 1], [100, 1]])

    sums = drawn_sums(columns, 2000, (0,))

    assert (sums[:, 1] == 3).all()
    assert sums[:, 0].mean() == pytest.approx(111, rel=0.05)
    assert sums[:, 0].std() == pytest.approx(columns[:, 0].std() * math.sqrt(3), rel=0.05)


def test_few_documents_have_no_interval_and_say_so():
    found = perplexity(checkpoint(), from_texts("few", TEXTS))

    assert found.whole.bits_per_byte.interval is None
    assert f"no intervals: fewer than {MIN_DOCUMENTS} documents" in found.summary()


def test_domains_add_up_and_come_from_the_first_folder(tmp_path):
    for name in ("web/a/1.txt", "web/2.txt", "books/3.txt", "4.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the text of {name}")
    source = {"kind": "text", "paths": [f"{tmp_path}/**/*.txt"]}
    model = checkpoint()

    found = perplexity(model, read_documents(PerplexitySet(name="mixed", source=source), model))
    named = read_documents(PerplexitySet(name="named", source=source, domain="prose"), model)

    assert {k: v.n_documents for k, v in found.domains.items()} == {"(no folder)": 1, "books": 1, "web": 2}
    assert sum(loss.nats for loss in found.domains.values()) == pytest.approx(found.whole.nats)
    assert set(named.domains) == {"prose"}
    assert "web: 2 documents" in found.summary()


def test_fewer_documents_are_part_of_more_and_are_counted(tiny_text):
    source = {"kind": "text", "paths": [f"{tiny_text}/*.txt"]}
    model = checkpoint()

    sets = [
        read_documents(PerplexitySet(name="s", source=source, max_documents=n), model) for n in (5, 12, 99)
    ]

    names = [[d.name for d in one.documents] for one in sets]
    assert [len(n) for n in names] == [5, 12, 40]
    assert set(names[0]) < set(names[1]) < set(names[2])
    assert names[1] == sorted(names[1])
    assert names[1] != names[2][:12]
    assert [(s.n_available, s.n_planned) for s in sets] == [(40, 5), (40, 12), (40, 99)]
    found = perplexity(model, sets[2])
    assert "99 planned, 40 available, 40 used" in found.summary()


def test_validation_documents_are_the_held_out_texts(tiny_text, tiny_corpus):
    written = {path.read_text() for path in tiny_text.glob("*.txt")}
    model = checkpoint(corpus=tiny_corpus.digest, seq_len=64)

    documents = read_documents(PerplexitySet(name="held", corpus="validation"), model)
    trained_on = set(corpus_texts(tiny_corpus, "train"))

    texts = {d.text for d in documents.documents}
    assert texts | trained_on == written
    assert not texts & trained_on
    found = perplexity(model, documents)
    assert found.whole.n_tokens == tiny_corpus.n_validation
    assert found.whole.n_bytes / found.whole.n_tokens == pytest.approx(tiny_corpus.bytes_per_token)


def test_the_same_tokens_come_back_from_a_bpe_corpus(tiny_text, cache):
    config = {
        "source": {"kind": "text", "paths": [f"{tiny_text}/0*.txt"]},
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
        "validation": 0.3,
    }
    corpus = prepare(DataConfig.model_validate(config))

    rows = corpus.load_tokenizer().encode(list(corpus_texts(corpus, "validation")))

    stored = corpus.tokens("validation").windows(np.array([0]), corpus.n_validation)[0]
    end = [corpus.load_tokenizer().end]
    assert np.array_equal(np.concatenate([np.concatenate([r, end]) for r in rows]), stored)


def test_what_is_empty_is_left_out_and_counted():
    documents = from_texts("some", ["", "b", "", "d"])

    assert [d.text for d in documents.documents] == ["b", "d"]
    assert documents.skips == {"empty": {"count": 2, "examples": ["0", "2"]}}
    assert "left out: 2 empty" in perplexity(checkpoint(), documents).summary()


def test_a_result_is_json_and_says_what_may_be_compared():
    texts = [f"document number {i}" for i in range(MIN_DOCUMENTS)]

    found = perplexity(checkpoint(), from_texts("ten", texts, domain="numbers"))

    loaded = json.loads(json.dumps(found.to_dict()))
    low, high = loaded["whole"]["bits_per_byte"]["interval"]
    assert low < loaded["whole"]["bits_per_byte"]["value"] < high
    assert loaded["documents"]["nats"] == found.nats.tolist()
    assert loaded["whole"]["perplexity"]["interval"] == pytest.approx(
        [math.exp(end) for end in loaded["whole"]["nats_per_token"]["interval"]]
    )
    assert "[measured]" in found.summary()
    assert "different tokenizers by bits per byte alone" in found.summary()
    assert from_texts("x", ["a"]).digest != from_texts("x", ["b"]).digest


def test_a_set_comes_back_from_its_yaml():
    for written in (
        {"name": "held", "corpus": "validation"},
        {"name": "web", "source": {"kind": "text", "paths": ["a.txt"]}, "max_documents": 3},
    ):
        one = PerplexitySet.model_validate(written)
        assert PerplexitySet.parse(parse_yaml(one.to_yaml(), "set.yaml")) == one


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("name: a", "either source or corpus"),
        ("name: a\ncorpus: validation\nsource: pycode", "either source or corpus"),
        ("name: a\nsource: synthetic", "tokens without text"),
        ("name: a\ncorpus: train", "corpus: input should be 'validation'"),
        ("name: a\ncorpus: validation\nmax_documents: 0", "max_documents"),
    ],
)
def test_a_set_that_means_nothing_is_refused(written, said):
    with pytest.raises(ConfigError, match=said):
        PerplexitySet.parse(parse_yaml(written, "set.yaml"))


def test_refusals_say_what_to_do(tmp_path, cache):
    model = checkpoint()
    (tmp_path / "blank.txt").write_text(" \n")
    blank = PerplexitySet(name="b", source={"kind": "text", "paths": [f"{tmp_path}/blank.txt"]})
    held = PerplexitySet(name="held", corpus="validation")
    synthetic = prepare(DataConfig(source={"kind": "synthetic", "documents": 200}))
    no_text = Checkpoint(Path("s"), model.config, model.network, None, T, "0" * 12)
    one = from_texts("one", ["a"])

    for ask, problem, fix in (
        (lambda: from_texts("none", []), "holds no text", "documents that contain text"),
        (lambda: from_texts("none", ["", ""]), "holds no text", "documents that contain text"),
        (lambda: from_texts("half", ["\ud800"]), "surrogate", "correct or remove"),
        (lambda: read_documents(blank, model), "without text': 1", "documents that contain text"),
        (lambda: read_documents(held, model), "is not recorded", "`source`"),
        (lambda: read_documents(held, checkpoint(corpus=synthetic.digest)), "is not text", "source: ..."),
        (lambda: perplexity(no_text, one), "no text tokenizer", "trained on text"),
        (lambda: perplexity(model, one, overlap=T), "cannot share 16", "choose 0 to 15"),
        (lambda: perplexity(model, one, overlap=-1), "cannot share -1", "choose 0 to 15"),
        (lambda: perplexity(model, one, replicates=99), "99 replicates", "at least 1000"),
    ):
        with pytest.raises(DataError) as refused:
            ask()
        assert problem in str(refused.value)
        assert fix in refused.value.fix
