"""Any text comes back from its tokens; what is trained on is what was meant to be."""

import numpy as np
import pytest
from pydantic import ValidationError

from scalelab.data import tokenizer as module
from scalelab.data.base import TokenizerConfig
from scalelab.data.hashing import content_hash
from scalelab.data.tokenizer import END, DocumentSample, TextTokenizer, train
from scalelab.errors import DataError

NASTY = [
    "plain words, and 12345 numbers",
    "tabs\tand\r\nline\n\n\nends   and trailing spaces   ",
    "Grüße, 世界! \U0001f600 e\u0301 \u00a0\u200b\ufeff",
    "\x01\x02\x7f control",
    f"a text that says {END} and goes on",
    " ",
]


@pytest.fixture(params=["bpe", "bytes"])
def tokenizer(request, prose):
    config = TokenizerConfig(kind=request.param, **({"vocab_size": 400} if request.param == "bpe" else {}))
    return train(config, iter(prose(60)))


def test_every_text_comes_back_unchanged(tokenizer):
    for text, tokens in zip(NASTY, tokenizer.encode(NASTY), strict=True):
        assert tokenizer.decode(tokens) == text


def test_a_text_that_spells_the_end_token_does_not_end(tokenizer):
    (tokens,) = tokenizer.encode([f"before {END} after"])

    assert tokenizer.end not in tokens


def test_the_end_token_decodes_to_its_name(tokenizer):
    assert tokenizer.decode([tokenizer.end]) == END


def test_saved_and_loaded_it_encodes_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = TextTokenizer.load(tmp_path / "tokenizer.json")

    assert loaded.name == tokenizer.name
    for one, other in zip(tokenizer.encode(NASTY), loaded.encode(NASTY), strict=True):
        assert np.array_equal(one, other)


def test_transformers_reads_the_saved_file(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path / "tokenizer.json")

    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))

    for text in (t for t in NASTY if END not in t):
        assert theirs.encode(text) == tokenizer.encode([text])[0].tolist()


def test_bytes_are_their_own_tokens():
    tokenizer = train(TokenizerConfig(kind="bytes"), iter(()))

    assert tokenizer.vocab_size == 257
    assert tokenizer.end == 256
    assert tokenizer.encode(["Aé"])[0].tolist() == list("Aé".encode())


def test_merges_shorten_what_they_were_trained_on(prose):
    few, many = (train(TokenizerConfig(vocab_size=v), iter(prose(60))) for v in (257, 400))
    (text,) = prose(1)

    assert many.vocab_size == 400
    assert len(many.encode([text])[0]) < 0.7 * len(few.encode([text])[0])


def test_the_same_texts_give_the_same_tokenizer(prose):
    one, other = (train(TokenizerConfig(vocab_size=350), iter(prose(40))) for _ in range(2))
    third = train(TokenizerConfig(vocab_size=350), iter(prose(40, seed=1)))

    assert one.name == other.name
    assert one.name != third.name


def test_a_very_long_text_is_cut_and_comes_back_whole(prose, monkeypatch):
    tokenizer = train(TokenizerConfig(vocab_size=300), iter(prose(40)))
    text = "".join(prose(30)) + "x" * 500
    monkeypatch.setattr(module, "_LONG", 100)

    pieces = module._pieces(text)
    first, second = tokenizer.encode([text, "short"])

    assert max(map(len, pieces)) <= 100
    assert tokenizer.decode(first) == text
    assert tokenizer.decode(second) == "short"


def test_a_damaged_tokenizer_file_is_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")

    with pytest.raises(DataError, match="cannot read the tokenizer") as refused:
        TextTokenizer.load(path)

    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocab_size": 256}, "vocab_size 256 is too few"),
        ({"kind": "bytes", "vocab_size": 512}, "bytes has 257 tokens, not 512"),
    ],
)
def test_impossible_vocabularies_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        TokenizerConfig(**settings)


def drawn(texts, n_bytes, is_validation=None):
    sample = DocumentSample(n_bytes)
    for i, text in enumerate(texts):
        sample.add(i, content_hash(text.encode()), text)
    return list(sample.texts(np.zeros(len(texts), bool) if is_validation is None else is_validation, n_bytes))


def test_a_sample_is_as_large_as_asked():
    texts = [f"{i:04d}" * 25 for i in range(500)]

    assert sum(map(len, drawn(texts, 10_000))) == 10_000
    assert sum(map(len, drawn(texts, 10**9))) == 50_000
    assert sum(map(len, drawn(["x" * 5000], 700))) == 700


def test_no_more_than_the_sample_is_kept_in_memory():
    sample = DocumentSample(1000)
    for i in range(500):
        text = f"{i:04d}" * 25
        sample.add(i, content_hash(text.encode()), text)

    kept = sum(map(len, sample.texts(np.zeros(500, bool), 10**9)))

    assert 1000 <= kept < 1100  # one document more than fits


def test_a_sample_is_drawn_evenly_from_all_places():
    texts = [f"{i:04d}" * 25 for i in range(2000)]

    places = np.array([int(text[:4]) for text in drawn(texts, 50_000)])

    # Mean of 500 of 2000 uniform places: standard error 22.
    assert abs(places.mean() - 1000) < 5 * 22


def test_a_sample_does_not_depend_on_the_order():
    texts = [f"{i:04d}" * 25 for i in range(300)]

    assert drawn(texts, 3000) == drawn(texts[::-1], 3000)


def test_a_sample_leaves_held_out_documents_alone():
    texts = [f"{i:04d}" * 25 for i in range(300)]
    is_validation = np.arange(300) % 2 == 0

    assert all(int(text[:4]) % 2 for text in drawn(texts, 10**6, is_validation))
