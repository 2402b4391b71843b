"""Language: documents in the wanted languages, found in their text.

py3langid (BSD-3-Clause) has its model inside the package, so nothing is fetched.

Source: Lui and Baldwin 2012, langid.py.
"""

from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from pydantic import Field

from scalelab.config import Count, Fraction
from scalelab.data.curate.base import Arrays, CurationStage, StageLedger, WebDocument
from scalelab.errors import DataError


class Language(CurationStage):
    """Keeps documents in some languages. Without `keep` it only finds out which they are in."""

    kind: Literal["language"] = "language"
    """Names this stage in CURATION_STAGES."""
    keep: tuple[str, ...] = Field((), max_length=100)
    """Languages that are kept, ISO 639-1, such as en. Empty: all."""
    min_probability: Fraction = 0.8
    """Probability of the language below which a document is rejected."""
    characters: Count = 4000
    """Characters that are looked at, from the middle of the text."""

    def implementation(self) -> str:
        """The version of the model."""
        try:
            return f"py3langid {version('py3langid')}"
        except PackageNotFoundError:
            raise DataError(
                "the stage language needs py3langid, which is not installed",
                where="stages: language",
                fix="pip install 'scalelab[data]'",
            ) from None

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document with its language, if that is a wanted one."""
        del decision
        start = max(0, (len(document.text) - self.characters) // 2)
        language, probability = identify(document.text[start : start + self.characters])
        ledger.count("page states another language", int(document.language not in {"", language}))
        found = replace(document, language=language)
        if self.keep and language not in self.keep:
            ledger.reject(found, f"language {language}", f"probability {probability:.2f}")
            return None
        if probability < self.min_probability:
            ledger.reject(found, "language uncertain", f"{language}, probability {probability:.2f}")
            return None
        return found


def identify(text: str) -> tuple[str, float]:
    """Return the most likely language of a text and its probability."""
    language, probability = _identifier().classify(text)
    return str(language), float(probability)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
