"""Harmful content: documents with many words of a list, and documents that read like them.

    words        share of the words of a document that are on the list, at most `max_share`
    classifier   fitted to documents that the list rejects against trusted ones, where there are enough of
                 them; rejects documents whose log odds are above those of n trusted documents that it was not
                 fitted to, n = 1 / false_positives rounded up. Then at most 1 in n + 1 of further trusted
                 documents is rejected in the mean; the rate of n others still is shown

The list that comes with the stage has words of advertising for pornography, gambling and pills. Each
part's rate of rejected documents among trusted ones is shown: a list made for one kind of text rejects
innocent text of another.

Source: Raffel et al. 2020, arXiv:1910.10683, 2.2 (a word list); Dodge et al. 2021, arXiv:2104.08758 (what it
wrongly removes); Vovk et al. 2005, Algorithmic Learning in a Random World (the largest of n as a threshold).
Not here: the classifier (text_classifier.py).
"""

import fnmatch
import re
from collections.abc import Iterator
from functools import cached_property
from math import ceil
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
from scalelab.data.hashing import mix

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
    version: ClassVar[int] = 2
    observes: ClassVar[bool] = True
    words: str | None = None
    """File with one word a line. None: the list of the stage."""
    max_share: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.005
    """Share of the words that may be on the list; a document with one of them passes."""
    trusted: tuple[str, ...] = ("*",)
    """Domains whose documents are taken as innocent to measure rates of error; * and ? are wildcards."""
    classifier: Switch = True
    """Whether a classifier looks for further documents."""
    false_positives: Annotated[float, Field(strict=True, ge=1e-5, le=0.1)] = 0.001
    """Share of the trusted documents that the classifier may reject. 2 / false_positives of them are needed
    beside those that it is fitted to."""
    examples: Count = 1000
    """Examples of each kind that the classifier is fitted to at most."""

    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn", "scipy")

    @property
    def _n_tested(self) -> int:
        """Trusted documents that the threshold is taken from; as many again measure its rate."""
        return ceil(1 / self.false_positives)

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
        harmful, trusted = Examples(self.examples), Examples(self.examples + 2 * self._n_tested)
        n_trusted = n_wrong = 0
        for document in documents:
            is_listed = self._is_listed(document.text)[0]
            order = name_hash(document)
            is_trusted = any(fnmatch.fnmatchcase(document.domain, pattern) for pattern in self.trusted)
            n_trusted += is_trusted
            n_wrong += is_trusted and is_listed
            if self.classifier and is_listed:
                harmful.add(HARMFUL, order, document.text)
            elif self.classifier and is_trusted:
                trusted.add(TRUSTED, order, document.text)
        both = {**_prefixed("harmful", harmful.arrays()), **_prefixed("trusted", trusted.arrays())}
        return {**both, "n_trusted": np.array([n_trusted, n_wrong], np.int64)}

    def decide(self, observations: list[Arrays], context: CurationContext) -> Arrays:
        """Return the classifier and the largest score; nothing where there is none."""
        n_trusted, n_wrong = (int(n) for n in sum(each["n_trusted"] for each in observations))
        context.shown["trusted documents"] = n_trusted
        if n_trusted:
            context.shown["trusted documents that the list rejects"] = n_wrong / n_trusted
        if not self.classifier:
            context.shown["classifier"] = "not asked for"
            return {}
        n = self._n_tested
        harmful = ExampleSet.merged(_without("harmful", observations), self.examples).rows
        drawn = ExampleSet.merged(_without("trusted", observations), self.examples + 2 * n)
        trusted = [drawn.rows[i] for i in np.argsort(mix(drawn.order), kind="stable")]
        if len(harmful) < _FEWEST:
            context.shown["classifier"] = (
                f"not fitted: the list rejects {len(harmful)} documents of {_FEWEST} that are needed"
            )
            return {}
        if len(trusted) < 2 * n + _FEWEST:
            context.shown["classifier"] = (
                f"not fitted: false_positives {self.false_positives:g} needs {2 * n + _FEWEST:,} trusted documents, "
                f"and there are {len(trusted):,}"
            )
            return {}
        fitted = [*harmful, *trusted[2 * n :]]
        label = np.array([HARMFUL] * len(harmful) + [TRUSTED] * (len(trusted) - 2 * n), np.int32)
        model = fit(fitted, label, "stages: harmful")
        largest = max(0.0, float(scores(trusted[:n], model).max()))
        is_wrong = scores(trusted[n : 2 * n], model)[:, 0] > largest
        context.shown["classifier"] = "fitted"
        context.shown["trusted documents that the classifier rejects, of others"] = float(np.mean(is_wrong))
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


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {f"{prefix}_{name}": value for name, value in arrays.items()}


def _without(prefix: str, observations: list[Arrays]) -> list[Arrays]:
    """Return the arrays that were given a prefix, under their own names."""
    return [
        {
            name.removeprefix(f"{prefix}_"): value
            for name, value in each.items()
            if name.startswith(f"{prefix}_")
        }
        for each in observations
    ]
