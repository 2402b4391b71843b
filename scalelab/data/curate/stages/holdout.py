"""Hold-outs: documents cut out for validation before anything is learned from the others.

    holdout: {sets: {manual: {domains: [python3.11-doc], share: 0.05}}}

A document is drawn by the hash of its name and the set's, so the same documents are held out whatever the
others are, and sets over one domain draw independently. A set that nothing falls into is an error.
Only prose is taken (the rules of Gopher), in the languages that are asked for. Near copies of it stay
behind: `decontaminate` removes them.
"""

import fnmatch
from collections.abc import Container, Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scalelab.config import Config, Count, Name
from scalelab.data.curate.base import Arrays, CurationStage, StageLedger, WebDocument
from scalelab.data.curate.stages.heuristics import Heuristics
from scalelab.data.hashing import content_hash
from scalelab.errors import DataError

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
    version: ClassVar[int] = 2
    cuts_holdouts: ClassVar[bool] = True
    sets: dict[Name, HoldoutSet] = Field(min_length=1)
    """Hold-outs by name. A document belongs to the first that takes it."""

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document that is not held out."""
        del decision
        for name, wanted in self.sets.items():
            if _takes(name, wanted, document):
                ledger.hold_out(name, document)
                return None
        return document

    def check_cut(self, cut: Container[str], domains: Iterable[str], languages: Iterable[str]) -> None:
        """Check that documents fell into every set.

        Args:
            cut: Names of the sets that some did.
            domains: Domains of the documents that the stage got.
            languages: Their languages.

        Raises:
            DataError: A set is empty.
        """
        for name, wanted in self.sets.items():
            if name in cut:
                continue
            there = sorted(domains)
            found = [d for d in there if any(fnmatch.fnmatchcase(d, pattern) for pattern in wanted.domains)]
            if not found:
                fix = f"name domains that are there: {', '.join(there)[:300]}"
            elif wanted.languages and not set(wanted.languages) & set(languages):
                fix = (
                    f"the languages there are {', '.join(sorted(languages))[:200]}: put the stage `language` "
                    "before it, or give `languages: []` for all"
                )
            else:
                fix = f"raise its share ({wanted.share:g}), or lower min_words ({wanted.min_words})"
            raise DataError(
                f"the hold-out {name!r} is empty: no document falls into it",
                where=f"stages: holdout.sets.{name}",
                fix=fix,
            )


def _takes(name: str, wanted: HoldoutSet, document: WebDocument) -> bool:
    if not any(fnmatch.fnmatchcase(document.domain, pattern) for pattern in wanted.domains):
        return False
    if wanted.languages and document.language not in wanted.languages:
        return False
    if content_hash(f"{name}\0{document.name}".encode()) >= wanted.share * 2**64:
        return False
    return len(document.text.split()) >= wanted.min_words and _PROSE.reason_of(document.text) is None
