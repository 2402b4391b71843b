"""Conformance of sources of pages: the same pages in the same order, however they are divided."""

from collections.abc import Callable

from scalelab.config import parse_yaml
from scalelab.data.curate.base import PageSource
from scalelab.data.hashing import sha256


def check_page_source(make: Callable[[int], PageSource]) -> None:
    """Check the contract of a source of pages.

    Args:
        make: A source of n small pages; more pages are more content.

    Raises:
        AssertionError: The source violates it, in words.
    """
    source = make(6)
    assert type(source).parse(parse_yaml(source.to_yaml(), "source.yaml")) == source
    before = source.fingerprint(sha256)
    assert before == make(6).fingerprint(sha256), "the fingerprint drifts"
    one, several = source.shards(10**9), source.shards(1)
    assert [place for group in one for place in group] == [place for group in several for place in group]
    pages = [page for group in one for page in source.pages(group)]
    divided = [page for group in several for page in source.pages(group)]
    assert pages == divided, "the pages depend on how they are divided"
    assert len(pages) == 6, f"{len(pages)} pages of 6"
    assert len({page.name for page in pages}) == len(pages), "two pages have one name"
    assert all(page.media in {"html", "text"} for page in pages)
    assert isinstance(source.facts(), dict)
    assert make(7).fingerprint(sha256) != before, "another page leaves the fingerprint as it was"
