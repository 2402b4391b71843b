"""Extractors and detectors of language that are chosen by a setting: what each does, and what is missing is refused."""

import re
from types import SimpleNamespace

import pytest
from curation import applied, document, english, page

from scalelab.config import changed
from scalelab.data.curate.base import Page
from scalelab.data.curate.stages import extract, language
from scalelab.data.curate.stages.extract import Extract
from scalelab.data.curate.stages.language import Language
from scalelab.errors import DataError

GERMAN = "Die Lehrerin liest jeden Morgen im Garten ein Buch und schreibt danach einen langen Brief."
NORWEGIAN = "Jeg leser en bok i hagen hver morgen, og etterpå skriver jeg et langt brev til læreren min."
BAD = "$ % & 1 2 3 4 5 6 7 8 9 10 11"


@pytest.fixture
def extractors(monkeypatch):
    """Stubs of both extractors by what they return."""

    def make(first, second):
        monkeypatch.setattr(extract, "_resiliparse", lambda html: first)
        monkeypatch.setattr(extract, "_trafilatura", lambda html: second)

    return make


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [("good", "better", "good"), ("bad", "good", "good"), ("bad", "bad too", "bad")],
)
def test_the_union_takes_the_second_text_only_where_it_alone_reads_as_prose(extractors, first, second, kept):
    texts = {"good": english(12), "better": english(12, 1), "bad": BAD, "bad too": BAD * 2}
    extractors(texts[first], texts[second])
    assert extract._union("<p>page</p>") == texts[kept]


def test_the_union_of_the_real_extractors_keeps_the_text_of_a_page(monkeypatch):
    pytest.importorskip("resiliparse")
    pytest.importorskip("trafilatura")
    stage = Extract(extractor="union")

    text = english(12)
    kept, rejected, _, _ = applied(stage, [Page("a", page(text).encode())])

    assert "resiliparse" in stage.implementation()
    assert "trafilatura" in stage.implementation()
    assert not rejected
    assert text.split("\n\n")[0] in kept[0].text
    assert text.split("\n\n")[0] in extract._trafilatura(page(text))


@pytest.mark.parametrize(
    ("stage", "missing", "words"),
    [
        (Extract(extractor="union"), "trafilatura", r"needs trafilatura.*scalelab\[data,trafilatura\]"),
        (
            Language(detector="lingua"),
            "lingua-language-detector",
            r"needs lingua-language-.*scalelab\[lingua\]",
        ),
    ],
)
def test_a_library_that_is_missing_is_named_before_any_work(stage, missing, words, monkeypatch):
    def version(name):
        if name == missing:
            error = extract.PackageNotFoundError()
            error.args = (name,)
            raise error
        return "1.0"

    for module in (extract, language):
        monkeypatch.setattr(module, "version", version)
    with pytest.raises(DataError) as caught:
        stage.implementation()
    assert re.search(words, f"{caught.value.problem} {caught.value.fix}")


def test_an_extractor_that_fails_on_a_page_rejects_that_page_alone(monkeypatch):
    def fail(html):
        if "bad" in html:
            raise TypeError("neither string nor tree")
        return english(9)

    monkeypatch.setitem(extract.EXTRACTORS, "own", fail)
    given = [Page("a", b"<p>bad</p>"), Page("b", b"<p>good</p>")]

    kept, rejected, _, _ = applied(Extract(extractor="own"), given)

    assert [d.name for d in kept] == ["b"]
    assert rejected == [("a", "markup cannot be parsed")]


def test_lingua_is_asked_for_the_middle_of_the_text_and_norwegian_has_one_code(monkeypatch):
    asked = []

    def values(text):
        asked.append(text)
        code = SimpleNamespace(name="NB" if "x" in text else "EN")
        return [SimpleNamespace(language=SimpleNamespace(iso_code_639_1=code), value=0.9)]

    monkeypatch.setattr(
        language, "_lingua", lambda: SimpleNamespace(compute_language_confidence_values=values)
    )
    stage = Language(keep=("en",), detector="lingua", characters=4)

    kept, rejected, _, _ = applied(stage, [document("aabbbbaa", "one"), document("aaxxxxaa", "two")])

    assert asked == ["bbbb", "xxxx"]
    assert [(d.name, d.language) for d in kept] == [("one", "en")]
    assert rejected == [("two", "language no")]


def test_the_default_detector_does_not_belong_to_the_key():
    assert (
        changed(Language()) == changed(Language(detector="py3langid")) != changed(Language(detector="lingua"))
    )


@pytest.mark.parametrize(("detector", "library"), [("py3langid", "py3langid"), ("lingua", "lingua")])
def test_a_detector_tells_languages_apart(detector, library):
    pytest.importorskip(library)
    assert library in Language(detector=detector).implementation()
    for text, expected in ((english(6), "en"), (GERMAN * 3, "de"), (NORWEGIAN * 3, "no")):
        assert language.identify(text, detector)[0] == expected
