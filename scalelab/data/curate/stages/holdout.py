"""Hold-outs: documents cut out for validation before anything is learned from the others.

    holdout: {sets: {manual: {domains: [python3.11-doc], share: 0.05}}}

A document is drawn by the hash of its name, so the same documents are held out whatever the others are.
Only prose is taken (the rules of Gopher), in the languages that are asked for. Near copies of it stay
behind: `decontaminate` removes them.
"""

import fnmatch
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scalelab.config import Config, Count, Name
from scalelab.data.curate.base import Arrays, CurationStage, StageLedger, WebDocument, name_hash
from scalelab.data.curate.stages.heuristics import Heuristics

_PROSE = Heuristics(use=("gopher",))


class HoldoutSet(Config):
    """One hold-out."""

    domains: tuple[str, ...] = Field(min_length=1)
    """Domains (packages, hosts) that it is drawn from; * and ? are wildcards."""
    share: Annotated[float, Field(strict=True, gt=0, le=0.5)] = 0.05
    """Share of their documents."""
    languages: tuple[str, ...] = ("en",)
    """Languages, as the stage `language` found them. Empty: all."""
    min_words: Count = 100
    """Words below which a document is not taken."""


class Holdout(CurationStage):
    """Cuts hold-outs."""

    kind: Literal["holdout"] = "holdout"
    """Names this stage in CURATION_STAGES."""
    cuts_holdouts: ClassVar[bool] = True
    sets: dict[Name, HoldoutSet] = Field(min_length=1)
    """Hold-outs by name. A document belongs to the first that takes it."""

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document that is not held out."""
        del decision
        for name, wanted in self.sets.items():
            if _takes(wanted, document):
                ledger.hold_out(name, document)
                return None
        return document


def _takes(wanted: HoldoutSet, document: WebDocument) -> bool:
    if not any(fnmatch.fnmatchcase(document.domain, pattern) for pattern in wanted.domains):
        return False
    if wanted.languages and document.language not in wanted.languages:
        return False
    if name_hash(document) >= wanted.share * 2**64:
        return False
    return len(document.text.split()) >= wanted.min_words and _PROSE.reason_of(document.text) is None
