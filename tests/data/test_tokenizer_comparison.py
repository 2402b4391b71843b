"""The comparison of tokenizers against sums that were done by hand."""

from math import exp, log, log2
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from token_writing import byte_level

from scalelab.cli.tokenizer_report import file_names
from scalelab.data.base import SkippedDocuments, TextDocument, TextSource, TokenizerConfig
from scalelab.data.tokenizer import train
from scalelab.data.tokenizers.comparison import Bigram, SampledText, compare, domain_of, pieces_of, sample
from scalelab.data.tokenizers.file import TokenizerFile
from scalelab.errors import DataError
from scalelab.report.tokenizers.plots import bytes_plot
from scalelab.testing.figures import check_figure

BYTES = train(TokenizerConfig(kind="bytes"), iter(()))


@pytest.fixture
def merged(tmp_path):
    """Bytes and the merge "th": 259 tokens."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    return TokenizerFile(path=str(tmp_path / "tokenizer.json"), end="<|stop|>").load()


class Texts(TextSource):
    texts: tuple[str, ...]

    def fingerprint(self, hash_file):
        return "0"

    def documents(self, skips: SkippedDocuments):
        for i, text in enumerate(self.texts):
            yield TextDocument(f"{'ab'[i % 2]}/{i}", text)


def test_a_bigram_by_hand():
    """Counted on 0 1 1 END, with END = 2 and V = 3: c = 1, 2, 1; T(END) = 1, T(0) = 1, T(1) = 2."""
    model = Bigram([np.array([0, 1, 1, 2])], end=2, vocab_size=3)
    p1 = [2 / 7, 3 / 7, 2 / 7]

    p = [
        (1 + 1 * p1[0]) / (1 + 1),  # 0 after END
        (1 + 1 * p1[1]) / (1 + 1),  # 1 after 0
        (1 + 2 * p1[2]) / (2 + 2),  # END after 1
    ]

    assert_allclose(model.nats(np.array([0, 1, 2])), -sum(map(log, p)))


def test_what_follows_a_token_sums_to_one():
    rng = np.random.default_rng(0)
    model = Bigram([np.append(rng.integers(0, 6, 30), 6) for _ in range(5)], end=6, vocab_size=8)

    for before in range(8):
        first = model.nats(np.array([before]))
        both = [model.nats(np.array([before, after])) for after in range(8)]
        assert_allclose(sum(exp(first - n) for n in both), 1)


def test_a_context_that_was_never_seen_leaves_the_unigram():
    model = Bigram([np.array([0, 2])], end=2, vocab_size=4)

    assert_allclose(model.nats(np.array([1, 3])), -log((0 + 1 * 1 / 6) / (1 + 1)) - log(1 / 6))


def test_bytes_per_token_by_domain_by_hand(merged):
    texts = [SampledText("x", "thth", False), SampledText("y", "abc", False), SampledText("y", "th", True)]

    score = compare({"merged": merged, "bytes": BYTES}, texts)

    assert score["merged"].domains["x"].bytes_per_token == 4 / 3  # th th END
    assert score["merged"].domains["y"].bytes_per_token == 5 / 6  # a b c END, th END
    assert score["bytes"].total.bytes_per_token == 9 / 12
    assert (score["bytes"].total.n_bytes, score["bytes"].total.held_out_bytes) == (9, 2)


def test_files_of_one_name_are_told_apart_by_their_paths():
    paths = [Path("a/x.yaml"), Path("b/x.yaml"), Path("y.yaml"), Path("y.yaml")]

    assert file_names(paths) == {"a/x.yaml": paths[0], "b/x.yaml": paths[1], "y": paths[2]}


def test_the_figure_draws_bytes_per_token_with_all_domains_last(merged):
    texts = sample(Texts(texts=tuple(f"the {i} thin thing " * (1 + i % 2) for i in range(20))))
    scores = compare({"bytes": BYTES, "merged": merged}, texts)

    data = bytes_plot(scores)
    axes = check_figure("tokenizer_bytes", data).axes[0]

    assert list(data.domains) == ["b", "a", "all"]
    assert list(data.bytes_per_token["merged"]) == [
        scores["merged"].domains["b"].bytes_per_token,
        scores["merged"].domains["a"].bytes_per_token,
        scores["merged"].total.bytes_per_token,
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["bytes", "merged"]


def test_a_file_and_the_same_file_changed_look_different_in_the_figure(merged):
    """Their names differ behind a comma, where forms of one law have one colour."""
    texts = sample(Texts(texts=tuple(f"the {i} thin thing " for i in range(20))))
    data = bytes_plot(compare({"sweep": BYTES, "sweep, changed": merged}, texts))

    lines = check_figure("tokenizer_bytes", data).axes[0].get_lines()
    drawn = {line.get_label(): (line.get_color(), line.get_marker()) for line in lines}

    assert drawn["sweep"] != drawn["sweep, changed"]


def test_perplexities_by_hand():
    """Bytes: 'a' counted as END a END; held out the same. V = 257; c(a) = c(END) = 1, n = 2."""
    p1 = 2 / 259
    p = (1 + p1) / 2

    found = compare({"bytes": BYTES}, [SampledText("x", "a", False), SampledText("x", "a", True)])[
        "bytes"
    ].total

    assert_allclose(found.nats, -2 * log(p))
    assert_allclose(found.perplexity_per_token, 1 / p)
    assert_allclose(found.perplexity_per_byte, 1 / p**2)
    assert_allclose(found.bits_per_byte, -2 * log2(p))


def test_a_lower_perplexity_per_token_is_no_better_model():
    """Uniform letters: bytes look twice as good per token as their pairs, and both need the same bits."""
    rng = np.random.default_rng(0)
    texts = [SampledText("x", "".join(rng.choice(list("abcd"), 4000)), i == 4) for i in range(5)]
    own = train(TokenizerConfig(vocab_size=272), iter([one.text for one in texts]))

    found = compare({"bytes": BYTES, "pairs": own}, texts)

    one, two = found["bytes"].total, found["pairs"].total
    assert one.perplexity_per_token < 0.6 * two.perplexity_per_token
    assert_allclose(one.bits_per_byte, 2, atol=0.05)
    assert_allclose(two.bits_per_byte, 2, atol=0.15)


def test_numbers_and_code_are_shown_as_they_are_split(merged):
    score = compare(
        {"bytes": BYTES, "merged": merged}, [SampledText("x", "a", False), SampledText("x", "b", True)]
    )

    four = next(one for one in score["bytes"].numbers if one.digits == 4)
    assert (four.mean_tokens, four.pattern, four.pattern_share) == (4, "1+1+1+1", 1)
    assert pieces_of(merged, "the 7th") == ("th", "e", " ", "7", "th")
    assert score["bytes"].pieces["1984"] == ("1", "9", "8", "4")


def test_a_sample_is_whole_documents_evenly_drawn():
    source = Texts.model_construct(texts=tuple(f"{i:03d} {'x' * 96}" for i in range(300)))

    found = sample(source, 5000)

    assert sum(len(one.text) for one in found) == 5000
    assert found == sample(source, 5000)
    assert {one.domain for one in found} == {"a", "b"}
    assert 0.05 < np.mean([one.is_held_out for one in found]) < 0.45
    assert len(sample(source, 10**9)) == 300


def test_too_few_documents_are_refused():
    with pytest.raises(DataError, match="1 documents are too few to hold some of them out"):
        sample(Texts.model_construct(texts=("one",)))


@pytest.mark.parametrize(("name", "domain"), [("0-text/a/b.txt", "0-text"), ("a.txt", "all"), ("", "all")])
def test_a_domain_is_the_top_of_a_name(name, domain):
    assert domain_of(name) == domain
