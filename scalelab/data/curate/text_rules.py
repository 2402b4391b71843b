"""Published rules for text of the web, each by name, with its threshold and source.

    gopher       Rae et al. 2021, arXiv:2112.11446, A.1.1: length, symbols, stop words
    repetition   the same, table A1: repeated lines, paragraphs and n-grams
    c4           Raffel et al. 2020, arXiv:1910.10683, 2.2: sentences, placeholder text
    fineweb      Penedo et al. 2024, arXiv:2406.17557, 3.6: line ends, repeated and short lines

Words are separated by white space, as the rules were meant: a tokenizer that makes words of punctuation
lets technical prose fail the share of words with a letter.

A rule gives a value of a text, which is compared with the threshold: at least (">=") or at most ("<=").
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
_SENTENCE_END = re.compile(r"[.!?](?:[\"')\]]*)(?=\s|$)")
_LINE_ENDS = (".", "!", "?", '"', "'", "…", ":", ";", ")", "”")
_LETTER = re.compile(r"[^\W\d_]")
RuleSet = Literal["gopher", "repetition", "c4", "fineweb"]


class TextStatistics:
    """Properties of a text, each computed when a rule first asks for it."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """Words by white space."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank, without space around them."""
        return [stripped for line in self.text.split("\n") if (stripped := line.strip())]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Paragraphs, separated by blank lines."""
        return [stripped for part in re.split(r"\n\s*\n", self.text) if (stripped := part.strip())]

    @cached_property
    def n_word_characters(self) -> int:
        """Characters of all words."""
        return sum(map(len, self.words))


def _share(part: float, of: float) -> float:
    return part / of if of else 0.0


def _duplicate_share(items: Sequence[str]) -> float:
    return _share(len(items) - len(set(items)), len(items))


def _duplicate_characters(items: Sequence[str]) -> float:
    counts = Counter(items)
    repeated = sum(len(item) * (n - 1) for item, n in counts.items())
    return _share(repeated, sum(map(len, items)))


def _top_ngram(n: int) -> Callable[[TextStatistics], float]:
    def value(s: TextStatistics) -> float:
        words = s.words
        counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
        if not counts:
            return 0.0
        gram, times = counts.most_common(1)[0]
        return _share(times * sum(map(len, gram)), s.n_word_characters) if times > 1 else 0.0

    return value


def _repeated_ngrams(n: int) -> Callable[[TextStatistics], float]:
    """Share of the characters in n-grams that occurred before, each character counted once."""

    def value(s: TextStatistics) -> float:
        words, seen, repeated, i = s.words, set(), 0, 0
        while i + n <= len(words):
            gram = tuple(words[i : i + n])
            if gram in seen:
                repeated += sum(map(len, gram))
                i += n
            else:
                seen.add(gram)
                i += 1
        return _share(repeated, s.n_word_characters)

    return value


@dataclass(frozen=True)
class TextRule:
    """One rule."""

    source: RuleSet
    sign: Literal[">=", "<="]
    threshold: float
    value: Callable[[TextStatistics], float]
    largest: float = 1.0
    """Largest threshold that makes sense."""

    def holds(self, value: float, threshold: float) -> bool:
        """Return whether a text with such a value passes."""
        return value >= threshold if self.sign == ">=" else value <= threshold


def _line_share(of: Callable[[str], bool]) -> Callable[[TextStatistics], float]:
    return lambda s: _share(sum(map(of, s.lines)), len(s.lines))


RULES: dict[str, TextRule] = {
    "min_words": TextRule("gopher", ">=", 50, lambda s: len(s.words), 1e6),
    "max_words": TextRule("gopher", "<=", 100_000, lambda s: len(s.words), 1e9),
    "min_mean_word_length": TextRule(
        "gopher", ">=", 3, lambda s: _share(s.n_word_characters, len(s.words)), 100
    ),
    "max_mean_word_length": TextRule(
        "gopher", "<=", 10, lambda s: _share(s.n_word_characters, len(s.words)), 1000
    ),
    "symbols_per_word": TextRule(
        "gopher",
        "<=",
        0.1,
        lambda s: _share(s.text.count("#") + s.text.count("...") + s.text.count("…"), len(s.words)),
        100,
    ),
    "bullet_lines": TextRule("gopher", "<=", 0.9, _line_share(lambda line: line[0] in "•*-‣◦")),
    "ellipsis_lines": TextRule("gopher", "<=", 0.3, _line_share(lambda line: line.endswith(("...", "…")))),
    "words_with_letter": TextRule(
        "gopher", ">=", 0.8, lambda s: _share(sum(map(bool, map(_LETTER.search, s.words))), len(s.words))
    ),
    "stop_words": TextRule("gopher", ">=", 2, lambda s: len(STOP_WORDS & set(map(str.lower, s.words))), 8),
    "duplicate_lines": TextRule("repetition", "<=", 0.3, lambda s: _duplicate_share(s.lines)),
    "duplicate_paragraphs": TextRule("repetition", "<=", 0.3, lambda s: _duplicate_share(s.paragraphs)),
    "duplicate_line_characters": TextRule("repetition", "<=", 0.2, lambda s: _duplicate_characters(s.lines)),
    "duplicate_paragraph_characters": TextRule(
        "repetition", "<=", 0.2, lambda s: _duplicate_characters(s.paragraphs)
    ),
    "top_2_gram": TextRule("repetition", "<=", 0.2, _top_ngram(2)),
    "top_3_gram": TextRule("repetition", "<=", 0.18, _top_ngram(3)),
    "top_4_gram": TextRule("repetition", "<=", 0.16, _top_ngram(4)),
    "repeated_5_grams": TextRule("repetition", "<=", 0.15, _repeated_ngrams(5)),
    "repeated_6_grams": TextRule("repetition", "<=", 0.14, _repeated_ngrams(6)),
    "repeated_7_grams": TextRule("repetition", "<=", 0.13, _repeated_ngrams(7)),
    "repeated_8_grams": TextRule("repetition", "<=", 0.12, _repeated_ngrams(8)),
    "repeated_9_grams": TextRule("repetition", "<=", 0.11, _repeated_ngrams(9)),
    "repeated_10_grams": TextRule("repetition", "<=", 0.1, _repeated_ngrams(10)),
    "min_sentences": TextRule("c4", ">=", 5, lambda s: len(_SENTENCE_END.findall(s.text)), 1000),
    "placeholder_text": TextRule("c4", "<=", 0, lambda s: s.text.lower().count("lorem ipsum"), 1000),
    "lines_with_end": TextRule("fineweb", ">=", 0.12, _line_share(lambda line: line.endswith(_LINE_ENDS))),
    "characters_of_duplicate_lines": TextRule("fineweb", "<=", 0.1, lambda s: _duplicate_characters(s.lines)),
    "short_lines": TextRule("fineweb", "<=", 0.67, _line_share(lambda line: len(line) < 30)),
}
