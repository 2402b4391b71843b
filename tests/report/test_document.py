"""A Document and its three renderers: widths, escapes, kinds."""

import html.parser

import pytest
from rich.markdown import Markdown

from scalelab.markup import escape_markdown, printable
from scalelab.report.document import (
    Bullets,
    Code,
    Document,
    Facts,
    Figure,
    Heading,
    Link,
    Number,
    Paragraph,
    Strong,
    Table,
    Verbatim,
    plain,
)
from scalelab.report.render.characters import width, wrap
from scalelab.report.render.html import render_html
from scalelab.report.render.markdown import render_markdown
from scalelab.report.render.terminal import render_terminal
from scalelab.units import NUMBER_KINDS

HOSTILE = (
    "a*b* _c_ `d` <img src=x onerror=alert(1)> | \x1b[31mred\x1b[0m \u202egnp.exe [x](javascript:y) ~~z~~"
)
EVERYTHING = Document(
    f"Fit of {HOSTILE}",
    [
        Heading(HOSTILE),
        Paragraph([HOSTILE, Number("3.07", "measured", labelled=True), Strong(HOSTILE), Code(HOSTILE)]),
        Bullets([HOSTILE, "L* and N* are the best", "1. not a list"]),
        Facts([(HOSTILE, HOSTILE), ("short", "value " * 40)]),
        Table(["law", "N*", HOSTILE], [["kaplan", Number("8.7B", "fitted"), HOSTILE]] * 2, caption=HOSTILE),
        Table(["run", "loss"], [["a", "3.1"], ["漢字の名前", "3.2"]]),
        Verbatim(f"key: {HOSTILE}\n" + "x" * 300),
        Figure("valleys", HOSTILE, detail=False),
        Paragraph([Link(HOSTILE, "a b.json"), Link("bad", "javascript:alert(1)")], detail=True),
    ],
)


@pytest.mark.parametrize("columns", [20, 40, 79, 80, 100, 200])
def test_no_line_is_wider_than_asked_for(columns):
    text = render_terminal(EVERYTHING, columns, title=True)

    assert max(map(width, text.split("\n"))) <= columns
    assert "kaplan" in text


@pytest.mark.parametrize("render", [render_terminal, render_markdown, render_html])
def test_control_characters_reach_nothing(render):
    text = render(EVERYTHING)

    assert not [c for c in text if c != "\n" and not c.isprintable()]
    assert "\x1b" not in text
    assert "\u202e" not in text


class Tags(html.parser.HTMLParser):
    """Collects the tags of a page."""

    def __init__(self):
        super().__init__()
        self.found, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


def tokens(text):
    """What a CommonMark parser makes of a page: the kinds of its inline tokens, and its text."""
    found = [t for block in Markdown(text).parsed for t in (block.children or [block])]
    return {t.type for t in found}, "".join(t.content for t in found if t.type in ("text", "code_inline"))


def test_names_and_data_never_become_html():
    page, tags = render_html(EVERYTHING, detail=True), Tags()
    tags.feed(page)

    assert "img" in tags.found  # that of the figure
    assert tags.attributes <= {"style", "title", "src", "alt", "href"}
    assert 'href="javascript' not in page


def test_names_and_data_never_become_html_in_markdown():
    kinds, _ = tokens(render_markdown(EVERYTHING))

    assert not {kind for kind in kinds if kind.startswith("html")}


@pytest.mark.parametrize(
    "text",
    [
        "L* and N* at 10% are 3.1 and N*",
        "a_b_c",
        "__init__",
        "- item",
        "+ item",
        "1. one",
        "# head",
        "> quote",
        "`code`",
        "[a](b)",
        "![a](b)",
        "<b>bold</b>",
        "&lt;",
        "a | b",
        "~~gone~~",
        "\\*",
        "=====",
        "---",
        "$x$",
        "*",
        "**",
        "10) ten",
        "https://x.y/<z>",
    ],
)
def test_markdown_shows_text_as_it_stands(text):
    kinds, shown = tokens(render_markdown(Document("t", [Paragraph(text)]), title=False))

    assert shown == text
    assert not {k for k in kinds if k.startswith(("em_", "strong_", "link", "image", "html", "s_", "code"))}


def test_a_star_in_two_cells_is_not_italic():
    page = render_markdown(Document("t", [Table(["L*", "N*"], [["1*", "2*"]])]))

    assert "em_open" not in tokens(page)[0]
    assert r"| L\* | N\* |" in page


def test_a_table_keeps_its_columns_whatever_its_cells_hold():
    page = render_markdown(Document("t", [Table(["a", "b"], [["x|y", Code("p|q")], ["m\nn", "o"]])]))
    rows = [line for line in page.split("\n") if line.startswith("|")]

    assert [line.replace(r"\|", "").count("|") for line in rows] == [3, 3, 3, 3]


def test_a_table_that_does_not_fit_becomes_records():
    table = Table(["run", "question", "loss"], [["a", "why " * 30, "3.1"]])

    lines = render_terminal(Document("t", [table]), 40).split("\n")

    assert lines[0].strip() == "run: a"
    assert lines[-1].split() == ["loss", "3.1"]


def test_a_narrow_terminal_leaves_out_optional_columns_and_says_so():
    table = Table(["run", "note", "seed", "loss"], [["a", "x" * 30, "0", "3.1"]], optional=["note", "seed"])

    assert "x" * 30 in render_terminal(Document("t", [table]), 60)
    assert render_terminal(Document("t", [table]), 30).split("\n") == [
        "  run  seed  loss",
        "  a       0   3.1",
        "  (no room for: note)",
    ]
    assert "x" * 30 in render_markdown(Document("t", [table]))


def test_numbers_are_right_aligned_and_names_left():
    table = Table(["law", "N*"], [["kaplan", "8.7B"], ["isoflop", "12B"]])

    assert render_terminal(Document("t", [table]), 40) == (
        "  law        N*\n  kaplan   8.7B\n  isoflop   12B"
    )


def test_wide_characters_count_twice():
    assert width("漢字") == 4
    assert width("e\u0301") == 1
    assert [width(line) for line in wrap("漢字" * 10, 7)] == [6] * 6 + [4]


def test_details_are_for_pages_only():
    document = Document("t", [Paragraph("short"), Paragraph("long", detail=True)])

    assert render_terminal(document, 80) == "short"
    assert "long" in render_markdown(document)
    assert "long" not in render_html(document)


@pytest.mark.parametrize("kind", NUMBER_KINDS)
def test_a_number_says_its_kind_where_it_is_labelled(kind):
    document = Document("t", [Paragraph(["L* ", Number("3.1", kind, labelled=True)])])

    assert f"3.1 ({kind})" in render_terminal(document, 80)
    assert f"3.1 ({kind})" in render_markdown(document)
    assert f'title="{kind}"' in render_html(document)


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ValueError, match="guessed"):
        Number("3.1", "guessed")


def test_a_ragged_table_is_refused():
    with pytest.raises(ValueError, match="3 cells under 2 columns"):
        Table(["a", "b"], [["1", "2", "3"]])


def test_plain_and_printable():
    assert plain(["a ", Strong("b"), (" ", Number("1", "fitted", True))]) == "a b 1 (fitted)"
    assert printable("a\tb\nc\x00") == "a b c\N{REPLACEMENT CHARACTER}"
    assert escape_markdown("N*") == r"N\*"
