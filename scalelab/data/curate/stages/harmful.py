"""Harmful content: documents with many words of a list, and documents that read like them.

    words        share of the words of a document that are on the list, at most `max_share`
    classifier   fitted to documents that the list rejects against trusted ones, where there are enough of
                 them; rejects documents whose log odds are above those of all but `false_positives` of the
                 trusted documents that it was not fitted to

The list that comes with the stage has words of advertising for pornography, gambling and pills. Each
part's rate of rejected documents among trusted ones is shown: a list made for one kind of text rejects
innocent text of another.

Source: Raffel et al. 2020, arXiv:1910.10683, 2.2 (a word list); Dodge et al. 2021, arXiv:2104.08758 (what it
wrongly removes).
Not here: the classifier (text_classifier.py).
"""

import fnmatch
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from scalelab.config import Count, Switch
from scalelab.data.curate.base import (
    Arrays,
    CurationContext,
    CurationStage,
    StageLedger,
    WebDocument,
    name_hash,
)
from scalelab.data.curate.text_classifier import Examples, ExampleSet, features, fit, scores
from scalelab.data.files.plain import lines

WORDS = frozenset(
    [
        "porn",
        "porno",
        "pornhub",
        "hentai",
        "milf",
        "blowjob",
        "handjob",
        "gangbang",
        "creampie",
        "camgirl",
        "camgirls",
        "escorts",
        "nsfw",
        "viagra",
        "cialis",
        "levitra",
        "tramadol",
        "casino",
        "casinos",
        "jackpot",
        "sportsbook",
        "blackjack",
        "roulette",
        "baccarat",
    ]
)
_WORD = re.compile(r"\w+")
TRUSTED, HARMFUL = 0, 1
_FEWEST = 20


class HarmfulContent(CurationStage):
    """Rejects harmful text."""

    kind: Literal["harmful"] = "harmful"
    """Names this stage in CURATION_STAGES."""
    observes: ClassVar[bool] = True
    words: str | None = None
    """File with one word a line. None: the list of the stage."""
    max_share: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.005
    """Share of the words that may be on the list; a document with one of them passes."""
    trusted: tuple[str, ...] = ("*",)
    """Domains whose documents are taken as innocent to measure rates of error; * and ? are wildcards."""
    classifier: Switch = True
    """Whether a classifier looks for further documents."""
    false_positives: Annotated[float, Field(strict=True, ge=0, le=0.1)] = 0.001
    """Share of the trusted documents that the classifier may reject."""
    examples: Count = 1000
    """Examples of each kind at most."""

    def inputs(self) -> list[Path]:
        """The list of words."""
        return [Path(self.words).expanduser()] if self.words else []

    @cached_property
    def _list(self) -> frozenset[str]:
        if not self.words:
            return WORDS
        found = (line.strip().lower() for path in self.inputs() for _, line in lines(path))
        return frozenset(word for word in found if word and not word.startswith("#"))

    def observe(self, documents: Iterator[WebDocument], context: CurationContext) -> Arrays:
        """Examples, and how many trusted documents the list rejects."""
        del context
        found, n_trusted, n_wrong = Examples(self.examples), 0, 0
        for document in documents:
            is_listed = self._is_listed(document.text)[0]
            order = name_hash(document)
            is_trusted = any(fnmatch.fnmatchcase(document.domain, pattern) for pattern in self.trusted)
            n_trusted += is_trusted
            n_wrong += is_trusted and is_listed
            if is_listed or is_trusted:
                found.add(HARMFUL if is_listed else TRUSTED, order, document.text)
        return {**found.arrays(), "trusted": np.array([n_trusted, n_wrong], np.int64)}

    def decide(self, observations: list[Arrays], context: CurationContext) -> Arrays:
        """Return the classifier and the largest score; nothing where there is none."""
        n_trusted, n_wrong = (int(n) for n in sum(each["trusted"] for each in observations))
        context.shown["trusted documents"] = n_trusted
        if n_trusted:
            context.shown["trusted documents that the list rejects"] = n_wrong / n_trusted
        found = ExampleSet.merged(observations, self.examples)
        is_test, is_harmful = found.is_test, found.label == HARMFUL
        n_harmful, n_tested = int(is_harmful.sum()), int((is_test & ~is_harmful).sum())
        if not self.classifier or n_harmful < _FEWEST or n_tested < _FEWEST // 4:
            context.shown["classifier"] = (
                f"not fitted: the list rejects {n_harmful} documents of {_FEWEST} that are needed"
                if self.classifier
                else "not asked for"
            )
            return {}
        training = [row for row, held_out in zip(found.rows, is_test, strict=True) if not held_out]
        model = fit(training, found.label[~is_test], "stages: harmful")
        score = scores(found.rows, model)[:, 0][is_test & ~is_harmful]
        largest = max(0.0, float(np.quantile(score, 1 - self.false_positives)))
        context.shown["classifier"] = "fitted"
        context.shown["trusted documents that the classifier rejects"] = float(np.mean(score > largest))
        return {**model, "largest": np.array([largest])}

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document that is not harmful."""
        is_listed, n, share = self._is_listed(document.text)
        if is_listed:
            ledger.reject(document, "words of the list", f"{n} words, {share:.1%}")
            return None
        if decision:
            score = float(scores([features(document.text)], decision)[0, 0])
            if score > float(decision["largest"][0]):
                ledger.reject(document, "reads like harmful text", f"log odds {score:.2f}")
                return None
        return document

    def _is_listed(self, text: str) -> tuple[bool, int, float]:
        """Return whether a text has too many words of the list, how many, and their share."""
        words = _WORD.findall(text.lower())
        n = sum(word in self._list for word in words)
        share = n / len(words) if words else 0.0
        return n > 1 and share > self.max_share, n, share
