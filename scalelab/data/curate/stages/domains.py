"""Domains: which kind of text each document is, by its address, and by its text where that is silent.

    domains: {rules: {manual: ["*-doc/*"], news: ["*.example.com/*"]}, classify: true}

A rule is a pattern of "host/path" of the URL or of the document's name. Documents that no rule names keep
the domain that they have (host or package), or get the likeliest class of a classifier that is fitted to
those that the rules name.

Not here: weights of domains (mix.py), the classifier (text_classifier.py).
"""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from scalelab.config import Count, Name, Switch
from scalelab.data.curate.base import (
    Arrays,
    CurationContext,
    CurationStage,
    StageLedger,
    WebDocument,
    name_hash,
)
from scalelab.data.curate.text_classifier import Examples, ExampleSet, features, fit, scores
from scalelab.data.curate.urls import MALFORMED, host_and_path, is_malformed


class Domains(CurationStage):
    """Names the domain of every document."""

    kind: Literal["domains"] = "domains"
    """Names this stage in CURATION_STAGES."""
    observes: ClassVar[bool] = True
    rules: dict[Name, tuple[str, ...]] = {}
    """Patterns of each domain; the first that fits counts."""
    classify: Switch = False
    """Whether documents that no rule names are classified by their text."""
    examples: Count = 1000
    """Examples of each domain at most."""
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn", "scipy")

    def implementation(self) -> str:
        """Return what fits the classifier, where there is one."""
        return super().implementation() if self.classify else ""

    def observe(self, documents: Iterator[WebDocument], context: CurationContext) -> Arrays:
        """Examples of each domain that rules name."""
        del context
        found = Examples(self.examples)
        if self.classify:
            names = list(self.rules)
            for document in documents:
                if (name := self._by_rule(document)) is not None:
                    found.add(names.index(name), name_hash(document), document.text)
        return found.arrays()

    def decide(self, observations: Sequence[Arrays], context: CurationContext) -> Arrays:
        """Return the classifier; nothing where there is none."""
        if not self.classify:
            return {}
        found = ExampleSet.merged(observations, self.examples)
        is_test = found.is_test
        if len(np.unique(found.label[~is_test])) < 2:
            context.shown["classifier"] = (
                "not fitted: fewer than two domains have documents by rule, those for the test apart"
            )
            return {}
        training = [row for row, held_out in zip(found.rows, is_test, strict=True) if not held_out]
        model = fit(training, found.label[~is_test], "stages: domains")
        test = [row for row, held_out in zip(found.rows, is_test, strict=True) if held_out]
        if test:
            right = _likeliest(scores(test, model), model["classes"]) == found.label[is_test]
            context.shown["right domain, of examples that were not fitted"] = float(np.mean(right))
        return model

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document with its domain."""
        ledger.count(MALFORMED, int(is_malformed(document.url)))
        name = self._by_rule(document)
        if name is None and decision:
            label = _likeliest(scores([features(document.text)], decision), decision["classes"])[0]
            name = list(self.rules)[int(label)]
            ledger.count("by text")
        elif name is not None:
            ledger.count("by rule")
        return document if name is None else replace(document, domain=name)

    def _by_rule(self, document: WebDocument) -> str | None:
        places = ("".join(host_and_path(document.url)), document.name)
        for name, patterns in self.rules.items():
            if any(fnmatch.fnmatchcase(place, pattern) for pattern in patterns for place in places):
                return name
        return None


def _likeliest(score: np.ndarray, classes: np.ndarray) -> np.ndarray:
    if score.shape[1] == 1:  # two classes have one model, positive for the second
        return classes[(score[:, 0] > 0).astype(int)]
    return classes[np.argmax(score, axis=1)]
