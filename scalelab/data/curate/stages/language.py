"""Language: documents in the wanted languages, found in their text.

    py3langid    BSD-3-Clause; the default
    lingua       Apache-2.0; the better one for texts of a few words, seven times as slow, 1.4 GB of memory

Both have their models inside the package, so nothing is fetched.

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

Detector = Literal["py3langid", "lingua"]
_DISTRIBUTIONS = {"py3langid": "py3langid", "lingua": "lingua-language-detector"}
_EXTRAS = {"py3langid": "pip install 'scalelab[data]'", "lingua": "pip install 'scalelab[lingua]'"}
_NORWEGIAN = {"nb": "no", "nn": "no"}
"""Codes of lingua for what py3langid and most pages call no."""


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
    detector: Detector = "py3langid"
    """Library that finds the language out."""

    def implementation(self) -> str:
        """The version of the model."""
        name = _DISTRIBUTIONS[self.detector]
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            raise DataError(
                f"the stage language needs {name}, which is not installed",
                where="stages: language",
                fix=_EXTRAS[self.detector],
            ) from None

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document with its language, if that is a wanted one."""
        del decision
        start = max(0, (len(document.text) - self.characters) // 2)
        language, probability = identify(document.text[start : start + self.characters], self.detector)
        ledger.count("page states another language", int(document.language not in {"", language}))
        found = replace(document, language=language)
        if self.keep and language not in self.keep:
            ledger.reject(found, f"language {language}", f"probability {probability:.2f}")
            return None
        if probability < self.min_probability:
            ledger.reject(found, "language uncertain", f"{language}, probability {probability:.2f}")
            return None
        return found


def identify(text: str, detector: Detector = "py3langid") -> tuple[str, float]:
    """Return the most likely language of a text, ISO 639-1, and its probability."""
    if detector == "lingua":
        found = _lingua().compute_language_confidence_values(text)[0]
        language = found.language.iso_code_639_1.name.lower()
        return _NORWEGIAN.get(language, language), float(found.value)
    language, probability = _identifier().classify(text)
    return str(language), float(probability)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _lingua() -> Any:
    from lingua import LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()
