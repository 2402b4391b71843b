"""Heuristics: published rules for text of the web, by name.

    heuristics: {use: [gopher, c4], thresholds: {min_words: 30}, without: [min_sentences]}

A document is rejected by the first rule that it fails; its value and the threshold are kept with it.

Not here: the rules, their thresholds and sources (text_rules.py).
"""

from typing import Literal, Self

from pydantic import model_validator

from scalelab.config import Number
from scalelab.config_errors import ValueAtKey
from scalelab.data.curate.base import Arrays, CurationStage, StageLedger, WebDocument
from scalelab.data.curate.text_rules import RULES, RuleSet, TextStatistics
from scalelab.registry import did_you_mean


class Heuristics(CurationStage):
    """Rejects documents by rules."""

    kind: Literal["heuristics"] = "heuristics"
    """Names this stage in CURATION_STAGES."""
    use: tuple[RuleSet, ...] = ("gopher", "repetition", "c4", "fineweb")
    """Sets of rules, named by where they were published."""
    thresholds: dict[str, Number] = {}
    """Other thresholds, by the name of the rule."""
    without: tuple[str, ...] = ()
    """Rules that are not applied."""

    @model_validator(mode="after")
    def _rules_are_known(self) -> Self:
        for key, names in (("thresholds", self.thresholds), ("without", self.without)):
            for i, name in enumerate(names):
                at = name if key == "thresholds" else i
                if name not in RULES:
                    raise ValueAtKey(
                        f"unknown rule {name!r}{did_you_mean(name, RULES)}",
                        (key, at),
                        f"use one of: {', '.join(RULES)}",
                    )
        for name, threshold in self.thresholds.items():
            if not 0 <= threshold <= RULES[name].largest:
                raise ValueAtKey(
                    f"the threshold {threshold:g} of {name} is not between 0 and {RULES[name].largest:g}",
                    ("thresholds", name),
                    f"choose one in that range; it was published with {RULES[name].threshold:g}",
                )
        return self

    @property
    def applied(self) -> dict[str, float]:
        """Thresholds of the rules that are applied, in their order."""
        return {
            name: self.thresholds.get(name, rule.threshold)
            for name, rule in RULES.items()
            if rule.source in self.use and name not in self.without
        }

    def reason_of(self, text: str) -> tuple[str, str] | None:
        """Return the first rule that a text fails, and by how much; None where it passes all."""
        found = TextStatistics(text)
        for name, threshold in self.applied.items():
            rule = RULES[name]
            value = rule.value(found)
            if not rule.holds(value, threshold):
                return f"{rule.source}: {name}", f"{value:.4g}, needs {rule.sign} {threshold:g}"
        return None

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document that passes every rule."""
        del decision
        failed = self.reason_of(document.text)
        if failed is None:
            return document
        ledger.reject(document, *failed)
        return None
