"""Quality: documents that read like trusted ones, by a classifier of trusted against all.

    trusted    documents of some domains, or files of text (as pages that Wikipedia refers to are used)
    raw        a draw from all documents
    score      log odds of the classifier; a document is kept where its score is among the best `keep`
               of the draw, or at least `min_score`

The classifier is fitted to four examples of five. The threshold of `keep`, the share of the trusted documents
that would be rejected and how well it ranks come from the fifth alone: on examples that it was fitted to as raw
it gives lower scores than on the rest of the corpus. With n such examples the standard error of the share that
is kept is sqrt(keep (1 - keep) / n).

Source: Brown et al. 2020, arXiv:2005.14165, appendix A; Li et al. 2024 (DCLM), arXiv:2406.11794, 4.4.
Not here: the classifier (text_classifier.py).
"""

import fnmatch
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from scalelab.config import Count, Number
from scalelab.data.curate.base import (
    Arrays,
    CurationContext,
    CurationStage,
    StageLedger,
    WebDocument,
    name_hash,
)
from scalelab.data.curate.text_classifier import Examples, ExampleSet, features, fit, ranked_right, scores
from scalelab.data.files.plain import whole_text
from scalelab.data.hashing import content_hash
from scalelab.errors import DataError

RAW, TRUSTED = 0, 1
_FEWEST = 20
_FEWEST_TESTED = 5


class Quality(CurationStage):
    """Keeps documents like the trusted ones."""

    kind: Literal["quality"] = "quality"
    """Names this stage in CURATION_STAGES."""
    version: ClassVar[int] = 2
    observes: ClassVar[bool] = True
    trusted: tuple[str, ...] = ()
    """Domains of trusted documents; * and ? are wildcards."""
    trusted_files: tuple[str, ...] = ()
    """Files of trusted text, one document each paragraph of 50 words or more."""
    keep: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    """Share of the documents that is kept. One of keep and min_score."""
    min_score: Number | None = None
    """Least score, log odds."""
    examples: Annotated[Count, Field(le=100_000)] = 2000
    """Examples of each kind at most."""
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn", "scipy")

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if (self.keep is None) == (self.min_score is None):
            raise ValueError("give one of keep (a share) and min_score (log odds)")
        if not self.trusted and not self.trusted_files:
            raise ValueError("name trusted domains (trusted) or files (trusted_files)")
        return self

    def inputs(self) -> list[Path]:
        """The files of trusted text."""
        return [Path(path).expanduser() for path in self.trusted_files]

    def observe(self, documents: Iterator[WebDocument], context: CurationContext) -> Arrays:
        """Examples of both kinds."""
        del context
        found = Examples(self.examples)
        for document in documents:
            order = name_hash(document)
            found.add(RAW, order, document.text)
            if self._is_trusted(document):
                found.add(TRUSTED, order, document.text)
        return found.arrays()

    def decide(self, observations: list[Arrays], context: CurationContext) -> Arrays:
        """Return the classifier and the least score."""
        given = Examples(self.examples)
        for path in self.inputs():
            for part in whole_text(path).split("\n\n"):
                if len(part.split()) >= 50:
                    given.add(TRUSTED, content_hash(part.encode("utf-8")), part)
        found = ExampleSet.merged([*observations, given.arrays()], self.examples)
        is_test, is_trusted = found.is_test, found.label == TRUSTED
        n_trusted, n_tested = int(is_trusted.sum()), int((is_test & ~is_trusted).sum())
        if min(n_trusted, len(is_test) - n_trusted) < _FEWEST or n_tested < _FEWEST_TESTED:
            if context.is_sample:
                context.shown["classifier"] = f"not fitted: the sample holds {n_trusted} trusted documents"
                return {}
            raise DataError(
                f"{n_trusted} trusted and {len(is_test) - n_trusted} other documents are too few for a "
                f"classifier: {_FEWEST} of each are needed, and {_FEWEST_TESTED} of the others to test it on",
                where="stages: quality",
                fix="name more trusted domains or files, or leave the stage out",
            )
        training = [row for row, held_out in zip(found.rows, is_test, strict=True) if not held_out]
        model = fit(training, found.label[~is_test], "stages: quality")
        test = [row for row, held_out in zip(found.rows, is_test, strict=True) if held_out]
        score, label = scores(test, model)[:, 0], found.label[is_test]
        raw, trusted = score[label == RAW], score[label == TRUSTED]
        least = (
            self.min_score if self.min_score is not None else float(np.quantile(raw, 1 - (self.keep or 1)))
        )
        context.shown.update(
            {
                "examples, trusted": n_trusted,
                "examples, raw": len(found.label) - n_trusted,
                "raw examples that were not fitted": len(raw),
                "ranked rightly, of examples that were not fitted": ranked_right(trusted, raw),
                "least score": least,
                "trusted documents that are rejected, of examples that were not fitted": (
                    float(np.mean(trusted < least)) if len(trusted) else None
                ),
            }
        )
        return {**model, "least": np.array([least])}

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document with its score, if that is high enough."""
        if not decision:
            return document
        score = float(scores([features(document.text)], decision)[0, 0])
        scored = document.with_meta(quality=round(score, 4))
        if score < float(decision["least"][0]):
            ledger.reject(
                scored, "quality score too low", f"{score:.2f}, needs {float(decision['least'][0]):.2f}"
            )
            return None
        return scored

    def _is_trusted(self, document: WebDocument) -> bool:
        return any(fnmatch.fnmatchcase(document.domain, pattern) for pattern in self.trusted)
